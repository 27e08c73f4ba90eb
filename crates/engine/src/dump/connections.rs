//! What becomes of TCP connections.
//!
//! Those that are taken along are locked before the first of them is read and until the last one has been: a byte that
//! was acknowledged by a connection read early must not be missing in one read late. When the tree goes on afterwards,
//! that is all. When it ends, they stay locked; their sockets outlive the tree in this process, which closes them without a
//! word to the peers and leaves a lock behind that waits for the restore.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use cryopod_sys::socket;
use cryopod_sys::tcp::{self, Repair};

use super::files::sockets::{self, inet};
use crate::error::{Context, Result};
use crate::net::lock::{self, Connection, Lock};

/// What becomes of TCP connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// A tree that has one is refused.
    #[default]
    Refuse,
    /// They are taken along, and go on where they were when the tree is restored.
    Keep,
    /// They are recorded as sockets without a connection.
    Close,
}

/// How connections are kept from changing while they are read, and from being reset while nobody is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkLock {
    /// A table of nf_tables drops their packets.
    #[default]
    Nftables,
    /// Not at all: somebody else sees to it.
    Skip,
}

/// How TCP sockets are dumped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// What becomes of connections.
    pub connections: Connections,
    /// How they are locked.
    pub lock: NetworkLock,
    /// Connections that nobody has accepted yet are left behind instead of being refused.
    pub skip_in_flight: bool,
    /// The tree ends after the dump, so that connections stay locked until it is restored.
    pub ends: bool,
}

/// The TCP connections of a frozen tree, locked. They are unlocked when this is dropped.
#[derive(Debug, Default)]
pub struct Held {
    /// The id of this dump, by which the lock is found again that waits for the restore.
    run_id: String,
    ends: Vec<Connection>,
    /// A duplicate of each, so that the sockets outlive their processes.
    sockets: Vec<OwnedFd>,
    lock: Option<Lock>,
}

impl Held {
    /// Finds and locks the connections of the processes `pids`, if they are to be taken along.
    pub fn lock(pids: &[i32], options: &TcpOptions) -> Result<Self> {
        let mut held = Self::default();
        if options.connections != Connections::Keep {
            return Ok(held);
        }
        let mut known = HashSet::new();
        for &pid in pids {
            held.gather(pid, &mut known)?;
        }
        if options.lock == NetworkLock::Nftables && !held.ends.is_empty() {
            held.run_id = lock::new_run_id()?;
            let name = format!("cryopod-{}", held.run_id);
            held.lock = Some(Lock::take(&name, &held.ends)?);
        }
        Ok(held)
    }

    fn gather(&mut self, pid: i32, known: &mut HashSet<u64>) -> Result<()> {
        sockets::each(pid, |fd, file| {
            let ends =
                socket::kind(file.as_fd()).and_then(|kind| inet::connection(file.as_fd(), &kind));
            if let Some(ends) = ends.fd("ask what it is connected to", pid, fd)? {
                let cookie = rustix::net::sockopt::socket_cookie(&file);
                if known.insert(cookie.fd("ask for its cookie (SO_COOKIE)", pid, fd)?) {
                    self.ends.push(ends);
                    self.sockets.push(file);
                }
            }
            Ok(())
        })
    }

    /// The id that the images shall have, if connections are locked.
    pub fn run_id(&self) -> Option<&str> {
        self.lock.as_ref().map(|_| self.run_id.as_str())
    }

    /// Ends the connections without a word to their peers, when all processes that had them are gone, and keeps them
    /// locked from now on: until a restore, or until somebody deletes the table.
    pub fn end(mut self) -> Result<()> {
        let left = match &self.lock {
            Some(_) => lock::leave(&lock::table_name(&self.run_id), &self.ends),
            None => Ok(()),
        };
        for socket in self.sockets.drain(..) {
            // Under repair, closing is silent.
            if let Err(error) = tcp::set_repair(socket.as_fd(), Repair::On) {
                tracing::warn!(%error, "a connection ends with a word to its peer");
            }
        }
        left
    }
}
