//! What a tracker and its callers say to each other: one message of a unix socket each (SOCK_SEQPACKET), with descriptors
//! beside it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_sys::message;
use cryopod_sys::userfaultfd::Userfaultfd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::Spaces;
use crate::error::{Context, Error, Result};

/// The most descriptors in a message; the kernel allows 253 (SCM_MAX_FD of unix(7)).
const MAX_RIGHTS: usize = 200;

/// Longest message.
const MAX_BYTES: usize = 4096;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// To the tracker: what is the base, and which address spaces are there?
    Hello,
    /// From it: its pid, how many address spaces follow in messages of their own, and the base.
    State(u32, u32, Option<String>),
    /// Address spaces, by process; as many descriptors beside it.
    Spaces(Vec<i32>),
    /// To the tracker: forget the base.
    Begin,
    /// To the tracker: keep the new address spaces, and this is the base.
    Commit(String),
    /// To the tracker: leave.
    Leave,
    /// From it: done.
    Done,
}

impl Word {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![match self {
            Self::Hello => b'H',
            Self::State(..) => b'S',
            Self::Spaces(_) => b'F',
            Self::Begin => b'B',
            Self::Commit(_) => b'C',
            Self::Leave => b'L',
            Self::Done => b'D',
        }];
        match self {
            Self::State(pid, count, base) => {
                bytes.extend(pid.to_ne_bytes());
                bytes.extend(count.to_ne_bytes());
                bytes.extend(base.iter().flat_map(|base| base.bytes()));
            }
            Self::Spaces(pids) => bytes.extend(pids.iter().flat_map(|pid| pid.to_ne_bytes())),
            Self::Commit(base) => bytes.extend(base.bytes()),
            Self::Hello | Self::Begin | Self::Leave | Self::Done => {}
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let word = |chunk: &[u8]| Some(u32::from_ne_bytes(chunk.try_into().ok()?));
        Some(match kind {
            b'H' => Self::Hello,
            b'S' => {
                let base = text(rest.get(8..)?)?;
                let base = (!base.is_empty()).then_some(base);
                Self::State(word(&rest[..4])?, word(&rest[4..8])?, base)
            }
            b'F' => {
                let pids = rest.chunks(4).map(|chunk| Some(word(chunk)? as i32));
                Self::Spaces(pids.collect::<Option<_>>()?)
            }
            b'B' => Self::Begin,
            b'C' => Self::Commit(text(rest)?),
            b'L' => Self::Leave,
            b'D' => Self::Done,
            _ => return None,
        })
    }
}

/// A new socket.
pub fn socket() -> Result<OwnedFd> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .host("make a socket")
}

/// The address of the tracker of a tree, whose root began at this time: an abstract one of unix(7), which is gone with the
/// tracker. Who listens there is asked for before it is believed.
pub fn address(root: i32, start_time: u64) -> Vec<u8> {
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.push(0);
    address.extend(format!("cryopod-track/{root}/{start_time}").bytes());
    address
}

/// Says a word.
pub fn say(socket: BorrowedFd<'_>, word: &Word) -> Result<()> {
    message::send(socket, &word.to_bytes(), &[], &[], None)
        .host("talk to the tracker")
        .map(drop)
}

/// Hands over address spaces.
pub fn hand_over<'s>(
    socket: BorrowedFd<'_>,
    spaces: impl Iterator<Item = (i32, &'s Userfaultfd)>,
) -> Result<()> {
    let all: Vec<(i32, BorrowedFd<'_>)> = spaces.map(|(pid, uffd)| (pid, uffd.as_fd())).collect();
    for some in all.chunks(MAX_RIGHTS) {
        let pids = some.iter().map(|(pid, _)| *pid).collect();
        let rights: Vec<BorrowedFd<'_>> = some.iter().map(|(_, uffd)| *uffd).collect();
        let bytes = Word::Spaces(pids).to_bytes();
        message::send(socket, &bytes, &[], &rights, None).host("hand on userfaultfds")?;
    }
    Ok(())
}

/// Hears a word, and takes over the address spaces that came with it; none when nobody is left who could say one.
pub fn hear(socket: BorrowedFd<'_>, spaces: &mut Spaces) -> Result<Option<Word>> {
    let mut buffer = [0; MAX_BYTES];
    let message = loop {
        match message::receive(socket, &mut buffer, 0) {
            Err(cryopod_sys::Errno::INTR) => {}
            Err(cryopod_sys::Errno::CONNRESET) => return Ok(None),
            heard => break heard.host("hear from the tracker")?,
        }
    };
    if message.bytes == 0 {
        return Ok(None);
    }
    let word = Word::parse(&buffer[..message.bytes.min(MAX_BYTES)]);
    let word = word.ok_or(Error::Tracker {
        what: "it says what makes no sense",
    })?;
    if let Word::Spaces(pids) = &word {
        if pids.len() != message.rights.len() {
            return Err(Error::Tracker {
                what: "descriptors are missing (are there too many open files?)",
            });
        }
        let rights = message.rights.into_iter().map(Userfaultfd::from);
        spaces.extend(pids.iter().copied().zip(rights));
    }
    Ok(Some(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_word_is_understood() {
        for word in [
            Word::Hello,
            Word::State(1, 7, None),
            Word::State(u32::MAX, u32::MAX, Some("an id".into())),
            Word::Spaces((0..MAX_RIGHTS as i32).collect()),
            Word::Begin,
            Word::Commit("an id".into()),
            Word::Leave,
            Word::Done,
        ] {
            let bytes = word.to_bytes();
            assert!(bytes.len() <= MAX_BYTES);
            assert_eq!(Word::parse(&bytes), Some(word));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Word::parse(&bytes);
        }
    }
}
