//! Writing pages files.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use crate::digest::{BLOCK_LEN, BLOCK_SIZE_BYTES, FileDigest};
use crate::error::Error;
use crate::set::writer::SetWriter;

/// A pages file being written from beginning to end. Call [`finish`](Self::finish), or the set cannot be finished.
pub struct PagesWriter<'a> {
    set: &'a SetWriter,
    name: String,
    path: PathBuf,
    file: File,
    /// The block that is not full yet; always shorter than a block between calls.
    pending: Vec<u8>,
    blocks: Vec<[u8; 32]>,
}

impl<'a> PagesWriter<'a> {
    pub(super) fn new(set: &'a SetWriter, name: String, path: PathBuf, file: File) -> Self {
        Self {
            set,
            name,
            path,
            file,
            pending: Vec::with_capacity(BLOCK_LEN),
            blocks: Vec::new(),
        }
    }

    /// Adds bytes. Whole blocks given when [`position_bytes`](Self::position_bytes) is at the start of a block are
    /// written from where they are, anything else is gathered into blocks first.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        if !self.pending.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(BLOCK_LEN - self.pending.len()));
            self.pending.extend_from_slice(head);
            bytes = rest;
            if self.pending.len() < BLOCK_LEN {
                return Ok(());
            }
            let block = std::mem::take(&mut self.pending);
            let written = self.write_block(&block);
            self.pending = block;
            self.pending.clear();
            written?;
        }
        let mut blocks = bytes.chunks_exact(BLOCK_LEN);
        for block in &mut blocks {
            self.write_block(block)?;
        }
        self.pending.extend_from_slice(blocks.remainder());
        Ok(())
    }

    /// How many bytes have been added.
    #[must_use]
    pub fn position_bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_SIZE_BYTES + self.pending.len() as u64
    }

    /// Completes the file and returns its size.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn finish(mut self) -> Result<u64, Error> {
        let size_bytes = self.position_bytes();
        if !self.pending.is_empty() {
            let block = std::mem::take(&mut self.pending);
            self.write_block(&block)?;
        }
        self.set
            .finished(FileDigest::of_blocks(self.name, size_bytes, self.blocks));
        Ok(size_bytes)
    }

    fn write_block(&mut self, block: &[u8]) -> Result<(), Error> {
        let offset = self.blocks.len() as u64 * BLOCK_SIZE_BYTES;
        let written = self.file.write_all(block);
        written.map_err(|source| Error::Write {
            path: self.path.clone(),
            offset,
            source,
        })?;
        self.blocks.push(*blake3::hash(block).as_bytes());
        Ok(())
    }
}
