//! Guards: pages of a mapping that fault when they are touched (MADV_GUARD_INSTALL of madvise(2), Linux 6.13).

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;

use cryopod_image::criu::{VmaEntry, vma_status as status};
use cryopod_sys::{Errno, pagemap};

use super::mappings::DumpRange;
use crate::error::{Context, Error, Result};
use crate::proc::{self, maps::Mapping};

/// The guards in mappings of a process, ascending.
pub fn find<'m>(pid: i32, maps: impl Iterator<Item = &'m Mapping>) -> Result<Vec<Range<u64>>> {
    let path = proc::path(pid, "pagemap");
    let pagemap = File::open(&path).map_err(|source| Error::Path {
        operation: "open",
        path,
        source,
    })?;
    let mut guards: Vec<Range<u64>> = Vec::new();
    for mapping in maps.filter(|mapping| mapping.is_user()) {
        let found = |region: pagemap::Region| match guards.last_mut() {
            Some(last) if last.end == region.start => last.end = region.end,
            _ => guards.push(region.start..region.end),
        };
        match pagemap::guards(pagemap.as_fd(), mapping.start, mapping.end, found) {
            // Before Linux 6.15 they cannot be told.
            Err(Errno::INVAL) => return Ok(Vec::new()),
            scanned => scanned.task("look for guards in its page map", pid)?,
        }
    }
    Ok(guards)
}

/// As images have it.
pub fn entry(guard: &Range<u64>) -> VmaEntry {
    VmaEntry {
        start: guard.start,
        end: guard.end,
        status: status::AREA_GUARD,
        fd: -1,
        ..VmaEntry::default()
    }
}

/// Takes guards out of what is read: they look like pages in swap, and cannot be read.
pub fn cut(ranges: Vec<DumpRange>, guards: &[Range<u64>]) -> Vec<DumpRange> {
    let mut pieces = Vec::with_capacity(ranges.len());
    for one in ranges {
        let first = guards.partition_point(|guard| guard.end <= one.range.start);
        let mut at = one.range.start;
        let within = guards[first..]
            .iter()
            .take_while(|guard| guard.start < one.range.end);
        let ends = within.map(|guard| (guard.start, guard.end));
        for (start, end) in ends.chain([(one.range.end, one.range.end)]) {
            if start > at {
                pieces.push(DumpRange {
                    range: at..start,
                    ..one.clone()
                });
            }
            at = at.max(end);
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_one(range: Range<u64>, guards: &[Range<u64>]) -> Vec<Range<u64>> {
        let one = DumpRange {
            range,
            file: false,
            all: false,
            not_copied: false,
        };
        cut(vec![one], guards)
            .into_iter()
            .map(|piece| piece.range)
            .collect()
    }

    #[test]
    fn what_is_guarded_is_not_read() {
        let guards = [2..3, 5..8, 9..12];
        assert_eq!(cut_one(0..10, &guards), [0..2, 3..5, 8..9]);
        assert_eq!(cut_one(5..8, &guards), []);
        assert_eq!(cut_one(3..5, &guards), std::slice::from_ref(&(3..5)));
        assert_eq!(cut_one(10..20, &guards), std::slice::from_ref(&(12..20)));
        assert_eq!(cut_one(0..1, &[]), std::slice::from_ref(&(0..1)));
    }
}
