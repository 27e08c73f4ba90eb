//! Netlink sockets (netlink(7)): their port, groups, and whom they are connected to.

use std::os::fd::{AsFd, BorrowedFd};

use cryopod_image::criu::{CryopodOption, FdTypes, FileEntry, NetlinkSkEntry};
use cryopod_sys::socket::{self, SocketKind};
use cryopod_sys::{Errno, Result as SysResult};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::netlink::SocketAddrNetlink;

use super::super::Description;
use super::inet_options::{Name, like};
use super::options;
use crate::error::Result;
use crate::net::diag;

/// `SOL_NETLINK` of linux/socket.h.
pub const LEVEL: i32 = 270;

/// Options, by their numbers of linux/netlink.h: NETLINK_PKTINFO, _BROADCAST_ERROR, _NO_ENOBUFS, _LISTEN_ALL_NSID,
/// _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK.
pub const OPTIONS: &[Name] = &[
    (LEVEL, 3),
    (LEVEL, 4),
    (LEVEL, 5),
    (LEVEL, 8),
    (LEVEL, 10),
    (LEVEL, 11),
    (LEVEL, 12),
];

const LIST_MEMBERSHIPS: i32 = 9;
/// More bytes than any family has groups of.
const GROUPS_BYTES: usize = 1024;

/// Why a netlink socket cannot be checkpointed, if it cannot.
pub fn problem(fd: BorrowedFd<'_>) -> Option<String> {
    let mut asked = [PollFd::new(&fd, PollFlags::IN)];
    let polled = rustix::event::poll(&mut asked, Some(&Timespec::default()));
    if polled.is_ok() && asked[0].revents().contains(PollFlags::IN) {
        return Some("messages of the kernel wait to be read".to_owned());
    }
    options::problem(fd).map(str::to_owned)
}

/// The entry of a netlink socket.
pub(super) fn dump(one: &Description<'_>, kind: &SocketKind) -> Result<FileEntry> {
    let fd = one.file.as_fd();
    let address = |name: rustix::io::Result<_>| name.and_then(SocketAddrNetlink::try_from);
    let local = address(rustix::net::getsockname(fd));
    let local = one.check("ask for its port (getsockname)", local)?;
    let peer = rustix::net::getpeername(fd);
    let peer = address(peer.and_then(|peer| peer.ok_or(Errno::NOTCONN)));
    let peer = one.check("ask for its peer (getpeername)", peer)?;
    let connected = one.check(
        "ask whether it is connected (sock_diag)",
        connected(fd, kind),
    )?;
    let entry = NetlinkSkEntry {
        id: one.id,
        ino: one.seen.stat.st_ino as u32,
        protocol: kind.protocol as u32,
        state: connected.into(),
        flags: one.seen.flags(),
        portid: local.pid(),
        groups: one.check("ask for its groups (NETLINK_LIST_MEMBERSHIPS)", groups(fd))?,
        dst_portid: peer.pid(),
        // The number of the only bit that is set.
        dst_group: match peer.groups() {
            0 => 0,
            mask => mask.trailing_zeros() + 1,
        },
        fown: one.owner.clone(),
        opts: one.check("ask for its options", options::dump(fd))?,
        ns_id: None,
        cryopod_type: Some(kind.kind as u32),
        cryopod_options: one.check("ask for its options", others(fd, kind))?,
    };
    Ok(FileEntry {
        r#type: FdTypes::NetlinkSk.into(),
        id: one.id,
        nlsk: Some(Box::new(entry)),
        ..FileEntry::default()
    })
}

fn connected(fd: BorrowedFd<'_>, kind: &SocketKind) -> SysResult<bool> {
    let cookie = rustix::net::sockopt::socket_cookie(fd)?;
    // One that is not bound is not listed, and not connected either: to connect binds.
    Ok(diag::netlink::is_connected(kind.protocol as u8, cookie)?.unwrap_or(false))
}

/// The groups as words, without empty ones at the end.
fn groups(fd: BorrowedFd<'_>) -> SysResult<Vec<u32>> {
    let raw = socket::option_bytes(fd, LEVEL, LIST_MEMBERSHIPS, GROUPS_BYTES)?;
    let mut words: Vec<u32> = raw
        .chunks_exact(4)
        .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    while words.last() == Some(&0) {
        words.pop();
    }
    Ok(words)
}

/// Options that are not what a new socket has.
fn others(fd: BorrowedFd<'_>, kind: &SocketKind) -> SysResult<Vec<CryopodOption>> {
    let new = like(kind)?;
    let mut found = Vec::new();
    for &(level, name) in OPTIONS {
        let ask = |fd| socket::option_bytes(fd, level, name, 4);
        match ask(fd) {
            Ok(value) if Ok(&value) != ask(new.as_fd()).as_ref() => found.push(CryopodOption {
                level: level as u32,
                name: name as u32,
                value,
            }),
            _ => {}
        }
    }
    Ok(found)
}
