//! Named pipes: the end, an entry of the path to open it by, and what is in it in fifo-data.img.

use cryopod_image::criu::{FdTypes, FifoEntry, FileEntry};

use super::Description;
use super::pipes::Contents;
use crate::error::Result;

/// The entry of an end of a fifo whose path is the file entry `path_id`.
pub fn dump(one: &Description<'_>, path_id: u32, contents: &mut Contents<'_>) -> Result<FileEntry> {
    let fifo = FifoEntry {
        id: one.id,
        pipe_id: contents.take(one)?,
        regf_id: Some(path_id),
    };
    Ok(FileEntry {
        r#type: FdTypes::Fifo.into(),
        id: one.id,
        fifo: Some(Box::new(fifo)),
        ..FileEntry::default()
    })
}
