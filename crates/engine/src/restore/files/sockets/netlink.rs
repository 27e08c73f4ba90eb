//! Netlink sockets, in the other direction.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_image::criu::NetlinkSkEntry;
use cryopod_sys::Errno;
use cryopod_sys::socket::{self, SocketKind};
use rustix::net::netlink::SocketAddrNetlink;

use super::super::set_status;
use super::{inet_options, options};
use crate::dump::files::sockets::inet_options::like;
use crate::dump::files::sockets::netlink::{LEVEL, OPTIONS};
use crate::error::{Context, Result};

const ADD_MEMBERSHIP: i32 = 1;
/// More words than any family has groups in.
const MAX_GROUP_WORDS: usize = 256;

/// NETLINK_CONNECTED of the kernel. Others are not: 0, and in criu's images the 7 of a new socket of any family.
const CONNECTED: u32 = 1;

/// Checks an entry by itself.
pub fn check(entry: &NetlinkSkEntry) -> Result<()> {
    let kind = entry.cryopod_type.unwrap_or(libc::SOCK_RAW as u32) as i32;
    if entry.groups.len() > MAX_GROUP_WORDS || entry.dst_group > 32 {
        return Err(super::super::corrupt(
            entry.id,
            "a netlink socket of impossible groups",
        ));
    }
    if !matches!(kind, libc::SOCK_RAW | libc::SOCK_DGRAM) {
        return Err(super::super::corrupt(
            entry.id,
            "a netlink socket of unknown type",
        ));
    }
    Ok(())
}

/// Makes a netlink socket, complete.
pub fn open(entry: &NetlinkSkEntry) -> Result<OwnedFd> {
    let kind = SocketKind {
        family: libc::AF_NETLINK,
        kind: entry.cryopod_type.unwrap_or(libc::SOCK_RAW as u32) as i32,
        protocol: entry.protocol as i32,
    };
    let file = like(&kind).host("make a netlink socket")?;
    let fd = file.as_fd();
    if entry.portid != 0 {
        bind(fd, entry)?;
    }
    for (word, bits) in entry.groups.iter().enumerate() {
        for bit in (0..32).filter(|bit| bits & (1 << bit) != 0) {
            let group = word as i32 * 32 + bit + 1;
            socket::set_option_int(fd, LEVEL, ADD_MEMBERSHIP, group)
                .host("join a netlink group (NETLINK_ADD_MEMBERSHIP)")?;
        }
    }
    if entry.state == CONNECTED {
        let mask = entry.dst_group.checked_sub(1).map_or(0, |group| 1 << group);
        rustix::net::connect(fd, &SocketAddrNetlink::new(entry.dst_portid, mask))
            .host("connect a netlink socket")?;
    }
    inet_options::set_known(fd, OPTIONS, &entry.cryopod_options)?;
    options::restore(fd, &entry.opts)?;
    options::restore_reuse(fd, &entry.opts)?;
    set_status(fd, entry.flags)?;
    Ok(file)
}

/// Ports are mostly given by the kernel, and somebody else may have got this one meanwhile.
fn bind(fd: BorrowedFd<'_>, entry: &NetlinkSkEntry) -> Result<()> {
    match rustix::net::bind(fd, &SocketAddrNetlink::new(entry.portid, 0)) {
        Err(Errno::ADDRINUSE) => {
            tracing::warn!(
                port = entry.portid,
                "the port of a netlink socket is taken; it gets another one"
            );
            rustix::net::bind(fd, &SocketAddrNetlink::new(0, 0))
        }
        bound => bound,
    }
    .host("bind a netlink socket")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer_of(state: u32) -> u32 {
        let entry = NetlinkSkEntry {
            protocol: libc::NETLINK_USERSOCK as u32,
            state,
            dst_portid: 77,
            flags: libc::O_RDWR as u32,
            ..NetlinkSkEntry::default()
        };
        let file = open(&entry).unwrap();
        let peer: SocketAddrNetlink = rustix::net::getpeername(&file)
            .unwrap()
            .unwrap()
            .try_into()
            .unwrap();
        peer.pid()
    }

    #[test]
    fn only_a_connected_socket_is_connected() {
        let peers = [0, CONNECTED, 7].map(peer_of);
        assert_eq!(peers, [0, 77, 0]);
    }
}
