//! Packets that somebody might have sent to this machine: written by us with his address as their source, through a raw
//! socket (raw(7), ipv6(7)), marked so that they pass our locks. They never leave the machine, because their destination
//! is here, and for the same reason the kernel does not ask where they came from.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use cryopod_sys::{Errno, socket};
use rustix::net::{
    AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};

use super::nftables::MARK;

/// A packet of a protocol whose header has its checksum over the addresses as well (TCP, UDP, UDP-Lite).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who is to have sent it. Both addresses must be of one family.
    pub from: IpAddr,
    /// Where it goes.
    pub to: IpAddr,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Header and contents, with zeroes for the checksum.
    pub contents: Vec<u8>,
    /// Where that is.
    pub checksum_at: usize,
}

impl Packet {
    /// Has the kernel receive it.
    pub fn deliver(self) -> Result<(), Errno> {
        let family = if self.to.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let raw: Protocol = ipproto::RAW;
        // IPPROTO_RAW: the packet begins with its IP header.
        let sender = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(raw))?;
        socket::set_option_int(sender.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, MARK as i32)?;
        let to = SocketAddr::new(self.to, 0);
        sendto(&sender, &self.encode()?, SendFlags::empty(), &to).map(drop)
    }

    /// The packet, IP header and all.
    fn encode(mut self) -> Result<Vec<u8>, Errno> {
        const HOPS: u8 = 64;
        const IPV4_BYTES: usize = 20;
        let length = |bytes: usize| u16::try_from(bytes).map_err(|_| Errno::MSGSIZE);
        let (mut packet, addresses) = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip = vec![0x45, 0];
                ip.extend(length(IPV4_BYTES + self.contents.len())?.to_be_bytes());
                // Identification and fragment offset; the kernel fills the first and the checksum in.
                ip.extend([0, 0, 0, 0, HOPS, self.protocol, 0, 0]);
                ip.extend(from.octets());
                ip.extend(to.octets());
                (ip, [from.octets(), to.octets()].concat())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend(length(self.contents.len())?.to_be_bytes());
                ip.extend([self.protocol, HOPS]);
                ip.extend(from.octets());
                ip.extend(to.octets());
                (ip, [from.octets(), to.octets()].concat())
            }
            _ => return Err(Errno::AFNOSUPPORT),
        };
        let length = length(self.contents.len())?.to_be_bytes();
        let pseudo = [&addresses[..], &[0, self.protocol], &length].concat();
        let sum = checksum(&[&pseudo, &self.contents]);
        let at = self.checksum_at;
        let place = self.contents.get_mut(at..at + 2).ok_or(Errno::INVAL)?;
        // To UDP, zero is no checksum.
        place.copy_from_slice(&if sum == 0 { u16::MAX } else { sum }.to_be_bytes());
        packet.extend(self.contents);
        Ok(packet)
    }
}

/// The internet checksum (RFC 1071) of parts, all but the last of even length.
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_checksum_is_that_of_the_standard() {
        // The example of RFC 1071.
        let sum = checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]);
        assert_eq!(sum, !0xddf2);
    }

    fn packet(from: &str, to: &str, contents: Vec<u8>) -> Packet {
        Packet {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            protocol: 17,
            contents,
            checksum_at: 6,
        }
    }

    #[test]
    fn packets_are_of_one_family_and_not_too_long() {
        let encode = |from, to, bytes| {
            packet(from, to, vec![0; bytes])
                .encode()
                .map(|raw| raw.len())
        };
        assert_eq!(encode("1.2.3.4", "5.6.7.8", 65515), Ok(65535));
        assert_eq!(encode("1.2.3.4", "5.6.7.8", 65516), Err(Errno::MSGSIZE));
        assert_eq!(encode("::1", "::2", 65535), Ok(65575));
        assert_eq!(encode("1.2.3.4", "::2", 8), Err(Errno::AFNOSUPPORT));
        assert_eq!(encode("1.2.3.4", "5.6.7.8", 7), Err(Errno::INVAL));
    }

    proptest! {
        #[test]
        fn with_its_checksum_a_packet_sums_up_to_nothing(data in prop::collection::vec(any::<u8>(), 0..40)) {
            let contents = [vec![0; 8], data].concat();
            let raw = packet("::1", "fd00::2", contents).encode().unwrap();
            let length = (raw.len() - 40) as u8;
            let pseudo = [&raw[8..40], &[0, 17, 0, length]].concat();
            prop_assert_eq!(checksum(&[&pseudo, &raw[40..]]), 0);
        }
    }
}
