//! Internet sockets as linux/inet_diag.h tells of them.

use std::net::SocketAddr;

use cryopod_sys::Errno;
use cryopod_sys::tcp::state;

use super::{ask, with_cookie, word};
use crate::net::address;
use crate::net::netlink::attributes;

/// Which directions of an internet socket are shut down: bit 0 receiving, bit 1 sending (linux/inet_diag.h). `None` when
/// the kernel does not list it, as it does only for sockets that are bound.
pub fn shutdown(
    family: u8,
    protocol: u8,
    local_port: u16,
    cookie: u64,
) -> Result<Option<u8>, Errno> {
    const ALL_STATES: u32 = u32::MAX;
    const SHUTDOWN: u16 = 8;
    /// Bytes of `struct inet_diag_msg`.
    const HEAD_BYTES: usize = 72;
    // struct inet_diag_req_v2: the local port is all that is asked for.
    let mut request = vec![family, protocol, 0, 0];
    request.extend(ALL_STATES.to_ne_bytes());
    request.extend(local_port.to_be_bytes());
    request.resize(56, 0);
    let answers = match ask(&request) {
        Err(Errno::NOENT) => return Ok(None),
        answers => answers?,
    };
    let found = with_cookie(&answers, 44, cookie).and_then(|one| {
        let mut attributes = attributes(one.get(HEAD_BYTES..)?);
        let (_, bits) = attributes.find(|(kind, _)| *kind == SHUTDOWN)?;
        bits.first().copied()
    });
    Ok(found)
}

/// The peers of those TCP connections to a port that nobody has accepted yet, as far as the kernel lists them: no file
/// leads to them.
pub fn waiting(family: u8, local_port: u16) -> Result<Vec<SocketAddr>, Errno> {
    // The peer may have closed already. In all other states, a connection without a file is one that was closed here.
    const STATES: u32 = 1 << state::ESTABLISHED | 1 << state::CLOSE_WAIT;
    let mut request = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
    request.extend(STATES.to_ne_bytes());
    request.extend(local_port.to_be_bytes());
    request.resize(56, 0);
    let mut peers: Vec<SocketAddr> = ask(&request)?
        .iter()
        .filter_map(|message| peer_without_file(message))
        .collect();
    peers.sort_unstable();
    Ok(peers)
}

/// The peer in a `struct inet_diag_msg`, if no file leads to the socket.
fn peer_without_file(message: &[u8]) -> Option<SocketAddr> {
    const PORT_AT: usize = 6;
    const ADDRESS_AT: usize = 24;
    const INODE_AT: usize = 68;
    let port = u16::from_be_bytes(*message.get(PORT_AT..)?.first_chunk()?);
    let words: Option<Vec<u32>> = (0..4)
        .map(|place| word(message, ADDRESS_AT + 4 * place))
        .collect();
    let family = u32::from(*message.first()?);
    let peer = address::from_words(family, &words?, port.into(), 0)?;
    (word(message, INODE_AT)? == 0).then_some(peer)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use proptest::prelude::*;
    use rustix::net::{Shutdown, sockopt};

    use super::*;

    #[test]
    fn who_waits_is_told_until_he_is_accepted() {
        for (family, address) in [(libc::AF_INET, "127.0.0.1:0"), (libc::AF_INET6, "[::1]:0")] {
            let listener = TcpListener::bind(address).unwrap();
            let here = listener.local_addr().unwrap();
            let client = TcpStream::connect(here).unwrap();
            let ask = || waiting(family as u8, here.port()).unwrap();
            assert_eq!(ask(), [client.local_addr().unwrap()]);
            let _accepted = listener.accept().unwrap();
            assert_eq!(ask(), []);
        }
    }

    proptest! {
        #[test]
        fn any_message_is_survived(raw: Vec<u8>) {
            let _ = peer_without_file(&raw);
        }
    }

    #[test]
    fn a_shutdown_is_seen() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect("127.0.0.1:9").unwrap();
        let port = socket.local_addr().unwrap().port();
        let cookie = sockopt::socket_cookie(&socket).unwrap();
        let ask = || shutdown(2, 17, port, cookie).unwrap();
        assert_eq!(ask(), Some(0));
        rustix::net::shutdown(&socket, Shutdown::Write).unwrap();
        assert_eq!(ask(), Some(2));
        assert_eq!(shutdown(2, 17, port, 0).unwrap(), None);
    }
}
