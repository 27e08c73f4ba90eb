//! What waits in a socket to be received, read without taking it out.
//!
//! MSG_PEEK alone sees the first message only; SO_PEEK_OFF makes it go on to the next (socket(7)). That option belongs to
//! the socket, not to us, and is put back at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_image::criu::{CryopodPeer, ScmEntry, SkPacketEntry};
use cryopod_sys::message::{self, Message};
use cryopod_sys::{Errno, socket};
use libc::SOL_SOCKET;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::super::lazy::Lazy;
use super::super::super::{Description, refuse};
use super::PassOn;
use crate::error::Result;
use crate::net::diag::unix::{LISTENING, SHUT_READ, UnixSocket};

/// Bytes that are looked at in one go. What carries descriptors in a stream is shorter: the kernel cuts streams into
/// pieces of at most 32 KiB and a page.
const WINDOW_BYTES: usize = 128 << 10;

/// Whether the socket has an error that its program has not seen. To ask for it would take it away.
pub fn has_error(file: BorrowedFd<'_>) -> std::result::Result<bool, Errno> {
    state(file).map(|state| state.contains(PollFlags::ERR))
}

fn state(file: BorrowedFd<'_>) -> std::result::Result<PollFlags, Errno> {
    let mut polled = [PollFd::from_borrowed_fd(file, PollFlags::PRI)];
    poll(&mut polled, Some(&Timespec::default()))?;
    Ok(polled[0].revents())
}

/// Why what waits in a socket cannot be taken along, if it cannot.
pub fn problem(file: BorrowedFd<'_>, diag: &UnixSocket) -> Option<&'static str> {
    let state = state(file).ok()?;
    if diag.state == LISTENING {
        return None;
    }
    if state.contains(PollFlags::PRI) {
        return Some("urgent data (MSG_OOB) waits in it");
    }
    // Reading such a socket would tell us the error instead of its program.
    let told =
        diag.kind == libc::SOCK_DGRAM || (diag.kind == libc::SOCK_SEQPACKET && diag.readable > 0);
    (state.contains(PollFlags::ERR) && told)
        .then_some("it has an error that its program has not seen yet")
}

/// Writes what waits in a socket.
pub fn dump(
    one: &Description<'_>,
    diag: &UnixSocket,
    reset: bool,
    image: &mut Lazy<'_>,
    pass_on: &mut PassOn<'_>,
) -> Result<()> {
    if let Some(what) = problem(one.file.as_fd(), diag) {
        return Err(refuse(
            one.seen,
            format!("unix socket: {what}: not supported"),
        ));
    }
    // A stream beyond what is in it, or a socket with an error, would give its error away.
    if diag.readable == 0 && (diag.kind == libc::SOCK_STREAM || reset) {
        return Ok(());
    }
    let mut peek = Peek::begin(one, diag)?;
    if diag.kind == libc::SOCK_STREAM {
        let mut left = diag.readable as usize;
        while left > 0 {
            let pieces = peek.piece(left)?;
            if pieces.is_empty() {
                break;
            }
            for piece in pieces {
                left = left.saturating_sub(piece.bytes.len());
                store(one.id, piece, image, pass_on)?;
            }
        }
    } else {
        while let Some(packet) = peek.packet()? {
            store(one.id, packet, image, pass_on)?;
        }
    }
    peek.end()
}

/// A message, or a piece of a stream.
struct Packet {
    bytes: Vec<u8>,
    message: Message,
}

fn store(id: u32, packet: Packet, image: &mut Lazy<'_>, pass_on: &mut PassOn<'_>) -> Result<()> {
    let Packet { bytes, message } = packet;
    let rights: Vec<u32> = message
        .rights
        .into_iter()
        .map(pass_on)
        .collect::<Result<_>>()?;
    let scm = (!rights.is_empty()).then_some(ScmEntry {
        r#type: libc::SCM_RIGHTS as u32,
        rights,
    });
    // The address without the family.
    let from = message.address.get(2..).unwrap_or(&[]);
    let image = image.writer()?;
    image.push(&SkPacketEntry {
        id_for: id,
        length: bytes.len() as u32,
        scm: scm.into_iter().collect(),
        cryopod_from: Some(from.to_vec()),
        cryopod_sender: message.credentials.map(|who| CryopodPeer {
            pid: who.pid,
            uid: who.uid,
            gid: who.gid,
            groups: Vec::new(),
        }),
        cryopod_to: None,
    })?;
    Ok(image.payload(&bytes)?)
}

/// A socket whose queue is being looked at. When this goes its options are what they were.
struct Peek<'d> {
    one: &'d Description<'d>,
    diag: &'d UnixSocket,
    /// A duplicate of our own, so that this can put the options back whenever it is dropped.
    file: OwnedFd,
    /// SO_PEEK_OFF as it was.
    offset: i32,
    /// SO_PASSCRED was switched on to tell an empty message from the end.
    marked: bool,
    /// Bytes that are behind us, and messages.
    at: usize,
    seen: usize,
    buffer: Vec<u8>,
}

impl<'d> Peek<'d> {
    fn begin(one: &'d Description<'d>, diag: &'d UnixSocket) -> Result<Self> {
        let file = one.check(
            "duplicate it",
            rustix::io::fcntl_dupfd_cloexec(&one.file, 0),
        )?;
        let int = |name| socket::option_int(file.as_fd(), SOL_SOCKET, name);
        let offset = one.check("ask for SO_PEEK_OFF", int(libc::SO_PEEK_OFF))?;
        // At the end of a seqpacket connection an empty message looks like the end, but for its credentials.
        let ambiguous = diag.kind == libc::SOCK_SEQPACKET && diag.shutdown & SHUT_READ != 0;
        let has_credentials = one.check("ask for SO_PASSCRED", int(libc::SO_PASSCRED))? != 0;
        let mut peek = Self {
            one,
            diag,
            file,
            offset,
            marked: false,
            at: 0,
            seen: 0,
            buffer: vec![0; WINDOW_BYTES],
        };
        if ambiguous && !has_credentials {
            peek.set(libc::SO_PASSCRED, 1)?;
            peek.marked = true;
        }
        Ok(peek)
    }

    fn set(&self, name: i32, value: i32) -> Result<()> {
        let set = socket::set_option_int(self.file.as_fd(), SOL_SOCKET, name, value);
        self.one.check("look into its queue (setsockopt)", set)
    }

    /// Looks at up to `limit` bytes at the present place. `None` at the end.
    fn look(&mut self, limit: usize) -> Result<Option<Message>> {
        // An empty message that somebody has peeked at before is passed over where there is an offset.
        let is_first = self.seen == 0 && self.diag.kind != libc::SOCK_STREAM;
        let offset = if is_first { -1 } else { self.at as i32 };
        self.set(libc::SO_PEEK_OFF, offset)?;
        let mut flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        if self.diag.kind != libc::SOCK_STREAM {
            // Tells the whole length of a message.
            flags |= libc::MSG_TRUNC;
        }
        let got = message::receive(self.file.as_fd(), &mut self.buffer[..limit], flags);
        match got {
            Err(Errno::AGAIN) => Ok(None),
            got => {
                let message = self.one.check("look into its queue (MSG_PEEK)", got)?;
                if message.flags & libc::MSG_CTRUNC != 0 {
                    // More descriptors than this process may have, or a new kind of message.
                    let what = "unix socket: what comes along with a message in it cannot be read";
                    return Err(refuse(self.one.seen, what.to_owned()));
                }
                Ok(Some(message))
            }
        }
    }

    /// The next message of a socket that keeps them apart.
    fn packet(&mut self) -> Result<Option<Packet>> {
        let Some(mut message) = self.look(self.buffer.len())? else {
            return Ok(None);
        };
        if message.bytes > self.buffer.len() {
            self.buffer.resize(message.bytes, 0);
            let Some(again) = self.look(self.buffer.len())? else {
                return Ok(None);
            };
            message = again;
        }
        let is_end = message.bytes == 0 && self.ends_with_nothing();
        if is_end && !(self.marked && message.credentials.is_some()) {
            return Ok(None);
        }
        if self.marked {
            message.credentials = None;
        }
        self.at += message.bytes;
        self.seen += 1;
        let bytes = self.buffer[..message.bytes].to_vec();
        Ok(Some(Packet { bytes, message }))
    }

    /// Whether the end of the queue gives an empty message instead of EAGAIN.
    fn ends_with_nothing(&self) -> bool {
        self.diag.kind == libc::SOCK_SEQPACKET && self.diag.shutdown & SHUT_READ != 0
    }

    /// The next pieces of a stream with `left` bytes in it: one, and where descriptors come along with it, what was
    /// before these as another.
    fn piece(&mut self, left: usize) -> Result<Vec<Packet>> {
        let limit = left.min(self.buffer.len());
        let Some(message) = self.look(limit)?.filter(|message| message.bytes > 0) else {
            return Ok(Vec::new());
        };
        if message.rights.is_empty() {
            self.at += message.bytes;
            let bytes = self.buffer[..message.bytes].to_vec();
            return Ok(vec![Packet { bytes, message }]);
        }
        // They belong to the last of the pieces that these bytes were sent as.
        let before = self.bytes_before(message.bytes)?;
        let bytes = self.buffer[..message.bytes].to_vec();
        let credentials = message.credentials;
        let without = |bytes: &[u8]| Packet {
            bytes: bytes.to_vec(),
            message: Message {
                credentials,
                ..Message::default()
            },
        };
        if message.bytes == limit && limit < left {
            // Or to one that begins behind them. What is before the last one is without in any case, and all of it when
            // that is longer than any piece with descriptors is.
            let plain = if before == 0 { limit } else { before };
            self.at += plain;
            return Ok(vec![without(&bytes[..plain])]);
        }
        self.at += message.bytes;
        let with = Packet {
            bytes: bytes[before..].to_vec(),
            message,
        };
        Ok(if before == 0 {
            vec![with]
        } else {
            vec![without(&bytes[..before]), with]
        })
    }

    /// Where the last piece begins that the next `bytes` of a stream were sent as.
    fn bytes_before(&mut self, bytes: usize) -> Result<usize> {
        self.set(libc::SO_PEEK_OFF, self.at as i32)?;
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        let found = message::whole_pieces(self.file.as_fd(), bytes - 1, flags);
        self.one.check("look into its queue (MSG_PEEK)", found)
    }

    /// Puts the options back.
    fn end(mut self) -> Result<()> {
        self.restore()
    }

    fn restore(&mut self) -> Result<()> {
        if std::mem::take(&mut self.marked) {
            self.set(libc::SO_PASSCRED, 0)?;
        }
        self.set(libc::SO_PEEK_OFF, self.offset)
    }
}

impl Drop for Peek<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            tracing::error!(pid = self.one.seen.pid, %error, "a socket keeps a peek offset");
        }
    }
}
