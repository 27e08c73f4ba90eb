//! Who gets SIGIO from an open file.

use std::os::fd::BorrowedFd;

use cryopod_image::criu::FownEntry;
use cryopod_sys::Errno;
use cryopod_sys::fd::{self, Owner};

use crate::error::{Context, Result};

/// Sets signal and owner. The owner's pid must exist by now; where it was of no process of the tree and is gone, nobody
/// gets the signal, just as before.
pub fn restore(entry: &FownEntry, file: BorrowedFd<'_>) -> Result<()> {
    if entry.signum != 0 {
        fd::set_signal(file, entry.signum as i32).host("set the signal of a file (F_SETSIG)")?;
    }
    if entry.pid == 0 {
        return Ok(());
    }
    let owner = Owner {
        kind: entry.pid_type as i32,
        pid: entry.pid as i32,
    };
    match fd::set_owner_as(file, owner, entry.uid, entry.euid) {
        Err(Errno::SRCH) => {
            tracing::warn!(pid = entry.pid, "the owner of an open file is gone");
            Ok(())
        }
        set => set.host("set the owner of a file (F_SETOWN_EX)"),
    }
}
