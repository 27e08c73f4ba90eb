//! What sock_diag(7) tells of sockets and no option does.
//!
//! Sockets are told apart by their cookies (SO_COOKIE), which are never used twice.

use cryopod_sys::Errno;
use rustix::net::{Protocol, netlink as protocols};

use super::netlink::{Netlink, attributes};

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const BY_FAMILY: u16 = 20;

/// One question and its answers.
fn ask(request: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let protocol: Protocol = protocols::SOCK_DIAG;
    Netlink::open(protocol)?.dump(BY_FAMILY, request)
}

fn word(raw: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(raw.get(at..at + 4)?.try_into().ok()?))
}

fn cookie_at(raw: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(word(raw, at)?) | u64::from(word(raw, at + 4)?) << 32)
}

/// Which directions of an internet socket are shut down: bit 0 receiving, bit 1 sending (linux/inet_diag.h). `None` when
/// the kernel does not list it, as it does only for sockets that are bound.
pub fn shutdown(
    family: u8,
    protocol: u8,
    local_port: u16,
    cookie: u64,
) -> Result<Option<u8>, Errno> {
    const ALL_STATES: u32 = u32::MAX;
    const SHUTDOWN: u16 = 8;
    /// Bytes of `struct inet_diag_msg`.
    const HEAD_BYTES: usize = 72;
    // struct inet_diag_req_v2: the local port is all that is asked for.
    let mut request = vec![family, protocol, 0, 0];
    request.extend(ALL_STATES.to_ne_bytes());
    request.extend(local_port.to_be_bytes());
    request.resize(56, 0);
    let answers = match ask(&request) {
        Err(Errno::NOENT) => return Ok(None),
        answers => answers?,
    };
    let one = answers
        .iter()
        .find(|one| cookie_at(one, 44) == Some(cookie));
    let found = one.and_then(|one| {
        attributes(one.get(HEAD_BYTES..)?)
            .find(|(kind, _)| *kind == SHUTDOWN)?
            .1
            .first()
            .copied()
    });
    Ok(found)
}

/// Whether a netlink socket is connected (linux/netlink_diag.h).
pub fn netlink_connected(protocol: u8, cookie: u64) -> Result<Option<bool>, Errno> {
    const CONNECTED: u8 = 1;
    // struct netlink_diag_req: family, protocol, pad, ino, show, cookie.
    let mut request = vec![libc::AF_NETLINK as u8, protocol, 0, 0];
    request.resize(20, 0);
    let answers = match ask(&request) {
        Err(Errno::NOENT) => return Ok(None),
        answers => answers?,
    };
    // struct netlink_diag_msg: family, type, protocol, state, portid, dst_portid, dst_group, ino, cookie.
    let one = answers
        .iter()
        .find(|one| cookie_at(one, 20) == Some(cookie));
    Ok(one.and_then(|one| Some(*one.get(3)? == CONNECTED)))
}

/// A ring of a packet socket, `struct packet_diag_ring`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketRing {
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks.
    pub block_nr: u32,
    /// Bytes of a frame.
    pub frame_size: u32,
    /// Frames.
    pub frame_nr: u32,
    /// After how many milliseconds a block is handed over that is not full.
    pub retire_tmo: u32,
    /// Bytes of private space in each block.
    pub sizeof_priv: u32,
    /// Features of version 3.
    pub features: u32,
}

/// A membership of a packet socket, `struct packet_diag_mclist`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketMembership {
    /// Interface.
    pub index: u32,
    /// How often.
    pub count: u32,
    /// `PACKET_MR_*`.
    pub kind: u16,
    /// Hardware address.
    pub address: Vec<u8>,
}

/// What is known of a packet socket (linux/packet_diag.h).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// `SOCK_*`.
    pub kind: u8,
    /// Protocol in host order.
    pub protocol: u16,
    /// Interface.
    pub index: u32,
    /// Version of the rings.
    pub version: u32,
    /// Bytes reserved in frames.
    pub reserve: u32,
    /// PACKET_COPY_THRESH.
    pub copy_thresh: u32,
    /// PACKET_TIMESTAMP.
    pub timestamp: u32,
    /// `PDI_*`.
    pub flags: u32,
    /// Memberships.
    pub memberships: Vec<PacketMembership>,
    /// Fanout: group, and mode with flags in the high half.
    pub fanout: Option<u32>,
    /// Ring for receiving.
    pub rx_ring: Option<PacketRing>,
    /// Ring for sending.
    pub tx_ring: Option<PacketRing>,
}

/// Everything about a packet socket.
pub fn packet(cookie: u64) -> Result<Option<Packet>, Errno> {
    // PACKET_SHOW_INFO, _MCLIST, _RING_CFG, _FANOUT.
    const SHOW: u32 = 0x1 | 0x2 | 0x4 | 0x8;
    // struct packet_diag_req: family, protocol, pad, ino, show, cookie.
    let mut request = vec![libc::AF_PACKET as u8, 0, 0, 0];
    request.extend(0u32.to_ne_bytes());
    request.extend(SHOW.to_ne_bytes());
    request.resize(20, 0);
    let answers = ask(&request)?;
    let one = answers.iter().find(|one| cookie_at(one, 8) == Some(cookie));
    Ok(one.and_then(|one| read_packet(one)))
}

fn read_packet(raw: &[u8]) -> Option<Packet> {
    const INFO: u16 = 0;
    const MEMBERSHIPS: u16 = 1;
    const RX_RING: u16 = 2;
    const TX_RING: u16 = 3;
    const FANOUT: u16 = 4;
    // struct packet_diag_msg: family, type, num, ino, cookie.
    let mut packet = Packet {
        kind: *raw.get(1)?,
        protocol: u16::from_ne_bytes(raw.get(2..4)?.try_into().ok()?),
        ..Packet::default()
    };
    for (kind, value) in attributes(raw.get(16..)?) {
        match kind {
            INFO => {
                packet.index = word(value, 0)?;
                packet.version = word(value, 4)?;
                packet.reserve = word(value, 8)?;
                packet.copy_thresh = word(value, 12)?;
                packet.timestamp = word(value, 16)?;
                packet.flags = word(value, 20)?;
            }
            MEMBERSHIPS => {
                packet.memberships = value.chunks_exact(44).filter_map(read_membership).collect();
            }
            RX_RING => packet.rx_ring = Some(read_ring(value)?),
            TX_RING => packet.tx_ring = Some(read_ring(value)?),
            FANOUT => packet.fanout = Some(word(value, 0)?),
            _ => {}
        }
    }
    Some(packet)
}

/// `struct packet_diag_mclist`: index, count, type, length, address.
fn read_membership(raw: &[u8]) -> Option<PacketMembership> {
    let half = |at: usize| Some(u16::from_ne_bytes(raw.get(at..at + 2)?.try_into().ok()?));
    let len = usize::from(half(10)?);
    Some(PacketMembership {
        index: word(raw, 0)?,
        count: word(raw, 4)?,
        kind: half(8)?,
        address: raw.get(12..12 + len)?.to_vec(),
    })
}

fn read_ring(raw: &[u8]) -> Option<PacketRing> {
    Some(PacketRing {
        block_size: word(raw, 0)?,
        block_nr: word(raw, 4)?,
        frame_size: word(raw, 8)?,
        frame_nr: word(raw, 12)?,
        retire_tmo: word(raw, 16)?,
        sizeof_priv: word(raw, 20)?,
        features: word(raw, 24)?,
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use proptest::prelude::*;
    use rustix::net::{Shutdown, sockopt};

    use super::*;

    #[test]
    fn a_shutdown_is_seen() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect("127.0.0.1:9").unwrap();
        let port = socket.local_addr().unwrap().port();
        let cookie = sockopt::socket_cookie(&socket).unwrap();
        let ask = || shutdown(2, 17, port, cookie).unwrap();
        assert_eq!(ask(), Some(0));
        rustix::net::shutdown(&socket, Shutdown::Write).unwrap();
        assert_eq!(ask(), Some(2));
        assert_eq!(shutdown(2, 17, port, 0).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(raw: Vec<u8>) {
            let _ = read_packet(&raw);
        }
    }
}
