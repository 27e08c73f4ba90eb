//! Filling memory: blocks of pages files are read, checked and written to where they belong by several threads, for many
//! address spaces at the same time.
//!
//! Every worker takes a block, reads it once, and writes its parts; it has one buffer for that, and one for what is there
//! already where that is to be compared.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use cryopod_image::BLOCK_SIZE_BYTES;
use cryopod_image::layers::LayeredPages;
use cryopod_image::set::BlockBuffer;
use cryopod_sys::memory::PAGE;

use crate::error::{Error, Result};
use crate::proc::mem::Mem;
use crate::progress::{Cancel, Progress};
use crate::remote::vdso::find_room;

/// The most workers: with two buffers of a block each, they take less than 64 MiB.
const MAX_WORKERS: usize = 16;

/// A piece of a pages file and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the pages file.
    pub offset: u64,
    /// Where it belongs.
    pub address: u64,
    /// Its length.
    pub len: u64,
    /// What is to be done with it.
    pub how: How,
}

/// What is to be done with a piece of a pages file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum How {
    /// It is written.
    #[default]
    Write,
    /// The parent's pages are there: those that differ are written, the others stay shared.
    Compare,
    /// It is a part of the vdso, which is the kernel's: it has to be the same.
    Check,
}

/// Where the pages of one file belong.
pub trait Destination: Sync {
    /// Writes bytes at an address.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<()>;

    /// Reads what is there.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()>;
}

impl Destination for Mem {
    fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        Mem::write(self, address, bytes)
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        Mem::read(self, address, buffer)
    }
}

/// Contents that are to be put somewhere.
pub struct Job<'a> {
    /// What they are read from.
    pub pages: &'a LayeredPages,
    /// Where they go.
    pub to: &'a dyn Destination,
    /// Which they are, in the order of the pages file.
    pub segments: &'a [Segment],
    /// Where the vdso is.
    pub vdso: Range<u64>,
    /// Whom messages are about.
    pub pid: i32,
}

/// The segments cut at the blocks of the pages file, block by block, so that each block is read and checked once.
pub fn blocks(segments: &[Segment]) -> Vec<Vec<Segment>> {
    let mut blocks: Vec<Vec<Segment>> = Vec::new();
    let mut last = None;
    for segment in segments {
        let mut rest = *segment;
        while rest.len > 0 {
            let block = rest.offset / BLOCK_SIZE_BYTES;
            let len = rest.len.min((block + 1) * BLOCK_SIZE_BYTES - rest.offset);
            let part = Segment { len, ..rest };
            match blocks.last_mut().filter(|_| last == Some(block)) {
                Some(parts) => parts.push(part),
                None => blocks.push(vec![part]),
            }
            last = Some(block);
            rest = Segment {
                offset: rest.offset + len,
                address: rest.address + len,
                len: rest.len - len,
                ..rest
            };
        }
    }
    blocks
}

/// Who fills, and who hears of it.
#[derive(Clone, Copy)]
pub struct Crew<'a> {
    /// How many threads; as many as there are processors when left out.
    pub threads: Option<NonZeroUsize>,
    /// Who hears how far it is.
    pub progress: &'a dyn Progress,
    /// Whether to stop.
    pub cancel: &'a Cancel,
}

/// Does all jobs. Returns how many bytes were put.
pub fn fill(jobs: &[Job<'_>], crew: Crew<'_>) -> Result<u64> {
    let work: Vec<(&Job<'_>, Vec<Segment>)> = jobs
        .iter()
        .flat_map(|job| {
            blocks(job.segments)
                .into_iter()
                .map(move |block| (job, block))
        })
        .collect();
    let threads = crew
        .threads
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, usize::from)
        .min(MAX_WORKERS)
        .min(work.len());
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let failed = Mutex::new(None);
    let worker = || -> Result<()> {
        let mut buffers = Buffers::default();
        while let Some((job, block)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            if crew.cancel.is_requested() {
                return Err(Error::Cancelled);
            }
            let put = buffers.put(job, block)?;
            done.fetch_add(put, Ordering::Relaxed);
            crew.progress.advance(put);
        }
        Ok(())
    };
    let guarded = || {
        if let Err(error) = worker() {
            // Nobody finds anything more to do.
            next.store(work.len(), Ordering::Relaxed);
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(error);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(guarded);
        }
        guarded();
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(done.into_inner()),
    }
}

/// One worker's buffers.
#[derive(Default)]
struct Buffers {
    block: BlockBuffer,
    there: Vec<u8>,
}

impl Buffers {
    /// Reads a block and puts its parts. Returns how many bytes these are.
    fn put(&mut self, job: &Job<'_>, parts: &[Segment]) -> Result<u64> {
        let Some(first) = parts.first() else {
            return Ok(0);
        };
        job.pages
            .read_block(first.offset / BLOCK_SIZE_BYTES, &mut self.block)?;
        let mut put = 0;
        for part in parts {
            let start = (part.offset % BLOCK_SIZE_BYTES) as usize;
            let bytes = &self.block[start..start + part.len as usize];
            match part.how {
                How::Write => job.to.write(part.address, bytes)?,
                How::Compare => {
                    self.there.resize(bytes.len(), 0);
                    job.to.read(part.address, &mut self.there)?;
                    for (start, end) in different(bytes, &self.there) {
                        let at = part.address + start as u64;
                        job.to.write(at, &bytes[start..end])?;
                    }
                }
                How::Check => check_vdso(job, part, bytes)?,
            }
            put += part.len;
        }
        Ok(put)
    }
}

/// Compares the kernel's vdso with a part of the stored one: another one would have its functions elsewhere.
fn check_vdso(job: &Job<'_>, part: &Segment, stored: &[u8]) -> Result<()> {
    let mut here = vec![0; (job.vdso.end - job.vdso.start) as usize];
    job.to.read(job.vdso.start, &mut here)?;
    // Behind its end may lie what an interrupted checkpoint left there.
    let end = find_room(&here).unwrap_or(here.len());
    let skip = (part.address - job.vdso.start) as usize;
    let len = end.saturating_sub(skip).min(stored.len());
    if here.get(skip..skip + len) == stored.get(..len) {
        return Ok(());
    }
    Err(Error::NotRestorable {
        what: format!(
            "pid {}: its vdso is not this kernel's; restore it on the kernel that it ran on",
            job.pid
        ),
    })
}

/// Runs of whole pages in which two buffers differ.
fn different(wanted: &[u8], there: &[u8]) -> Vec<(usize, usize)> {
    let page = PAGE as usize;
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, (one, other)) in wanted.chunks(page).zip(there.chunks(page)).enumerate() {
        if one != other {
            let start = index * page;
            match runs.last_mut() {
                Some((_, end)) if *end == start => *end += one.len(),
                _ => runs.push((start, start + one.len())),
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_that_differ_are_written() {
        let page = PAGE as usize;
        let there = vec![0u8; 4 * page];
        let mut wanted = there.clone();
        wanted[page] = 1;
        wanted[2 * page] = 1;
        assert_eq!(different(&wanted, &there), [(page, 3 * page)]);
    }

    #[test]
    fn segments_are_cut_at_blocks() {
        let block = BLOCK_SIZE_BYTES;
        let segment = Segment {
            offset: block - 4096,
            address: 0x10000,
            len: 8192,
            how: How::Write,
        };
        let blocks = blocks(&[segment]);
        assert_eq!(blocks.len(), 2);
        assert_eq!(
            (blocks[1][0].offset, blocks[1][0].address, blocks[1][0].len),
            (block, 0x11000, 4096)
        );
    }
}
