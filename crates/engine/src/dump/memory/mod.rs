//! The contents of memory: found with PAGEMAP_SCAN, read through /proc/PID/mem, written as runs of pages.
//!
//! - `space`: an address space, and what of its process a copy can tell as well
//! - `runs`: which pages there are
//! - `workers`: threads that read, put in order, hash and write them, piece by piece
//! - `packer`: from pieces of any length to blocks of a pages file
//! - `copies`: copy-on-write copies of processes, so that the tree need not stand still meanwhile; `headroom`: whether
//!   there is room for them
//!
//! Pages full of zeroes are left out of private anonymous memory, where absence means zero. Between the threads go a
//! bounded number of buffers, so cryopod's own memory does not grow with the target's.

mod copies;
mod headroom;
mod packer;
mod runs;
mod saved;
mod space;
mod workers;

use std::num::NonZeroUsize;
use std::time::Instant;

use cryopod_image::{Kind, SetWriter};
use cryopod_sys::Errno;
use cryopod_sys::memory::PAGE;

pub use self::copies::collect;
pub use self::headroom::shortage;
pub use self::space::Space;

use self::copies::Copy;
use self::runs::{Run, file_runs, runs_of, without};
use self::workers::Stream;
use super::report::DumpReport;
use super::shmem::{SharedFile, Shmem};
use crate::error::Result;
use crate::progress::{Cancel, Progress};

/// Everything that is to be read.
#[derive(Debug)]
pub struct Contents {
    /// Private memory.
    spaces: Vec<Space>,
    /// Shared memory that is still to be read.
    shared: Vec<SharedFile>,
    /// What private memory is read from, where that is not the tree itself: as many as there are spaces.
    copies: Option<Vec<Copy>>,
    /// Pages files written so far.
    pages_files: u32,
}

/// Where the contents go, and who hears of it.
pub struct Output<'a> {
    /// The image set.
    pub set: &'a SetWriter,
    /// Number of threads.
    pub jobs: Option<NonZeroUsize>,
    /// Figures.
    pub report: &'a mut DumpReport,
    /// Who hears how far it is.
    pub progress: &'a dyn Progress,
    /// Whether to stop.
    pub cancel: &'a Cancel,
}

impl Contents {
    /// What is to be read of a tree that stands still.
    pub fn new(spaces: Vec<Space>, shared: Shmem) -> Self {
        Self {
            spaces,
            shared: shared.into_files().collect(),
            copies: None,
            pages_files: 0,
        }
    }

    /// Whether the tree itself is still needed.
    pub fn needs_tree(&self) -> bool {
        self.copies.is_none()
    }

    /// Makes copies of all address spaces and writes what copies do not have: the tree is not needed after that. When
    /// the kernel does not make a copy, nothing has changed and the answer is its reason.
    pub fn copy(&mut self, output: &mut Output<'_>) -> Result<std::result::Result<(), Errno>> {
        let mut copies = match Copy::of_all(&self.spaces)? {
            Ok(copies) => copies,
            Err(errno) => return Ok(Err(errno)),
        };
        for (copy, space) in copies.iter_mut().zip(&mut self.spaces) {
            copy.complete(output.set.path(), space)?;
        }
        self.copies = Some(copies);
        let shared = std::mem::take(&mut self.shared);
        self.write_streams(&[], &shared, output)?;
        Ok(Ok(()))
    }

    /// Reads and writes all that is left.
    pub fn write(mut self, output: &mut Output<'_>) -> Result<()> {
        let mut spaces = std::mem::take(&mut self.spaces);
        for (index, space) in spaces.iter_mut().enumerate() {
            let copy = self.copies.as_ref().and_then(|copies| copies.get(index));
            space.describe(output.set, copy)?;
        }
        let shared = std::mem::take(&mut self.shared);
        self.write_streams(&spaces, &shared, output)
    }

    fn write_streams(
        &mut self,
        spaces: &[Space],
        shared: &[SharedFile],
        output: &mut Output<'_>,
    ) -> Result<()> {
        let started = Instant::now();
        let mut streams = Vec::new();
        for (index, space) in spaces.iter().enumerate() {
            let copy = self.copies.as_ref().and_then(|copies| copies.get(index));
            let (runs, read): (_, Read<'_>) = match copy {
                Some(copy) => (
                    copy.runs(space)?,
                    Box::new(|at, buffer| copy.read(at, buffer)),
                ),
                None => (
                    runs_of(space.reader, space.ranges.iter())?,
                    Box::new(|at, buffer| space.mem.read(at, buffer)),
                ),
            };
            let runs = without(runs, &space.kept);
            streams.push(Stream {
                kept: &space.kept,
                ..stream(Kind::Pagemap, space.pid as u64, runs, read)
            });
        }
        for file in shared {
            let read: Read<'_> = Box::new(|at, buffer| file.read(at, buffer));
            let runs = file_runs(file)?;
            streams.push(stream(Kind::PagemapShmem, file.shmid, runs, read));
        }
        let scanned: Vec<u64> = streams.iter().map(Stream::size_bytes).collect();
        let total = scanned.iter().sum();
        output.progress.begin("dump memory", Some(total));
        let written = workers::run(
            output.set,
            &streams,
            self.pages_files + 1,
            output.jobs,
            output.progress,
            output.cancel,
        )?;
        output.progress.end();
        self.pages_files += streams.len() as u32;

        let report = &mut *output.report;
        let (private, of_files) = written.split_at(spaces.len());
        for (space, bytes) in spaces.iter().zip(private) {
            report.processes[space.summary].memory_bytes = *bytes;
        }
        let pages = |bytes: &[u64]| bytes.iter().sum::<u64>() / PAGE;
        let kept = spaces.iter().flat_map(|space| &space.kept);
        let kept_bytes: u64 = kept.map(|range| range.end - range.start).sum();
        report.memory_bytes += total + kept_bytes;
        report.parent_bytes += kept_bytes;
        report.pages_bytes += written.iter().sum::<u64>();
        report.pages_scanned += pages(&scanned[..private.len()]) + kept_bytes / PAGE;
        report.pages_written += pages(private);
        report.shmem_pages_scanned += pages(&scanned[private.len()..]);
        report.shmem_pages_written += pages(of_files);
        report.memory_time += started.elapsed();
        Ok(())
    }
}

type Read<'a> = Box<dyn Fn(u64, &mut [u8]) -> Result<()> + Sync + 'a>;

fn stream(kind: Kind, id: u64, runs: Vec<Run>, read: Read<'_>) -> Stream<'_> {
    Stream {
        kind,
        id,
        runs,
        kept: &[],
        read,
    }
}
