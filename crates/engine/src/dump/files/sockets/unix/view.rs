//! Which unix sockets there are, who holds them, and whether they can be dumped.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;

use cryopod_sys::socket::SocketKind;

use super::super::super::seen::{Seen, is_gone};
use super::super::{duplicate, options, shown};
use super::queue;
use crate::dump::DumpOptions;
use crate::error::{Context, Result};
use crate::net::diag::unix::{self, ESTABLISHED, LISTENING, SHUT_READ, SHUT_WRITE, UnixSocket};
use crate::proc;

/// The unix sockets of this network namespace, as a tree sees them.
#[derive(Debug, Default)]
pub struct View {
    sockets: HashMap<u32, UnixSocket>,
    /// Inodes of the sockets that descriptors of the tree lead to.
    held: HashSet<u32>,
    /// Inodes of those that were found in queues since.
    in_flight: RefCell<HashSet<u32>>,
    /// Where connections wait to be accepted: the listening socket, by the one that connects.
    waiting: HashMap<u32, u32>,
    /// Peers outside the tree are connected to again by their address, where they have one and are of datagrams.
    external: bool,
    pids: Vec<i32>,
    /// Who holds the sockets that no process of the tree holds. Looked up when it is needed.
    elsewhere: OnceCell<HashMap<u32, String>>,
}

impl View {
    /// Looks at the tree whose processes are `pids`.
    pub fn scan(pids: &[i32], options: &DumpOptions) -> Result<Self> {
        let mut held = HashSet::new();
        for &pid in pids {
            held.extend(sockets_of(pid)?);
        }
        if held.is_empty() {
            return Ok(Self::default());
        }
        let sockets = unix::all().host("ask for unix sockets (sock_diag)")?;
        let waiting = sockets
            .values()
            .flat_map(|one| one.waiting.iter().map(|&client| (client, one.inode)))
            .filter(|&(client, _)| client != 0)
            .collect();
        Ok(Self {
            sockets,
            held,
            in_flight: RefCell::default(),
            waiting,
            external: options.external_unix_sockets,
            pids: pids.to_vec(),
            elsewhere: OnceCell::new(),
        })
    }

    /// Notes that a socket was found in a queue.
    pub fn found_in_flight(&self, inode: u32) {
        self.in_flight.borrow_mut().insert(inode);
    }

    fn is_inside(&self, inode: u32) -> bool {
        self.held.contains(&inode) || self.in_flight.borrow().contains(&inode)
    }

    /// What the kernel tells of a socket.
    pub fn get(&self, inode: u32) -> Option<&UnixSocket> {
        self.sockets.get(&inode)
    }

    /// The listening socket at which a connection waits to be accepted.
    pub fn waits_at(&self, inode: u32) -> Option<u32> {
        self.waiting.get(&inode).copied()
    }

    /// Whether a socket is connected to one that no process of the tree holds.
    pub fn leads_outside(&self, inode: u32) -> bool {
        let peer = self.get(inode).and_then(|one| one.peer);
        peer.is_some_and(|peer| peer != 0 && !self.is_inside(peer))
            && self.holder(peer.unwrap_or(0)).is_some()
    }

    /// Why a socket cannot be checkpointed, if it cannot.
    pub fn problem(&self, seen: &Seen, kind: &SocketKind) -> Option<String> {
        let inode = seen.stat.st_ino as u32;
        let Some(diag) = self.get(inode) else {
            // One that came after the tree was looked at, or of another namespace. The dump looks again.
            return (!self.sockets.is_empty() && self.held.contains(&inode))
                .then(|| "unix socket of another network namespace: not supported".to_owned());
        };
        let socket = duplicate(seen.pid, seen.fd?);
        let named = shown(kind);
        if let Some(what) = socket.as_ref().and_then(|socket| {
            options::problem(socket.as_fd()).or(queue::problem(socket.as_fd(), diag))
        }) {
            return Some(format!("{named}: {what}: not supported"));
        }
        self.peer_problem(diag)
            .map(|what| format!("{named}: {what}"))
    }

    fn peer_problem(&self, diag: &UnixSocket) -> Option<String> {
        if diag.state == LISTENING {
            return diag.waiting.iter().find_map(|&client| match client {
                0 => Some(
                    "a connection that was given up again waits to be accepted: not supported"
                        .to_owned(),
                ),
                client => self.outside_problem(diag.inode, client),
            });
        }
        if let Some(listener) = self.waits_at(diag.inode) {
            // Nobody but the process that accepts it can read what was sent.
            if diag.unread > 0 {
                return Some(
                    "it has sent something, and its connection is not accepted yet: not supported"
                        .to_owned(),
                );
            }
            return self.outside_problem(diag.inode, listener);
        }
        match diag.peer {
            Some(peer) if peer != 0 => self.outside_problem(diag.inode, peer),
            _ if diag.state == ESTABLISHED
                && diag.kind != libc::SOCK_DGRAM
                && diag.shutdown != SHUT_READ | SHUT_WRITE =>
            {
                Some("a connection to nobody: not supported".to_owned())
            }
            _ => None,
        }
    }

    /// Why it is a problem that `inode` is connected to `peer`, if that is outside the tree.
    fn outside_problem(&self, inode: u32, peer: u32) -> Option<String> {
        // Held by nobody, it is in a queue; whether in one of this tree will be seen when these are read.
        if self.is_inside(peer) || self.holder(peer).is_none() {
            return None;
        }
        self.external(inode, peer).err()
    }

    /// A socket outside the tree that one inside may be connected to; or why not.
    pub fn external(&self, inode: u32, peer: u32) -> std::result::Result<&UnixSocket, String> {
        let holder = self.holder(peer).unwrap_or("a socket that nobody holds");
        let Some(diag) = self.get(peer) else {
            return Err(format!(
                "connected to {holder}, outside the tree: not supported"
            ));
        };
        if diag.kind != libc::SOCK_DGRAM || diag.name.is_empty() || self.waits_at(inode).is_some() {
            return Err(format!(
                "connected to {holder}, outside the tree: supported only for datagrams to an address"
            ));
        }
        if !self.external {
            return Err(format!(
                "connected to {holder}, outside the tree: allow that with --ext-unix-sk"
            ));
        }
        Ok(diag)
    }

    /// Who holds a socket, where no process of the tree does.
    fn holder(&self, inode: u32) -> Option<&str> {
        let elsewhere = self.elsewhere.get_or_init(|| elsewhere(&self.pids));
        elsewhere.get(&inode).map(String::as_str)
    }
}

/// Inodes of the sockets that descriptors of a process lead to.
fn sockets_of(pid: i32) -> Result<Vec<u32>> {
    let numbers = match proc::numbers(pid, "fd") {
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        numbers => numbers?,
    };
    let mut inodes = Vec::new();
    for fd in numbers {
        let link = match proc::read_link(pid, &format!("fd/{fd}")) {
            Err(error) if is_gone(&error) => continue,
            link => link?,
        };
        inodes.extend(link.to_str().and_then(inode_of));
    }
    Ok(inodes)
}

/// Parses `socket:[17]`.
fn inode_of(link: &str) -> Option<u32> {
    let number = link.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

/// All sockets that other processes hold, as far as these can be looked at, and who they are.
fn elsewhere(pids: &[i32]) -> HashMap<u32, String> {
    let mut holders = HashMap::new();
    let Ok(all) = std::fs::read_dir("/proc") else {
        return holders;
    };
    let all = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for pid in all.filter(|pid: &i32| !pids.contains(pid)) {
        let Ok(inodes) = sockets_of(pid) else {
            continue;
        };
        if inodes.is_empty() {
            continue;
        }
        let name = proc::read_text(pid, "comm").unwrap_or_default();
        for inode in inodes {
            holders
                .entry(inode)
                .or_insert_with(|| format!("pid {pid} ({})", name.trim_end()));
        }
    }
    holders
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;
    use crate::tests::alone::alone;

    #[test]
    fn links_tell_inodes() {
        assert_eq!(inode_of("socket:[123]"), Some(123));
        assert_eq!(inode_of("socket:[x]"), None);
        assert_eq!(inode_of("pipe:[123]"), None);
    }

    fn problem(socket: &impl AsFd, pids: &[i32]) -> Option<String> {
        use std::os::fd::AsRawFd;
        let own = std::process::id() as i32;
        let seen = Seen::descriptor(own, socket.as_fd().as_raw_fd()).unwrap();
        let view = View::scan(pids, &DumpOptions::default()).unwrap();
        view.problem(&seen, &seen.socket.unwrap())
    }

    #[test]
    fn what_cannot_be_brought_back_is_named() {
        alone(|| {
            let own = std::process::id() as i32;
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("socket");
            let listener = UnixListener::bind(&path).unwrap();
            let client = UnixStream::connect(&path).unwrap();
            assert_eq!(problem(&client, &[own]), None);
            assert_eq!(problem(&listener, &[own]), None);
            std::io::Write::write_all(&mut &client, b"early").unwrap();
            let what = problem(&client, &[own]).unwrap();
            assert!(what.contains("not accepted yet"), "{what}");
            drop(client);
            let what = problem(&listener, &[own]).unwrap();
            assert!(what.contains("given up"), "{what}");
            let (one, other) = UnixDatagram::pair().unwrap();
            assert_eq!(problem(&one, &[own]), None);
            drop(other);
            assert_eq!(problem(&one, &[own]), None);
        });
    }
}
