//! Which pages of an address space are still to come, by where they belong now and by where they are stored.

use std::collections::BTreeMap;
use std::ops::Range;

use cryopod_image::BLOCK_SIZE_BYTES;

/// Adjacent pages that are still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where they belong.
    pub address: u64,
    /// Where they are in the pages file.
    pub offset: u64,
    /// How many bytes they are.
    pub len: u64,
}

impl Piece {
    fn end(&self) -> u64 {
        self.address + self.len
    }

    /// The addresses.
    pub fn range(&self) -> Range<u64> {
        self.address..self.end()
    }

    /// The part from `start` to `end`, both within it.
    fn part(&self, start: u64, end: u64) -> Self {
        Self {
            address: start,
            offset: self.offset + (start - self.address),
            len: end - start,
        }
    }
}

/// A set of pieces that do not overlap, neither in memory nor in the pages file.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    by_address: BTreeMap<u64, Piece>,
    /// The address of each piece, by its offset.
    by_offset: BTreeMap<u64, u64>,
}

impl Pending {
    /// Adds a piece.
    pub fn insert(&mut self, piece: Piece) {
        self.by_address.insert(piece.address, piece);
        self.by_offset.insert(piece.offset, piece.address);
    }

    /// Whether nothing is to come any more.
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// Bytes still to come.
    pub fn bytes(&self) -> u64 {
        self.by_address.values().map(|piece| piece.len).sum()
    }

    /// All pieces by address.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.by_address.values()
    }

    /// Whether anything of a range is to come.
    pub fn lacks(&self, range: &Range<u64>) -> bool {
        let last = self.by_address.range(..range.end).next_back();
        last.is_some_and(|(_, piece)| piece.end() > range.start)
    }

    /// Where the page at an address is stored, if it is still to come.
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        let (_, piece) = self.by_address.range(..=address).next_back()?;
        (address < piece.end()).then(|| piece.offset + (address - piece.address))
    }

    /// The pieces within one block of the pages file.
    pub fn in_block(&self, block: u64) -> Vec<Piece> {
        let (start, end) = (block * BLOCK_SIZE_BYTES, (block + 1) * BLOCK_SIZE_BYTES);
        let mut found = Vec::new();
        for (_, address) in self.by_offset.range(..end).rev() {
            let Some(piece) = self.by_address.get(address) else {
                continue;
            };
            if piece.offset + piece.len <= start {
                break;
            }
            let (from, to) = (piece.offset.max(start), (piece.offset + piece.len).min(end));
            let at = piece.address + (from - piece.offset);
            found.push(piece.part(at, at + (to - from)));
        }
        found.reverse();
        found
    }

    /// Takes out everything that belongs into a range, in order of address.
    pub fn take(&mut self, range: Range<u64>) -> Vec<Piece> {
        if range.is_empty() {
            return Vec::new();
        }
        let reaching_in = self.by_address.range(..range.start).next_back();
        let first = reaching_in
            .filter(|(_, piece)| piece.end() > range.start)
            .map_or(range.start, |(address, _)| *address);
        let found: Vec<Piece> = self
            .by_address
            .range(first..range.end)
            .map(|(_, piece)| *piece)
            .collect();
        let mut taken = Vec::with_capacity(found.len());
        for piece in found {
            self.by_address.remove(&piece.address);
            self.by_offset.remove(&piece.offset);
            let (start, end) = (piece.address.max(range.start), piece.end().min(range.end));
            if piece.address < start {
                self.insert(piece.part(piece.address, start));
            }
            if end < piece.end() {
                self.insert(piece.part(end, piece.end()));
            }
            taken.push(piece.part(start, end));
        }
        taken
    }

    /// The program has moved a range; what was at its new place is gone.
    pub fn remap(&mut self, from: u64, to: u64, len: u64) {
        let moved = self.take(from..from.saturating_add(len));
        self.take(to..to.saturating_add(len));
        for piece in moved {
            self.insert(Piece {
                address: to + (piece.address - from),
                ..piece
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = 4096;

    #[test]
    fn a_piece_is_found_by_page_and_by_block() {
        let mut pending = Pending::default();
        pending.insert(Piece {
            address: 0x10000,
            offset: BLOCK_SIZE_BYTES - PAGE,
            len: 3 * PAGE,
        });
        assert_eq!(pending.offset_of(0x11000), Some(BLOCK_SIZE_BYTES));
        assert_eq!(pending.offset_of(0x13000), None);
        assert_eq!(pending.offset_of(0xf000), None);
        assert_eq!(pending.in_block(0)[0].range(), 0x10000..0x11000);
        assert_eq!(pending.in_block(1)[0].range(), 0x11000..0x13000);
        assert!(pending.in_block(2).is_empty());
        assert_eq!(pending.bytes(), 3 * PAGE);
    }

    /// What a program may do with its mappings, in pages.
    #[derive(Clone, Debug)]
    enum Step {
        Drop(u64, u64),
        Move(u64, u64, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let drop = (0..64u64, 1..20u64).prop_map(|(at, len)| Step::Drop(at, len));
        // As for mremap(2), the two places do not overlap.
        let moving =
            (0..64u64, 0..64u64, 1..20u64).prop_filter_map("overlap", |(from, to, len)| {
                (from + len <= to || to + len <= from).then_some(Step::Move(from, to, len))
            });
        prop::collection::vec(prop_oneof![drop, moving], 0..20)
    }

    proptest! {
        /// Against a list of single pages.
        #[test]
        fn it_follows_the_program(
            runs in prop::collection::vec((1..8u64, 1..300u64), 1..8),
            steps in steps(),
        ) {
            let mut pending = Pending::default();
            let mut model: BTreeMap<u64, u64> = BTreeMap::new();
            let (mut page, mut stored) = (0, 0);
            for (len, gap) in runs {
                pending.insert(Piece { address: page * PAGE, offset: stored * PAGE, len: len * PAGE });
                for index in 0..len {
                    model.insert(page + index, stored + index);
                }
                page += len + gap % 5;
                stored += len + gap;
            }
            for step in steps {
                match step {
                    Step::Drop(at, len) => {
                        pending.take(at * PAGE..(at + len) * PAGE);
                        model.retain(|page, _| !(at..at + len).contains(page));
                    }
                    Step::Move(from, to, len) => {
                        pending.remap(from * PAGE, to * PAGE, len * PAGE);
                        let moved: Vec<_> = (0..len).map(|index| model.remove(&(from + index))).collect();
                        for (index, stored) in (0..).zip(moved) {
                            match stored {
                                Some(stored) => model.insert(to + index, stored),
                                None => model.remove(&(to + index)),
                            };
                        }
                    }
                }
            }
            for page in 0..200 {
                prop_assert_eq!(pending.offset_of(page * PAGE), model.get(&page).map(|stored| stored * PAGE));
            }
            prop_assert_eq!(pending.bytes(), model.len() as u64 * PAGE);
            prop_assert_eq!(pending.is_empty(), model.is_empty());
            let mut by_block: Vec<u64> = (0..20)
                .flat_map(|block| pending.in_block(block))
                .flat_map(|piece| (0..piece.len / PAGE).map(move |index| piece.offset / PAGE + index))
                .collect();
            let mut stored: Vec<u64> = model.values().copied().collect();
            by_block.sort_unstable();
            stored.sort_unstable();
            prop_assert_eq!(by_block, stored);
        }
    }
}
