//! One address space that is being filled.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use cryopod_sys::Errno;
use cryopod_sys::memory::PAGE;
use cryopod_sys::userfaultfd::{Event, Userfaultfd};

use super::pending::{Pending, Piece};
use crate::error::{Context, Result};

/// An address space with what it still lacks.
///
/// The kernel refuses to put pages (EAGAIN) from the moment at which the program begins to change its mappings until
/// the event that tells of it was read. So no page can be put by an outdated list, if events are read and entered
/// while nobody is between looking at the list and putting pages: that is what the gate is for.
#[derive(Debug)]
pub struct Space {
    /// The process; for one that was forked meanwhile, its nearest ancestor that was restored.
    pub pid: i32,
    /// Which pages file its contents are in.
    pub source: usize,
    uffd: Userfaultfd,
    /// Held shared from looking at the list until the pages are put, and alone while events are read and entered.
    gate: RwLock<()>,
    pending: Mutex<Pending>,
    gone: AtomicBool,
}

/// What became of an attempt to put pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Whoever waits goes on.
    Done,
    /// The program is changing its mappings: read the events, then try again.
    Changing,
}

impl Space {
    /// An address space that lacks the given pages of a pages file.
    pub fn new(pid: i32, source: usize, uffd: Userfaultfd, pending: Pending) -> Self {
        Self {
            pid,
            source,
            uffd,
            gate: RwLock::default(),
            pending: Mutex::new(pending),
            gone: AtomicBool::new(false),
        }
    }

    /// The descriptor, for poll(2).
    pub fn uffd(&self) -> &Userfaultfd {
        &self.uffd
    }

    /// Whether the memory is gone: the process has ended, or executes another program.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Whether it lacks nothing.
    pub fn is_full(&self) -> bool {
        self.is_gone() || self.pending().is_empty()
    }

    /// Whether it lacks anything of a block.
    pub fn lacks(&self, block: u64) -> bool {
        !self.is_gone() && !self.pending().in_block(block).is_empty()
    }

    /// Where the page at an address is stored, if it is still to come.
    pub fn offset_of(&self, page: u64) -> Option<u64> {
        self.pending().offset_of(page)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what it lacks of a block, whose contents are `bytes` and begin at `start` in the pages file. The page
    /// `first`, for which somebody waits, comes first. `put` hears of every piece.
    pub fn put_block(
        &self,
        block: u64,
        start: u64,
        bytes: &[u8],
        first: Option<u64>,
        put: &mut dyn FnMut(u64),
    ) -> Result<Put> {
        let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let mut pieces = self.pending().in_block(block);
        if let Some(page) = first {
            advance(&mut pieces, page);
        }
        for piece in pieces {
            let from = (piece.offset - start) as usize;
            let Some(bytes) = bytes.get(from..from + piece.len as usize) else {
                // The size of the pages file was checked against its page map.
                return Err(Errno::IO).task("find its pages in their block", self.pid);
            };
            if self.put_piece(piece, bytes, put)? == Put::Changing {
                return Ok(Put::Changing);
            }
            if self.is_gone() {
                break;
            }
        }
        Ok(Put::Done)
    }

    fn put_piece(&self, piece: Piece, bytes: &[u8], put: &mut dyn FnMut(u64)) -> Result<Put> {
        let mut done = 0;
        let mut limit = piece.len;
        while done < piece.len {
            let at = piece.address + done;
            let len = limit.min(piece.len - done);
            let step = match self
                .uffd
                .copy(at, &bytes[done as usize..(done + len) as usize])
            {
                Ok(step) => step,
                // Nobody else puts pages there; a guard page (MADV_GUARD_INSTALL) is one that the program made.
                Err(Errno::EXIST) => PAGE,
                Err(Errno::AGAIN) => return Ok(Put::Changing),
                Err(Errno::NOENT) if len > PAGE => {
                    // It lies in several mappings by now: mprotect(2) cuts them and tells nobody.
                    limit = (len / 2).next_multiple_of(PAGE);
                    continue;
                }
                // A child may not have all mappings of its parent (MADV_DONTFORK).
                Err(Errno::NOENT) => PAGE,
                Err(Errno::SRCH) => {
                    self.gone.store(true, Ordering::Relaxed);
                    return Ok(Put::Done);
                }
                Err(errno) => return Err(errno).task("put pages into its memory", self.pid),
            };
            self.pending().take(at..at + step);
            put(step);
            done += step;
            limit = limit.saturating_mul(2);
        }
        Ok(Put::Done)
    }

    /// Answers a fault on a page that was not stored: a page of zeroes. One that is there by now wakes who waits.
    pub fn put_zeroes(&self, page: u64) -> Result<Put> {
        let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        if self.offset_of(page).is_some() {
            // It was moved there meanwhile. Looking again is a fault again.
            self.wake(page)?;
            return Ok(Put::Done);
        }
        match self.uffd.zero(page) {
            Ok(()) => {}
            Err(Errno::AGAIN) => return Ok(Put::Changing),
            // It is there, or its mapping is not: whoever waits finds out.
            Err(Errno::EXIST | Errno::NOENT) => self.wake(page)?,
            Err(Errno::SRCH) => self.gone.store(true, Ordering::Relaxed),
            Err(errno) => return Err(errno).task("put a page into its memory", self.pid),
        }
        Ok(Put::Done)
    }

    fn wake(&self, page: u64) -> Result<()> {
        self.uffd.wake(page).task("wake it", self.pid)
    }

    /// Reads and enters what has happened. `born` takes in each child before anything else can be put.
    pub fn read_events(&self, born: &mut dyn FnMut(Space)) -> Result<Vec<u64>> {
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let events = self.uffd.read().task("read its page faults", self.pid)?;
        let mut faults = Vec::new();
        for event in events {
            // The list is locked for each event alone: whoever takes in a child waits for somebody who looks at it.
            match event {
                Event::Fault { address, .. } => faults.push(address),
                Event::Fork(uffd) => {
                    let pending = self.pending().clone();
                    born(Space::new(self.pid, self.source, uffd, pending));
                }
                Event::Remap { from, to, len } => self.pending().remap(from, to, len),
                Event::Remove(range) | Event::Unmap(range) => {
                    self.pending().take(range);
                }
            }
        }
        Ok(faults)
    }
}

/// Brings the piece with a page to the front, cut so that the page itself is the very first.
fn advance(pieces: &mut Vec<Piece>, page: u64) {
    let Some(index) = pieces
        .iter()
        .position(|piece| piece.range().contains(&page))
    else {
        return;
    };
    let piece = pieces.remove(index);
    let skip = page - piece.address;
    let parts = [
        (skip, PAGE),
        (skip + PAGE, piece.len - skip - PAGE),
        (0, skip),
    ];
    let parts = parts.into_iter().filter(|(_, len)| *len > 0);
    pieces.splice(
        0..0,
        parts.map(|(skip, len)| Piece {
            address: piece.address + skip,
            offset: piece.offset + skip,
            len,
        }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_that_is_waited_for_comes_first() {
        let piece = |address, len| Piece {
            address,
            offset: address + 0x100_0000,
            len,
        };
        let mut pieces = vec![piece(0x1000, 0x1000), piece(0x4000, 0x3000)];
        advance(&mut pieces, 0x5000);
        let expected = [
            piece(0x5000, 0x1000),
            piece(0x6000, 0x1000),
            piece(0x4000, 0x1000),
            piece(0x1000, 0x1000),
        ];
        assert_eq!(pieces, expected);
        advance(&mut pieces, 0x9000);
        assert_eq!(pieces, expected);
    }
}
