//! The contents of memory: found with PAGEMAP_SCAN, read through /proc/PID/mem, written as runs of pages.
//!
//! - `runs`: which pages there are
//! - `workers`: threads that read, put in order, hash and write them, piece by piece
//! - `packer`: from pieces of any length to blocks of a pages file
//!
//! Pages full of zeroes are left out of private anonymous memory, where absence means zero. Between the threads go a
//! bounded number of buffers, so cryopod's own memory does not grow with the target's.

mod packer;
mod runs;
mod workers;

use std::num::NonZeroUsize;
use std::time::Instant;

use cryopod_image::{Kind, SetWriter};
use cryopod_sys::memory::PAGE;

use self::runs::{Run, file_runs, private_runs};
use self::workers::Stream;
use super::mappings::DumpRange;
use super::report::DumpReport;
use super::shmem::Shmem;
use crate::error::Result;
use crate::proc::mem::Mem;
use crate::progress::{Cancel, Progress};

/// An address space whose contents are to be read.
#[derive(Debug)]
pub struct Space {
    /// Its process.
    pub pid: i32,
    /// Its memory.
    pub mem: Mem,
    /// What to read of it.
    pub ranges: Vec<DumpRange>,
    /// The place of its process in the report.
    pub summary: usize,
}

/// Everything that is to be read.
#[derive(Debug)]
pub struct Contents {
    /// Private memory.
    pub spaces: Vec<Space>,
    /// Shared memory.
    pub shared: Shmem,
}

impl Contents {
    /// Reads and writes all of it, with `jobs` threads.
    pub fn write(
        self,
        set: &SetWriter,
        jobs: Option<NonZeroUsize>,
        report: &mut DumpReport,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<()> {
        let started = Instant::now();
        let files: Vec<_> = self.shared.into_files().collect();
        let mut streams = Vec::new();
        for space in &self.spaces {
            let read = |at, buffer: &mut [u8]| space.mem.read(at, buffer);
            let runs = private_runs(space)?;
            streams.push(stream(
                Kind::Pagemap,
                space.pid as u64,
                runs,
                Box::new(read),
            ));
        }
        for file in &files {
            let read = |at, buffer: &mut [u8]| file.read(at, buffer);
            let runs = file_runs(file)?;
            streams.push(stream(Kind::PagemapShmem, file.shmid, runs, Box::new(read)));
        }
        let scanned: Vec<u64> = streams.iter().map(Stream::size_bytes).collect();
        report.memory_bytes = scanned.iter().sum();
        progress.begin("dump memory", Some(report.memory_bytes));
        let written = workers::run(set, &streams, jobs, progress, cancel)?;
        progress.end();
        report.pages_bytes += written.iter().sum::<u64>();
        let (private, shared) = written.split_at(self.spaces.len());
        for (space, bytes) in self.spaces.iter().zip(private) {
            report.processes[space.summary].memory_bytes = *bytes;
        }
        let pages = |bytes: &[u64]| bytes.iter().sum::<u64>() / PAGE;
        report.pages_scanned += pages(&scanned[..private.len()]);
        report.pages_written += pages(private);
        report.shmem_pages_scanned += pages(&scanned[private.len()..]);
        report.shmem_pages_written += pages(shared);
        report.memory_time = started.elapsed();
        Ok(())
    }
}

type Read<'a> = Box<dyn Fn(u64, &mut [u8]) -> Result<()> + Sync + 'a>;

fn stream(kind: Kind, id: u64, runs: Vec<Run>, read: Read<'_>) -> Stream<'_> {
    Stream {
        kind,
        id,
        runs,
        read,
    }
}
