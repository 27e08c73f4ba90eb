//! Named pipes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, OwnedFd};

use cryopod_image::criu::{FifoEntry, RegFileEntry};
use cryopod_image::{Kind as Image, SetReader};

use super::{pipes, set_status};
use crate::error::Result;

/// A fifo to open: its entry and that of its path.
pub struct Fifo<'e> {
    /// The end.
    pub entry: &'e FifoEntry,
    /// How to open it.
    pub reg: &'e RegFileEntry,
}

/// Opens all ends of all fifos. `open` opens a path with flags; `keep` gets every end with the id of its entry.
///
/// While that goes on each fifo is also open for reading and writing, so that no open waits for the other end and
/// what is in it stays.
pub fn open(
    set: &SetReader,
    fifos: &[Fifo<'_>],
    mut open: impl FnMut(&RegFileEntry, u32) -> Result<OwnedFd>,
    mut keep: impl FnMut(u32, OwnedFd) -> Result<()>,
) -> Result<()> {
    let mut helpers: BTreeMap<u32, OwnedFd> = BTreeMap::new();
    for fifo in fifos {
        if let Entry::Vacant(place) = helpers.entry(fifo.entry.pipe_id) {
            let flags = (libc::O_RDWR | libc::O_NONBLOCK) as u32;
            place.insert(open(fifo.reg, flags)?);
        }
    }
    pipes::fill(set, Image::FifoData, |number| helpers.get(&number))?;
    for fifo in fifos {
        let file = open(fifo.reg, fifo.reg.flags & !(libc::O_DIRECT as u32))?;
        set_status(file.as_fd(), fifo.reg.flags)?;
        keep(fifo.entry.id, file)?;
    }
    Ok(())
}
