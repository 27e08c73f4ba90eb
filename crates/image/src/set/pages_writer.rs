//! Writing pages files, by several threads at once.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::digest::{BLOCK_LEN, BLOCK_SIZE_BYTES, FileDigest};
use crate::error::Error;
use crate::set::block::is_aligned;
use crate::set::writer::SetWriter;

/// A pages file being written, block by block, in any order and by any thread. Call [`finish`](Self::finish), or the
/// set cannot be finished.
pub struct PagesWriter<'a> {
    set: &'a SetWriter,
    name: String,
    path: PathBuf,
    file: File,
    /// The same file, opened so that writes pass by the page cache; where the file system is better off with that.
    direct: Option<File>,
    /// Every block, by its index; `None` until it is written.
    blocks: Mutex<Vec<Option<Written>>>,
}

/// Size in bytes and digest of a block.
type Written = (usize, [u8; 32]);

impl<'a> PagesWriter<'a> {
    pub(super) fn new(
        set: &'a SetWriter,
        name: String,
        path: PathBuf,
        file: File,
        direct: Option<OwnedFd>,
    ) -> Self {
        Self {
            set,
            name,
            path,
            file,
            direct: direct.map(File::from),
            blocks: Mutex::new(Vec::new()),
        }
    }

    /// Writes block `index`, which begins at `index` times [`BLOCK_SIZE_BYTES`]. All but the last are that long; each
    /// is written once. A [`BlockBuffer`](super::BlockBuffer) saves a copy.
    ///
    /// # Errors
    ///
    /// [`Error::Write`]; [`Error::OutOfRange`] for a block that is longer than blocks are.
    pub fn write_block(&self, index: u64, block: &[u8]) -> Result<(), Error> {
        let offset = index.saturating_mul(BLOCK_SIZE_BYTES);
        if block.len() > BLOCK_LEN || offset > i64::MAX as u64 - BLOCK_SIZE_BYTES {
            return Err(Error::OutOfRange {
                path: self.path.clone(),
                offset,
                size_bytes: block.len() as u64,
                file_bytes: BLOCK_SIZE_BYTES,
            });
        }
        let digest = *blake3::hash(block).as_bytes();
        let file = match &self.direct {
            Some(direct) if is_aligned(block) => direct,
            _ => &self.file,
        };
        file.write_all_at(block, offset)
            .map_err(|source| Error::Write {
                path: self.path.clone(),
                offset,
                source,
            })?;
        // A block is noted with one assignment: what a thread that panicked left behind is whole.
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let place = index as usize;
        if blocks.len() <= place {
            blocks.resize(place + 1, None);
        }
        blocks[place] = Some((block.len(), digest));
        Ok(())
    }

    /// Completes the file and returns its size in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Unfinished`] when a block is missing, or one before the last is short.
    pub fn finish(self) -> Result<u64, Error> {
        let blocks = self
            .blocks
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let last = blocks.len().saturating_sub(1);
        let mut size_bytes = 0;
        let mut digests = Vec::with_capacity(blocks.len());
        for (index, block) in blocks.into_iter().enumerate() {
            match block {
                Some((len, digest)) if len == BLOCK_LEN || index == last => {
                    size_bytes += len as u64;
                    digests.push(digest);
                }
                _ => return Err(Error::Unfinished { path: self.path }),
            }
        }
        self.set
            .finished(FileDigest::of_blocks(self.name, size_bytes, digests));
        Ok(size_bytes)
    }
}
