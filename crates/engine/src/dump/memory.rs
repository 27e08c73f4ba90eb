//! The contents of memory: found with PAGEMAP_SCAN, read through /proc/PID/mem, written as runs of pages.
//!
//! One thread reads while another hashes and writes. Between them go a bounded number of buffers, so cryopod's own
//! memory does not grow with the target's. Pages full of zeroes are left out of private anonymous memory, where
//! absence means zero.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use cryopod_image::pagemap::{PagemapWriter, page_flags};
use cryopod_image::set::PagesWriter;
use cryopod_image::{BLOCK_SIZE_BYTES, Kind, SetWriter};
use cryopod_sys::Errno;
use cryopod_sys::memory::PAGE;
use cryopod_sys::pagemap::{Region, scan};

use super::mappings::DumpRange;
use super::report::DumpReport;
use super::shmem::{SharedFile, Shmem};
use crate::error::{Context, Error, Result};
use crate::proc::{self, mem::Mem};
use crate::progress::{Cancel, Progress};

/// Bytes of one buffer on its way from reader to writer.
const BUFFER_BYTES: usize = BLOCK_SIZE_BYTES as usize;
/// Buffers under way at any time.
const BUFFERS: usize = 4;

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

/// A run of pages to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u64,
    end: u64,
    /// Whether pages of zeroes may be left out.
    sparse: bool,
}

impl Contents {
    /// Reads and writes all of it.
    pub fn write(
        self,
        set: &SetWriter,
        report: &mut DumpReport,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<()> {
        let started = Instant::now();
        let mut spaces = Vec::new();
        for space in self.spaces {
            let runs = private_runs(&space)?;
            spaces.push((space, runs));
        }
        let mut shared = Vec::new();
        for file in self.shared.into_files() {
            let runs = file_runs(&file)?;
            shared.push((file, runs));
        }
        let total: u64 = spaces
            .iter()
            .flat_map(|(_, runs)| runs)
            .chain(shared.iter().flat_map(|(_, runs)| runs))
            .map(|run| run.end - run.start)
            .sum();
        report.memory_bytes = total;
        progress.begin("dump memory", Some(total));
        let mut pages_id = 0;
        for (space, runs) in &spaces {
            pages_id += 1;
            let mut copy = Copy {
                set,
                progress,
                cancel,
                scanned: 0,
            };
            let read = |at, buffer: &mut [u8]| space.mem.read(at, buffer);
            let written = copy.run(Kind::Pagemap, space.pid as u64, pages_id, runs, &read)?;
            report.pages_scanned += copy.scanned;
            report.pages_written += written / PAGE;
            report.pages_bytes += written;
            report.processes[space.summary].memory_bytes = written;
        }
        for (file, runs) in &shared {
            pages_id += 1;
            let mut copy = Copy {
                set,
                progress,
                cancel,
                scanned: 0,
            };
            let read = |at, buffer: &mut [u8]| read_file(file, at, buffer);
            let written = copy.run(Kind::PagemapShmem, file.shmid, pages_id, runs, &read)?;
            report.shmem_pages_scanned += copy.scanned;
            report.shmem_pages_written += written / PAGE;
            report.pages_bytes += written;
        }
        progress.end();
        report.memory_time = started.elapsed();
        Ok(())
    }
}

/// Runs of pages that are there, in the ranges of an address space.
fn private_runs(space: &Space) -> Result<Vec<Run>> {
    let path = proc::path(space.pid, "pagemap");
    let pagemap = File::open(&path).map_err(|source| Error::Path {
        operation: "open",
        path,
        source,
    })?;
    let mut runs: Vec<Run> = Vec::new();
    for range in &space.ranges {
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
        .task("scan its page map", space.pid)?;
    }
    Ok(runs)
}

/// Runs of a file of memory that are not holes: lseek(2), SEEK_DATA.
fn file_runs(shared: &SharedFile) -> Result<Vec<Run>> {
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

/// Fills a buffer from a file of memory; behind its end there are zeroes.
fn read_file(shared: &SharedFile, at: u64, buffer: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(&shared.file, &mut buffer[done..], at + done as u64) {
            Ok(0) => {
                buffer[done..].fill(0);
                return Ok(());
            }
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).host("read shared memory"),
        }
    }
    Ok(())
}

/// A piece of memory on its way to the writer: what of `buffer` is stored at which address.
struct Piece {
    buffer: Vec<u8>,
    /// Address, offset in the buffer, length.
    parts: Vec<(u64, usize, usize)>,
}

/// One copy of some runs into a pagemap and a pages file.
struct Copy<'a> {
    set: &'a SetWriter,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
    scanned: u64,
}

impl Copy<'_> {
    /// Returns the bytes written.
    fn run(
        &mut self,
        kind: Kind,
        id: u64,
        pages_id: u32,
        runs: &[Run],
        read: &dyn Fn(u64, &mut [u8]) -> Result<()>,
    ) -> Result<u64> {
        let set = self.set;
        std::thread::scope(|scope| {
            let (full, pieces) = sync_channel(BUFFERS);
            let (empty, buffers) = sync_channel(BUFFERS);
            for _ in 0..BUFFERS {
                let _the_channel_has_room = empty.send(Vec::new());
            }
            let writer = scope.spawn(move || write(set, kind, id, pages_id, &pieces, &empty));
            let fed = self.feed(runs, read, &full, &buffers);
            drop(full);
            let written = writer
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // When the writer failed, feeding failed because of that.
            let written = written?;
            fed.map(|()| written)
        })
    }

    /// Reads all runs, piece by piece.
    fn feed(
        &mut self,
        runs: &[Run],
        read: &dyn Fn(u64, &mut [u8]) -> Result<()>,
        full: &SyncSender<Piece>,
        buffers: &Receiver<Vec<u8>>,
    ) -> Result<()> {
        for run in runs {
            let mut at = run.start;
            while at < run.end {
                if self.cancel.is_requested() {
                    return Err(Error::Cancelled);
                }
                // The writer hangs up only when it failed; its error is the one to tell.
                let Ok(mut buffer) = buffers.recv() else {
                    return Err(Error::Cancelled);
                };
                let len = (run.end - at).min(BUFFER_BYTES as u64) as usize;
                buffer.resize(len, 0);
                read(at, &mut buffer)?;
                let parts = if run.sparse {
                    dense_parts(at, &buffer)
                } else {
                    vec![(at, 0, len)]
                };
                if full.send(Piece { buffer, parts }).is_err() {
                    return Err(Error::Cancelled);
                }
                self.scanned += len as u64 / PAGE;
                self.progress.advance(len as u64);
                at += len as u64;
            }
        }
        Ok(())
    }
}

/// The writer's side: pages as they come, runs joined across pieces.
fn write(
    set: &SetWriter,
    kind: Kind,
    id: u64,
    pages_id: u32,
    pieces: &Receiver<Piece>,
    empty: &SyncSender<Vec<u8>>,
) -> Result<u64> {
    let mut map = PagemapWriter::create(set, kind, id, pages_id)?;
    let mut pages: PagesWriter<'_> = set.pages(pages_id)?;
    let mut open: Option<(u64, u64)> = None;
    for Piece { buffer, parts } in pieces {
        for (address, offset, len) in parts {
            pages.write(&buffer[offset..offset + len])?;
            let end = address + len as u64;
            open = match open {
                Some((start, at)) if at == address => Some((start, end)),
                Some((start, at)) => {
                    map.push(start, (at - start) / PAGE, page_flags::PRESENT)?;
                    Some((address, end))
                }
                None => Some((address, end)),
            };
        }
        let _the_reader_may_be_done = empty.send(buffer);
    }
    if let Some((start, end)) = open {
        map.push(start, (end - start) / PAGE, page_flags::PRESENT)?;
    }
    map.finish()?;
    Ok(pages.finish()?)
}

/// The parts of a buffer that are not full of zeroes, by whole pages.
fn dense_parts(address: u64, buffer: &[u8]) -> Vec<(u64, usize, usize)> {
    let mut parts: Vec<(u64, usize, usize)> = Vec::new();
    for (index, page) in buffer.chunks(PAGE as usize).enumerate() {
        if is_zero(page) {
            continue;
        }
        let offset = index * PAGE as usize;
        match parts.last_mut() {
            Some((_, start, len)) if *start + *len == offset => *len += page.len(),
            _ => parts.push((address + offset as u64, offset, page.len())),
        }
    }
    parts
}

/// Whether a page holds only zeroes. Most pages that are not zero show it in their first bytes.
fn is_zero(page: &[u8]) -> bool {
    page.chunks(64)
        .all(|line| line.iter().fold(0, |bits, byte| bits | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_pages_are_left_out_and_neighbours_joined() {
        let page = PAGE as usize;
        let mut buffer = vec![0u8; 5 * page];
        buffer[page + 7] = 1;
        buffer[3 * page - 1] = 1;
        buffer[4 * page] = 1;
        assert_eq!(
            dense_parts(0x10000, &buffer),
            [(0x11000, page, 2 * page), (0x14000, 4 * page, page)]
        );
        assert!(dense_parts(0, &vec![0; page]).is_empty());
    }
}
