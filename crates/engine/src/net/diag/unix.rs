//! Unix sockets as linux/unix_diag.h tells of them.

use std::collections::HashMap;

use cryopod_sys::Errno;

use super::{ask, word};
use crate::net::netlink::attributes;

/// A unix socket of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixSocket {
    /// Inode number; 0 for one that no file leads to.
    pub inode: u32,
    /// SOCK_*.
    pub kind: i32,
    /// [`ESTABLISHED`], [`LISTENING`], or another number for one that is neither.
    pub state: u8,
    /// Address as in `sun_path`, without the family; empty when it has none.
    pub name: Vec<u8>,
    /// Inode of the peer: `None` without one, 0 when no file leads to the peer (it is closed, or not accepted yet).
    pub peer: Option<u32>,
    /// Of a listening one: inodes of those who wait to be accepted, in their order; 0 for one that gave up.
    pub waiting: Vec<u32>,
    /// Bytes, or waiting connections, that can be read.
    pub readable: u32,
    /// Bytes that others have yet to read; of a listening one its backlog.
    pub unread: u32,
    /// [`SHUT_READ`] and [`SHUT_WRITE`].
    pub shutdown: u8,
}

/// State of a connected socket; the numbers are those of TCP.
pub const ESTABLISHED: u8 = 1;
/// State of one that listens.
pub const LISTENING: u8 = 10;

/// Nothing can be received any more.
pub const SHUT_READ: u8 = 1;
/// Nothing can be sent any more.
pub const SHUT_WRITE: u8 = 2;

/// All unix sockets of this network namespace that files lead to, by inode.
pub fn all() -> Result<HashMap<u32, UnixSocket>, Errno> {
    // Name, peer, waiting connections, lengths of queues.
    const SHOW: u32 = 0x01 | 0x04 | 0x08 | 0x10;
    let mut request = vec![libc::AF_UNIX as u8, 0, 0, 0];
    // All states, all inodes, no cookie.
    for number in [u32::MAX, 0, SHOW, u32::MAX, u32::MAX] {
        request.extend(number.to_ne_bytes());
    }
    let sockets = ask(&request)?;
    let sockets = sockets.iter().filter_map(|message| parse(message));
    Ok(sockets
        .filter(|socket| socket.inode != 0)
        .map(|socket| (socket.inode, socket))
        .collect())
}

/// Takes a `struct unix_diag_msg` and its attributes apart.
fn parse(message: &[u8]) -> Option<UnixSocket> {
    const HEADER_BYTES: usize = 16;
    const NAME: u16 = 0;
    const PEER: u16 = 2;
    const ICONS: u16 = 3;
    const RQLEN: u16 = 4;
    const SHUTDOWN: u16 = 6;
    let mut socket = UnixSocket {
        inode: word(message, 4)?,
        kind: i32::from(*message.get(1)?),
        state: *message.get(2)?,
        ..UnixSocket::default()
    };
    for (kind, value) in attributes(message.get(HEADER_BYTES..)?) {
        match kind {
            NAME => socket.name = value.to_vec(),
            PEER => socket.peer = word(value, 0),
            ICONS => {
                let words = value.chunks_exact(4);
                socket.waiting = words.filter_map(|one| word(one, 0)).collect();
            }
            RQLEN => {
                socket.readable = word(value, 0)?;
                socket.unread = word(value, 4)?;
            }
            SHUTDOWN => socket.shutdown = *value.first()?,
            _ => {}
        }
    }
    Some(socket)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use proptest::prelude::*;

    use super::*;

    fn inode(socket: impl AsFd) -> u32 {
        rustix::fs::fstat(socket).unwrap().st_ino as u32
    }

    #[test]
    fn a_pair_knows_each_other() {
        let (one, other) = UnixStream::pair().unwrap();
        (&other).write_all(b"12345").unwrap();
        other.shutdown(Shutdown::Write).unwrap();
        let all = all().unwrap();
        let (seen, seen_other) = (&all[&inode(&one)], &all[&inode(&other)]);
        assert_eq!((seen.kind, seen.state), (libc::SOCK_STREAM, ESTABLISHED));
        assert_eq!(
            (seen.peer, seen_other.peer),
            (Some(inode(&other)), Some(inode(&one)))
        );
        assert_eq!((seen.readable, seen_other.readable), (5, 0));
        assert_eq!(
            (seen.shutdown, seen_other.shutdown),
            (SHUT_READ, SHUT_WRITE)
        );
        drop(other);
        let all = super::all().unwrap();
        assert_eq!(all[&inode(&one)].peer, Some(0));
        assert_eq!(all[&inode(&one)].shutdown, SHUT_READ | SHUT_WRITE);
    }

    #[test]
    fn a_listener_knows_who_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let first = UnixStream::connect(&path).unwrap();
        let second = UnixStream::connect(&path).unwrap();
        let third = UnixStream::connect(&path).unwrap();
        drop(second);
        let all = all().unwrap();
        let seen = &all[&inode(&listener)];
        assert_eq!((seen.state, seen.readable), (LISTENING, 3));
        assert_eq!(seen.waiting, [inode(&first), 0, inode(&third)]);
        assert_eq!(
            seen.name,
            [path.as_os_str().as_encoded_bytes(), b"\0"].concat()
        );
        assert_eq!(all[&inode(&first)].peer, Some(0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_socket_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&bytes);
        }
    }
}
