//! Packet sockets, in the other direction.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_image::criu::{PacketMclist, PacketRing, PacketSockEntry};
use cryopod_sys::socket::{self, SocketKind};

use super::super::set_status;
use super::{inet_options, options};
use crate::dump::files::sockets::inet_options::like;
use crate::dump::files::sockets::packet::{LEVEL, OPTIONS};
use crate::error::{Context, Error, Result};

/// Names of linux/if_packet.h.
mod name {
    pub const ADD_MEMBERSHIP: i32 = 1;
    pub const RX_RING: i32 = 5;
    pub const COPY_THRESH: i32 = 7;
    pub const AUXDATA: i32 = 8;
    pub const ORIGDEV: i32 = 9;
    pub const VERSION: i32 = 10;
    pub const RESERVE: i32 = 12;
    pub const TX_RING: i32 = 13;
    pub const LOSS: i32 = 14;
    pub const VNET_HDR: i32 = 15;
    pub const TIMESTAMP: i32 = 17;
    pub const FANOUT: i32 = 18;
}

/// What is left of the old interface, linux/socket.h.
const SOCK_PACKET: u32 = 10;
/// `MAX_ADDR_LEN` of linux/netdevice.h.
const LONGEST_ADDRESS: usize = 32;

/// Checks an entry by itself.
pub fn check(entry: &PacketSockEntry) -> Result<()> {
    let types = [libc::SOCK_RAW as u32, libc::SOCK_DGRAM as u32, SOCK_PACKET];
    if !types.contains(&entry.r#type) {
        return Err(super::super::corrupt(
            entry.id,
            "a packet socket of unknown type",
        ));
    }
    if entry
        .mclist
        .iter()
        .any(|one| one.addr.len() > LONGEST_ADDRESS)
    {
        return Err(super::super::corrupt(
            entry.id,
            "a hardware address that is too long",
        ));
    }
    Ok(())
}

/// Makes a packet socket, complete.
pub fn open(entry: &PacketSockEntry) -> Result<OwnedFd> {
    let kind = SocketKind {
        family: libc::AF_PACKET,
        kind: entry.r#type as i32,
        protocol: entry.protocol as i32,
    };
    let file = like(&kind).host("make a packet socket")?;
    let fd = file.as_fd();
    if entry.r#type == SOCK_PACKET {
        bind_by_name(&file, entry)?;
    } else {
        bind(fd, entry)?;
        set_all(fd, entry)?;
    }
    inet_options::set_known(fd, OPTIONS, &entry.cryopod_options)?;
    options::restore(fd, &entry.opts)?;
    options::restore_reuse(fd, &entry.opts)?;
    set_status(fd, entry.flags)?;
    Ok(file)
}

/// To a `sockaddr_ll`.
fn bind(fd: BorrowedFd<'_>, entry: &PacketSockEntry) -> Result<()> {
    let mut address = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    address.extend((entry.protocol as u16).to_ne_bytes());
    address.extend(entry.ifindex.to_ne_bytes());
    address.resize(size_of::<libc::sockaddr_ll>(), 0);
    socket::bind(fd, &address).host("bind a packet socket to its network interface")
}

/// The old interface has the name of the network interface in a `sockaddr`.
fn bind_by_name(file: &OwnedFd, entry: &PacketSockEntry) -> Result<()> {
    const NAME_BYTES: usize = 14;
    if entry.ifindex == 0 {
        return Ok(());
    }
    let name = rustix::net::netdevice::index_to_name(file, entry.ifindex)
        .host("find the network interface of a packet socket")?;
    let mut address = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    address.extend(name.bytes().take(NAME_BYTES - 1));
    address.resize(2 + NAME_BYTES, 0);
    socket::bind(file.as_fd(), &address).host("bind a packet socket to its network interface")
}

fn set_all(fd: BorrowedFd<'_>, entry: &PacketSockEntry) -> Result<()> {
    let numbers = [
        (name::VERSION, entry.version),
        (name::RESERVE, entry.reserve),
        (name::TIMESTAMP, entry.timestamp),
        (name::COPY_THRESH, entry.copy_thresh),
        (name::AUXDATA, entry.aux_data.into()),
        (name::ORIGDEV, entry.orig_dev.into()),
        (name::VNET_HDR, entry.vnet_hdr.into()),
        (name::LOSS, entry.loss.into()),
    ];
    for (name, value) in numbers {
        if value != 0 {
            set(fd, name, &value.to_ne_bytes())?;
        }
    }
    for one in &entry.mclist {
        set(fd, name::ADD_MEMBERSHIP, &membership(one))?;
    }
    for (name, ring) in [
        (name::RX_RING, &entry.rx_ring),
        (name::TX_RING, &entry.tx_ring),
    ] {
        if let Some(ring) = ring {
            set(fd, name, &request(ring))?;
        }
    }
    match entry.fanout.filter(|&fanout| fanout != u32::MAX) {
        Some(fanout) => set(fd, name::FANOUT, &fanout.to_ne_bytes()),
        None => Ok(()),
    }
}

/// `struct packet_mreq_max`.
fn membership(one: &PacketMclist) -> Vec<u8> {
    let mut raw = one.index.to_ne_bytes().to_vec();
    raw.extend((one.r#type as u16).to_ne_bytes());
    raw.extend((one.addr.len() as u16).to_ne_bytes());
    raw.extend(&one.addr);
    raw.resize(8 + LONGEST_ADDRESS, 0);
    raw
}

/// `struct tpacket_req3`, which begins like that of the older versions.
fn request(ring: &PacketRing) -> Vec<u8> {
    [
        ring.block_size,
        ring.block_nr,
        ring.frame_size,
        ring.frame_nr,
        ring.retire_tmo,
        ring.sizeof_priv,
        ring.features,
    ]
    .iter()
    .flat_map(|word| word.to_ne_bytes())
    .collect()
}

fn set(fd: BorrowedFd<'_>, name: i32, value: &[u8]) -> Result<()> {
    socket::set_option_bytes(fd, LEVEL, name, value).map_err(|source| Error::InetOption {
        level: LEVEL,
        name,
        source,
    })
}
