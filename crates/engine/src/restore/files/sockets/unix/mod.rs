//! Unix sockets.
//!
//! All are made in cryopod before the tree exists (`make`): pairs by socketpair(2), connections by way of a listening
//! socket where there was one, by stand-ins that have the pids and users the kernel shall remember (SO_PEERCRED). Files
//! that they are bound to are made aside and put in place at the end (`names`). When all pids of the tree exist, queues
//! are filled (`queues`), sockets of datagrams are connected, and what was shut down is shut down.

mod make;
mod names;
mod queues;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryopod_image::SetReader;
use cryopod_image::criu::{FileEntry, SkShutdown, UnixSkEntry};
use rustix::net::Shutdown;

pub use self::names::Names;
use super::super::{corrupt, set_status};
use super::options;
use crate::dump::files::sockets::unix::EXTERNAL;
use crate::error::{Context, Error, Result};
use crate::net::diag::unix::{ESTABLISHED, LISTENING};

/// Room for an address in `struct sockaddr_un`.
const MAX_NAME: usize = 108;
/// Bits of `uflags`: of criu's own connection, and of one that a plugin of criu makes.
const FOREIGN: u32 = 2 | 4;

/// Gives the open file of a file entry.
pub type Borrow<'b, 'f> = dyn Fn(u32) -> Result<BorrowedFd<'f>> + 'b;

/// The unix sockets of a tree.
#[derive(Debug, Default)]
pub struct Unix {
    /// By the number of the file entry.
    entries: BTreeMap<u32, UnixSkEntry>,
    /// Numbers of file entries, by inode.
    by_inode: HashMap<u32, u32>,
    /// How many messages wait in each, by the number of the file entry.
    queued: BTreeMap<u32, usize>,
    /// Sockets of datagrams that were born connected.
    born_connected: BTreeSet<u32>,
    temporary: Mutex<Temporary>,
}

/// What is there until the restore is done.
#[derive(Debug, Default)]
struct Temporary {
    /// Sockets of our own that stand in for peers: by the number of the socket that they are the peer of.
    stand_ins: HashMap<u32, OwnedFd>,
    names: Names,
}

impl Unix {
    /// Takes the unix sockets among `entries`, and checks them and what waits in them.
    pub fn load(set: &SetReader, entries: &BTreeMap<u32, FileEntry>) -> Result<Self> {
        let mut unix = Self::take(entries)?;
        unix.queued = queues::check(set, &unix, entries)?;
        Ok(unix)
    }

    fn take(entries: &BTreeMap<u32, FileEntry>) -> Result<Self> {
        let mut unix = Self::default();
        let sockets = entries.values().filter_map(|entry| entry.usk.as_deref());
        for entry in sockets {
            check(entry)?;
            if entry.ino != 0 && unix.by_inode.insert(entry.ino, entry.id).is_some() {
                return Err(corrupt(entry.id, "there are two of this inode"));
            }
            unix.entries.insert(entry.id, entry.clone());
        }
        for entry in unix.entries.values() {
            if entry.peer != 0 && !unix.by_inode.contains_key(&entry.peer) {
                return Err(corrupt(entry.id, "its peer is not there"));
            }
        }
        Ok(unix)
    }

    fn entry(&self, id: u32) -> Result<&UnixSkEntry> {
        self.entries
            .get(&id)
            .ok_or_else(|| corrupt(id, "it is no unix socket"))
    }

    /// The entry of the peer.
    fn peer(&self, entry: &UnixSkEntry) -> Option<&UnixSkEntry> {
        self.entries.get(self.by_inode.get(&entry.peer)?)
    }

    /// The peer of a socket that is its peer's in turn, and another one.
    fn partner(&self, entry: &UnixSkEntry) -> Option<&UnixSkEntry> {
        self.peer(entry)
            .filter(|peer| peer.peer == entry.ino && peer.id != entry.id)
    }

    /// Completes the sockets. When all pids of the tree exist, and before files get owners.
    pub fn finish<'f>(&self, set: &SetReader, borrow: &Borrow<'_, 'f>) -> Result<()> {
        let mut temporary = self.temporary();
        let inside = self.entries.values().filter(|entry| !is_external(entry));
        queues::restore(self, &mut temporary, set, borrow)?;
        for entry in inside {
            let socket = borrow(entry.id)?;
            if entry.cryopod_reset == Some(true) && temporary.stand_ins.contains_key(&entry.id) {
                // A peer that is closed before it has read everything leaves an error behind.
                rustix::io::write(socket, b"x").host("write to a socket whose peer is gone")?;
            }
            shut_down(entry, socket)?;
            options::restore(socket, &entry.opts)?;
            options::restore_reuse(socket, &entry.opts)?;
            set_status(socket, entry.flags)?;
        }
        temporary.stand_ins.clear();
        temporary.names.put_in_place()
    }

    /// The names that were made: they go with this unless they are kept.
    pub fn take_names(&mut self) -> Names {
        std::mem::take(&mut self.temporary().names)
    }

    fn temporary(&self) -> MutexGuard<'_, Temporary> {
        self.temporary
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shuts down what was shut down. Of a connection, either end does it for both.
fn shut_down(entry: &UnixSkEntry, socket: BorrowedFd<'_>) -> Result<()> {
    let how = match entry.shutdown() {
        SkShutdown::None => return Ok(()),
        SkShutdown::Read => Shutdown::Read,
        SkShutdown::Write => Shutdown::Write,
        SkShutdown::Both => Shutdown::Both,
    };
    rustix::net::shutdown(socket, how).host("shut a socket down")
}

/// Whether an entry stands for a socket outside the tree.
fn is_external(entry: &UnixSkEntry) -> bool {
    entry.uflags & EXTERNAL != 0
}

fn is_listening(entry: &UnixSkEntry) -> bool {
    entry.state == u32::from(LISTENING)
}

fn is_established(entry: &UnixSkEntry) -> bool {
    entry.state == u32::from(ESTABLISHED)
}

fn is_datagram(entry: &UnixSkEntry) -> bool {
    entry.r#type == libc::SOCK_DGRAM as u32
}

fn check(entry: &UnixSkEntry) -> Result<()> {
    if entry.uflags & FOREIGN != 0 {
        let what = format!(
            "file {}: a unix socket that criu or a plugin of it provides",
            entry.id
        );
        return Err(Error::NotRestorable { what });
    }
    let kind = entry.r#type as i32;
    if ![libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET].contains(&kind) {
        return Err(corrupt(entry.id, "a unix socket of unknown type"));
    }
    if entry.name.len() > MAX_NAME {
        return Err(corrupt(entry.id, "its address is too long"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cryopod_image::criu::FdTypes;

    use super::*;

    fn files(entries: &[UnixSkEntry]) -> BTreeMap<u32, FileEntry> {
        let file = |entry: &UnixSkEntry| FileEntry {
            r#type: FdTypes::UnixSk.into(),
            id: entry.id,
            usk: Some(Box::new(entry.clone())),
            ..FileEntry::default()
        };
        entries
            .iter()
            .map(|entry| (entry.id, file(entry)))
            .collect()
    }

    fn entry(id: u32, peer: u32) -> UnixSkEntry {
        UnixSkEntry {
            id,
            ino: id + 100,
            r#type: libc::SOCK_STREAM as u32,
            peer,
            ..UnixSkEntry::default()
        }
    }

    #[test]
    fn partners_are_found() {
        let unix = Unix::take(&files(&[entry(1, 102), entry(2, 101), entry(3, 101)])).unwrap();
        let partner = |id: u32| unix.partner(&unix.entries[&id]).map(|one| one.id);
        assert_eq!(
            (partner(1), partner(2), partner(3)),
            (Some(2), Some(1), None)
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(Unix::take(&files(&[entry(1, 999)])).is_err());
        let mut twin = entry(2, 0);
        twin.ino = 101;
        assert!(Unix::take(&files(&[entry(1, 0), twin])).is_err());
        let mut odd = entry(1, 0);
        odd.r#type = 99;
        assert!(Unix::take(&files(&[odd])).is_err());
        let mut long = entry(1, 0);
        long.name = vec![b'/'; 109];
        assert!(Unix::take(&files(&[long])).is_err());
        let mut plugin = entry(1, 0);
        plugin.uflags = 4;
        assert!(matches!(
            Unix::take(&files(&[plugin])),
            Err(Error::NotRestorable { .. })
        ));
    }
}
