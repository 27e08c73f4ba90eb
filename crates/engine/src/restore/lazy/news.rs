//! What the helper tells whoever started it, through a pipe.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_sys::Errno;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::{Context, Error, ErrorKind, Result};

/// One piece of news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The helper is there, with this pid, and nothing is lost any more if its parent ends.
    Ready(i32),
    /// So many bytes were put so far.
    Progress(u64),
    /// All is there, or nobody is left who needs it.
    Done,
    /// It could not go on, and the programs are being ended.
    Failed(ErrorKind, String),
}

const READY: u8 = 1;
const PROGRESS: u8 = 2;
const DONE: u8 = 3;
const FAILED: u8 = 4;

/// Longer texts are cut: a message is written as a whole or not at all (PIPE_BUF of pipe(7)).
const MAX_TEXT_BYTES: usize = 2048;

/// Kind, number, length of the text.
const HEADER_BYTES: usize = 1 + 8 + 4;

const KINDS: [ErrorKind; 8] = [
    ErrorKind::NotFound,
    ErrorKind::InvalidInput,
    ErrorKind::Unsupported,
    ErrorKind::Permission,
    ErrorKind::Busy,
    ErrorKind::Corrupt,
    ErrorKind::External,
    ErrorKind::Internal,
];

impl News {
    fn to_bytes(&self) -> Vec<u8> {
        let (kind, number, text) = match self {
            Self::Ready(pid) => (READY, *pid as u64, ""),
            Self::Progress(bytes) => (PROGRESS, *bytes, ""),
            Self::Done => (DONE, 0, ""),
            Self::Failed(kind, text) => {
                let place = KINDS.iter().position(|known| known == kind);
                (
                    FAILED,
                    place.unwrap_or(KINDS.len() - 1) as u64,
                    text.as_str(),
                )
            }
        };
        let text = &text.as_bytes()[..text.len().min(MAX_TEXT_BYTES)];
        let mut bytes = vec![kind];
        bytes.extend(number.to_ne_bytes());
        bytes.extend((text.len() as u32).to_ne_bytes());
        bytes.extend(text);
        bytes
    }

    /// The first message of some bytes and how long it is; none if it is not all there.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let header = bytes.get(..HEADER_BYTES)?;
        let number = u64::from_ne_bytes(header[1..9].try_into().ok()?);
        let len = u32::from_ne_bytes(header[9..13].try_into().ok()?) as usize;
        let end = HEADER_BYTES + len;
        let text = bytes.get(HEADER_BYTES..end)?;
        let news = match header[0] {
            READY => Self::Ready(number as i32),
            PROGRESS => Self::Progress(number),
            DONE => Self::Done,
            _ => {
                let kind = usize::try_from(number)
                    .ok()
                    .and_then(|place| KINDS.get(place));
                let text = String::from_utf8_lossy(text).into_owned();
                Self::Failed(*kind.unwrap_or(&ErrorKind::Internal), text)
            }
        };
        Some((news, end))
    }
}

/// The helper's end.
#[derive(Debug)]
pub struct Teller(OwnedFd);

impl Teller {
    /// Tells, if anybody listens. Never waits: a listener that is stopped must not hold up the program.
    pub fn tell(&self, news: &News) {
        let _ = rustix::io::write(&self.0, &news.to_bytes());
    }
}

impl AsFd for Teller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The other end.
#[derive(Debug)]
pub struct Listener {
    pipe: OwnedFd,
    unread: Vec<u8>,
    ended: bool,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// Both ends.
pub fn channel() -> Result<(Listener, Teller)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).host("make a pipe")?;
    let listener = Listener {
        pipe: read,
        unread: Vec::new(),
        ended: false,
    };
    Ok((listener, Teller(write)))
}

impl Listener {
    /// The next news, if there is any.
    pub fn take(&mut self) -> Option<News> {
        loop {
            if let Some((news, len)) = News::parse(&self.unread) {
                self.unread.drain(..len);
                return Some(news);
            }
            let mut buffer = [0; 4096];
            match rustix::io::read(&self.pipe, &mut buffer) {
                Ok(0) => {
                    self.ended = true;
                    return None;
                }
                Ok(count) => self.unread.extend(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Whether nobody is left who could tell anything.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Waits until there is news; none when nobody is left who could tell any.
    pub fn wait(&mut self) -> Result<Option<News>> {
        loop {
            if let Some(news) = self.take() {
                return Ok(Some(news));
            }
            if self.ended {
                return Ok(None);
            }
            match poll(&mut [PollFd::new(&self.pipe, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).host("wait for the helper"),
            }
        }
    }
}

/// An error as it travels.
pub fn failure(error: &Error) -> News {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    News::Failed(error.kind(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard() {
        let (mut listener, teller) = channel().unwrap();
        let all = [
            News::Ready(4711),
            News::Progress(1 << 40),
            News::Failed(ErrorKind::Corrupt, "pages-1.img: block 5".into()),
            News::Done,
        ];
        assert_eq!(listener.take(), None);
        for news in &all {
            teller.tell(news);
        }
        for news in all {
            assert_eq!(listener.wait().unwrap(), Some(news));
        }
        teller.tell(&News::Done);
        drop(teller);
        assert_eq!(listener.wait().unwrap(), Some(News::Done));
        assert_eq!(listener.wait().unwrap(), None);
    }

    #[test]
    fn a_message_in_pieces_is_none_yet() {
        let bytes = News::Failed(ErrorKind::Busy, "x".repeat(5000)).to_bytes();
        assert_eq!(bytes.len(), HEADER_BYTES + MAX_TEXT_BYTES);
        for len in 0..bytes.len() {
            assert_eq!(News::parse(&bytes[..len]), None);
        }
        assert!(News::parse(&bytes).is_some());
    }
}
