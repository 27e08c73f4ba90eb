//! Addresses of internet sockets: the kernel's `sockaddr`, std's [`SocketAddr`], the words of images.
//!
//! Images have an address as 32-bit words whose bytes are in network order (one for IPv4, four for IPv6) and the port
//! as a number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::BorrowedFd;

use cryopod_sys::{Errno, socket};

/// Where a socket is bound to (getsockname(2)).
pub fn local(fd: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    SocketAddr::try_from(rustix::net::getsockname(fd)?)
}

/// What a socket is connected to. Unlike getpeername(2), this also tells what a connection led to that is no more.
pub fn peer(fd: BorrowedFd<'_>) -> Result<Option<SocketAddr>, Errno> {
    const SO_PEERNAME: i32 = 28;
    /// Bytes of a `sockaddr_in6`, and of a `sockaddr_in`.
    const LONG: usize = 28;
    const SHORT: usize = 16;
    let ask = |bytes| socket::option_bytes(fd, libc::SOL_SOCKET, SO_PEERNAME, bytes);
    // Whoever asks for more than there is gets nothing.
    let raw = match ask(LONG) {
        Err(Errno::INVAL) => ask(SHORT),
        asked => asked,
    };
    match raw {
        Ok(raw) => parse(&raw).map(Some).ok_or(Errno::AFNOSUPPORT),
        Err(Errno::NOTCONN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Reads a `sockaddr_in` or `sockaddr_in6`.
pub fn parse(raw: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(raw.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(raw.get(2..4)?.try_into().ok()?);
    match family {
        libc::AF_INET => {
            let octets: [u8; 4] = raw.get(4..8)?.try_into().ok()?;
            Some(SocketAddrV4::new(octets.into(), port).into())
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = raw.get(8..24)?.try_into().ok()?;
            let scope = u32::from_ne_bytes(raw.get(24..28)?.try_into().ok()?);
            Some(SocketAddrV6::new(octets.into(), port, 0, scope).into())
        }
        _ => None,
    }
}

/// A `sockaddr_in` or `sockaddr_in6`, as [`parse`] reads it.
pub fn encode(address: SocketAddr) -> Vec<u8> {
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let mut raw = (family as u16).to_ne_bytes().to_vec();
    raw.extend(address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            raw.extend(v4.ip().octets());
            raw.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            raw.extend([0; 4]);
            raw.extend(v6.ip().octets());
            raw.extend(v6.scope_id().to_ne_bytes());
        }
    }
    raw
}

/// The words of an address.
pub fn words(ip: IpAddr) -> Vec<u32> {
    let word = |octets: &[u8]| u32::from_ne_bytes([octets[0], octets[1], octets[2], octets[3]]);
    match ip {
        IpAddr::V4(ip) => vec![word(&ip.octets())],
        IpAddr::V6(ip) => ip.octets().chunks_exact(4).map(word).collect(),
    }
}

/// The address that words of a family stand for; `None` when there are too few. criu 0.1 wrote four for IPv4.
pub fn from_words(family: u32, words: &[u32], port: u32, scope: u32) -> Option<SocketAddr> {
    let port = u16::try_from(port).ok()?;
    let octets: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    match family as i32 {
        libc::AF_INET => {
            let ip: [u8; 4] = octets.get(..4)?.try_into().ok()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(ip), port).into())
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = octets.as_slice().try_into().ok()?;
            Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into())
        }
        _ => None,
    }
}

/// The address as it is on the wire: one of IPv4 where IPv6 only wraps it.
pub fn on_the_wire(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddrV4::new(ip, address.port()).into(),
        IpAddr::V6(_) => address,
    }
}

/// Whether an address means something only together with an interface: link-local ones, and multicast ones of node or
/// link scope (RFC 4007).
pub fn needs_interface(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => {
            let near = matches!(ip.octets()[1] & 0xf, 1 | 2);
            ip.is_unicast_link_local() || (ip.is_multicast() && near)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_have_their_bytes_in_network_order() {
        let words = words("127.0.0.1".parse().unwrap());
        assert_eq!(words, [u32::from_ne_bytes([127, 0, 0, 1])]);
    }

    #[test]
    fn wrapped_addresses_are_unwrapped_on_the_wire() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(on_the_wire(mapped), "10.0.0.1:80".parse().unwrap());
        let plain: SocketAddr = "[fd00::1]:80".parse().unwrap();
        assert_eq!(on_the_wire(plain), plain);
    }

    #[test]
    fn some_addresses_need_an_interface() {
        let needs = |ip: &str| needs_interface(ip.parse().unwrap());
        assert!(needs("fe80::1") && needs("ff02::1") && needs("ff01::1"));
        assert!(!needs("ff05::1") && !needs("::1") && !needs("169.254.0.1"));
    }

    #[test]
    fn an_address_of_a_socket_is_read() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = std::os::fd::AsFd::as_fd(&socket);
        assert_eq!(local(fd).unwrap(), socket.local_addr().unwrap());
        assert_eq!(peer(fd).unwrap(), None);
        socket.connect("127.0.0.1:9").unwrap();
        assert_eq!(peer(fd).unwrap(), Some("127.0.0.1:9".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn raw_addresses_lead_back(ip: IpAddr, port: u16) {
            let address = SocketAddr::new(ip, port);
            prop_assert_eq!(parse(&encode(address)), Some(address));
        }

        #[test]
        fn words_lead_back(ip: IpAddr, port: u16) {
            let family = if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u32;
            let back = from_words(family, &words(ip), port.into(), 0).unwrap();
            prop_assert_eq!(back, SocketAddr::new(ip, port));
        }

        #[test]
        fn any_words_and_any_bytes_are_survived(
            family: u32, words: Vec<u32>, port: u32, raw: Vec<u8>,
        ) {
            let _ = from_words(family, &words, port, 0);
            let _ = from_words(10, &words, port, 0);
            let _ = parse(&raw);
        }
    }
}
