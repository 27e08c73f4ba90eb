//! Internet sockets: where they are bound, what they are connected to, what they listen for.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use cryopod_image::criu::{
    CryopodMembership, FdTypes, FileEntry, InetSkEntry, SkShutdown, TcpOptsEntry,
};
use cryopod_sys::socket::SocketKind;
use cryopod_sys::tcp::{self, state};
use cryopod_sys::{Errno, Result as SysResult};
use libc::{IPPROTO_TCP, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::super::Description;
use super::{inet_options, options, shown};
use crate::dump::{Connections, TcpOptions};
use crate::error::Result;
use crate::net::{address, diag, multicast};

const UDP: i32 = libc::IPPROTO_UDP;
const UDPLITE: i32 = libc::IPPROTO_UDPLITE;

/// Whether a socket is one of TCP.
pub fn is_tcp(kind: &SocketKind) -> bool {
    matches!(kind.family, libc::AF_INET | libc::AF_INET6)
        && kind.kind == SOCK_STREAM
        && kind.protocol == IPPROTO_TCP
}

/// Whether a socket is one that may listen: of TCP, or of MPTCP.
pub fn is_stream(kind: &SocketKind) -> bool {
    matches!(kind.family, libc::AF_INET | libc::AF_INET6)
        && kind.kind == SOCK_STREAM
        && matches!(kind.protocol, IPPROTO_TCP | libc::IPPROTO_MPTCP)
}

/// How many connections wait to be accepted at a socket.
pub fn waiting(fd: BorrowedFd<'_>) -> SysResult<u32> {
    let info = tcp::info(fd)?;
    let is_listening = info.state == state::LISTEN;
    Ok(if is_listening { info.unacked } else { 0 })
}

/// The two ends of a TCP connection, also of one that has ended; `None` for other sockets.
pub fn connection(
    fd: BorrowedFd<'_>,
    kind: &SocketKind,
) -> SysResult<Option<(SocketAddr, SocketAddr)>> {
    if !is_tcp(kind) {
        return Ok(None);
    }
    match address::peer(fd)? {
        Some(peer) => Ok(Some((address::local(fd)?, peer))),
        None => Ok(None),
    }
}

/// Why an internet socket cannot be checkpointed, if it cannot.
pub fn problem(fd: BorrowedFd<'_>, kind: &SocketKind, wanted: &TcpOptions) -> Option<String> {
    let what = match (kind.kind, kind.protocol) {
        (SOCK_STREAM, IPPROTO_TCP) => tcp_problem(fd, kind, wanted),
        (SOCK_DGRAM, UDP | UDPLITE | libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6) | (SOCK_RAW, _) => {
            None
        }
        (SOCK_STREAM, libc::IPPROTO_MPTCP) => mptcp_problem(fd, kind, wanted),
        (_, protocol) => Some(format!("protocol {protocol}")),
    };
    what.or_else(|| inet_options::problem(fd, kind))
        .or_else(|| options::problem(fd).map(str::to_owned))
        .map(|what| format!("{}: {what}: not supported", shown(kind)))
}

/// Names one of those who wait, so that the survey, which believes what it finds again and again, can tell a server that
/// is busy from one that accepts nobody.
fn queue_problem(fd: BorrowedFd<'_>, kind: &SocketKind, wanted: &TcpOptions) -> Option<String> {
    if wanted.skip_in_flight || waiting(fd).ok()? == 0 {
        return None;
    }
    let port = address::local(fd).ok()?.port();
    let peers = diag::inet::waiting(kind.family as u8, port);
    let from = peers.ok().and_then(|peers| peers.first().copied());
    let from = from.map_or(String::new(), |peer| format!(", as from {peer}"));
    Some(format!(
        "connections wait to be accepted{from} (--skip-in-flight leaves them behind)"
    ))
}

fn tcp_problem(fd: BorrowedFd<'_>, kind: &SocketKind, wanted: &TcpOptions) -> Option<String> {
    let info = tcp::info(fd).ok()?;
    if info.state == state::LISTEN {
        return queue_problem(fd, kind, wanted);
    }
    let (local, peer) = connection(fd, kind).ok()??;
    let name = format!("connection {local} to {peer} ({})", state_name(info.state));
    match info.state {
        state::SYN_RECV | state::TIME_WAIT => Some(name),
        _ if wanted.connections == Connections::Refuse => Some(format!(
            "{name} without --tcp-established, which takes it along, or --tcp-close, which drops it"
        )),
        _ => None,
    }
}

/// MPTCP(7) has no repair, so that only listeners and sockets without a connection can be made again. A connection that
/// a listener accepts from a peer without MPTCP is an ordinary one of TCP.
fn mptcp_problem(fd: BorrowedFd<'_>, kind: &SocketKind, wanted: &TcpOptions) -> Option<String> {
    match (tcp::info(fd).ok()?.state, address::peer(fd)) {
        (state::LISTEN, _) => queue_problem(fd, kind, wanted),
        (state::CLOSE, Ok(None)) => None,
        (_, Ok(Some(peer))) => Some(format!("MPTCP connection to {peer}")),
        _ => Some("MPTCP connection".to_owned()),
    }
}

/// What people call a state.
fn state_name(number: u8) -> &'static str {
    match number {
        state::ESTABLISHED => "established",
        state::SYN_SENT => "syn-sent",
        state::SYN_RECV => "syn-recv",
        state::FIN_WAIT1 => "fin-wait-1",
        state::FIN_WAIT2 => "fin-wait-2",
        state::TIME_WAIT => "time-wait",
        state::CLOSE => "closed",
        state::CLOSE_WAIT => "close-wait",
        state::LAST_ACK => "last-ack",
        state::LISTEN => "listen",
        state::CLOSING => "closing",
        _ => "unknown state",
    }
}

/// The entry of an internet socket. The state of a TCP connection is filled in by who reads it.
pub(super) fn dump(one: &Description<'_>, kind: &SocketKind) -> Result<InetSkEntry> {
    let fd = one.file.as_fd();
    let local = one.check("ask where it is bound (getsockname)", address::local(fd))?;
    let peer = one.check("ask for its peer (SO_PEERNAME)", address::peer(fd))?;
    let is_connection = is_tcp(kind) && peer.is_some();
    let (state, backlog) = one.check("ask for its state (TCP_INFO)", state_of(fd, kind, peer))?;
    let nobody: IpAddr = match local {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let peer = peer.unwrap_or(SocketAddr::new(nobody, 0));
    let shutdown = one.check("ask what is shut down", shutdown_of(fd, kind, state, local))?;
    let v6only = match local {
        SocketAddr::V4(_) => None,
        SocketAddr::V6(_) => {
            Some(one.check("ask for IPV6_V6ONLY", rustix::net::sockopt::ipv6_v6only(fd))?)
        }
    };
    let tcp_opts = if is_stream(kind) {
        one.check("ask for its options of TCP", inet_options::tcp(fd))?
    } else {
        TcpOptsEntry::default()
    };
    Ok(InetSkEntry {
        id: one.id,
        ino: one.seen.stat.st_ino as u32,
        family: kind.family as u32,
        r#type: kind.kind as u32,
        proto: kind.protocol as u32,
        state: u32::from(state),
        src_port: local.port().into(),
        dst_port: peer.port().into(),
        flags: one.seen.flags(),
        backlog,
        src_addr: address::words(local.ip()),
        dst_addr: address::words(peer.ip()),
        fown: one.owner.clone(),
        opts: one.check("ask for its options", options::dump(fd))?,
        v6only,
        ip_opts: Some(one.check("ask for its options of IP", inet_options::ip(fd, kind))?),
        ifname: interface(one, local)?,
        ns_id: None,
        shutdown,
        tcp_opts: Some(tcp_opts),
        cryopod_options: one.check(
            "ask for its options",
            inet_options::others(fd, kind, is_connection),
        )?,
        cryopod_uid: Some(one.seen.stat.st_uid),
        cryopod_gid: Some(one.seen.stat.st_gid),
        cryopod_memberships: memberships(one, kind)?,
    })
}

/// The entry of files.img.
pub fn file(entry: InetSkEntry) -> FileEntry {
    FileEntry {
        r#type: FdTypes::InetSk.into(),
        id: entry.id,
        isk: Some(Box::new(entry)),
        ..FileEntry::default()
    }
}

/// State and backlog.
fn state_of(
    fd: BorrowedFd<'_>,
    kind: &SocketKind,
    peer: Option<SocketAddr>,
) -> SysResult<(u8, u32)> {
    if is_stream(kind) {
        let info = tcp::info(fd)?;
        let is_listening = info.state == state::LISTEN;
        return Ok((info.state, if is_listening { info.sacked } else { 0 }));
    }
    let is_connected = peer.is_some() && kind.kind == SOCK_DGRAM;
    Ok((
        if is_connected {
            state::ESTABLISHED
        } else {
            state::CLOSE
        },
        0,
    ))
}

/// Which directions are shut down, as images have it.
fn shutdown_of(
    fd: BorrowedFd<'_>,
    kind: &SocketKind,
    state: u8,
    local: SocketAddr,
) -> SysResult<Option<i32>> {
    let (read, write) = match (kind.kind, kind.protocol) {
        (SOCK_STREAM, _) => {
            let writes = [
                state::FIN_WAIT1,
                state::FIN_WAIT2,
                state::CLOSING,
                state::LAST_ACK,
            ];
            (hangs_up(fd)?.0, writes.contains(&state))
        }
        (SOCK_DGRAM, UDP | UDPLITE) => {
            let cookie = rustix::net::sockopt::socket_cookie(fd)?;
            let (family, protocol) = (kind.family as u8, kind.protocol as u8);
            match diag::inet::shutdown(family, protocol, local.port(), cookie) {
                Ok(Some(bits)) => (bits & 1 != 0, bits & 2 != 0),
                // Not bound, or nobody there to ask: sending alone does not show, anything else does.
                Ok(None) | Err(Errno::NOENT | Errno::PROTONOSUPPORT) => hangs_up(fd)?,
                Err(errno) => return Err(errno),
            }
        }
        _ => return Ok(None),
    };
    let shutdown = match (read, write) {
        (false, false) => return Ok(None),
        (true, false) => SkShutdown::Read,
        (false, true) => SkShutdown::Write,
        (true, true) => SkShutdown::Both,
    };
    Ok(Some(shutdown.into()))
}

/// Whether receiving, and whether receiving and sending are shut down, as poll(2) shows it.
fn hangs_up(fd: BorrowedFd<'_>) -> SysResult<(bool, bool)> {
    let mut asked = [PollFd::new(&fd, PollFlags::RDHUP)];
    rustix::event::poll(&mut asked, Some(&Timespec::default()))?;
    let found = asked[0].revents();
    Ok((
        found.contains(PollFlags::RDHUP),
        found.contains(PollFlags::HUP),
    ))
}

/// The interface that the address it is bound to belongs to, where the address alone does not say.
fn interface(one: &Description<'_>, local: SocketAddr) -> Result<Option<Vec<u8>>> {
    let SocketAddr::V6(v6) = local else {
        return Ok(None);
    };
    if local.port() == 0 || v6.scope_id() == 0 || !address::needs_interface(local.ip()) {
        return Ok(None);
    }
    let name = rustix::net::netdevice::index_to_name(&one.file, v6.scope_id());
    one.check("find the interface of its address", name)
        .map(|name| Some(name.into_bytes()))
}

fn memberships(one: &Description<'_>, kind: &SocketKind) -> Result<Vec<CryopodMembership>> {
    let mut found = Vec::new();
    if kind.kind == SOCK_STREAM {
        return Ok(found);
    }
    for group in multicast::groups() {
        if group.ip.is_ipv6() && kind.family == libc::AF_INET {
            continue;
        }
        let filter = multicast::filter(one.file.as_fd(), &group);
        let filter = one.check("ask for its multicast groups (MCAST_MSFILTER)", filter)?;
        let Some(filter) = filter else { continue };
        found.push(CryopodMembership {
            ifname: group.interface.into_bytes(),
            group: address::words(group.ip),
            mode: filter.mode,
            sources: filter
                .sources
                .into_iter()
                .flat_map(address::words)
                .collect(),
        });
    }
    Ok(found)
}
