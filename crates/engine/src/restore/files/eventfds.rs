//! Event counters.

use std::os::fd::{AsFd, OwnedFd};

use cryopod_image::criu::EventfdFileEntry;
use rustix::event::EventfdFlags;

use super::set_status;
use crate::dump::files::SEMAPHORE;
use crate::error::{Context, Error, Result};

/// Makes an event counter with its value.
pub fn open(entry: &EventfdFileEntry) -> Result<OwnedFd> {
    let mut flags = EventfdFlags::CLOEXEC;
    if entry.flags & SEMAPHORE != 0 {
        flags |= EventfdFlags::SEMAPHORE;
    }
    if entry.counter == u64::MAX {
        let what = format!("file {}: an event counter that high cannot be", entry.id);
        return Err(Error::inconsistent("files", what));
    }
    // The first value that eventfd(2) takes has 32 bits only.
    let file = rustix::event::eventfd(0, flags).host("make an eventfd")?;
    if entry.counter != 0 {
        rustix::io::write(&file, &entry.counter.to_ne_bytes())
            .host("set the count of an eventfd")?;
    }
    set_status(file.as_fd(), entry.flags)?;
    Ok(file)
}
