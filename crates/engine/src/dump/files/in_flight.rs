//! Descriptors in flight: sent over unix sockets (SCM_RIGHTS of unix(7)) and not received yet.
//!
//! Peeking at a queue gives us duplicates of them, by which they are dumped like descriptors of the tree, only that they
//! belong to no table.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};

use super::identity::Identities;
use super::sockets::View;
use crate::error::{Context, Error, Result};

/// The descriptors found in queues.
#[derive(Debug, Default)]
pub struct InFlight {
    /// Those whose descriptions are yet to be written, with their numbers.
    new: VecDeque<(u32, OwnedFd)>,
    /// All that stand for a description: they stay open, because others are compared with them.
    kept: Vec<OwnedFd>,
}

impl InFlight {
    /// Takes a descriptor, and gives the number of its description.
    pub fn add(
        &mut self,
        file: OwnedFd,
        identities: &mut Identities,
        sockets: &View,
    ) -> Result<u32> {
        let stat = rustix::fs::fstat(&file).host("look at a file in the queue of a socket")?;
        sockets.found_in_flight(&stat);
        let own = std::process::id() as i32;
        let inode = (stat.st_dev, stat.st_ino);
        let (id, is_new) = identities.of_descriptor(inode, own, file.as_raw_fd())?;
        if is_new {
            let duplicate = rustix::io::fcntl_dupfd_cloexec(&file, 0).host("duplicate a file")?;
            self.kept.push(file);
            self.new.push_back((id, duplicate));
        }
        Ok(id)
    }

    /// The next one whose description is to be written.
    pub fn next(&mut self) -> Option<(u32, OwnedFd)> {
        self.new.pop_front()
    }
}

/// An error about a descriptor of ours, as one about the socket it was found in.
pub fn as_found(error: Error, pid: i32, fd: i32) -> Error {
    match error {
        Error::Unsupported(found) => {
            let found = found.into_iter().map(|mut one| {
                if one.pid == std::process::id() as i32 {
                    one.what = format!("sent to this socket and not received yet: {}", one.what);
                    (one.pid, one.fd) = (pid, Some(fd));
                }
                one
            });
            Error::Unsupported(found.collect())
        }
        error => error,
    }
}
