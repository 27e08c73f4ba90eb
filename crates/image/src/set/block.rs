//! A buffer for one block of a pages file, and what it takes to pass by the page cache.

use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;

use crate::digest::BLOCK_LEN;

/// What O_DIRECT asks of memory and file offsets on every file system of today: open(2), "O_DIRECT".
pub(super) const ALIGN_LEN: usize = 4096;

/// Up to one block of bytes, in memory that begins at the start of a page, so that it can be written and read without
/// a copy in the page cache (`O_DIRECT`, open(2)).
#[derive(Debug)]
pub struct BlockBuffer {
    /// Longer than a block by a page; allocated once, so that `start` stays right.
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl BlockBuffer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        let memory = vec![0; BLOCK_LEN + ALIGN_LEN];
        let start = memory.as_ptr().align_offset(ALIGN_LEN);
        // align_offset may decline to answer; then the buffer is merely not aligned.
        let start = if start <= ALIGN_LEN { start } else { 0 };
        Self {
            memory,
            start,
            len: 0,
        }
    }

    /// How many bytes more it takes.
    #[must_use]
    pub fn room(&self) -> usize {
        BLOCK_LEN - self.len
    }

    /// Makes it `len` bytes long, at most a block. What the bytes are is not said.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(BLOCK_LEN);
    }

    /// Adds as much of `bytes` as there is room for, and gives back the rest.
    pub fn fill_from<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (head, rest) = bytes.split_at(bytes.len().min(self.room()));
        let at = self.start + self.len;
        self.memory[at..at + head.len()].copy_from_slice(head);
        self.len += head.len();
        rest
    }
}

impl Default for BlockBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for BlockBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for BlockBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Whether O_DIRECT takes this buffer.
pub(super) fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(ALIGN_LEN) == 0 && bytes.len().is_multiple_of(ALIGN_LEN)
}

/// Whether pages are better written and read past the page cache (`O_DIRECT`, open(2)): on file systems that hand such
/// requests straight to a disk. Pages are read again much later, if ever, and in the cache they cost a copy, the time
/// to find memory for them, and what other programs had there.
pub(super) fn passes_by_cache(dir: BorrowedFd<'_>) -> bool {
    const EXT4: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const F2FS: u64 = 0xf2f5_2010;
    let kind = rustix::fs::fstatfs(dir).map(|stat| stat.f_type as u64);
    matches!(kind, Ok(EXT4 | XFS | F2FS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_and_takes_one_block() {
        let mut buffer = BlockBuffer::new();
        buffer.set_len(BLOCK_LEN - 1);
        assert_eq!(buffer.fill_from(b"abc"), b"bc");
        assert_eq!((buffer.len(), buffer.room()), (BLOCK_LEN, 0));
        assert_eq!(buffer[BLOCK_LEN - 1], b'a');
        assert!(is_aligned(&buffer) && !is_aligned(&buffer[1..]) && !is_aligned(&buffer[..9]));
    }
}
