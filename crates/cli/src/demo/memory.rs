//! Memory with contents that look random, can be worked out again at any time, and are checked word by word.

use std::collections::VecDeque;

/// The word at one place: SplitMix64, a permutation of 64 bits with a good spread.
pub(super) fn word(seed: u64, index: u64) -> u64 {
    let mut value = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A large piece of memory that does not change.
pub(super) struct Contents {
    seed: u64,
    words: Vec<u64>,
}

impl Contents {
    /// Fills `bytes` of memory.
    pub(super) fn fill(seed: u64, bytes: u64) -> Self {
        Self {
            seed,
            words: (0..bytes / 8).map(|index| word(seed, index)).collect(),
        }
    }

    /// Checks every word. The sum of all of them, or the first place where something else is.
    pub(super) fn check(&self) -> Result<u64, String> {
        let mut sum = 0_u64;
        for (index, &found) in (0..).zip(&self.words) {
            let expected = word(self.seed, index);
            if found != expected {
                return Err(format!(
                    "memory word {index} is {found:#x} instead of {expected:#x}"
                ));
            }
            sum = sum.rotate_left(1).wrapping_add(found);
        }
        Ok(sum)
    }
}

/// A small piece of memory that changes all the time: the last few numbers counted.
pub(super) struct Ledger {
    numbers: VecDeque<u64>,
}

/// How many numbers a ledger has.
const LEDGER_LEN: usize = 64 << 10;

impl Ledger {
    /// A ledger in which nothing was counted.
    pub(super) fn new() -> Self {
        Self {
            numbers: VecDeque::with_capacity(LEDGER_LEN),
        }
    }

    /// Counts to the next number.
    pub(super) fn count(&mut self) -> u64 {
        let next = self.last() + 1;
        if self.numbers.len() == LEDGER_LEN {
            self.numbers.pop_front();
        }
        self.numbers.push_back(next);
        next
    }

    /// The number counted to.
    pub(super) fn last(&self) -> u64 {
        self.numbers.back().copied().unwrap_or(0)
    }

    /// Checks that no number is missing.
    pub(super) fn check(&self) -> Result<(), String> {
        let first = self.numbers.front().copied().unwrap_or(0);
        match (first..)
            .zip(&self.numbers)
            .find(|(expected, found)| expected != *found)
        {
            None => Ok(()),
            Some((expected, found)) => Err(format!("{found} was counted instead of {expected}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_bit_is_noticed() {
        let mut contents = Contents::fill(7, 1 << 16);
        let sum = contents.check().unwrap();
        assert_eq!(contents.check(), Ok(sum));
        contents.words[777] ^= 1;
        assert!(contents.check().unwrap_err().contains("777"));
    }

    #[test]
    fn a_missing_number_is_noticed() {
        let mut ledger = Ledger::new();
        for expected in 1..=2 * LEDGER_LEN as u64 {
            assert_eq!(ledger.count(), expected);
        }
        assert_eq!(ledger.check(), Ok(()));
        ledger.numbers.remove(100);
        assert!(ledger.check().is_err());
    }
}
