//! Packet sockets as linux/packet_diag.h tells of them.

use cryopod_sys::Errno;

use super::{ask, with_cookie, word};
use crate::net::netlink::attributes;

/// A ring of a packet socket, `struct packet_diag_ring`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ring {
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
pub struct Membership {
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
    pub memberships: Vec<Membership>,
    /// Fanout: group, and mode with flags in the high half.
    pub fanout: Option<u32>,
    /// Ring for receiving.
    pub rx_ring: Option<Ring>,
    /// Ring for sending.
    pub tx_ring: Option<Ring>,
}

/// Everything about a packet socket.
pub fn find(cookie: u64) -> Result<Option<Packet>, Errno> {
    // PACKET_SHOW_INFO, _MCLIST, _RING_CFG, _FANOUT.
    const SHOW: u32 = 0x1 | 0x2 | 0x4 | 0x8;
    // struct packet_diag_req: family, protocol, pad, ino, show, cookie.
    let mut request = vec![libc::AF_PACKET as u8, 0, 0, 0];
    request.extend(0u32.to_ne_bytes());
    request.extend(SHOW.to_ne_bytes());
    request.resize(20, 0);
    let answers = ask(&request)?;
    Ok(with_cookie(&answers, 8, cookie).and_then(read))
}

fn read(raw: &[u8]) -> Option<Packet> {
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
fn read_membership(raw: &[u8]) -> Option<Membership> {
    let half = |at: usize| Some(u16::from_ne_bytes(raw.get(at..at + 2)?.try_into().ok()?));
    let len = usize::from(half(10)?);
    Some(Membership {
        index: word(raw, 0)?,
        count: word(raw, 4)?,
        kind: half(8)?,
        address: raw.get(12..12 + len)?.to_vec(),
    })
}

fn read_ring(raw: &[u8]) -> Option<Ring> {
    Some(Ring {
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_answer_is_survived(raw: Vec<u8>) {
            let _ = read(&raw);
        }
    }
}
