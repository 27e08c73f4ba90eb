//! Packet sockets (packet(7)).

use std::os::fd::{AsFd, BorrowedFd};

use cryopod_image::criu::{
    CryopodOption, FdTypes, FileEntry, PacketMclist, PacketRing, PacketSockEntry,
};
use cryopod_sys::socket::{self, SocketKind};
use cryopod_sys::{Errno, Result as SysResult};

use super::super::{Description, refuse};
use super::inet_options::{Name, like};
use super::{options, shown};
use crate::error::Result;
use crate::net::diag::packet;

/// `SOL_PACKET` of linux/socket.h.
pub const LEVEL: i32 = 263;

/// Options without a field in CRIU's entry: PACKET_TX_HAS_OFF, PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING of
/// linux/if_packet.h.
pub const OPTIONS: &[Name] = &[(LEVEL, 19), (LEVEL, 20), (LEVEL, 23)];

/// Why a packet socket cannot be checkpointed, if it cannot.
pub fn problem(fd: BorrowedFd<'_>) -> Option<String> {
    options::problem(fd).map(str::to_owned)
}

/// The entry of a packet socket.
pub(super) fn dump(one: &Description<'_>, kind: &SocketKind) -> Result<FileEntry> {
    // PDI_* of linux/packet_diag.h.
    const AUXDATA: u32 = 0x2;
    const ORIGDEV: u32 = 0x4;
    const VNETHDR: u32 = 0x8;
    const LOSS: u32 = 0x10;
    let fd = one.file.as_fd();
    let found = one.check("ask what it is (sock_diag)", find(fd))?;
    if found.memberships.iter().any(|one| one.count != 1) {
        let what = format!("{}: a membership held twice: not supported", shown(kind));
        return Err(refuse(one.seen, what));
    }
    let entry = PacketSockEntry {
        id: one.id,
        r#type: kind.kind as u32,
        protocol: u16::to_be(found.protocol).into(),
        flags: one.seen.flags(),
        ifindex: found.index,
        fown: one.owner.clone(),
        opts: one.check("ask for its options", options::dump(fd))?,
        version: found.version,
        reserve: found.reserve,
        aux_data: found.flags & AUXDATA != 0,
        orig_dev: found.flags & ORIGDEV != 0,
        vnet_hdr: found.flags & VNETHDR != 0,
        loss: found.flags & LOSS != 0,
        timestamp: found.timestamp,
        copy_thresh: found.copy_thresh,
        mclist: found.memberships.into_iter().map(membership).collect(),
        fanout: found.fanout,
        rx_ring: found.rx_ring.map(ring),
        tx_ring: found.tx_ring.map(ring),
        ns_id: None,
        cryopod_options: one.check("ask for its options", others(fd, kind))?,
    };
    Ok(FileEntry {
        r#type: FdTypes::PacketSk.into(),
        id: one.id,
        psk: Some(Box::new(entry)),
        ..FileEntry::default()
    })
}

fn find(fd: BorrowedFd<'_>) -> SysResult<packet::Packet> {
    let cookie = rustix::net::sockopt::socket_cookie(fd)?;
    packet::find(cookie)?.ok_or(Errno::NOENT)
}

fn membership(one: packet::Membership) -> PacketMclist {
    PacketMclist {
        index: one.index,
        r#type: one.kind.into(),
        addr: one.address,
    }
}

fn ring(ring: packet::Ring) -> PacketRing {
    PacketRing {
        block_size: ring.block_size,
        block_nr: ring.block_nr,
        frame_size: ring.frame_size,
        frame_nr: ring.frame_nr,
        retire_tmo: ring.retire_tmo,
        sizeof_priv: ring.sizeof_priv,
        features: ring.features,
    }
}

/// Options that are not what a new socket has.
fn others(fd: BorrowedFd<'_>, kind: &SocketKind) -> SysResult<Vec<CryopodOption>> {
    let new = like(&SocketKind {
        protocol: 0,
        ..*kind
    })?;
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
