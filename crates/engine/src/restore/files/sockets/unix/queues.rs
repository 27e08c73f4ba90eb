//! What waits in unix sockets: sent again, in its order, by those who sent it or others with their addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_image::SetReader;
use cryopod_image::criu::{FileEntry, SkPacketEntry, UnixSkEntry};
use cryopod_sys::Errno;
use cryopod_sys::message;
use cryopod_sys::socket::{self, Credentials};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::super::super::corrupt;
use super::super::options;
use super::super::queued::each;
use super::names::{Names, address, address_of};
use super::{Borrow, Temporary, Unix, is_datagram, is_external};
use crate::error::{Context, Error, Result};

/// As many descriptors as one message can have (SCM_MAX_FD of net/scm.h).
const MAX_RIGHTS: usize = 253;

/// Reads sk-queues.img, checks it, and counts the messages of each socket.
pub fn check(
    set: &SetReader,
    unix: &Unix,
    entries: &BTreeMap<u32, FileEntry>,
) -> Result<BTreeMap<u32, usize>> {
    let mut counts = BTreeMap::new();
    each(set, |packet, _| {
        // Queues of other families may be in the image as well.
        if !unix.entries.contains_key(&packet.id_for) {
            return Ok(());
        }
        *counts.entry(packet.id_for).or_default() += 1;
        let corrupt = |what: &str| Err(corrupt(packet.id_for, what));
        for scm in &packet.scm {
            if scm.r#type != libc::SCM_RIGHTS as u32 {
                let what = format!("a message with a control message of type {}", scm.r#type);
                return Err(Error::NotRestorable { what });
            }
            if scm.rights.len() > MAX_RIGHTS {
                return corrupt("a message with too many descriptors");
            }
            if scm.rights.iter().any(|id| !entries.contains_key(id)) {
                return corrupt("a message with a descriptor that leads nowhere");
            }
        }
        match packet.scm.len() {
            0 | 1 => Ok(()),
            _ => corrupt("a message with more than one list of descriptors"),
        }
    })?;
    Ok(counts)
}

/// Fills all queues, and connects the sockets of datagrams on the way: what came before that from others is sent before,
/// what the peer has sent since is sent after.
pub fn restore<'f>(
    unix: &Unix,
    temporary: &mut Temporary,
    set: &SetReader,
    borrow: &Borrow<'_, 'f>,
) -> Result<()> {
    let mut filler = Filler {
        unix,
        temporary,
        borrow,
        prepared: BTreeSet::new(),
        senders: HashMap::new(),
    };
    let early = filler.early(set)?;
    filler.fill(set, |id, place| {
        early.get(&id).is_none_or(|&count| place < count)
    })?;
    filler.connect_datagrams()?;
    filler.fill(set, |id, place| {
        early.get(&id).is_some_and(|&count| place >= count)
    })
}

struct Filler<'a, 'b, 'f> {
    unix: &'a Unix,
    temporary: &'a mut Temporary,
    borrow: &'a Borrow<'b, 'f>,
    /// Sockets of the tree that are ready to send much.
    prepared: BTreeSet<u32>,
    /// Sockets of our own with the addresses of those that have sent something and are gone.
    senders: HashMap<Vec<u8>, OwnedFd>,
}

impl<'f> Filler<'_, '_, 'f> {
    /// For sockets of datagrams with a peer: how many of their messages came before they were connected, as the last one
    /// that is not the peer's tells.
    fn early(&self, set: &SetReader) -> Result<BTreeMap<u32, usize>> {
        let mut places: BTreeMap<u32, usize> = BTreeMap::new();
        let mut early = BTreeMap::new();
        each(set, |packet, _| {
            let Some(entry) = self.unix.entries.get(&packet.id_for) else {
                return Ok(());
            };
            let place = places.entry(entry.id).or_default();
            *place += 1;
            let peer = self.unix.peer(entry).filter(|_| is_datagram(entry));
            if let Some(peer) = peer.filter(|peer| peer.id != entry.id) {
                let count = early.entry(entry.id).or_insert(0);
                let from_peer = packet
                    .cryopod_from
                    .as_ref()
                    .is_none_or(|from| *from == peer.name);
                if !from_peer && !self.unix.born_connected.contains(&entry.id) {
                    *count = *place;
                }
            }
            Ok(())
        })?;
        Ok(early)
    }

    /// Sends those messages again that `wanted` says, by socket and place.
    fn fill(&mut self, set: &SetReader, wanted: impl Fn(u32, usize) -> bool) -> Result<()> {
        let mut places: BTreeMap<u32, usize> = BTreeMap::new();
        each(set, |packet, payload| {
            let Some(entry) = self.unix.entries.get(&packet.id_for) else {
                return Ok(());
            };
            let place = places.entry(entry.id).or_default();
            *place += 1;
            if is_external(entry) || !wanted(entry.id, *place - 1) {
                return Ok(());
            }
            let bytes = payload()?;
            self.send(entry, packet, &bytes)
        })
    }

    fn send(&mut self, entry: &UnixSkEntry, packet: &SkPacketEntry, bytes: &[u8]) -> Result<()> {
        let rights = packet.scm.iter().flat_map(|scm| &scm.rights);
        let rights: Vec<BorrowedFd<'f>> =
            rights.map(|&id| (self.borrow)(id)).collect::<Result<_>>()?;
        let who = packet.cryopod_sender.as_ref().map(|who| Credentials {
            pid: who.pid,
            uid: who.uid,
            gid: who.gid,
        });
        let to = (self.borrow)(entry.id)?;
        if is_datagram(entry) && !self.has_own_sender(entry) {
            let to = address_of(to, entry)?;
            let sender = self.sender(packet)?;
            return send(sender.as_fd(), bytes, &to.bytes, &rights, who);
        }
        let sender = self.own_sender(entry)?;
        send(sender.as_fd(), bytes, &[], &rights, who)
    }

    /// Whether a socket of datagrams gets its messages from the one it was born with.
    fn has_own_sender(&self, entry: &UnixSkEntry) -> bool {
        entry.name.is_empty() || self.unix.born_connected.contains(&entry.id)
    }

    /// Who sends to a socket with a peer of its own: that peer, the one it was born with, or a stand-in.
    fn own_sender(&mut self, entry: &UnixSkEntry) -> Result<OwnedFd> {
        if let Some(stand_in) = self.temporary.stand_ins.get(&entry.id) {
            options::prepare(stand_in.as_fd())?;
            return duplicate(stand_in.as_fd());
        }
        let born_with = |one: &&UnixSkEntry| {
            one.peer == entry.ino
                && (!is_datagram(one) || self.unix.born_connected.contains(&one.id))
        };
        let peer = self
            .unix
            .partner(entry)
            .or_else(|| self.unix.entries.values().find(born_with));
        let peer = peer.ok_or_else(|| {
            corrupt(
                entry.id,
                "something waits in it and nobody can have sent it",
            )
        })?;
        self.prepare(peer.id)
    }

    /// Who sends a message to an address: a socket of the tree with the address it came from, or one of our own.
    fn sender(&mut self, packet: &SkPacketEntry) -> Result<OwnedFd> {
        let unix = self.unix;
        let mut living = unix
            .entries
            .values()
            .filter(|one| is_datagram(one) && !is_external(one));
        let found = match &packet.cryopod_from {
            Some(from) if from.is_empty() => None,
            Some(from) => living.find(|one| one.name == *from),
            // An image of criu does not say, and criu has somebody send that is connected.
            None => {
                let inode = unix.entry(packet.id_for)?.ino;
                living.find(|one| one.peer == inode)
            }
        };
        if let Some(one) = found {
            return self.prepare(one.id);
        }
        let from = packet.cryopod_from.clone().unwrap_or_default();
        if !self.senders.contains_key(&from) {
            let sender = new_sender(&mut self.temporary.names, &from)?;
            self.senders.insert(from.clone(), sender);
        }
        let sender = self.senders.get(&from).map(AsFd::as_fd);
        duplicate(sender.ok_or_else(|| corrupt(packet.id_for, "nobody can send to it"))?)
    }

    fn prepare(&mut self, id: u32) -> Result<OwnedFd> {
        let socket = (self.borrow)(id)?;
        if self.prepared.insert(id) {
            options::prepare(socket)?;
        }
        duplicate(socket)
    }

    /// Connects sockets of datagrams. One that has a peer accepts nobody else, so whoever is connected to a socket goes
    /// before that socket is connected itself.
    fn connect_datagrams(&mut self) -> Result<()> {
        let unix = self.unix;
        let mut left: Vec<&UnixSkEntry> = unix
            .entries
            .values()
            .filter(|one| is_datagram(one) && !is_external(one) && one.peer != 0)
            .filter(|one| !unix.born_connected.contains(&one.id))
            .collect();
        while !left.is_empty() {
            let is_free = |one: &UnixSkEntry| {
                let mut others = left.iter().filter(|other| other.id != one.id);
                !others.any(|other| other.peer == one.ino && one.peer != other.ino)
            };
            let (now, later): (Vec<&UnixSkEntry>, Vec<&UnixSkEntry>) =
                left.iter().partition(|one| is_free(one));
            if now.is_empty() {
                return Err(corrupt(
                    later[0].id,
                    "sockets that are connected in a circle",
                ));
            }
            for entry in now {
                self.connect(entry)?;
            }
            left = later;
        }
        Ok(())
    }

    fn connect(&self, entry: &UnixSkEntry) -> Result<()> {
        let Some(peer) = self.unix.peer(entry) else {
            return Ok(());
        };
        let to = if is_external(peer) {
            address(&peer.name)
        } else {
            return connect(
                entry,
                &address_of((self.borrow)(peer.id)?, peer)?.bytes,
                self.borrow,
            );
        };
        connect(entry, &to, self.borrow)
    }
}

fn connect(entry: &UnixSkEntry, to: &[u8], borrow: &Borrow<'_, '_>) -> Result<()> {
    socket::connect(borrow(entry.id)?, to).host("connect a socket to the peer it had")
}

/// A socket of datagrams with an address of somebody who is gone, or with none. Where the address is taken by somebody
/// who is not, it stays without.
fn new_sender(names: &mut Names, from: &[u8]) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
        .host("make a unix socket")?;
    options::prepare(socket.as_fd())?;
    let entry = UnixSkEntry {
        name: from.to_vec(),
        // Any directory will do: nobody finds the file.
        cryopod_path: Some(b"/tmp/sender".to_vec()),
        deleted: Some(true),
        ..UnixSkEntry::default()
    };
    if let Err(error) = names.bind(socket.as_fd(), &entry) {
        tracing::warn!(%error, "a message comes back without the address of its sender");
    }
    Ok(socket)
}

fn send(
    sender: BorrowedFd<'_>,
    bytes: &[u8],
    to: &[u8],
    rights: &[BorrowedFd<'_>],
    who: Option<Credentials>,
) -> Result<()> {
    let put = |who| message::send(sender, bytes, to, rights, who);
    let sent = match put(who) {
        // Whoever sent that is gone. We shall be gone as well when it is read.
        Err(Errno::SRCH) => put(who.map(|who| Credentials {
            pid: std::process::id() as i32,
            ..who
        })),
        sent => sent,
    };
    let sent = sent.host("fill the queue of a socket")?;
    if sent < bytes.len() {
        return send(sender, &bytes[sent..], to, &[], who);
    }
    Ok(())
}

fn duplicate(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(socket, 0).host("duplicate a socket")
}
