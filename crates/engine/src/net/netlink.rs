//! Requests to the kernel over netlink(7), and their answers.
//!
//! The kernel handles a request while it is sent: when send(2) returns, the whole answer (of a dump: its first part) waits
//! to be read, so that nothing here blocks.

use std::os::fd::OwnedFd;

use cryopod_sys::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt,
};

/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub const ACK: u16 = 0x4;
/// `NLM_F_ROOT | NLM_F_MATCH`: all there are.
pub const DUMP: u16 = 0x300;
/// `NLM_F_EXCL`.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub const APPEND: u16 = 0x800;

/// `NLM_F_DUMP_INTR`: things changed during a dump, so that some may be missing.
const INTERRUPTED: u16 = 0x10;
/// `NLMSG_ERROR`: an error, or an acknowledgement when its number is 0.
const ERROR: u16 = 0x2;
/// `NLMSG_DONE`: the end of a dump.
const DONE: u16 = 0x3;

/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// What the kernel puts into one answer at most, and more.
const ANSWER_BYTES: usize = 1 << 16;
/// How often a dump is tried that others keep disturbing.
const TRIES: usize = 8;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is, `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Message {
    /// The message in the kernel's form, padded.
    pub fn encode(&self) -> Vec<u8> {
        let len = (HEADER_BYTES + self.payload.len()) as u32;
        let mut raw = Vec::with_capacity(len as usize + 3);
        raw.extend(len.to_ne_bytes());
        raw.extend(self.kind.to_ne_bytes());
        raw.extend(self.flags.to_ne_bytes());
        raw.extend(self.sequence.to_ne_bytes());
        // The kernel knows who asks.
        raw.extend(0u32.to_ne_bytes());
        raw.extend(&self.payload);
        pad(&mut raw);
        raw
    }

    /// The errno of an error message; 0 is an acknowledgement.
    fn error(&self) -> Option<i32> {
        (self.kind == ERROR).then(|| self.number())?
    }

    /// The errno at the end of a dump; 0 or nothing when it is whole.
    fn end(&self) -> Option<i32> {
        (self.kind == DONE).then(|| self.number().unwrap_or(0))
    }

    fn number(&self) -> Option<i32> {
        let number = self.payload.get(..4)?.try_into().ok()?;
        Some(i32::from_ne_bytes(number).saturating_neg())
    }
}

/// Reads the messages of one answer; stops at what is no message.
fn decode(mut raw: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some(header) = raw.get(..HEADER_BYTES) {
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let len = word(0) as usize;
        let Some(payload) = raw.get(HEADER_BYTES..len) else {
            break;
        };
        messages.push(Message {
            kind: half(4),
            flags: half(6),
            sequence: word(8),
            payload: payload.to_vec(),
        });
        raw = raw.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

/// A netlink socket.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens one of a protocol (`NETLINK_*`).
    pub fn open(protocol: Protocol) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            flags,
            Some(protocol),
        )?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// A number for the next message.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Asks for all there are, and gives the payloads of the answers.
    pub fn dump(&mut self, kind: u16, payload: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        for _ in 0..TRIES {
            match self.attempt(kind, payload) {
                Err(Errno::INTR) => {}
                answer => return answer,
            }
        }
        Err(Errno::AGAIN)
    }

    fn attempt(&mut self, kind: u16, payload: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        let sequence = self.next_sequence();
        let request = Message {
            kind,
            flags: REQUEST | DUMP,
            sequence,
            payload: payload.to_vec(),
        };
        self.send(&request.encode())?;
        let mut found = Vec::new();
        let mut disturbed = false;
        loop {
            for message in self.receive()? {
                if message.sequence != sequence {
                    continue;
                }
                disturbed |= message.flags & INTERRUPTED != 0;
                match (message.error(), message.end()) {
                    (Some(number), _) | (None, Some(number)) if number > 0 => {
                        return Err(Errno::from_raw_os_error(number));
                    }
                    (None, None) => found.push(message.payload),
                    _ if disturbed => return Err(Errno::INTR),
                    _ => return Ok(found),
                }
            }
        }
    }

    /// Sends messages that are handled as one, and gives the first error, if there is one. The last but one of them
    /// (the last is the end of the batch) should ask for an acknowledgement.
    pub fn batch(&mut self, messages: &[Message]) -> Result<(), Errno> {
        let raw: Vec<u8> = messages.iter().flat_map(Message::encode).collect();
        let size = raw.len().saturating_mul(2).max(1 << 16);
        // Without the privilege it fails when it is sent, if it is too long at all.
        let _ = sockopt::set_socket_send_buffer_size_force(&self.socket, size);
        self.send(&raw)?;
        let mut answered = false;
        loop {
            let answers = match self.receive() {
                Err(Errno::AGAIN) if answered => return Ok(()),
                answers => answers?,
            };
            for answer in answers {
                answered = true;
                if let Some(number) = answer.error().filter(|&number| number != 0) {
                    // Whatever else was answered belongs to this batch and must not wait for the next.
                    while self.receive().is_ok() {}
                    return Err(Errno::from_raw_os_error(number));
                }
            }
        }
    }

    fn send(&self, raw: &[u8]) -> Result<(), Errno> {
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, raw, SendFlags::empty(), &kernel).map(drop)
    }

    fn receive(&self) -> Result<Vec<Message>, Errno> {
        let mut raw = vec![0; ANSWER_BYTES];
        let (len, _) = rustix::net::recv(&self.socket, raw.as_mut_slice(), RecvFlags::empty())?;
        Ok(decode(&raw[..len]))
    }
}

fn pad(raw: &mut Vec<u8>) {
    raw.resize(raw.len().next_multiple_of(4), 0);
}

/// Attributes behind one another, as messages are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// `NLA_F_NESTED`.
    const NESTED: u16 = 1 << 15;

    /// With one more attribute.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let len = (4 + value.len()) as u16;
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        pad(&mut self.0);
        self
    }

    /// With a number in network order.
    #[must_use]
    pub fn with_number(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_be_bytes())
    }

    /// With a text.
    #[must_use]
    pub fn with_text(self, kind: u16, value: &str) -> Self {
        self.with(kind, &[value.as_bytes(), b"\0"].concat())
    }

    /// With an attribute that is made of attributes.
    #[must_use]
    pub fn with_nested(self, kind: u16, inner: &Self) -> Self {
        self.with(kind | Self::NESTED, &inner.0)
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Reads attributes; stops at what is none.
pub fn attributes(mut raw: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = raw.get(..4)?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]);
        let value = raw.get(4..len)?;
        raw = raw.get(len.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits say how the value is written.
        Some((kind & 0x3fff, value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_are_padded_and_nest() {
        let inner = Attributes::default().with_number(7, 1);
        let raw = Attributes::default()
            .with_text(1, "ab")
            .with_nested(2, &inner)
            .into_bytes();
        assert_eq!(raw.len(), 8 + 12);
        let read: Vec<(u16, &[u8])> = attributes(&raw).collect();
        assert_eq!(read[0], (1, b"ab\0".as_slice()));
        assert_eq!(
            attributes(read[1].1).next(),
            Some((7, [0, 0, 0, 1].as_slice()))
        );
    }

    #[test]
    fn errors_have_their_number() {
        let error = Message {
            kind: ERROR,
            flags: 0,
            sequence: 1,
            payload: (-libc::ENOENT).to_ne_bytes().to_vec(),
        };
        assert_eq!((error.error(), error.end()), (Some(libc::ENOENT), None));
        let end = Message {
            kind: DONE,
            ..error
        };
        assert_eq!((end.error(), end.end()), (None, Some(libc::ENOENT)));
    }

    proptest! {
        #[test]
        fn messages_come_back(
            messages in prop::collection::vec((any::<u16>(), any::<u16>(), any::<u32>(), any::<Vec<u8>>()), 0..5),
        ) {
            let messages: Vec<Message> = messages
                .into_iter()
                .map(|(kind, flags, sequence, payload)| Message { kind, flags, sequence, payload })
                .collect();
            let raw: Vec<u8> = messages.iter().flat_map(Message::encode).collect();
            prop_assert_eq!(decode(&raw), messages);
        }

        #[test]
        fn any_bytes_are_survived(raw: Vec<u8>) {
            let _ = decode(&raw);
            for (_, value) in attributes(&raw) {
                let _ = attributes(value).count();
            }
        }
    }
}
