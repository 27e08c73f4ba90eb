//! Which pages were written to since a checkpoint: what incremental dumps leave out.
//!
//! `docs/incremental.md` tells who knows what, why it can be believed, and what happens to each thing that a program may do
//! to its mappings. In short: each address space has a userfaultfd that makes the kernel note writes
//! ([`Userfaultfd::follow_writes`](cryopod_sys::userfaultfd::Userfaultfd::follow_writes)); a tracker process holds them open, with the
//! id of the checkpoint since which the notes are; and a page is left out of a dump only if that is the dump's parent.
//!
//! - [`Tracker`]: the caller's end of a tracker, held for one checkpoint
//! - [`Increment`]: what a dump is told, and [`sweep`]: what is unchanged in one address space
//! - `server`: the tracker process; `wire`: what the two say to each other

mod server;
mod sweep;
mod tracker;
mod wire;

use std::collections::HashMap;
use std::ops::Range;

use cryopod_image::pagemap::{PageRun, Pagemap};
use cryopod_image::{Kind, SetReader};

use crate::dump::memory::Space;

pub use tracker::Tracker;

/// What a dump builds on, and how others can build on it.
pub struct Increment<'a> {
    /// What the set will be known by.
    pub id: String,
    /// The tracker of the tree, if there is one.
    pub tracker: Option<&'a mut Tracker>,
    /// The set of the checkpoint that the tracker names as its [base](Tracker::base), if the dump is to build on it.
    pub parent: Option<&'a SetReader>,
}

impl Increment<'_> {
    /// `cryopod_id` of the parent.
    pub(crate) fn parent_id(&self) -> Option<String> {
        let tracker = self.tracker.as_ref().filter(|_| self.parent.is_some())?;
        tracker.base().map(str::to_owned)
    }

    /// Begins to follow what is not followed yet, finds what the parent has of each address space, and starts the next round. The
    /// tree stands still.
    ///
    /// Nothing that fails here makes a dump fail: more is stored then.
    pub(crate) fn mark(&mut self, spaces: &mut [Space]) {
        let parent = self.parent.filter(|_| self.parent_id().is_some());
        let Some(tracker) = self.tracker.as_mut() else {
            return;
        };
        if let Err(error) = tracker.begin() {
            tracing::warn!(%error, "the tracker is gone: everything is stored");
            self.tracker = None;
            return;
        }
        for space in spaces {
            let unchanged = match tracker.sweep(space) {
                Ok(unchanged) => unchanged,
                Err(error) => {
                    tracing::info!(pid = space.pid, %error, "its memory is not tracked: all of it is stored");
                    continue;
                }
            };
            let Some(parent) = parent else {
                continue;
            };
            match Pagemap::read(parent, Kind::Pagemap, space.pid as u64) {
                Ok(map) => space.kept = overlap(&unchanged, &map.runs),
                Err(error) => {
                    tracing::debug!(pid = space.pid, %error, "nothing of it is in the parent");
                }
            }
        }
    }
}

/// What is both unchanged and in the parent, be it there or in the parent's parent. Pages of zeroes are in neither.
fn overlap(unchanged: &[Range<u64>], parent: &[PageRun]) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut runs = parent
        .iter()
        .filter(|run| run.is_present() || run.in_parent())
        .peekable();
    for range in unchanged {
        while runs.next_if(|run| run.end() <= range.start).is_some() {}
        while let Some(run) = runs.peek().filter(|run| run.vaddr < range.end) {
            let (start, end) = (run.vaddr.max(range.start), run.end().min(range.end));
            match found.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => found.push(start..end),
            }
            if run.end() > range.end {
                break;
            }
            runs.next();
        }
    }
    found
}

/// Userfaultfds by the process whose memory they are about.
type Spaces = HashMap<i32, cryopod_sys::userfaultfd::Userfaultfd>;

#[cfg(test)]
mod tests {
    use cryopod_image::pagemap::page_flags;
    use proptest::prelude::*;

    use super::*;

    fn run(vaddr: u64, nr_pages: u64, flags: u32) -> PageRun {
        PageRun {
            vaddr: vaddr * 4096,
            nr_pages,
            flags,
            pages_offset_bytes: 0,
        }
    }

    fn pages(ranges: &[Range<u64>]) -> Vec<u64> {
        let of = |range: &Range<u64>| range.start / 4096..range.end / 4096;
        ranges.iter().flat_map(of).collect()
    }

    /// Ascending runs from pairs of gap and length.
    fn ranges(spans: &[(u64, u64)]) -> Vec<Range<u64>> {
        let mut at = 0;
        spans
            .iter()
            .map(|(gap, len)| {
                let start = at + gap;
                at = start + len;
                start * 4096..at * 4096
            })
            .collect()
    }

    proptest! {
        #[test]
        fn what_is_kept_is_unchanged_and_in_the_parent(
            unchanged in prop::collection::vec((0..5u64, 1..6u64), 0..20),
            stored in prop::collection::vec((0..5u64, 1..6u64, any::<bool>()), 0..20),
        ) {
            let unchanged = ranges(&unchanged);
            let spans: Vec<(u64, u64)> = stored.iter().map(|(gap, len, _)| (*gap, *len)).collect();
            let stored: Vec<PageRun> = ranges(&spans)
                .iter()
                .zip(&stored)
                .map(|(range, (_, len, above))| {
                    let flags = if *above { page_flags::PARENT } else { page_flags::PRESENT };
                    run(range.start / 4096, *len, flags)
                })
                .collect();
            let in_parent: Vec<u64> = stored
                .iter()
                .flat_map(|run| run.vaddr / 4096..run.end() / 4096)
                .collect();
            let expected: Vec<u64> = pages(&unchanged)
                .into_iter()
                .filter(|page| in_parent.contains(page))
                .collect();
            let found = overlap(&unchanged, &stored);
            prop_assert_eq!(pages(&found), expected);
            prop_assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }

    #[test]
    fn what_only_its_owner_has_is_not_in_the_parent() {
        let whole = 0..10 * 4096;
        let unchanged = std::slice::from_ref(&whole);
        assert!(overlap(unchanged, &[run(1, 2, page_flags::LAZY)]).is_empty());
    }
}
