//! From pieces of any length to the blocks of a pages file.

use cryopod_image::set::BlockBuffer;

/// A block that is ready to be written.
#[derive(Debug)]
pub struct Block {
    /// Its place in the file.
    pub index: u64,
    /// Its bytes.
    pub bytes: BlockBuffer,
}

/// Joins pieces to blocks.
#[derive(Debug, Default)]
pub struct Packer {
    /// The block that is not full yet, where there is one; never empty and never full.
    pending: Option<BlockBuffer>,
    next: u64,
}

impl Packer {
    /// Adds a piece that fills a whole block, and gives the buffer back where it had to be copied.
    pub fn push_block(
        &mut self,
        piece: BlockBuffer,
        spare: &mut Spare,
        full: &mut Vec<Block>,
    ) -> Option<BlockBuffer> {
        if self.pending.is_none() && piece.room() == 0 {
            self.emit(piece, full);
            return None;
        }
        self.push(&piece, spare, full);
        Some(piece)
    }

    /// Adds a piece. Blocks that became full go to `full`.
    pub fn push(&mut self, mut bytes: &[u8], spare: &mut Spare, full: &mut Vec<Block>) {
        while !bytes.is_empty() {
            let mut pending = self.pending.take().unwrap_or_else(|| spare.take());
            bytes = pending.fill_from(bytes);
            if pending.room() == 0 {
                self.emit(pending, full);
            } else {
                self.pending = Some(pending);
            }
        }
    }

    /// Gives out the last block, which is short, where there is one.
    pub fn finish(&mut self, full: &mut Vec<Block>) {
        if let Some(pending) = self.pending.take() {
            self.emit(pending, full);
        }
    }

    fn emit(&mut self, bytes: BlockBuffer, full: &mut Vec<Block>) {
        full.push(Block {
            index: self.next,
            bytes,
        });
        self.next += 1;
    }
}

/// Buffers that nobody uses at the moment.
#[derive(Debug, Default)]
pub struct Spare(Vec<BlockBuffer>);

impl Spare {
    /// An empty buffer.
    pub fn take(&mut self) -> BlockBuffer {
        let mut buffer = self.0.pop().unwrap_or_default();
        buffer.set_len(0);
        buffer
    }

    /// Keeps a buffer for later.
    pub fn put(&mut self, buffer: BlockBuffer) {
        self.0.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use cryopod_image::BLOCK_SIZE_BYTES;

    use super::*;

    const BLOCK: usize = BLOCK_SIZE_BYTES as usize;

    fn whole(byte: u8) -> BlockBuffer {
        let mut buffer = BlockBuffer::new();
        buffer.set_len(BLOCK);
        buffer.fill(byte);
        buffer
    }

    #[test]
    fn whole_blocks_are_not_copied_as_long_as_nothing_is_pending() {
        let (mut packer, mut spare, mut full) = (Packer::default(), Spare::default(), Vec::new());
        assert!(packer.push_block(whole(1), &mut spare, &mut full).is_none());
        packer.push(&[2; 8192], &mut spare, &mut full);
        let back = packer.push_block(whole(3), &mut spare, &mut full);
        assert_eq!(back.as_deref(), Some(&[3; BLOCK][..]));
        packer.finish(&mut full);
        packer.finish(&mut full);
        let lengths: Vec<(u64, usize)> = full.iter().map(|b| (b.index, b.bytes.len())).collect();
        assert_eq!(lengths, [(0, BLOCK), (1, BLOCK), (2, 8192)]);
        assert_eq!((full[1].bytes[8191], full[1].bytes[8192]), (2, 3));
    }
}
