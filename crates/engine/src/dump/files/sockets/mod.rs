//! Sockets: a room for each family, and one for the options that all have.

pub(crate) mod datagrams;
pub(crate) mod inet;
pub(crate) mod inet_options;
pub(crate) mod netlink;
pub(crate) mod options;
pub(crate) mod packet;
mod tcp;
pub(crate) mod unix;

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};

use cryopod_image::criu::{FdTypes, FileEntry, InetSkEntry};
use cryopod_image::{Kind as Image, SetWriter};
use cryopod_sys::process;
use cryopod_sys::socket::{self, SocketKind};
use rustix::fs::FileType;

use self::unix::{PassOn, Unix};
use super::lazy::Lazy;
use super::seen::Seen;
use super::{Description, outlook, refuse};
use crate::dump::files::kind::Kind;
use crate::dump::{Connections, DumpOptions, TcpOptions};
use crate::error::{Context, Result};
use crate::net::address::on_the_wire;
use crate::net::lock::Connection;
use crate::proc;

/// What a descriptor of a process is as a socket; `None` where it cannot be asked.
pub fn ask(pid: i32, fd: i32) -> Option<SocketKind> {
    socket::kind(duplicate(pid, fd)?.as_fd()).ok()
}

/// A duplicate of a descriptor, where the process is still there and allows it.
fn duplicate(pid: i32, fd: i32) -> Option<OwnedFd> {
    let pidfd = process::pidfd_open(pid).ok()?;
    process::pidfd_getfd(pidfd.as_fd(), fd).ok()
}

/// Calls `look` with every descriptor of a frozen process that leads to a socket, and a duplicate of it.
pub fn each(pid: i32, mut look: impl FnMut(i32, OwnedFd) -> Result<()>) -> Result<()> {
    let pidfd = process::pidfd_open(pid).task("open it (pidfd_open)", pid)?;
    for fd in proc::numbers(pid, "fd")? {
        let link = proc::read_link(pid, &format!("fd/{fd}"))?;
        if link.as_os_str().as_encoded_bytes().starts_with(b"socket:[") {
            let file = process::pidfd_getfd(pidfd.as_fd(), fd);
            look(fd, file.fd("duplicate it (pidfd_getfd)", pid, fd)?)?;
        }
    }
    Ok(())
}

/// Whether an inode is that of a packet socket which the process has open. Mappings of such sockets are their rings; those
/// of others are something else.
pub fn is_ring(pid: i32, inode: u64) -> bool {
    let name = format!("socket:[{inode}]");
    let is_named = |fd: &i32| {
        let link = proc::read_link(pid, &format!("fd/{fd}"));
        link.is_ok_and(|link| link.as_os_str() == name.as_str())
    };
    let numbers = proc::numbers(pid, "fd").unwrap_or_default();
    let fd = numbers.into_iter().find(is_named);
    fd.and_then(|fd| ask(pid, fd))
        .is_some_and(|kind| kind.family == libc::AF_PACKET)
}

/// The number of a family in images; what leads outside is recorded like a file with a path.
pub fn fd_type(kind: &SocketKind) -> FdTypes {
    match kind.family {
        libc::AF_UNIX => FdTypes::UnixSk,
        libc::AF_INET | libc::AF_INET6 => FdTypes::InetSk,
        libc::AF_NETLINK => FdTypes::NetlinkSk,
        libc::AF_PACKET => FdTypes::PacketSk,
        _ => FdTypes::Reg,
    }
}

/// Names the family and type of a socket.
pub fn shown(kind: &SocketKind) -> String {
    let family = match kind.family {
        libc::AF_UNSPEC => return "socket".to_owned(),
        libc::AF_UNIX => "AF_UNIX".to_owned(),
        libc::AF_INET => "AF_INET".to_owned(),
        libc::AF_INET6 => "AF_INET6".to_owned(),
        libc::AF_NETLINK => "AF_NETLINK".to_owned(),
        libc::AF_PACKET => "AF_PACKET".to_owned(),
        libc::AF_VSOCK => "AF_VSOCK".to_owned(),
        other => format!("family {other}"),
    };
    let kind = match kind.kind {
        libc::SOCK_STREAM => "stream",
        libc::SOCK_DGRAM => "datagram",
        libc::SOCK_SEQPACKET => "seqpacket",
        libc::SOCK_RAW => "raw",
        _ => "other",
    };
    format!("socket ({family}, {kind})")
}

/// What has to be known of all sockets of a tree to say whether one can be dumped.
#[derive(Debug, Default)]
pub struct View {
    unix: unix::view::View,
    tcp: TcpOptions,
    pids: Vec<i32>,
    /// The TCP connections of the tree, both ends as they are on the wire. Looked up when they are needed.
    connections: OnceCell<HashSet<Connection>>,
}

impl View {
    /// Looks at the tree whose processes are `pids`.
    pub fn scan(pids: &[i32], options: &DumpOptions) -> Result<Self> {
        Ok(Self {
            unix: unix::view::View::scan(pids, options)?,
            tcp: options.tcp,
            pids: pids.to_vec(),
            connections: OnceCell::new(),
        })
    }

    /// Notes that a file was found in the queue of a socket.
    pub fn found_in_flight(&self, stat: &rustix::fs::Stat) {
        if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
            self.unix.found_in_flight(stat.st_ino as u32);
        }
    }

    /// Whether a socket is one end of a stream whose other end is outside the tree, so that a standard stream may be
    /// joined to the restorer's in its place. A TCP connection is not, where something else becomes of connections.
    pub fn leads_outside(&self, seen: &Seen, kind: &SocketKind) -> bool {
        match kind.family {
            libc::AF_UNIX => self.unix.leads_outside(seen.stat.st_ino as u32),
            libc::AF_INET | libc::AF_INET6 => {
                self.tcp.connections == Connections::Refuse
                    && connection(seen.pid, seen.fd)
                        .is_some_and(|(local, peer)| !self.inside().contains(&(peer, local)))
            }
            libc::AF_NETLINK | libc::AF_PACKET => false,
            // One of the virtual machine's host (vsock(7)), for example.
            _ => duplicate(seen.pid, seen.fd.unwrap_or(-1)).is_some_and(|file| {
                rustix::net::getpeername(&file).is_ok_and(|peer| peer.is_some())
            }),
        }
    }

    fn inside(&self) -> &HashSet<Connection> {
        self.connections.get_or_init(|| {
            let descriptors = |&pid: &i32| {
                let numbers = proc::numbers(pid, "fd").unwrap_or_default();
                numbers.into_iter().map(move |fd| (pid, fd))
            };
            let all = self.pids.iter().flat_map(descriptors);
            all.filter_map(|(pid, fd)| connection(pid, Some(fd)))
                .collect()
        })
    }

    /// Why a socket cannot be checkpointed, if it cannot.
    pub fn problem(&self, seen: &Seen, kind: &SocketKind) -> Option<String> {
        if kind.family == libc::AF_UNIX {
            return self.unix.problem(seen, kind);
        }
        let fd = duplicate(seen.pid, seen.fd?);
        match (kind.family, fd) {
            (libc::AF_INET | libc::AF_INET6, Some(fd)) => {
                inet::problem(fd.as_fd(), kind, &self.tcp)
            }
            (libc::AF_NETLINK, Some(fd)) => unsupported(kind, netlink::problem(fd.as_fd())),
            (libc::AF_PACKET, Some(fd)) => unsupported(kind, packet::problem(fd.as_fd())),
            _ => Some(outlook::describe(seen, &Kind::Socket(*kind))),
        }
    }
}

/// The ends of the TCP connection that a descriptor leads to, as they are on the wire.
fn connection(pid: i32, fd: Option<i32>) -> Option<Connection> {
    let link = proc::read_link(pid, &format!("fd/{}", fd?)).ok()?;
    if !link.as_os_str().as_encoded_bytes().starts_with(b"socket:[") {
        return None;
    }
    let file = duplicate(pid, fd?)?;
    let kind = socket::kind(file.as_fd()).ok()?;
    let (local, peer) = inet::connection(file.as_fd(), &kind).ok()??;
    Some((on_the_wire(local), on_the_wire(peer)))
}

fn unsupported(kind: &SocketKind, what: Option<String>) -> Option<String> {
    what.map(|what| format!("{}: {what}: not supported", shown(kind)))
}

/// The sockets seen so far.
pub struct Sockets<'a> {
    set: &'a SetWriter,
    tcp: TcpOptions,
    unix: Unix,
    /// What waits in them.
    queues: Lazy<'a>,
    /// Packet sockets, whose rings may be mapped: by inode.
    packets: HashMap<(u64, u64), u32>,
}

impl<'a> Sockets<'a> {
    /// None yet.
    pub fn new(set: &'a SetWriter, options: &DumpOptions) -> Self {
        Self {
            set,
            tcp: options.tcp,
            unix: Unix::default(),
            queues: Lazy::new(set, Image::SkQueues),
            packets: HashMap::new(),
        }
    }

    /// The number of the socket whose rings are mapped, by its inode.
    pub fn mapped(&self, inode: (u64, u64)) -> Option<u32> {
        self.packets.get(&inode).copied()
    }

    /// The entry of an internet socket, and its connection or what waits in it.
    fn inet(&mut self, one: &Description<'_>, kind: &SocketKind) -> Result<InetSkEntry> {
        let mut entry = inet::dump(one, kind)?;
        let is_connection = inet::is_tcp(kind) && entry.dst_port != 0;
        if is_connection && self.tcp.connections == Connections::Keep {
            tcp::dump(one, &mut entry, self.set)?;
        }
        if kind.kind != libc::SOCK_STREAM {
            datagrams::dump(one, kind, &mut self.queues)?;
        }
        Ok(entry)
    }

    /// The entry of a socket; `None` when it comes at the end ([`Sockets::finish`]), because it depends on others.
    /// `pass_on` takes descriptors that are found in queues.
    pub(super) fn dump(
        &mut self,
        one: &Description<'_>,
        kind: &SocketKind,
        view: &View,
        pass_on: &mut PassOn<'_>,
    ) -> Result<Option<FileEntry>> {
        match kind.family {
            libc::AF_UNIX => {
                self.unix
                    .add(one, kind, &view.unix, &mut self.queues, pass_on)?;
                Ok(None)
            }
            libc::AF_INET | libc::AF_INET6 => Ok(Some(inet::file(self.inet(one, kind)?))),
            libc::AF_NETLINK => Ok(Some(netlink::dump(one, kind)?)),
            libc::AF_PACKET => {
                self.packets.insert(one.seen.inode(), one.id);
                Ok(Some(packet::dump(one, kind)?))
            }
            _ => Err(refuse(
                one.seen,
                outlook::describe(one.seen, &Kind::Socket(*kind)),
            )),
        }
    }

    /// The entries that are left, when all descriptors of the tree are known. `fresh` numbers those that are added.
    pub fn finish(self, view: &View, fresh: impl FnMut() -> u32) -> Result<Vec<FileEntry>> {
        self.queues.finish()?;
        self.unix.finish(&view.unix, fresh)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::process::Stdio;

    use super::*;
    use crate::dump::files::tests::Sleeper;
    use crate::tests::alone::alone;

    fn leads_outside(stdin: OwnedFd, others: &[i32], connections: Connections) -> bool {
        let sleeper = Sleeper::start(Stdio::from(stdin));
        let seen = Seen::descriptor(sleeper.pid(), 0).unwrap();
        let pids = [&[sleeper.pid()], others].concat();
        let mut options = DumpOptions::default();
        options.tcp.connections = connections;
        let view = View::scan(&pids, &options).unwrap();
        view.leads_outside(&seen, &seen.socket.unwrap())
    }

    #[test]
    fn only_connections_lead_outside() {
        alone(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let _other = listener.accept().unwrap();
            let own = std::process::id() as i32;
            let connection = || OwnedFd::from(one.try_clone().unwrap());
            assert!(leads_outside(connection(), &[], Connections::Refuse));
            assert!(!leads_outside(connection(), &[own], Connections::Refuse));
            assert!(!leads_outside(connection(), &[], Connections::Keep));
            assert!(!leads_outside(listener.into(), &[], Connections::Refuse));
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            udp.connect("127.0.0.1:9").unwrap();
            assert!(!leads_outside(udp.into(), &[], Connections::Refuse));
        });
    }

    #[test]
    fn sockets_are_named() {
        let kind = SocketKind {
            family: libc::AF_UNIX,
            kind: libc::SOCK_SEQPACKET,
            protocol: 0,
        };
        assert_eq!(shown(&kind), "socket (AF_UNIX, seqpacket)");
        assert_eq!(shown(&SocketKind::default()), "socket");
        assert_eq!(fd_type(&kind), FdTypes::UnixSk);
    }
}
