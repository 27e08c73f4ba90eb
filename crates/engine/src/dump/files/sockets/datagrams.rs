//! Datagrams that wait to be read from UDP and UDP-Lite sockets, looked at without taking them out.
//!
//! As with unix sockets, SO_PEEK_OFF makes MSG_PEEK go on from one to the next (socket(7)); it is put back at once. Where a
//! socket is bound to no single address, the kernel is also made to tell where each was sent to.
//!
//! A restore can only have them come once more, and not all of them; what is lost is logged.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use cryopod_image::criu::SkPacketEntry;
use cryopod_sys::message::{self, Message};
use cryopod_sys::socket::{self, SocketKind};
use cryopod_sys::{Errno, Result as SysResult, fd as descriptor};
use libc::{IPPROTO_IP, IPPROTO_IPV6, SOL_SOCKET};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::super::Description;
use super::super::lazy::Lazy;
use super::inet_options::Name;
use crate::error::Result;
use crate::net::address;
use crate::net::datagram::Datagram;

/// Longer than any datagram is.
const LONGEST_BYTES: usize = 1 << 16;
/// More than fit into any socket.
const MOST: usize = 1 << 22;
/// IP_RECVORIGDSTADDR and IPV6_RECVORIGDSTADDR of linux/in.h and linux/in6.h. A socket of IPv6 gets the first for what
/// came over IPv4.
const TELL_DESTINATION: [Name; 2] = [(IPPROTO_IP, 20), (IPPROTO_IPV6, 74)];

/// Whether a socket is of UDP or UDP-Lite.
pub fn is_udp(kind: &SocketKind) -> bool {
    kind.kind == libc::SOCK_DGRAM
        && matches!(kind.protocol, libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE)
}

/// Writes what waits in a socket that has no connection of TCP.
pub(super) fn dump(one: &Description<'_>, kind: &SocketKind, image: &mut Lazy<'_>) -> Result<()> {
    let fd = one.file.as_fd();
    if !one.check(
        "ask whether something waits in it (poll)",
        has_something(fd),
    )? {
        return Ok(());
    }
    let mut lost = Lost::default();
    if let Some(why) = obstacle(fd, kind) {
        // How many there are is not told.
        lost.note(why);
    } else {
        let found = Peek::new(fd).and_then(|mut peek| peek.all(kind));
        for datagram in one.check("look into its queue (MSG_PEEK)", found)? {
            match datagram.obstacle() {
                Some(why) => lost.note(why),
                None => store(one.id, &datagram, image)?,
            }
        }
    }
    lost.tell(one);
    Ok(())
}

/// Those that are not taken along.
#[derive(Default)]
struct Lost {
    count: usize,
    why: &'static str,
}

impl Lost {
    fn note(&mut self, why: &'static str) {
        self.count += 1;
        self.why = why;
    }

    fn tell(&self, one: &Description<'_>) {
        if self.count > 0 {
            tracing::warn!(
                pid = one.seen.pid,
                fd = one.seen.fd,
                at_least = self.count,
                why = self.why,
                "datagrams that wait to be read are lost"
            );
        }
    }
}

/// Why what waits in a socket cannot come once more, if nothing of it can.
fn obstacle(fd: BorrowedFd<'_>, kind: &SocketKind) -> Option<&'static str> {
    let flag = |name| socket::option_int(fd, SOL_SOCKET, name) == Ok(1);
    let device = socket::option_bytes(fd, SOL_SOCKET, libc::SO_BINDTODEVICE, libc::IFNAMSIZ);
    if !is_udp(kind) {
        Some("they are not of UDP")
    } else if has_error(fd) {
        Some(
            "the socket has an error that its program has not seen, and reading would take it away",
        )
    } else if flag(libc::SO_REUSEPORT) {
        Some("the socket shares its port, and others could get them (SO_REUSEPORT)")
    } else if device.is_ok_and(|name| !name.is_empty() && name != b"lo\0") {
        Some("the socket hears a single interface (SO_BINDTODEVICE)")
    } else {
        None
    }
}

fn polled(fd: BorrowedFd<'_>) -> SysResult<PollFlags> {
    let mut asked = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    rustix::event::poll(&mut asked, Some(&Timespec::default()))?;
    Ok(asked[0].revents())
}

fn has_error(fd: BorrowedFd<'_>) -> bool {
    polled(fd).is_ok_and(|state| state.contains(PollFlags::ERR))
}

/// One whose receiving is shut down can always be read, and has nothing in it unless there are bytes.
fn has_something(fd: BorrowedFd<'_>) -> SysResult<bool> {
    let state = polled(fd)?;
    let is_shut = state.contains(PollFlags::RDHUP) || state.contains(PollFlags::HUP);
    Ok(state.contains(PollFlags::IN) && (!is_shut || descriptor::readable_bytes(fd)? > 0))
}

/// A socket that is being looked into; its options are as before when this is dropped.
struct Peek<'f> {
    fd: BorrowedFd<'f>,
    local: SocketAddr,
    offset: i32,
    /// The options that were set.
    told: Vec<Name>,
}

impl<'f> Peek<'f> {
    fn new(fd: BorrowedFd<'f>) -> SysResult<Self> {
        let mut peek = Self {
            fd,
            local: address::local(fd)?,
            offset: socket::option_int(fd, SOL_SOCKET, libc::SO_PEEK_OFF)?,
            told: Vec::new(),
        };
        let names = match peek.local {
            _ if !peek.local.ip().is_unspecified() => &[],
            SocketAddr::V4(_) => &TELL_DESTINATION[..1],
            SocketAddr::V6(_) => &TELL_DESTINATION[..],
        };
        for &(level, name) in names {
            if socket::option_int(fd, level, name)? == 0 {
                socket::set_option_int(fd, level, name, 1)?;
                peek.told.push((level, name));
            }
        }
        Ok(peek)
    }

    fn all(&mut self, kind: &SocketKind) -> SysResult<Vec<Datagram>> {
        let mut found = Vec::new();
        let mut buffer = vec![0; LONGEST_BYTES];
        let mut at = 0;
        for seen in 0..MOST {
            // An empty one that somebody has peeked at before is passed over where there is an offset.
            let offset = if seen == 0 { -1 } else { at };
            socket::set_option_int(self.fd, SOL_SOCKET, libc::SO_PEEK_OFF, offset)?;
            let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
            let message = match message::receive(self.fd, &mut buffer, flags) {
                Err(Errno::AGAIN) => break,
                message => message?,
            };
            at += message.bytes as i32;
            self.take(kind, &message, &buffer[..message.bytes], &mut found)?;
        }
        Ok(found)
    }

    /// Adds a message, which may be several datagrams.
    fn take(
        &self,
        kind: &SocketKind,
        message: &Message,
        bytes: &[u8],
        found: &mut Vec<Datagram>,
    ) -> SysResult<()> {
        let from = address::parse(&message.address).ok_or(Errno::AFNOSUPPORT)?;
        let to = address::parse(&message.destination).unwrap_or(self.local);
        let size = message.segment_bytes.filter(|&size| size > 0);
        let size = size.unwrap_or(LONGEST_BYTES);
        let mut pieces: Vec<&[u8]> = bytes.chunks(size).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        found.extend(pieces.into_iter().map(|piece| Datagram {
            protocol: kind.protocol as u8,
            from,
            to: SocketAddr::new(to.ip(), self.local.port()),
            bytes: piece.to_vec(),
        }));
        Ok(())
    }
}

impl Drop for Peek<'_> {
    fn drop(&mut self) {
        let mut undone =
            socket::set_option_int(self.fd, SOL_SOCKET, libc::SO_PEEK_OFF, self.offset);
        for &(level, name) in &self.told {
            undone = undone.and(socket::set_option_int(self.fd, level, name, 0));
        }
        if let Err(error) = undone {
            tracing::error!(%error, "a socket keeps an option that was set to look into it");
        }
    }
}

fn store(id: u32, datagram: &Datagram, image: &mut Lazy<'_>) -> Result<()> {
    let writer = image.writer()?;
    writer.push(&SkPacketEntry {
        id_for: id,
        length: datagram.bytes.len() as u32,
        cryopod_from: Some(address::encode(datagram.from)),
        cryopod_to: Some(address::encode(datagram.to)),
        ..SkPacketEntry::default()
    })?;
    Ok(writer.payload(&datagram.bytes)?)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn found(socket: &UdpSocket) -> Vec<(Vec<u8>, SocketAddr, SocketAddr)> {
        let fd = socket.as_fd();
        let kind = socket::kind(fd).unwrap();
        let all = Peek::new(fd).unwrap().all(&kind).unwrap();
        all.into_iter()
            .map(|one| (one.bytes, one.from, one.to))
            .collect()
    }

    #[test]
    fn what_waits_is_seen_and_stays() {
        for (any, here) in [
            ("0.0.0.0:0", "127.0.0.7"),
            ("[::]:0", "::1"),
            ("[::]:0", "127.0.0.7"),
        ] {
            let socket = UdpSocket::bind(any).unwrap();
            let here = SocketAddr::new(here.parse().unwrap(), socket.local_addr().unwrap().port());
            let sender = UdpSocket::bind(SocketAddr::new(here.ip(), 0)).unwrap();
            for bytes in [&b"one"[..], b"", b"three"] {
                sender.send_to(bytes, here).unwrap();
            }
            let from = sender.local_addr().unwrap();
            let seen = found(&socket);
            let seen: Vec<_> = seen
                .iter()
                .map(|(bytes, from, to)| {
                    (
                        &bytes[..],
                        address::on_the_wire(*from),
                        address::on_the_wire(*to),
                    )
                })
                .collect();
            let expected = [
                (&b"one"[..], from, here),
                (b"", from, here),
                (b"three", from, here),
            ];
            assert_eq!(seen, expected);
            let mut buffer = [0; 8];
            for length in [3, 0, 5] {
                assert_eq!(socket.recv(&mut buffer).unwrap(), length);
            }
            assert!(!has_something(socket.as_fd()).unwrap());
        }
    }

    #[test]
    fn options_are_put_back() {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        assert_eq!(found(&socket), []);
        for (level, name) in TELL_DESTINATION {
            assert_eq!(socket::option_int(socket.as_fd(), level, name), Ok(0));
        }
        let offset = socket::option_int(socket.as_fd(), SOL_SOCKET, libc::SO_PEEK_OFF);
        assert_eq!(offset, Ok(-1));
    }
}
