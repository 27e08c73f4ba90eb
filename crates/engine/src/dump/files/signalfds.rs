//! Signal descriptors (signalfd(2)).

use cryopod_image::criu::{FdTypes, FileEntry, SignalfdEntry};

use super::Description;
use crate::error::Result;

/// The entry of a signal descriptor.
pub fn dump(one: &Description<'_>) -> Result<FileEntry> {
    let sgfd = SignalfdEntry {
        id: one.id,
        flags: one.seen.flags(),
        fown: one.owner.clone(),
        sigmask: one.line(one.seen.info.hex("sigmask"))?,
    };
    Ok(FileEntry {
        r#type: FdTypes::SignalFd.into(),
        id: one.id,
        sgfd: Some(Box::new(sgfd)),
        ..FileEntry::default()
    })
}
