//! Which pages there are.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;

use cryopod_sys::Errno;
use cryopod_sys::memory::PAGE;
use cryopod_sys::pagemap::{Region, scan};

use crate::dump::mappings::DumpRange;
use crate::dump::shmem::SharedFile;
use crate::error::{Context, Error, Result};
use crate::proc;

/// A run of pages to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Whether pages of zeroes may be left out.
    pub sparse: bool,
}

/// Runs of pages that are there, in ranges of the address space of a process.
pub fn runs_of<'r>(pid: i32, ranges: impl Iterator<Item = &'r DumpRange>) -> Result<Vec<Run>> {
    let path = proc::path(pid, "pagemap");
    let pagemap = File::open(&path).map_err(|source| Error::Path {
        operation: "open",
        path,
        source,
    })?;
    let mut runs: Vec<Run> = Vec::new();
    for range in ranges {
        let sparse = !range.file && !range.all;
        let mut add = |start: u64, end: u64| match runs.last_mut() {
            Some(last) if last.end == start && last.sparse == sparse => last.end = end,
            _ => runs.push(Run { start, end, sparse }),
        };
        if range.all {
            add(range.range.start, range.range.end);
            continue;
        }
        let found = |region: Region| add(region.start, region.end);
        scan(
            pagemap.as_fd(),
            range.range.start,
            range.range.end,
            range.file,
            found,
        )
        .task("scan its page map", pid)?;
    }
    Ok(runs)
}

/// Takes ascending ranges out of ascending runs.
pub fn without(runs: Vec<Run>, kept: &[Range<u64>]) -> Vec<Run> {
    if kept.is_empty() {
        return runs;
    }
    let mut left = Vec::with_capacity(runs.len());
    let mut first = 0;
    for run in runs {
        while kept.get(first).is_some_and(|range| range.end <= run.start) {
            first += 1;
        }
        let mut at = run.start;
        for range in kept[first..]
            .iter()
            .take_while(|range| range.start < run.end)
        {
            if range.start > at {
                let (start, end) = (at, range.start);
                left.push(Run { start, end, ..run });
            }
            at = range.end;
        }
        if at < run.end {
            left.push(Run { start: at, ..run });
        }
    }
    left
}

/// Runs of a file of memory that are not holes: lseek(2), SEEK_DATA.
pub fn file_runs(shared: &SharedFile) -> Result<Vec<Run>> {
    use rustix::fs::{SeekFrom, seek};
    let size = shared.size_bytes.next_multiple_of(PAGE);
    let mut runs = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(&shared.file, SeekFrom::Data(at)) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno).host("find data in shared memory"),
        };
        let end = seek(&shared.file, SeekFrom::Hole(start)).host("find holes in shared memory")?;
        let end = end.next_multiple_of(PAGE).min(size);
        runs.push(Run {
            start: start / PAGE * PAGE,
            end,
            sparse: true,
        });
        at = end;
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_not_read() {
        let run = |start, end| Run {
            start,
            end,
            sparse: true,
        };
        let runs = vec![run(0, 4), run(6, 9), run(12, 20)];
        let kept = [1..2, 3..7, 8..9, 11..13, 15..16, 19..30];
        assert_eq!(
            without(runs.clone(), &kept),
            [run(0, 1), run(2, 3), run(7, 8), run(13, 15), run(16, 19)]
        );
        assert_eq!(without(runs.clone(), &[]), runs);
        let all = 0..20;
        assert!(without(runs, std::slice::from_ref(&all)).is_empty());
    }
}
