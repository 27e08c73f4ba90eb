//! Making unix sockets, before the tree exists.
//!
//! The kernel remembers who made a connection: who called socketpair(2), or connect(2) on one side and listen(2) on the
//! other. Images of ours say who that was, so a stand-in with that pid and user makes the call. Sockets that were
//! accepted have the address of the listening one; where it is gone, one is made for the time being.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_image::criu::{CryopodPeer, UnixSkEntry};
use cryopod_sys::stand_in::{self, Role};
use cryopod_sys::{Errno, socket};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::super::super::corrupt;
use super::names::{Names, address_of};
use super::{Unix, is_datagram, is_established, is_external, is_listening};
use crate::error::{Context, Error, Result};

/// Whether two sockets have one address: one of them was accepted by the other, or both by a third.
fn same_name(one: &UnixSkEntry, other: &UnixSkEntry) -> bool {
    (&one.name, &one.name_dir, one.deleted) == (&other.name, &other.name_dir, other.deleted)
}

impl Unix {
    /// Makes all sockets. `keep` gets each with the number of its entry.
    pub fn open(&mut self, mut keep: impl FnMut(u32, OwnedFd) -> Result<()>) -> Result<()> {
        let temporary = std::mem::take(&mut *self.temporary());
        let mut maker = Maker {
            unix: self,
            names: temporary.names,
            stand_ins: BTreeMap::new(),
            made: BTreeMap::new(),
            born_connected: BTreeSet::new(),
        };
        let made = maker.make_all();
        let Maker {
            names,
            stand_ins,
            made: sockets,
            born_connected,
            ..
        } = maker;
        // Also after a failure: names are removed with this.
        *self.temporary() = super::Temporary {
            stand_ins: stand_ins.into_iter().collect(),
            names,
        };
        self.born_connected = born_connected;
        made?;
        sockets
            .into_iter()
            .try_for_each(|(id, socket)| keep(id, socket))
    }
}

/// The sockets made so far.
struct Maker<'u> {
    unix: &'u Unix,
    names: Names,
    stand_ins: BTreeMap<u32, OwnedFd>,
    made: BTreeMap<u32, OwnedFd>,
    born_connected: BTreeSet<u32>,
}

/// A connection: the end that was accepted, or either of a pair, and the other; a stand-in where that is gone.
#[derive(Clone, Copy)]
struct Connection<'u> {
    one: &'u UnixSkEntry,
    other: Option<&'u UnixSkEntry>,
}

impl<'u> Connection<'u> {
    fn ends(self) -> impl Iterator<Item = &'u UnixSkEntry> {
        [Some(self.one), self.other].into_iter().flatten()
    }

    fn turned(self) -> Option<Self> {
        Some(Self {
            one: self.other?,
            other: Some(self.one),
        })
    }

    /// Both ways of looking at it.
    fn ways(self) -> impl Iterator<Item = Self> {
        [Some(self), self.turned()].into_iter().flatten()
    }
}

impl<'u> Maker<'u> {
    fn make_all(&mut self) -> Result<()> {
        let unix = self.unix;
        let inside = || unix.entries.values().filter(|entry| !is_external(entry));
        let connections: Vec<Connection<'u>> = inside()
            .filter(|entry| !is_datagram(entry) && is_established(entry))
            .filter_map(|entry| self.connection(entry))
            .collect();
        let mut pairs = Vec::new();
        let mut accepted = Vec::new();
        let mut orphans: Vec<Connection<'u>> = Vec::new();
        for &connection in &connections {
            if let Some(way) = connection
                .ways()
                .find(|way| self.listener(way.one).is_some())
            {
                accepted.push(way);
            } else if let Some(way) = connection.ways().find(|way| is_orphan(way, &connections)) {
                orphans.push(way);
            } else {
                pairs.push(connection);
            }
        }
        // Before the listening ones, which may have the same names again.
        self.make_orphans(&orphans)?;
        for entry in inside().filter(|entry| !is_datagram(entry)) {
            if is_listening(entry) {
                self.make_listener(entry)?;
            } else if !is_established(entry) {
                self.make_plain(entry)?;
            }
        }
        for connection in accepted {
            let Some(listener) = self.listener(connection.one) else {
                continue;
            };
            let listening = duplicate(self.get(listener.id)?)?;
            self.connect_and_accept(connection, listening.as_fd(), listener)?;
        }
        for listener in inside().filter(|entry| is_listening(entry)) {
            self.make_waiting(listener)?;
        }
        for connection in pairs {
            self.make_pair(connection)?;
        }
        self.make_datagrams()
    }

    /// The connection of a socket; `None` where it waits to be accepted, or comes with the other end.
    fn connection(&self, entry: &'u UnixSkEntry) -> Option<Connection<'u>> {
        if self.unix.peer(entry).is_some_and(is_listening) {
            return None;
        }
        let other = self.unix.partner(entry);
        if other.is_some_and(|other| other.id < entry.id) {
            return None;
        }
        Some(Connection { one: entry, other })
    }

    /// The listening socket that has accepted this one.
    fn listener(&self, entry: &UnixSkEntry) -> Option<&'u UnixSkEntry> {
        if entry.name.is_empty() {
            return None;
        }
        self.unix.entries.values().find(|one| {
            is_listening(one)
                && !is_external(one)
                && one.r#type == entry.r#type
                && same_name(one, entry)
        })
    }

    fn get(&self, id: u32) -> Result<BorrowedFd<'_>> {
        let made = self.made.get(&id).map(AsFd::as_fd);
        made.ok_or_else(|| corrupt(id, "a socket that others need is not there"))
    }

    fn make_plain(&mut self, entry: &UnixSkEntry) -> Result<()> {
        let socket = new(entry)?;
        self.names.bind(socket.as_fd(), entry)?;
        self.made.insert(entry.id, socket);
        Ok(())
    }

    fn make_listener(&mut self, entry: &UnixSkEntry) -> Result<()> {
        let socket = new(entry)?;
        self.names.bind(socket.as_fd(), entry)?;
        listen(socket.as_fd(), entry.backlog, entry.cryopod_peer.as_ref())?;
        self.made.insert(entry.id, socket);
        Ok(())
    }

    /// Connections whose listening socket is gone. Those that had one address get one listening socket.
    fn make_orphans(&mut self, orphans: &[Connection<'u>]) -> Result<()> {
        let mut done = BTreeSet::new();
        for first in orphans {
            if done.contains(&first.one.id) {
                continue;
            }
            let listening = new(first.one)?;
            self.names.bind(listening.as_fd(), first.one)?;
            for &connection in orphans.iter().filter(|one| same_name(one.one, first.one)) {
                done.insert(connection.one.id);
                // Who listened is what the other end remembers.
                let who = connection
                    .other
                    .and_then(|other| other.cryopod_peer.as_ref());
                listen(listening.as_fd(), 1, who)?;
                self.connect_and_accept(connection, listening.as_fd(), first.one)?;
            }
        }
        Ok(())
    }

    /// Connects one end, as whom the other remembers, and accepts that at `listening`, whose address is that of
    /// `named`.
    fn connect_and_accept(
        &mut self,
        connection: Connection<'u>,
        listening: BorrowedFd<'_>,
        named: &UnixSkEntry,
    ) -> Result<()> {
        let Connection { one, other } = connection;
        let client = new(one)?;
        if let Some(other) = other {
            self.names.bind(client.as_fd(), other)?;
        }
        connect(client.as_fd(), listening, named, one.cryopod_peer.as_ref())?;
        let accepted = rustix::net::accept_with(listening, SocketFlags::CLOEXEC)
            .host("accept a connection between sockets of the tree")?;
        self.made.insert(one.id, accepted);
        self.keep_other(one, other, client);
        Ok(())
    }

    fn keep_other(&mut self, one: &UnixSkEntry, other: Option<&UnixSkEntry>, socket: OwnedFd) {
        match other {
            Some(other) => self.made.insert(other.id, socket),
            None => self.stand_ins.insert(one.id, socket),
        };
    }

    /// Connections that wait to be accepted, in the order in which they will be.
    fn make_waiting(&mut self, listener: &'u UnixSkEntry) -> Result<()> {
        let unix = self.unix;
        let place = |client: &UnixSkEntry| {
            let mut order = listener.cryopod_waiting.iter();
            order
                .position(|&inode| inode == client.ino)
                .unwrap_or(usize::MAX)
        };
        let mut clients: Vec<&UnixSkEntry> = unix
            .entries
            .values()
            .filter(|one| !is_datagram(one) && one.peer == listener.ino && one.id != listener.id)
            .collect();
        clients.sort_by_key(|client| (place(client), client.id));
        for client in clients {
            let socket = new(client)?;
            self.names.bind(socket.as_fd(), client)?;
            let listening = self.get(listener.id)?;
            connect(
                socket.as_fd(),
                listening,
                listener,
                client.cryopod_owner.as_ref(),
            )?;
            self.made.insert(client.id, socket);
        }
        Ok(())
    }

    fn make_pair(&mut self, connection: Connection<'u>) -> Result<()> {
        let (one, other) = pair(connection.one, connection.one.cryopod_peer.as_ref())?;
        self.names.bind(one.as_fd(), connection.one)?;
        if let Some(entry) = connection.other {
            self.names.bind(other.as_fd(), entry)?;
        }
        self.made.insert(connection.one.id, one);
        self.keep_other(connection.one, connection.other, other);
        Ok(())
    }

    /// Sockets of datagrams. Those that nobody can have connected to by an address were born as pairs.
    fn make_datagrams(&mut self) -> Result<()> {
        let unix = self.unix;
        let all = || {
            let inside = unix.entries.values().filter(|entry| !is_external(entry));
            inside.filter(|entry| is_datagram(entry))
        };
        for entry in all() {
            let Some(peer) = unix.peer(entry).filter(|peer| is_datagram(peer)) else {
                continue;
            };
            let partners = unix.partner(entry).is_some();
            let unnamed = peer.name.is_empty() || (partners && entry.name.is_empty());
            if peer.id == entry.id || !unnamed || is_external(peer) {
                continue;
            }
            if partners && self.made.contains_key(&entry.id) {
                continue;
            }
            self.make_born_pair(peer, entry, partners)?;
        }
        for entry in all() {
            if self.made.contains_key(&entry.id) {
                continue;
            }
            let nameless_queue = entry.name.is_empty() && unix.queued.contains_key(&entry.id);
            if entry.cryopod_peer_gone == Some(true) {
                self.make_pair(Connection {
                    one: entry,
                    other: None,
                })?;
                self.born_connected.insert(entry.id);
            } else if nameless_queue {
                // Somebody it was born with has sent that, and is gone.
                let (one, other) = pair(entry, None)?;
                disconnect(one.as_fd())?;
                self.made.insert(entry.id, one);
                self.stand_ins.insert(entry.id, other);
            } else {
                self.make_plain(entry)?;
            }
        }
        Ok(())
    }

    /// A pair of which `entry` is connected to `peer`, and the other way round only if they are `partners`.
    fn make_born_pair(
        &mut self,
        peer: &'u UnixSkEntry,
        entry: &'u UnixSkEntry,
        partners: bool,
    ) -> Result<()> {
        if self.made.contains_key(&peer.id) || self.made.contains_key(&entry.id) {
            let what = format!(
                "file {}: a second socket connected to one without address",
                entry.id
            );
            return Err(Error::NotRestorable { what });
        }
        let (one, other) = pair(entry, entry.cryopod_peer.as_ref())?;
        if !partners {
            disconnect(other.as_fd())?;
        }
        self.names.bind(one.as_fd(), entry)?;
        self.names.bind(other.as_fd(), peer)?;
        self.born_connected.insert(entry.id);
        if partners {
            self.born_connected.insert(peer.id);
        }
        self.made.insert(entry.id, one);
        self.made.insert(peer.id, other);
        Ok(())
    }
}

/// Whether the first end of a connection was accepted by a listening socket that is gone: others have its address as
/// well, or the two ends were not made by one process.
fn is_orphan(connection: &Connection<'_>, all: &[Connection<'_>]) -> bool {
    let one = connection.one;
    if one.name.is_empty() {
        return false;
    }
    let mut ends = all.iter().flat_map(|connection| connection.ends());
    let shared = ends.any(|end| end.id != one.id && same_name(end, one));
    let strangers = connection.other.is_some_and(|other| {
        other.cryopod_peer.is_some() && other.cryopod_peer != one.cryopod_peer
    });
    shared || strangers
}

/// A socket of the type that an entry has. It does not wait, until it gets its own flags.
fn new(entry: &UnixSkEntry) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, socket_type(entry), flags, None)
        .host("make a unix socket")
}

fn socket_type(entry: &UnixSkEntry) -> SocketType {
    SocketType::from_raw(entry.r#type)
}

fn duplicate(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(socket, 0).host("duplicate a socket")
}

/// Takes the peer from a socket of datagrams that was born with one.
fn disconnect(socket: BorrowedFd<'_>) -> Result<()> {
    let nobody = (libc::AF_UNSPEC as u16).to_ne_bytes();
    socket::connect(socket, &nobody).host("disconnect a socket")
}

/// Two connected sockets, made by `who`.
fn pair(entry: &UnixSkEntry, who: Option<&CryopodPeer>) -> Result<(OwnedFd, OwnedFd)> {
    if who.is_none() {
        let flags = SocketFlags::CLOEXEC;
        return rustix::net::socketpair(AddressFamily::UNIX, socket_type(entry), flags, None)
            .host("make a pair of sockets");
    }
    let (one, other) = (new(entry)?, new(entry)?);
    as_somebody(who, |role| {
        stand_in::socketpair_as(role, entry.r#type as i32, one.as_fd(), other.as_fd())
    })
    .host("make a pair of sockets")?;
    Ok((one, other))
}

fn listen(socket: BorrowedFd<'_>, backlog: u32, who: Option<&CryopodPeer>) -> Result<()> {
    let backlog = backlog.min(i32::MAX as u32) as i32;
    as_somebody(who, |role| stand_in::listen_as(role, socket, backlog)).host("listen at a socket")
}

fn connect(
    socket: BorrowedFd<'_>,
    listening: BorrowedFd<'_>,
    named: &UnixSkEntry,
    who: Option<&CryopodPeer>,
) -> Result<()> {
    let address = address_of(listening, named)?;
    as_somebody(who, |role| {
        stand_in::connect_as(role, socket, &address.bytes)
    })
    .host("connect two sockets of the tree")
}

/// Makes a call as somebody, as far as that can be: without the pid where it is taken, and as ourselves where we may not
/// be anybody else.
fn as_somebody(
    who: Option<&CryopodPeer>,
    call: impl Fn(&Role<'_>) -> std::result::Result<(), Errno>,
) -> std::result::Result<(), Errno> {
    let Some(who) = who else {
        return call(&Role::default());
    };
    let user = Some((who.uid, who.gid, who.groups.as_slice()));
    let pid = Some(who.pid).filter(|&pid| pid > 0);
    let roles = [
        Role {
            pid,
            user,
            root: None,
        },
        Role {
            pid: None,
            user,
            root: None,
        },
        Role::default(),
    ];
    let mut outcome = Ok(());
    for role in roles {
        outcome = call(&role);
        if outcome.is_ok() {
            break;
        }
        tracing::debug!(
            pid = who.pid,
            uid = who.uid,
            ?outcome,
            "cannot stand in for the maker of a socket"
        );
    }
    outcome
}
