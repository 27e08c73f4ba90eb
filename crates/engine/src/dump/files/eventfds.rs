//! Event counters (eventfd(2)).

use cryopod_image::criu::{EventfdFileEntry, FdTypes, FileEntry};

use super::Description;
use crate::error::Result;

/// `EFD_SEMAPHORE`. The kernel keeps it apart from the open flags, the image has no place of its own for it, and its
/// bit is free among those of a file that is always open for reading and writing.
pub const SEMAPHORE: u32 = 1;

/// The entry of an event counter.
pub fn dump(one: &Description<'_>) -> Result<FileEntry> {
    let info = &one.seen.info;
    let is_semaphore = info.number("eventfd-semaphore") == Some(1);
    let efd = EventfdFileEntry {
        id: one.id,
        flags: one.seen.flags() | if is_semaphore { SEMAPHORE } else { 0 },
        fown: one.owner.clone(),
        counter: one.line(info.hex("eventfd-count"))?,
    };
    Ok(FileEntry {
        r#type: FdTypes::EventFd.into(),
        id: one.id,
        efd: Some(Box::new(efd)),
        ..FileEntry::default()
    })
}
