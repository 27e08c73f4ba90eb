//! What the kernel tells of sockets over netlink: sock_diag(7).
//!
//! A request names a family and what is to be told; each socket of the network namespace comes back as a message with
//! attributes. This is the part that all families share: asking, and taking messages and attributes apart.

pub mod unix;

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::error::{Context, Result};

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
/// The upper bits of an attribute's type are flags.
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// As large as the kernel makes a datagram of a dump.
const BUFFER_BYTES: usize = 64 << 10;

/// Asks about all sockets of a family in this network namespace. `request` is the structure of that family; `found` gets
/// each socket's message, without the netlink header.
///
/// # Errors
///
/// ENOENT when the kernel has no such part (CONFIG_UNIX_DIAG and the like).
pub fn ask(request: &[u8], mut found: impl FnMut(&[u8])) -> Result<()> {
    let socket = open().host("open a netlink socket (NETLINK_SOCK_DIAG)")?;
    let mut message = ((HEADER_BYTES + request.len()) as u32)
        .to_ne_bytes()
        .to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(request);
    send(&socket, &message, SendFlags::empty()).host("ask for sockets (sock_diag)")?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (len, whole) = recv(&socket, buffer.as_mut_slice(), RecvFlags::TRUNC)
            .host("read about sockets (sock_diag)")?;
        let bytes = buffer.get(..len).filter(|_| whole == len);
        let bytes = bytes
            .ok_or(Errno::NOBUFS)
            .host("read about sockets (sock_diag)")?;
        if take(bytes, &mut found).host("ask for sockets (sock_diag)")? {
            return Ok(());
        }
    }
}

fn open() -> std::result::Result<OwnedFd, Errno> {
    socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )
}

/// Takes one datagram apart. Returns whether it was the last one.
fn take(datagram: &[u8], found: &mut impl FnMut(&[u8])) -> std::result::Result<bool, Errno> {
    let mut rest = datagram;
    while let Some(header) = rest.get(..HEADER_BYTES) {
        let len = word(header, 0).unwrap_or(0) as usize;
        let body = rest.get(HEADER_BYTES..len).ok_or(Errno::BADMSG)?;
        match half(header, 4) {
            Some(NLMSG_DONE) => {
                let error = word(body, 0).unwrap_or(0) as i32;
                return if error < 0 {
                    Err(Errno::from_raw_os_error(-error))
                } else {
                    Ok(true)
                };
            }
            Some(NLMSG_ERROR) => {
                let error = word(body, 0).unwrap_or(0) as i32;
                return Err(Errno::from_raw_os_error(-error));
            }
            Some(SOCK_DIAG_BY_FAMILY) => found(body),
            _ => {}
        }
        if half(header, 6).is_some_and(|flags| flags & NLM_F_DUMP_INTR != 0) {
            tracing::debug!("sockets changed while they were listed");
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(false)
}

/// The attributes at the end of a message, by type.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = usize::from(half(rest, 0)?);
        let kind = half(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(ATTRIBUTE_HEADER_BYTES..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// A number of 32 bits at a place of a message, in the machine's order.
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(word))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let half = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_ne_bytes(half))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn messages_end_with_done_or_an_error() {
        let mut datagram = message(SOCK_DIAG_BY_FAMILY, b"one");
        datagram.extend(message(SOCK_DIAG_BY_FAMILY, b"two!"));
        let mut seen = Vec::new();
        assert_eq!(
            take(&datagram, &mut |one: &[u8]| seen.push(one.to_vec())),
            Ok(false)
        );
        assert_eq!(seen, [b"one".to_vec(), b"two!".to_vec()]);
        let mut ignore = |_: &[u8]| {};
        assert_eq!(take(&message(NLMSG_DONE, &[0; 4]), &mut ignore), Ok(true));
        let error = (-libc::ENOENT).to_ne_bytes();
        assert_eq!(
            take(&message(NLMSG_ERROR, &error), &mut ignore),
            Err(Errno::NOENT)
        );
    }

    #[test]
    fn attributes_are_listed() {
        let mut bytes = attribute(3, b"name");
        bytes.extend(attribute(0x8000 | 2, &[1]));
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(found, [(3, &b"name"[..]), (2, &[1][..])]);
    }

    proptest! {
        #[test]
        fn nothing_that_comes_ends_the_program(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = take(&bytes, &mut |body: &[u8]| { attributes(body).for_each(drop); });
            let total: usize = attributes(&bytes).map(|(_, value)| value.len()).sum();
            prop_assert!(total <= bytes.len());
        }

        #[test]
        fn attributes_come_back(values in proptest::collection::vec((0u16..100, proptest::collection::vec(any::<u8>(), 0..20)), 0..8)) {
            let bytes: Vec<u8> = values.iter().flat_map(|(kind, value)| attribute(*kind, value)).collect();
            let found: Vec<(u16, Vec<u8>)> = attributes(&bytes).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(found, values);
        }
    }
}
