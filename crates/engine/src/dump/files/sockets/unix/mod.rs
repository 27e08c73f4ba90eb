//! Unix sockets (unix(7)).
//!
//! What the kernel tells of them over sock_diag(7) gives states and peers (`view`), duplicates of the descriptors the
//! rest: what waits in them (`queue`), and the files they are bound to (`names`). Peers refer to each other by inode
//! number, as in CRIU's images.

mod names;
mod queue;
pub mod view;

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_image::criu::{
    CryopodPeer, FdTypes, FileEntry, FilePermsEntry, SkShutdown, UnixSkEntry,
};
use cryopod_sys::Errno;
use cryopod_sys::socket::{self, SocketKind};

use self::view::View;
use super::super::lazy::Lazy;
use super::super::{Description, refuse};
use super::options;
use crate::error::{Error, Result, Unsupported};
use crate::net::diag::unix::{ESTABLISHED, LISTENING, UnixSocket};

/// `uflags` of an entry that stands for a socket outside the tree.
pub const EXTERNAL: u32 = 1;

/// Takes a descriptor that was found in a queue, and gives the number of its file entry.
pub type PassOn<'p> = dyn FnMut(OwnedFd) -> Result<u32> + 'p;

/// The unix sockets of a tree, as they are found.
#[derive(Default)]
pub struct Unix {
    entries: Vec<Found>,
}

/// A socket, and a descriptor to name it by.
#[derive(Debug)]
struct Found {
    entry: UnixSkEntry,
    pid: i32,
    fd: Option<i32>,
}

impl Unix {
    /// Reads a socket, and what waits in it into `queues`.
    pub(in super::super) fn add(
        &mut self,
        one: &Description<'_>,
        kind: &SocketKind,
        view: &View,
        queues: &mut Lazy<'_>,
        pass_on: &mut PassOn<'_>,
    ) -> Result<()> {
        let inode = one.seen.stat.st_ino as u32;
        let Some(diag) = view.get(inode) else {
            let what = "unix socket of another network namespace: not supported".to_owned();
            return Err(refuse(one.seen, what));
        };
        let file = one.file.as_fd();
        // Before anything is read from it, because some of that changes for the moment.
        let opts = one.check("ask for its options", options::dump(file))?;
        let reset = one.check("ask whether it has an error", queue::has_error(file))?;
        let receives = diag.state == ESTABLISHED || kind.kind == libc::SOCK_DGRAM;
        if receives {
            queue::dump(one, diag, reset, queues, pass_on)?;
        }
        let name = names::find(one, &diag.name)?;
        let peer = if diag.state == LISTENING {
            0
        } else {
            diag.peer
                .filter(|&peer| peer != 0)
                .or(view.waits_at(inode))
                .unwrap_or(0)
        };
        let entry = UnixSkEntry {
            id: one.id,
            ino: inode,
            r#type: kind.kind as u32,
            state: u32::from(diag.state),
            flags: one.seen.flags(),
            backlog: if diag.state == LISTENING {
                diag.unread
            } else {
                0
            },
            peer,
            fown: one.owner.clone(),
            opts,
            name: diag.name.clone(),
            shutdown: shutdown(diag).map(Into::into),
            file_perms: name.perms,
            name_dir: name.directory,
            deleted: name.deleted.then_some(true),
            cryopod_peer: one.check("ask who made its peer", peer_of(file, diag))?,
            cryopod_reset: reset.then_some(true),
            cryopod_waiting: diag.waiting.clone(),
            cryopod_owner: view.waits_at(inode).map(|_| owner(one)),
            cryopod_path: name.path,
            cryopod_peer_gone: (kind.kind == libc::SOCK_DGRAM && diag.peer == Some(0))
                .then_some(true),
            ..UnixSkEntry::default()
        };
        self.entries.push(Found {
            entry,
            pid: one.seen.pid,
            fd: one.seen.fd,
        });
        Ok(())
    }

    /// The entries of all sockets, and of those outside the tree that they are connected to. `fresh` numbers the latter.
    pub fn finish(self, view: &View, mut fresh: impl FnMut() -> u32) -> Result<Vec<FileEntry>> {
        let inside: BTreeSet<u32> = self.entries.iter().map(|one| one.entry.ino).collect();
        let mut outside: HashMap<u32, UnixSkEntry> = HashMap::new();
        let mut lost = Vec::new();
        for Found { entry, pid, fd } in &self.entries {
            let peers = entry.cryopod_waiting.iter().chain([&entry.peer]);
            for &peer in peers.filter(|&&peer| peer != 0 && !inside.contains(&peer)) {
                match view.external(entry.ino, peer) {
                    Ok(diag) => {
                        outside
                            .entry(peer)
                            .or_insert_with(|| external(diag, fresh()));
                    }
                    Err(what) => lost.push(Unsupported {
                        pid: *pid,
                        fd: *fd,
                        what,
                    }),
                }
            }
        }
        if !lost.is_empty() {
            return Err(Error::Unsupported(lost));
        }
        let found = self.entries.into_iter().map(|found| found.entry);
        let entries = peers_first(outside.into_values().chain(found).collect());
        Ok(entries.into_iter().map(file).collect())
    }
}

/// Puts whoever is connected to a socket behind it, as criu needs it unless both are connected to each other.
fn peers_first(entries: Vec<UnixSkEntry>) -> Vec<UnixSkEntry> {
    let peers: HashMap<u32, u32> = entries
        .iter()
        .map(|entry| (entry.ino, entry.peer))
        .collect();
    let depth = |entry: &UnixSkEntry| {
        let mut at = entry.ino;
        let mut depth = 0;
        // Chains end with nobody, or with two that are connected to each other, or with one that is to itself.
        while let Some(&peer) = peers.get(&at).filter(|&&peer| peer != 0) {
            if peers.get(&peer) == Some(&at) || depth > peers.len() {
                break;
            }
            depth += 1;
            at = peer;
        }
        depth
    };
    let mut entries = entries;
    entries.sort_by_cached_key(depth);
    entries
}

fn file(entry: UnixSkEntry) -> FileEntry {
    FileEntry {
        r#type: FdTypes::UnixSk.into(),
        id: entry.id,
        usk: Some(Box::new(entry)),
        ..FileEntry::default()
    }
}

/// The entry that stands for a socket outside the tree, as CRIU has it.
fn external(diag: &UnixSocket, id: u32) -> UnixSkEntry {
    UnixSkEntry {
        id,
        ino: diag.inode,
        r#type: diag.kind as u32,
        state: u32::from(LISTENING),
        uflags: EXTERNAL,
        name: diag.name.clone(),
        ..UnixSkEntry::default()
    }
}

fn shutdown(diag: &UnixSocket) -> Option<SkShutdown> {
    match diag.shutdown {
        1 => Some(SkShutdown::Read),
        2 => Some(SkShutdown::Write),
        3 => Some(SkShutdown::Both),
        _ => None,
    }
}

/// Whom SO_PEERCRED names; nobody where the socket has no peer.
fn peer_of(
    file: BorrowedFd<'_>,
    diag: &UnixSocket,
) -> std::result::Result<Option<CryopodPeer>, Errno> {
    if diag.state != ESTABLISHED && diag.state != LISTENING {
        return Ok(None);
    }
    let who = socket::peer_credentials(file)?;
    if (who.pid, who.uid, who.gid) == (0, u32::MAX, u32::MAX) {
        return Ok(None);
    }
    let groups = match socket::peer_groups(file) {
        Err(Errno::NODATA) => Vec::new(),
        groups => groups?,
    };
    Ok(Some(CryopodPeer {
        pid: who.pid,
        uid: who.uid,
        gid: who.gid,
        groups,
    }))
}

/// Who has made a socket, as far as that can be told: a process that holds it, and the owner of its inode.
fn owner(one: &Description<'_>) -> CryopodPeer {
    CryopodPeer {
        pid: one.seen.pid,
        uid: one.seen.stat.st_uid,
        gid: one.seen.stat.st_gid,
        groups: Vec::new(),
    }
}

/// Mode and owner as images have them.
fn perms(stat: &rustix::fs::Stat) -> FilePermsEntry {
    FilePermsEntry {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_come_before_those_who_are_connected_to_them() {
        let entry = |(ino, peer)| UnixSkEntry {
            ino,
            peer,
            ..UnixSkEntry::default()
        };
        let pairs = [
            (1, 2),
            (2, 3),
            (3, 0),
            (4, 5),
            (5, 4),
            (6, 4),
            (7, 7),
            (8, 7),
        ];
        let sorted = peers_first(pairs.map(entry).to_vec());
        let place = |ino| sorted.iter().position(|entry| entry.ino == ino).unwrap();
        assert!(place(3) < place(2) && place(2) < place(1));
        assert!(place(4) < place(6) && place(7) < place(8));
    }
}
