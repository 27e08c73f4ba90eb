//! Options of internet sockets, in the other direction.

use std::os::fd::BorrowedFd;

use cryopod_image::criu::{CryopodOption, InetSkEntry, IpOptsEntry, IpOptsRawEntry, TcpOptsEntry};
use cryopod_sys::Errno;
use cryopod_sys::socket::{self, SocketKind};
use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP};

use crate::dump::files::sockets::inet_options::{
    IP_NODEFRAG, IPV6_FREEBIND, IPV6_HDRINCL, Name, OF_NO_CONNECTION, OF_NO_STREAM, OTHERS,
    icmp_filter,
};
use crate::error::{Error, Result};

/// Sets all options but those of [`restore_tcp`]. Before the socket is bound.
pub fn restore(fd: BorrowedFd<'_>, kind: &SocketKind, entry: &InetSkEntry) -> Result<()> {
    if let Some(options) = &entry.ip_opts {
        ip(fd, kind, options)?;
        if let Some(options) = options.raw.as_ref().filter(|_| kind.kind == libc::SOCK_RAW) {
            raw(fd, kind, options)?;
        }
    }
    let known: Vec<Name> = [OTHERS, OF_NO_CONNECTION, OF_NO_STREAM].concat();
    set_known(fd, &known, &entry.cryopod_options)
}

/// Sets those options of an image that we know how to set, whatever else it names.
pub fn set_known(fd: BorrowedFd<'_>, known: &[Name], wanted: &[CryopodOption]) -> Result<()> {
    for &(level, name) in known {
        let mut wanted = wanted.iter();
        let wanted = wanted.find(|one| (one.level, one.name) == (level as u32, name as u32));
        if let Some(one) = wanted {
            set(fd, (level, name), &one.value)?;
        }
    }
    Ok(())
}

fn ip(fd: BorrowedFd<'_>, kind: &SocketKind, options: &IpOptsEntry) -> Result<()> {
    let flag = |value: Option<bool>| value.map(i32::from);
    let number = |value: Option<u32>| value.map(|value| value as i32);
    let wanted = if kind.family == libc::AF_INET6 {
        vec![
            ((IPPROTO_IPV6, IPV6_FREEBIND), flag(options.freebind)),
            (
                (IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
                flag(options.pktinfo),
            ),
        ]
    } else {
        vec![
            ((IPPROTO_IP, libc::IP_FREEBIND), flag(options.freebind)),
            ((IPPROTO_IP, libc::IP_PKTINFO), flag(options.pktinfo)),
            ((IPPROTO_IP, libc::IP_TOS), number(options.tos)),
            ((IPPROTO_IP, libc::IP_TTL), number(options.ttl)),
        ]
    };
    set_all(fd, &wanted)
}

fn raw(fd: BorrowedFd<'_>, kind: &SocketKind, options: &IpOptsRawEntry) -> Result<()> {
    let flag = |value: Option<bool>| value.map(i32::from);
    let header = if kind.family == libc::AF_INET6 {
        (IPPROTO_IPV6, IPV6_HDRINCL)
    } else {
        (IPPROTO_IP, libc::IP_HDRINCL)
    };
    let fragments = flag(options.nodefrag).filter(|_| kind.family == libc::AF_INET);
    set_all(
        fd,
        &[
            (header, flag(options.hdrincl)),
            ((IPPROTO_IP, IP_NODEFRAG), fragments),
        ],
    )?;
    let filter: Vec<u8> = options
        .icmpv_filter
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    match icmp_filter(kind) {
        Some((name, bytes)) if filter.len() == bytes => set(fd, name, &filter),
        _ => Ok(()),
    }
}

/// Sets the TCP options of CRIU's entry. When the queues are filled, because some of them hold data back.
pub fn restore_tcp(fd: BorrowedFd<'_>, options: &TcpOptsEntry) -> Result<()> {
    let flag = |value: Option<bool>| value.map(i32::from);
    let number = |value: Option<u32>| value.map(|value| value as i32);
    set_all(
        fd,
        &[
            ((IPPROTO_TCP, libc::TCP_NODELAY), flag(options.nodelay)),
            ((IPPROTO_TCP, libc::TCP_CORK), flag(options.cork)),
            ((IPPROTO_TCP, libc::TCP_KEEPCNT), number(options.keepcnt)),
            ((IPPROTO_TCP, libc::TCP_KEEPIDLE), number(options.keepidle)),
            (
                (IPPROTO_TCP, libc::TCP_KEEPINTVL),
                number(options.keepintvl),
            ),
        ],
    )
}

fn set_all(fd: BorrowedFd<'_>, wanted: &[(Name, Option<i32>)]) -> Result<()> {
    for &(name, value) in wanted {
        if let Some(value) = value {
            set(fd, name, &value.to_ne_bytes())?;
        }
    }
    Ok(())
}

/// Sets an option unless it is so already, because some take a capability.
fn set(fd: BorrowedFd<'_>, (level, name): Name, value: &[u8]) -> Result<()> {
    if socket::option_bytes(fd, level, name, value.len()).as_deref() == Ok(value) {
        return Ok(());
    }
    socket::set_option_bytes(fd, level, name, value).map_err(|source: Errno| Error::InetOption {
        level,
        name,
        source,
    })
}
