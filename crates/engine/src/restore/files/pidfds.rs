//! Process descriptors: of the tree's processes, when these exist, and of processes that have ended long ago.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use cryopod_image::criu::{FileEntry, PidfdEntry};
use cryopod_sys::clone::{spawn_any_sleeper, spawn_sleeper};
use cryopod_sys::{Errno, process, wait};

use crate::error::{Context, Error, Result};

/// In the image, of a process that has ended and was collected.
pub const GONE: i32 = -1;

/// Opens the descriptor of a process that exists.
pub fn open(entry: &PidfdEntry) -> Result<OwnedFd> {
    process::pidfd_open_with(entry.nspid, flags(entry)).map_err(|source| match source {
        Errno::SRCH | Errno::INVAL | Errno::NOENT => Error::NotRestorable {
            what: format!(
                "a pidfd of process {}, which is not part of the tree",
                entry.nspid
            ),
        },
        source => Error::Task {
            operation: "open it (pidfd_open)",
            pid: entry.nspid,
            source,
        },
    })
}

/// PIDFD_NONBLOCK and PIDFD_THREAD; the kernel takes no others.
fn flags(entry: &PidfdEntry) -> u32 {
    entry.flags & (libc::O_NONBLOCK | libc::O_EXCL) as u32
}

/// Opens all descriptors of processes that have ended; `keep` gets each with the id of its entry. Descriptors of one
/// process (by inode) lead to one process again, which ends at once.
pub fn open_gone<'e>(
    entries: impl Iterator<Item = &'e FileEntry>,
    mut keep: impl FnMut(u32, OwnedFd) -> Result<()>,
) -> Result<()> {
    let mut processes: HashMap<u32, Vec<&PidfdEntry>> = HashMap::new();
    for pidfd in entries.filter_map(|entry| entry.pidfd.as_deref()) {
        if pidfd.nspid == GONE {
            processes.entry(pidfd.ino).or_default().push(pidfd);
        }
    }
    for pidfds in processes.into_values() {
        let process = StandIn::start()?;
        for pidfd in pidfds {
            let file = process::pidfd_open_with(process.0, flags(pidfd));
            keep(pidfd.id, file.host("open a process (pidfd_open)")?)?;
        }
    }
    Ok(())
}

/// A process that only has to end: it is killed and collected when this goes.
#[derive(Debug)]
pub struct StandIn(i32);

impl StandIn {
    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.0
    }

    /// One with this pid.
    pub fn with_pid(pid: i32) -> Result<Self> {
        match spawn_sleeper(pid) {
            Ok(()) => Ok(Self(pid)),
            Err(Errno::EXIST) => Err(Error::PidTaken {
                pid,
                holder: crate::restore::holder(pid),
            }),
            Err(source) => Err(Error::Task {
                operation: "make it with its pid (clone3, set_tid)",
                pid,
                source,
            }),
        }
    }

    fn start() -> Result<Self> {
        spawn_any_sleeper()
            .map(Self)
            .host("make a process (clone3)")
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _gone_is_fine = process::kill(self.0, libc::SIGKILL);
        let _gone_is_fine = wait::wait(self.0, false);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::dump::files::seen::Seen;

    fn gone(id: u32, ino: u32) -> FileEntry {
        let pidfd = PidfdEntry {
            id,
            ino,
            nspid: GONE,
            flags: libc::O_NONBLOCK as u32,
            ..PidfdEntry::default()
        };
        FileEntry {
            id,
            pidfd: Some(Box::new(pidfd)),
            ..FileEntry::default()
        }
    }

    #[test]
    fn descriptors_of_one_dead_process_stay_together() {
        let entries = [gone(1, 7), gone(2, 7), gone(3, 8)];
        let mut files = HashMap::new();
        open_gone(entries.iter(), |id, file| {
            files.insert(id, file);
            Ok(())
        })
        .unwrap();
        let own = std::process::id() as i32;
        let seen = |file: &OwnedFd| Seen::descriptor(own, file.as_raw_fd()).unwrap();
        assert_eq!(seen(&files[&1]).inode(), seen(&files[&2]).inode());
        assert_ne!(seen(&files[&1]).inode(), seen(&files[&3]).inode());
        assert_eq!(seen(&files[&1]).info.number("Pid"), Some(-1));
        assert_ne!(seen(&files[&1]).flags() & libc::O_NONBLOCK as u32, 0);
    }
}
