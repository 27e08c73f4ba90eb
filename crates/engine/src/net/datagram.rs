//! Datagrams of UDP and UDP-Lite that are to come once more, from whoever has sent them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use cryopod_sys::Errno;

use super::address::{needs_interface, on_the_wire};
use super::packet::Packet;

const UDP: u8 = libc::IPPROTO_UDP as u8;

/// A datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// `IPPROTO_UDP` or `IPPROTO_UDPLITE`.
    pub protocol: u8,
    /// Who has sent it.
    pub from: SocketAddr,
    /// Where it was sent to.
    pub to: SocketAddr,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl Datagram {
    /// Why it cannot come once more on this machine, if it cannot.
    pub fn obstacle(&self) -> Option<&'static str> {
        let (from, to) = (on_the_wire(self.from), on_the_wire(self.to));
        if to.ip().is_multicast() {
            Some("it was sent to a group, and others would get it again")
        } else if from.is_ipv4() != to.is_ipv4() {
            Some("its addresses are of two families")
        } else if needs_interface(from.ip()) || needs_interface(to.ip()) {
            Some("its address belongs to an interface")
        } else if !is_here(to.ip()) {
            Some("its destination is no address of this machine alone")
        } else {
            None
        }
    }

    /// Has the kernel receive it. Only where there is no [`Datagram::obstacle`]: it would go elsewhere.
    pub fn deliver(&self) -> Result<(), Errno> {
        self.packet()?.deliver()
    }

    fn packet(&self) -> Result<Packet, Errno> {
        const HEADER_BYTES: usize = 8;
        const CHECKSUM_AT: usize = 6;
        let length = u16::try_from(HEADER_BYTES + self.bytes.len()).map_err(|_| Errno::MSGSIZE)?;
        // UDP-Lite (RFC 3828) has there how much the checksum covers: 0 is everything.
        let length = if self.protocol == UDP { length } else { 0 };
        let mut contents = Vec::with_capacity(HEADER_BYTES + self.bytes.len());
        contents.extend(self.from.port().to_be_bytes());
        contents.extend(self.to.port().to_be_bytes());
        contents.extend(length.to_be_bytes());
        contents.extend([0; 2]);
        contents.extend(&self.bytes);
        Ok(Packet {
            from: on_the_wire(self.from).ip(),
            to: on_the_wire(self.to).ip(),
            protocol: self.protocol,
            contents,
            checksum_at: CHECKSUM_AT,
        })
    }
}

/// Whether an address is one of this machine alone: who sends there has it as his own.
fn is_here(ip: IpAddr) -> bool {
    const ANY_PORT: u16 = 9;
    let nobody: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = || {
        let socket = UdpSocket::bind((nobody, 0))?;
        socket.connect((ip, ANY_PORT))?;
        socket.local_addr()
    };
    ip.is_loopback() || source().is_ok_and(|source| source.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(from: &str, to: &str) -> Datagram {
        Datagram {
            protocol: UDP,
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            bytes: b"abc".to_vec(),
        }
    }

    #[test]
    fn only_what_was_for_this_machine_alone_can_come_again() {
        let can = |from, to| datagram(from, to).obstacle().is_none();
        assert!(can("203.0.113.7:53", "127.0.0.1:1"));
        assert!(can("[2001:db8::1]:53", "[::1]:1"));
        assert!(can("[::ffff:203.0.113.7]:53", "[::ffff:127.0.0.1]:1"));
        assert!(!can("203.0.113.7:53", "224.0.0.1:1"));
        assert!(!can("203.0.113.7:53", "255.255.255.255:1"));
        assert!(!can("203.0.113.7:53", "203.0.113.8:1"));
        assert!(!can("203.0.113.7:53", "[::1]:1"));
        assert!(!can("[fe80::1]:53", "[::1]:1"));
    }

    #[test]
    fn headers_have_the_right_form() {
        let mut datagram = datagram("1.2.3.4:1", "5.6.7.8:2");
        let contents = |datagram: &Datagram| datagram.packet().unwrap().contents;
        assert_eq!(contents(&datagram), b"\x00\x01\x00\x02\x00\x0b\x00\x00abc");
        datagram.protocol = libc::IPPROTO_UDPLITE as u8;
        assert_eq!(contents(&datagram)[4..6], [0, 0]);
        datagram.bytes = vec![0; 65528];
        assert!(datagram.packet().is_err());
    }

    #[test]
    fn a_datagram_comes_from_whom_it_says() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let datagram = Datagram {
            to: socket.local_addr().unwrap(),
            ..datagram("203.0.113.7:53", "127.0.0.1:1")
        };
        match datagram.deliver() {
            // Without CAP_NET_RAW.
            Err(Errno::PERM) => return,
            delivered => delivered.unwrap(),
        }
        let mut buffer = [0; 8];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"abc"[..], datagram.from));
    }
}
