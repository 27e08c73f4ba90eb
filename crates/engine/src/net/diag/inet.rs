//! Internet sockets as linux/inet_diag.h tells of them.

use cryopod_sys::Errno;

use super::{ask, with_cookie};
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use rustix::net::{Shutdown, sockopt};

    use super::*;

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
