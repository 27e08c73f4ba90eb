//! Internet sockets: made and bound early, in cryopod; listening when everything else stands.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use cryopod_image::criu::{CryopodMembership, InetSkEntry, SkShutdown};
use cryopod_sys::socket::{self, SocketKind};
use cryopod_sys::tcp::state;
use cryopod_sys::{Errno, fd};
use libc::{IPPROTO_IPV6, IPPROTO_TCP, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, SOL_SOCKET};
use rustix::fs::{Gid, Uid};
use rustix::net::{Shutdown, netdevice};

use super::super::set_status;
use super::{inet_options, options};
use crate::dump::files::sockets::inet_options::{IPV6_FREEBIND, like};
use crate::error::{Context, Error, Result};
use crate::net::address;
use crate::net::multicast::{self, Filter, MAX_SOURCES};

/// A socket on its way.
#[derive(Debug)]
pub struct Made {
    /// Its entry.
    pub entry: InetSkEntry,
    /// A duplicate of its descriptor.
    pub file: OwnedFd,
}

/// Checks an entry by itself.
pub fn check(entry: &InetSkEntry) -> Result<()> {
    let bad = |what: &str| Err(super::super::corrupt(entry.id, what));
    let kind = kind(entry);
    if !matches!(kind.family, libc::AF_INET | libc::AF_INET6) {
        return bad("an internet socket of another family");
    }
    if !matches!(kind.kind, SOCK_STREAM | SOCK_DGRAM | SOCK_RAW) {
        return bad("an internet socket of unknown type");
    }
    if ends(entry, 0).is_none() {
        return bad("an internet socket with a broken address");
    }
    if kind.kind == SOCK_STREAM && !is_tcp(entry) && !is_mptcp(entry) {
        return bad("a stream that is neither of TCP nor of MPTCP");
    }
    if entry.state == u32::from(state::LISTEN) && kind.kind != SOCK_STREAM {
        return bad("it listens and is no stream");
    }
    if is_mptcp(entry) && entry.dst_port != 0 {
        let what = "a connection of MPTCP".to_owned();
        return Err(Error::NotRestorable { what });
    }
    Ok(())
}

/// Whether a socket is a TCP connection, or was one.
pub fn is_connection(entry: &InetSkEntry) -> bool {
    is_tcp(entry) && entry.dst_port != 0
}

fn is_tcp(entry: &InetSkEntry) -> bool {
    entry.proto == IPPROTO_TCP as u32 && entry.r#type == SOCK_STREAM as u32
}

fn is_mptcp(entry: &InetSkEntry) -> bool {
    entry.proto == libc::IPPROTO_MPTCP as u32 && entry.r#type == SOCK_STREAM as u32
}

fn kind(entry: &InetSkEntry) -> SocketKind {
    SocketKind {
        family: entry.family as i32,
        kind: entry.r#type as i32,
        protocol: entry.proto as i32,
    }
}

/// Where a socket is bound and what it is connected to.
pub fn ends(entry: &InetSkEntry, scope: u32) -> Option<(SocketAddr, SocketAddr)> {
    let end = |words: &[u32], port| {
        let end = address::from_words(entry.family, words, port, 0)?;
        match end {
            SocketAddr::V6(_) if address::needs_interface(end.ip()) => {
                address::from_words(entry.family, words, port, scope)
            }
            _ => Some(end),
        }
    };
    Some((
        end(&entry.src_addr, entry.src_port)?,
        end(&entry.dst_addr, entry.dst_port)?,
    ))
}

/// A new socket. Where MPTCP is turned off, a listener of TCP does: most that it accepts is TCP in any case.
fn new(entry: &InetSkEntry) -> std::result::Result<OwnedFd, Errno> {
    match like(&kind(entry)) {
        Err(error @ (Errno::NOPROTOOPT | Errno::PROTONOSUPPORT)) if is_mptcp(entry) => {
            tracing::warn!(%error, "there is no MPTCP here; its listener becomes one of TCP");
            like(&SocketKind {
                protocol: IPPROTO_TCP,
                ..kind(entry)
            })
        }
        made => made,
    }
}

/// Makes a socket with everything that has to be set before it is bound.
pub fn make(entry: &InetSkEntry) -> Result<Made> {
    let file = new(entry).host("make an internet socket")?;
    let fd = file.as_fd();
    set_status(fd, libc::O_NONBLOCK as u32)?;
    if let (Some(uid), Some(gid)) = (entry.cryopod_uid, entry.cryopod_gid) {
        // Who may join its SO_REUSEPORT group depends on who made it.
        rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .host("give a socket to its owner (fchown)")?;
    }
    if let Some(v6only) = entry.v6only
        // A raw socket has a number from the start, and counts as bound.
        && rustix::net::sockopt::ipv6_v6only(fd) != Ok(v6only)
    {
        rustix::net::sockopt::set_ipv6_v6only(fd, v6only).host("set IPV6_V6ONLY")?;
    }
    if let Some(device) = &entry.opts.so_bound_dev {
        socket::set_option_bytes(fd, SOL_SOCKET, libc::SO_BINDTODEVICE, device)
            .host("bind a socket to its network interface (SO_BINDTODEVICE)")?;
    }
    options::restore_reuse(fd, &entry.opts)?;
    inet_options::restore(fd, &kind(entry), entry)?;
    Ok(Made {
        entry: entry.clone(),
        file,
    })
}

impl Made {
    /// Binds it. `others` are those made before; where addresses are shared that could not be shared by the flags the
    /// sockets ended up with, all who want the port get the flags for now.
    pub fn bind(&self, others: &[Self]) -> Result<()> {
        let (local, _) = self.ends()?;
        let is_raw = self.entry.r#type == SOCK_RAW as u32;
        let wants_port = local.port() != 0 && !is_raw;
        if !wants_port && local.ip().is_unspecified() {
            return Ok(());
        }
        match self.try_bind(local) {
            Err(Errno::ADDRINUSE) => {
                let same = others
                    .iter()
                    .filter(|other| other.entry.src_port == self.entry.src_port);
                for one in same.chain([self]) {
                    for name in [libc::SO_REUSEADDR, libc::SO_REUSEPORT] {
                        socket::set_option_int(one.file.as_fd(), SOL_SOCKET, name, 1)
                            .host("let sockets share an address for now (SO_REUSEADDR)")?;
                    }
                }
                self.try_bind(local)
            }
            bound => bound,
        }
        .map_err(|source| Error::Address {
            operation: "bind a socket to",
            address: local,
            source,
        })
    }

    fn try_bind(&self, local: SocketAddr) -> std::result::Result<(), Errno> {
        match rustix::net::bind(&self.file, &local) {
            // An address of IPv6 that was just given to an interface can be used only when the network was asked
            // whether somebody has it (RFC 4862), unless one insists.
            Err(Errno::ADDRNOTAVAIL) if local.is_ipv6() => {
                let insist =
                    |on| socket::set_option_int(self.file.as_fd(), IPPROTO_IPV6, IPV6_FREEBIND, on);
                insist(1)?;
                rustix::net::bind(&self.file, &local)?;
                insist(0)
            }
            bound => bound,
        }
    }

    /// Connects it, where that takes nothing but saying so.
    pub fn connect(&self) -> Result<()> {
        let (_, peer) = self.ends()?;
        if peer.port() == 0 && peer.ip().is_unspecified() {
            return Ok(());
        }
        rustix::net::connect(&self.file, &peer).map_err(|source| Error::Address {
            operation: "connect a socket to",
            address: peer,
            source,
        })
    }

    /// Has it join its multicast groups.
    pub fn join(&self) -> Result<()> {
        for one in &self.entry.cryopod_memberships {
            self.join_one(one)?;
        }
        Ok(())
    }

    fn join_one(&self, one: &CryopodMembership) -> Result<()> {
        let broken = || super::super::corrupt(self.entry.id, "a broken multicast group");
        let (family, words) = match one.group.len() {
            1 => (libc::AF_INET, 1),
            4 => (libc::AF_INET6, 4),
            _ => return Err(broken()),
        };
        let ip = |words: &[u32]| {
            address::from_words(family as u32, words, 0, 0).map(|address| address.ip())
        };
        let sources = one
            .sources
            .chunks(words)
            .map(ip)
            .collect::<Option<Vec<_>>>();
        let (Some(group), Some(sources)) = (ip(&one.group), sources) else {
            return Err(broken());
        };
        if sources.len() > MAX_SOURCES || one.mode > 1 {
            return Err(broken());
        }
        let filter = Filter {
            mode: one.mode,
            sources,
        };
        let index = index_of(&self.file, &one.ifname)?;
        multicast::join(self.file.as_fd(), index, group, &filter).map_err(|source| Error::Address {
            operation: "join the multicast group",
            address: SocketAddr::new(group, 0),
            source,
        })
    }

    /// Everything else, when the tree stands.
    pub fn finish(&self) -> Result<()> {
        let fd = self.file.as_fd();
        if self.entry.state == u32::from(state::LISTEN) {
            let backlog = self.entry.backlog.min(i32::MAX as u32) as i32;
            rustix::net::listen(fd, backlog).host("listen on a socket")?;
        }
        options::restore(fd, &self.entry.opts)?;
        let tcp_opts = self.entry.tcp_opts.as_ref();
        if let Some(tcp) = tcp_opts.filter(|_| is_tcp(&self.entry) || is_mptcp(&self.entry)) {
            inet_options::restore_tcp(fd, tcp)?;
        }
        self.shut_down(self.entry.shutdown())?;
        if !is_connection(&self.entry) {
            options::restore_reuse(fd, &self.entry.opts)?;
        }
        set_status(fd, self.entry.flags)
    }

    /// A connection that is not to come back: what is left of it is closed in both directions.
    pub fn close(&self) -> Result<()> {
        self.shut_down(SkShutdown::Both)
    }

    /// shutdown(2).
    pub fn shut_down(&self, shutdown: SkShutdown) -> Result<()> {
        let how = match shutdown {
            SkShutdown::None => return Ok(()),
            SkShutdown::Read => Shutdown::Read,
            SkShutdown::Write => Shutdown::Write,
            SkShutdown::Both => Shutdown::Both,
        };
        match rustix::net::shutdown(&self.file, how) {
            // It is done all the same.
            Err(Errno::NOTCONN) => Ok(()),
            done => done.host("shut a socket down"),
        }
    }

    /// Both ends, with the interface where one is needed.
    pub fn ends(&self) -> Result<(SocketAddr, SocketAddr)> {
        let scope = match &self.entry.ifname {
            Some(name) => index_of(&self.file, name)?,
            None => 0,
        };
        ends(&self.entry, scope)
            .ok_or_else(|| super::super::corrupt(self.entry.id, "a broken address"))
    }

    /// Its family, type and protocol.
    pub fn kind(&self) -> SocketKind {
        kind(&self.entry)
    }

    /// A duplicate for the tree.
    pub fn duplicate(&self) -> Result<OwnedFd> {
        fd::duplicate_from(self.file.as_fd(), 0).host("duplicate a socket")
    }
}

fn index_of(file: &OwnedFd, name: &[u8]) -> Result<u32> {
    let name: Vec<u8> = name.iter().copied().take_while(|&byte| byte != 0).collect();
    let name = String::from_utf8(name)
        .map_err(|_| Error::inconsistent("files", "a network interface with an impossible name"))?;
    netdevice::name_to_index(file, &name).map_err(|_| Error::NotRestorable {
        what: format!("a socket of the network interface {name}, which is not there"),
    })
}
