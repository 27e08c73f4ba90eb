//! Options of internet sockets, besides those of all sockets: ip(7), ipv6(7), tcp(7), udp(7), raw(7), icmp(7).
//!
//! CRIU's entries have some of them. Of the rest, whatever differs from a new socket of the same kind goes into a field of
//! our own, so that nothing here has to know what the defaults of a kernel or of a machine are.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_image::criu::{CryopodOption, IpOptsEntry, IpOptsRawEntry, TcpOptsEntry};
use cryopod_sys::socket::{self, SocketKind};
use cryopod_sys::{Errno, Result};
use libc::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};

/// Level and number of an option.
pub type Name = (i32, i32);

/// The longest value of an option: IP options, and names of congestion controls and upper layers.
const LONGEST: usize = 64;

const UDP: i32 = 17;
const UDPLITE: i32 = 136;
const RAW: i32 = 255;

pub const ICMP_FILTER: i32 = 1;
pub const IP_NODEFRAG: i32 = 22;
pub const IPV6_HDRINCL: i32 = 36;
pub const IPV6_FREEBIND: i32 = 78;
const UDP_CORK: i32 = 1;
const TCP_ULP: i32 = 31;

/// Options without a field in CRIU's entries, of sockets of any kind, in the order in which they are set. Numbers that
/// `libc` does not name are of linux/in.h, linux/in6.h and linux/udp.h.
pub const OTHERS: &[Name] = &[
    (SOL_SOCKET, libc::SO_MAX_PACING_RATE),
    (IPPROTO_IP, libc::IP_OPTIONS),
    (IPPROTO_IP, libc::IP_TOS),
    (IPPROTO_IP, libc::IP_TTL),
    (IPPROTO_IP, libc::IP_RECVOPTS),
    (IPPROTO_IP, libc::IP_RETOPTS),
    (IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (IPPROTO_IP, libc::IP_RECVERR),
    (IPPROTO_IP, libc::IP_RECVTTL),
    (IPPROTO_IP, libc::IP_RECVTOS),
    (IPPROTO_IP, 18), // IP_PASSSEC
    (IPPROTO_IP, libc::IP_TRANSPARENT),
    (IPPROTO_IP, 20),  // IP_RECVORIGDSTADDR
    (IPPROTO_IP, 21),  // IP_MINTTL
    (IPPROTO_IP, 23),  // IP_CHECKSUM
    (IPPROTO_IP, 24),  // IP_BIND_ADDRESS_NO_PORT
    (IPPROTO_IP, 25),  // IP_RECVFRAGSIZE
    (IPPROTO_IP, 26),  // IP_RECVERR_RFC4884
    (IPPROTO_IP, 50),  // IP_UNICAST_IF
    (IPPROTO_IP, 51),  // IP_LOCAL_PORT_RANGE
    (IPPROTO_IPV6, 7), // IPV6_CHECKSUM
    (IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    (IPPROTO_IPV6, libc::IPV6_RECVERR),
    (IPPROTO_IPV6, 31), // IPV6_RECVERR_RFC4884
    (IPPROTO_IPV6, 33), // IPV6_FLOWINFO_SEND
    (IPPROTO_IPV6, 51), // IPV6_RECVHOPLIMIT
    (IPPROTO_IPV6, 53), // IPV6_RECVHOPOPTS
    (IPPROTO_IPV6, 56), // IPV6_RECVRTHDR
    (IPPROTO_IPV6, 58), // IPV6_RECVDSTOPTS
    (IPPROTO_IPV6, 60), // IPV6_RECVPATHMTU
    (IPPROTO_IPV6, 62), // IPV6_DONTFRAG
    (IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    (IPPROTO_IPV6, libc::IPV6_TCLASS),
    (IPPROTO_IPV6, 70), // IPV6_AUTOFLOWLABEL
    (IPPROTO_IPV6, 72), // IPV6_ADDR_PREFERENCES
    (IPPROTO_IPV6, 73), // IPV6_MINHOPCOUNT
    (IPPROTO_IPV6, 74), // IPV6_RECVORIGDSTADDR
    (IPPROTO_IPV6, 75), // IPV6_TRANSPARENT
    (IPPROTO_IPV6, 76), // IPV6_UNICAST_IF
    (IPPROTO_IPV6, 77), // IPV6_RECVFRAGSIZE
    (IPPROTO_TCP, libc::TCP_CONGESTION),
    (IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (IPPROTO_TCP, libc::TCP_SYNCNT),
    (IPPROTO_TCP, libc::TCP_LINGER2),
    (IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (IPPROTO_TCP, libc::TCP_THIN_LINEAR_TIMEOUTS),
    (IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT),
    (IPPROTO_TCP, 34), // TCP_FASTOPEN_NO_COOKIE
    (IPPROTO_TCP, 25), // TCP_NOTSENT_LOWAT
    (IPPROTO_TCP, 27), // TCP_SAVE_SYN
    (IPPROTO_TCP, 36), // TCP_INQ
    (IPPROTO_TCP, 37), // TCP_TX_DELAY
    (IPPROTO_TCP, 44), // TCP_RTO_MAX_MS
    (IPPROTO_TCP, 45), // TCP_RTO_MIN_US
    (IPPROTO_TCP, 46), // TCP_DELACK_MAX_US
    (UDP, 100),        // UDP_ENCAP
    (UDP, 101),        // UDP_NO_CHECK6_TX
    (UDP, 102),        // UDP_NO_CHECK6_RX
    (UDP, 103),        // UDP_SEGMENT
    (UDP, 104),        // UDP_GRO
    (UDPLITE, 10),     // UDPLITE_SEND_CSCOV
    (UDPLITE, 11),     // UDPLITE_RECV_CSCOV
];

/// Options that make no sense for streams. A stream that was accepted has odd values of them, which cannot be set.
pub const OF_NO_STREAM: &[Name] = &[
    (IPPROTO_IP, libc::IP_MULTICAST_IF),
    (IPPROTO_IP, libc::IP_MULTICAST_TTL),
    (IPPROTO_IP, libc::IP_MULTICAST_LOOP),
    (IPPROTO_IP, 49), // IP_MULTICAST_ALL
    (IPPROTO_IPV6, libc::IPV6_MULTICAST_IF),
    (IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS),
    (IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP),
    (IPPROTO_IPV6, 29), // IPV6_MULTICAST_ALL
];

/// Options that mean something else once there is a connection.
pub const OF_NO_CONNECTION: &[Name] = &[
    (IPPROTO_TCP, libc::TCP_MAXSEG),
    (IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    (IPPROTO_TCP, libc::TCP_FASTOPEN),
];

/// Why the options of a socket cannot be taken along, if they cannot.
pub fn problem(fd: BorrowedFd<'_>, kind: &SocketKind) -> Option<String> {
    match kind.protocol {
        IPPROTO_TCP if kind.kind == libc::SOCK_STREAM => {
            let name = socket::option_bytes(fd, IPPROTO_TCP, TCP_ULP, LONGEST).ok()?;
            let name = String::from_utf8_lossy(&name);
            let name = name.trim_end_matches('\0');
            (!name.is_empty()).then(|| format!("{name} on top of TCP (TCP_ULP)"))
        }
        UDP | UDPLITE if kind.kind == libc::SOCK_DGRAM => {
            let corked = socket::option_int(fd, UDP, UDP_CORK) == Ok(1);
            corked.then(|| "a datagram is being put together (UDP_CORK)".to_owned())
        }
        _ => None,
    }
}

/// An option, where it is set to something. MPTCP knows few of IP and TCP.
fn number(fd: BorrowedFd<'_>, level: i32, name: i32) -> Result<Option<u32>> {
    match socket::option_int(fd, level, name) {
        Err(Errno::OPNOTSUPP) => Ok(None),
        value => value.map(|value| (value != 0).then_some(value as u32)),
    }
}

/// IP options that CRIU has: whatever is set to something.
pub fn ip(fd: BorrowedFd<'_>, kind: &SocketKind) -> Result<IpOptsEntry> {
    let number = |level, name| number(fd, level, name);
    let flag = |level, name| Ok::<_, Errno>(number(level, name)?.map(|_| true));
    let mut entry = IpOptsEntry::default();
    if kind.family == libc::AF_INET6 {
        entry.freebind = flag(IPPROTO_IPV6, IPV6_FREEBIND)?;
        entry.pktinfo = flag(IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)?;
    } else {
        entry.freebind = flag(IPPROTO_IP, libc::IP_FREEBIND)?;
        entry.pktinfo = flag(IPPROTO_IP, libc::IP_PKTINFO)?;
        entry.tos = number(IPPROTO_IP, libc::IP_TOS)?;
        entry.ttl = number(IPPROTO_IP, libc::IP_TTL)?;
    }
    if kind.kind == libc::SOCK_RAW {
        entry.raw = Some(raw(fd, kind)?);
    }
    Ok(entry)
}

fn raw(fd: BorrowedFd<'_>, kind: &SocketKind) -> Result<IpOptsRawEntry> {
    let flag =
        |level, name| Ok::<_, Errno>((socket::option_int(fd, level, name)? != 0).then_some(true));
    let mut entry = IpOptsRawEntry::default();
    if kind.family == libc::AF_INET6 {
        entry.hdrincl = flag(IPPROTO_IPV6, IPV6_HDRINCL)?;
    } else {
        entry.hdrincl = flag(IPPROTO_IP, libc::IP_HDRINCL)?;
        entry.nodefrag = flag(IPPROTO_IP, IP_NODEFRAG)?;
    }
    if let Some((name, bytes)) = icmp_filter(kind) {
        let filter = socket::option_bytes(fd, name.0, name.1, bytes)?;
        entry.icmpv_filter = filter
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
    }
    Ok(entry)
}

/// The filter that a raw ICMP socket has, and its length in bytes.
pub fn icmp_filter(kind: &SocketKind) -> Option<(Name, usize)> {
    match (kind.family, kind.protocol) {
        (libc::AF_INET, IPPROTO_ICMP) => Some(((RAW, ICMP_FILTER), 4)),
        (libc::AF_INET6, IPPROTO_ICMPV6) => Some(((IPPROTO_ICMPV6, ICMP_FILTER), 32)),
        _ => None,
    }
}

/// TCP options that CRIU has: whatever is set to something.
pub fn tcp(fd: BorrowedFd<'_>) -> Result<TcpOptsEntry> {
    let number = |name| number(fd, IPPROTO_TCP, name);
    Ok(TcpOptsEntry {
        cork: number(libc::TCP_CORK)?.map(|_| true),
        nodelay: number(libc::TCP_NODELAY)?.map(|_| true),
        keepcnt: number(libc::TCP_KEEPCNT)?,
        keepidle: number(libc::TCP_KEEPIDLE)?,
        keepintvl: number(libc::TCP_KEEPINTVL)?,
    })
}

/// All other options that are not what a new socket has.
pub fn others(
    fd: BorrowedFd<'_>,
    kind: &SocketKind,
    is_connection: bool,
) -> Result<Vec<CryopodOption>> {
    let new = like(kind)?;
    let mut found = Vec::new();
    let is_stream = kind.kind == libc::SOCK_STREAM;
    let connectionless: &[Name] = if is_connection { &[] } else { OF_NO_CONNECTION };
    let multicast: &[Name] = if is_stream { &[] } else { OF_NO_STREAM };
    for &(level, name) in OTHERS.iter().chain(connectionless).chain(multicast) {
        // An option that this kind of socket, or this kernel, does not know.
        let Ok(value) = socket::option_bytes(fd, level, name, LONGEST) else {
            continue;
        };
        if Ok(&value) != socket::option_bytes(new.as_fd(), level, name, LONGEST).as_ref() {
            found.push(CryopodOption {
                level: level as u32,
                name: name as u32,
                value,
            });
        }
    }
    Ok(found)
}

/// A new socket of the same kind.
pub fn like(kind: &SocketKind) -> Result<OwnedFd> {
    let protocol = u32::try_from(kind.protocol)
        .ok()
        .and_then(std::num::NonZeroU32::new);
    rustix::net::socket_with(
        AddressFamily::from_raw(kind.family as u16),
        SocketType::from_raw(kind.kind as u32),
        SocketFlags::CLOEXEC,
        protocol.map(Protocol::from_raw),
    )
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn kind(fd: BorrowedFd<'_>) -> SocketKind {
        socket::kind(fd).unwrap()
    }

    #[test]
    fn new_sockets_have_nothing_of_their_own() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let udp = UdpSocket::bind(address).unwrap();
            assert_eq!(others(udp.as_fd(), &kind(udp.as_fd()), false).unwrap(), []);
            let tcp = TcpListener::bind(address).unwrap();
            let found = others(tcp.as_fd(), &kind(tcp.as_fd()), false).unwrap();
            assert_eq!(found, []);
        }
    }

    #[test]
    fn what_was_set_is_found() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_multicast_ttl_v4(7).unwrap();
        let found = others(udp.as_fd(), &kind(udp.as_fd()), false).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        let name = (found[0].level as i32, found[0].name as i32);
        assert_eq!(name, (IPPROTO_IP, libc::IP_MULTICAST_TTL));
        udp.set_ttl(9).unwrap();
        assert_eq!(ip(udp.as_fd(), &kind(udp.as_fd())).unwrap().ttl, Some(9));
    }

    #[test]
    fn a_corked_socket_is_a_problem() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = udp.as_fd();
        assert_eq!(problem(fd, &kind(fd)), None);
        socket::set_option_int(fd, UDP, UDP_CORK, 1).unwrap();
        assert!(problem(fd, &kind(fd)).is_some());
    }
}
