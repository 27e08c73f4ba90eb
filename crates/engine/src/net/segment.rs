//! TCP segments that a peer might have sent, for a connection that is being put together.
//!
//! TCP_REPAIR sets every number of a connection but has no way to say "the peer has closed". So such a connection gets the
//! peer's FIN, or its acknowledgement of ours, as a packet (see `packet`).

use std::net::SocketAddr;

use cryopod_sys::Errno;

use super::packet::Packet;

/// A segment without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The peer.
    pub from: SocketAddr,
    /// Our end.
    pub to: SocketAddr,
    /// Its first sequence number.
    pub sequence: u32,
    /// What it acknowledges.
    pub acknowledged: u32,
    /// The window that the peer grants, as it is in the header.
    pub window: u16,
    /// Whether the peer closes with it.
    pub fin: bool,
}

/// Bytes of a TCP header without options.
const TCP_BYTES: usize = 20;

impl Segment {
    /// Has the kernel receive it. Both ends must be of one family.
    pub fn deliver(&self) -> Result<(), Errno> {
        self.packet().deliver()
    }

    fn packet(&self) -> Packet {
        const FIN: u8 = 0x01;
        const ACK: u8 = 0x10;
        const CHECKSUM_AT: usize = 16;
        let mut tcp = Vec::with_capacity(TCP_BYTES);
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledged.to_be_bytes());
        tcp.extend([
            ((TCP_BYTES / 4) << 4) as u8,
            if self.fin { ACK | FIN } else { ACK },
        ]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        Packet {
            from: self.from.ip(),
            to: self.to.ip(),
            protocol: libc::IPPROTO_TCP as u8,
            contents: tcp,
            checksum_at: CHECKSUM_AT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_have_the_right_form() {
        let packet = Segment {
            from: "1.2.3.4:1".parse().unwrap(),
            to: "5.6.7.8:2".parse().unwrap(),
            sequence: 0x0102_0304,
            acknowledged: 0x0506_0708,
            window: 512,
            fin: true,
        }
        .packet();
        assert_eq!((packet.contents.len(), packet.contents[13]), (20, 0x11));
        assert_eq!(packet.contents[..8], [0, 1, 0, 2, 1, 2, 3, 4]);
    }
}
