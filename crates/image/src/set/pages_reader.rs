//! Reading pages files, by several threads at once.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::{ReadWriteFlags, preadv2};

use crate::digest::{BLOCK_LEN, BLOCK_SIZE_BYTES};
use crate::error::Error;
use crate::set::block::{BlockBuffer, is_aligned};

/// An open pages file.
///
/// Reads take `&self` and have no file position: share it between threads and give each its own blocks.
pub struct PagesReader {
    file: File,
    /// The same file, opened so that reads pass by the page cache; where the file system is better off with that.
    direct: Option<File>,
    path: PathBuf,
    size_bytes: u64,
    /// One digest per block; `None` when nothing is to be checked.
    blocks: Option<Vec<[u8; 32]>>,
}

impl PagesReader {
    pub(super) fn new(
        file: File,
        direct: Option<OwnedFd>,
        path: PathBuf,
        size_bytes: u64,
        blocks: Option<Vec<[u8; 32]>>,
    ) -> Self {
        Self {
            file,
            direct: direct.map(File::from),
            path,
            size_bytes,
            blocks,
        }
    }

    /// Size of the file.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Number of blocks of [`BLOCK_SIZE_BYTES`], counting a short one at the end.
    #[must_use]
    pub fn block_count(&self) -> u64 {
        self.size_bytes.div_ceil(BLOCK_SIZE_BYTES)
    }

    /// Whether reads check digests; if so, reading whole blocks is cheapest.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.blocks.is_some()
    }

    /// The file, as messages call it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptors behind it, for a process that closes all others.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(&self.file)
            .chain(&self.direct)
            .map(AsFd::as_fd)
    }

    /// Reads block `index`, which begins at `index` times [`BLOCK_SIZE_BYTES`]; the last one may be short. What
    /// `buffer` held is replaced.
    ///
    /// A block that is not in the page cache is read past it, because nobody reads it again.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`], [`Error::Read`], [`Error::Truncated`], [`Error::BlockDigest`].
    pub fn read_block(&self, index: u64, buffer: &mut BlockBuffer) -> Result<(), Error> {
        let offset = index.saturating_mul(BLOCK_SIZE_BYTES);
        if offset >= self.size_bytes {
            return Err(self.out_of_range(offset, BLOCK_SIZE_BYTES));
        }
        // At most BLOCK_SIZE_BYTES, so the cast is exact.
        buffer.set_len((self.size_bytes - offset).min(BLOCK_SIZE_BYTES) as usize);
        self.read_verified_block(index, buffer)
    }

    /// Fills `buffer` with what is at `offset`.
    ///
    /// With digests, every block touched is read and checked as a whole.
    ///
    /// # Errors
    ///
    /// As [`read_block`](Self::read_block).
    pub fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let size_bytes = buffer.len() as u64;
        if offset
            .checked_add(size_bytes)
            .is_none_or(|end| end > self.size_bytes)
        {
            return Err(self.out_of_range(offset, size_bytes));
        }
        if self.blocks.is_none() {
            return self.pread_exact(offset, buffer);
        }

        let mut block = BlockBuffer::new();
        let mut rest = buffer;
        let mut offset = offset;
        while !rest.is_empty() {
            let index = offset / BLOCK_SIZE_BYTES;
            let skip = (offset % BLOCK_SIZE_BYTES) as usize;
            let (part, later) = rest.split_at_mut(rest.len().min(BLOCK_LEN - skip));
            if part.len() == BLOCK_LEN {
                self.read_verified_block(index, part)?;
            } else {
                self.read_block(index, &mut block)?;
                part.copy_from_slice(&block[skip..skip + part.len()]);
            }
            offset += part.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Reads block `index` into a buffer of exactly its length.
    fn read_verified_block(&self, index: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let offset = index * BLOCK_SIZE_BYTES;
        if !self.read_past_cache(offset, buffer) {
            self.pread_exact(offset, buffer)?;
        }
        let Some(blocks) = &self.blocks else {
            return Ok(());
        };
        let expected = usize::try_from(index)
            .ok()
            .and_then(|index| blocks.get(index));
        if expected != Some(blake3::hash(buffer).as_bytes()) {
            return Err(Error::BlockDigest {
                path: self.path.clone(),
                block: index,
                offset,
            });
        }
        Ok(())
    }

    /// Tries to fill the buffer without bringing the file into the page cache. If that does not work, for whatever
    /// reason, the ordinary way will, or it will tell why.
    fn read_past_cache(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let Some(direct) = self.direct.as_ref().filter(|_| is_aligned(buffer)) else {
            return false;
        };
        let wanted = buffer.len();
        let cached = {
            let mut parts = [IoSliceMut::new(buffer)];
            preadv2(&self.file, &mut parts, offset, ReadWriteFlags::NOWAIT)
        };
        cached == Ok(wanted) || rustix::io::pread(direct, buffer, offset) == Ok(wanted)
    }

    fn pread_exact(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            match rustix::io::pread(&self.file, &mut buffer[done..], at) {
                // The file became shorter after its size was taken.
                Ok(0) => {
                    let wanted_bytes = (buffer.len() - done) as u64;
                    return Err(Error::Truncated {
                        path: self.path.clone(),
                        offset: at,
                        wanted_bytes,
                        available_bytes: 0,
                    });
                }
                Ok(length) => done += length,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    return Err(Error::Read {
                        path: self.path.clone(),
                        offset: at,
                        source: errno.into(),
                    });
                }
            }
        }
        Ok(())
    }

    fn out_of_range(&self, offset: u64, size_bytes: u64) -> Error {
        Error::OutOfRange {
            path: self.path.clone(),
            offset,
            size_bytes,
            file_bytes: self.size_bytes,
        }
    }
}
