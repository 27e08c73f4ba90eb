//! TCP segments that a peer might have sent, for a connection that is being put together.
//!
//! TCP_REPAIR sets every number of a connection but has no way to say "the peer has closed". So such a connection gets the
//! peer's FIN, or its acknowledgement of ours, as a packet: written by us with the peer's address as its source, through
//! a raw socket (raw(7), ipv6(7)), marked so that it passes the lock. It never leaves the machine, because its destination
//! is here.

use std::net::{IpAddr, SocketAddr};

use cryopod_sys::{Errno, socket};
use rustix::net::{
    AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};
use std::os::fd::AsFd;

use super::nftables::MARK;

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
        let family = if self.to.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let raw: Protocol = ipproto::RAW;
        // IPPROTO_RAW: the packet begins with its IP header.
        let sender = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(raw))?;
        socket::set_option_int(sender.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, MARK as i32)?;
        let mut to = self.to;
        to.set_port(0);
        sendto(&sender, &self.packet()?, SendFlags::empty(), &to).map(drop)
    }

    /// The packet, IP header and all.
    fn packet(&self) -> Result<Vec<u8>, Errno> {
        const HOPS: u8 = 64;
        let (mut packet, pseudo) = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip = vec![0x45, 0];
                ip.extend(((20 + TCP_BYTES) as u16).to_be_bytes());
                // Identification and fragment offset; the kernel fills the first and the checksum in.
                ip.extend([0, 0, 0, 0, HOPS, libc::IPPROTO_TCP as u8, 0, 0]);
                ip.extend(from.octets());
                ip.extend(to.octets());
                (ip, [from.octets(), to.octets()].concat())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend((TCP_BYTES as u16).to_be_bytes());
                ip.extend([libc::IPPROTO_TCP as u8, HOPS]);
                ip.extend(from.octets());
                ip.extend(to.octets());
                (ip, [from.octets(), to.octets()].concat())
            }
            _ => return Err(Errno::AFNOSUPPORT),
        };
        packet.extend(self.tcp(&pseudo));
        Ok(packet)
    }

    /// The TCP header. `addresses` are those of the pseudo header (RFC 9293).
    fn tcp(&self, addresses: &[u8]) -> Vec<u8> {
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
        let pseudo = [addresses, &[0, libc::IPPROTO_TCP as u8, 0, TCP_BYTES as u8]].concat();
        let sum = checksum(&[&pseudo, &tcp]);
        tcp[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
        tcp
    }
}

/// The internet checksum (RFC 1071) of parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let pairs = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = pairs
        .map(|pair| {
            u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(from: &str, to: &str) -> Segment {
        Segment {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            sequence: 0x0102_0304,
            acknowledged: 0x0506_0708,
            window: 512,
            fin: true,
        }
    }

    #[test]
    fn a_checksum_is_that_of_the_standard() {
        // The example of RFC 1071.
        let sum = checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]);
        assert_eq!(sum, !0xddf2);
    }

    #[test]
    fn packets_have_the_right_form() {
        let packet = segment("1.2.3.4:1", "5.6.7.8:2").packet().unwrap();
        assert_eq!((packet.len(), packet[0], packet[9]), (40, 0x45, 6));
        assert_eq!(packet[33], 0x11);
        let packet = segment("[::1]:1", "[::2]:2").packet().unwrap();
        assert_eq!((packet.len(), packet[0], packet[6]), (60, 0x60, 6));
        // With its checksum in place, a header sums up to nothing.
        let pseudo = [&packet[8..40], &[0, 6, 0, 20]].concat();
        assert_eq!(checksum(&[&pseudo, &packet[40..]]), 0);
        assert!(segment("1.2.3.4:1", "[::2]:2").packet().is_err());
    }
}
