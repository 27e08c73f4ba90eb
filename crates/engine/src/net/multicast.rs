//! Multicast groups that sockets have joined.
//!
//! The kernel lists the groups of each interface (/proc/net/igmp, /proc/net/igmp6) but not who joined them. A socket,
//! though, answers for one group on one interface when it is asked for its source filter (MCAST_MSFILTER, RFC 3678), and
//! refuses when it is no member. So every group of the machine is asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use cryopod_sys::{Errno, socket};

/// `MCAST_JOIN_GROUP` of linux/in.h.
const JOIN_GROUP: i32 = 42;
/// `MCAST_MSFILTER`.
const MSFILTER: i32 = 48;

/// Bytes of `struct sockaddr_storage`.
const ADDRESS_BYTES: usize = 128;
/// Where the group is in `struct group_filter` and `struct group_req`.
const GROUP_AT: usize = 8;
const MODE_AT: usize = GROUP_AT + ADDRESS_BYTES;
const COUNT_AT: usize = MODE_AT + 4;
const SOURCES_AT: usize = COUNT_AT + 4;
/// More sources than a kernel allows by default (igmp_max_msf, mld_max_msf).
pub const MAX_SOURCES: usize = 1024;

/// A group on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Index of the interface.
    pub index: u32,
    /// Its name.
    pub interface: String,
    /// The group.
    pub ip: IpAddr,
}

/// Which sources a member wants to hear (RFC 3376).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// All but the sources listed (`MCAST_EXCLUDE`, 0), or only these (`MCAST_INCLUDE`, 1).
    pub mode: u32,
    /// Sources.
    pub sources: Vec<IpAddr>,
}

/// All groups that anybody on this machine has joined.
pub fn groups() -> Vec<Group> {
    // Without IPv6, or without multicast, there is no such file and no such group.
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut groups = parse_igmp(&read("/proc/net/igmp"));
    groups.extend(parse_igmp6(&read("/proc/net/igmp6")));
    groups
}

/// Lines of interfaces (`1 lo : 1 V3`), each followed by indented ones of its groups (`010000E0 1 0:00000000 0`).
fn parse_igmp(text: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut interface: Option<(u32, String)> = None;
    for line in text.lines().skip(1) {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if line.starts_with(char::is_whitespace) {
            let word = u32::from_str_radix(first, 16);
            if let (Ok(word), Some((index, name))) = (word, &interface) {
                groups.push(Group {
                    index: *index,
                    interface: name.clone(),
                    ip: Ipv4Addr::from(word.to_ne_bytes()).into(),
                });
            }
        } else {
            let name = words.next().map(str::to_owned);
            interface = first.parse().ok().zip(name);
        }
    }
    groups
}

/// One line a group: `1 lo ff020000000000000000000000000001 1 0000000C 0`.
fn parse_igmp6(text: &str) -> Vec<Group> {
    let group = |line: &str| {
        let mut words = line.split_whitespace();
        let index = words.next()?.parse().ok()?;
        let interface = words.next()?.to_owned();
        let ip = u128::from_str_radix(words.next()?, 16).ok()?;
        Some(Group {
            index,
            interface,
            ip: Ipv6Addr::from(ip).into(),
        })
    };
    text.lines().filter_map(group).collect()
}

/// The filter of a socket for a group; `None` when it is no member.
pub fn filter(fd: BorrowedFd<'_>, group: &Group) -> Result<Option<Filter>, Errno> {
    let mut value = request(group.index, group.ip);
    value.extend(0u32.to_ne_bytes());
    value.extend((MAX_SOURCES as u32).to_ne_bytes());
    value.resize(SOURCES_AT + MAX_SOURCES * ADDRESS_BYTES, 0);
    match socket::ask_option(fd, level(group.ip), MSFILTER, &mut value) {
        Ok(_) => {}
        // Not a member; or a socket for which such groups make no sense.
        Err(
            Errno::ADDRNOTAVAIL
            | Errno::INVAL
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
            | Errno::NODEV,
        ) => {
            return Ok(None);
        }
        Err(errno) => return Err(errno),
    }
    let word =
        |at: usize| u32::from_ne_bytes([value[at], value[at + 1], value[at + 2], value[at + 3]]);
    let count = word(COUNT_AT) as usize;
    if count > MAX_SOURCES {
        return Err(Errno::TOOBIG);
    }
    let sources = value[SOURCES_AT..].chunks(ADDRESS_BYTES).take(count);
    Ok(Some(Filter {
        mode: word(MODE_AT),
        sources: sources.filter_map(decode).collect(),
    }))
}

/// Has a socket join a group with a filter.
pub fn join(fd: BorrowedFd<'_>, index: u32, ip: IpAddr, filter: &Filter) -> Result<(), Errno> {
    let mut value = request(index, ip);
    match socket::set_option_bytes(fd, level(ip), JOIN_GROUP, &value) {
        Ok(()) | Err(Errno::ADDRINUSE) => {}
        Err(errno) => return Err(errno),
    }
    if *filter == Filter::default() {
        return Ok(());
    }
    value.extend(filter.mode.to_ne_bytes());
    value.extend((filter.sources.len() as u32).to_ne_bytes());
    for &source in &filter.sources {
        value.extend(encode(source));
    }
    socket::set_option_bytes(fd, level(ip), MSFILTER, &value)
}

/// `struct group_req`, which is how `struct group_filter` begins.
fn request(index: u32, ip: IpAddr) -> Vec<u8> {
    let mut value = index.to_ne_bytes().to_vec();
    value.resize(GROUP_AT, 0);
    value.extend(encode(ip));
    value
}

fn level(ip: IpAddr) -> i32 {
    match ip {
        IpAddr::V4(_) => libc::IPPROTO_IP,
        IpAddr::V6(_) => libc::IPPROTO_IPV6,
    }
}

/// A `sockaddr_storage` without a port.
fn encode(ip: IpAddr) -> Vec<u8> {
    let mut raw = match ip {
        IpAddr::V4(ip) => {
            let family = (libc::AF_INET as u16).to_ne_bytes();
            [&family[..], &[0; 2], &ip.octets()].concat()
        }
        IpAddr::V6(ip) => {
            let family = (libc::AF_INET6 as u16).to_ne_bytes();
            [&family[..], &[0; 6], &ip.octets()].concat()
        }
    };
    raw.resize(ADDRESS_BYTES, 0);
    raw
}

fn decode(raw: &[u8]) -> Option<IpAddr> {
    super::address::parse(raw).map(|address: SocketAddr| address.ip())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_are_read() {
        let text = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                    1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        let groups = parse_igmp(text);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].interface, "lo");
        assert_eq!(groups[0].ip, "224.0.0.1".parse::<IpAddr>().unwrap());
        let text = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n";
        let groups = parse_igmp6(text);
        assert_eq!(groups[0].ip, "ff02::1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_member_says_so() {
        let ip: Ipv4Addr = "239.1.2.3".parse().unwrap();
        let member = UdpSocket::bind("0.0.0.0:0").unwrap();
        let filter_of = |socket: &UdpSocket| {
            let group = Group {
                index: 1,
                interface: "lo".into(),
                ip: ip.into(),
            };
            filter(socket.as_fd(), &group).unwrap()
        };
        assert_eq!(filter_of(&member), None);
        let wanted = Filter {
            mode: 1,
            sources: vec!["127.0.0.1".parse().unwrap()],
        };
        join(member.as_fd(), 1, ip.into(), &wanted).unwrap();
        assert_eq!(filter_of(&member), Some(wanted));
        let other = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(filter_of(&other), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text: String) {
            let _ = parse_igmp(&text);
            let _ = parse_igmp6(&text);
        }

        #[test]
        fn addresses_come_back(ip: IpAddr) {
            prop_assert_eq!(decode(&encode(ip)), Some(ip));
        }
    }
}
