//! Which pages there are.

use std::fs::File;
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
