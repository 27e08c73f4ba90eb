//! Filling memory: blocks of the pages file are read, checked and written through /proc/PID/mem by several threads.
//!
//! What a child inherited from its parent is compared first: pages that are equal stay shared, copy-on-write, as they
//! were.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use cryopod_image::criu::{MmEntry, vma_status as status};
use cryopod_image::pagemap::{PageRun, Pagemap};
use cryopod_image::set::{BlockBuffer, PagesReader};
use cryopod_image::{BLOCK_SIZE_BYTES, Kind, SetReader};
use cryopod_sys::memory::PAGE;

use super::aio;
use crate::dump::mappings::KERNELS;
use crate::error::{Error, Result};
use crate::proc::mem::Mem;
use crate::progress::{Cancel, Progress};
use crate::remote::puppet::Puppet;
use crate::remote::vdso::find_room;

/// The stored pages of one address space, as they are to be put back.
pub struct Contents {
    pages: Option<PagesReader>,
    /// Runs to write, cut at the ends of mappings, in the order of the pages file.
    segments: Vec<Segment>,
    /// The vdso as it was.
    vdso: Vec<PageRun>,
    /// Rings of asynchronous I/O as they were.
    rings: Vec<PageRun>,
}

/// A piece of the pages file and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the pages file.
    pub offset: u64,
    /// Where it belongs.
    pub address: u64,
    /// Its length.
    pub len: u64,
    /// The parent's page may be there already.
    compare: bool,
}

/// Which pages of each process are stored, by pid: all of it is read before anything is made, so that it is known how much
/// there will be to do.
#[derive(Debug, Default)]
pub struct Maps(HashMap<i32, Pagemap>);

impl Maps {
    /// Reads the page maps of processes.
    pub fn read(set: &SetReader, pids: impl Iterator<Item = i32>) -> Result<Self> {
        let mut maps = HashMap::new();
        for pid in pids {
            let map = Pagemap::read(set, Kind::Pagemap, pid as u64)?;
            let elsewhere = |run: &PageRun| run.in_parent() || !run.is_present() && run.is_lazy();
            if map.runs.iter().any(elsewhere) {
                return Err(Error::NotRestorable {
                    what: format!("pagemap-{pid}: pages that are in another image set"),
                });
            }
            maps.insert(pid, map);
        }
        Ok(Self(maps))
    }

    /// How much is stored, in bytes.
    pub fn pages_bytes(&self) -> u64 {
        self.0.values().map(Pagemap::pages_bytes).sum()
    }

    /// The map of a process; each is needed once.
    pub fn take(&mut self, pid: i32) -> Result<Pagemap> {
        let map = self.0.remove(&pid);
        map.ok_or_else(|| Error::inconsistent(format!("pagemap-{pid}"), "it was not read"))
    }
}

impl Contents {
    /// Lays the page map of `pid` over its mappings. `inherited` tells which of those came from the parent.
    pub fn new(
        set: &SetReader,
        pid: i32,
        map: &Pagemap,
        mm: &MmEntry,
        inherited: &[bool],
    ) -> Result<Self> {
        let pages = if map.pages_bytes() > 0 {
            Some(set.pages(map.pages_id)?)
        } else {
            None
        };
        if let Some(pages) = &pages {
            map.check_pages(pages)?;
        }
        let mut contents = Self {
            pages,
            segments: Vec::new(),
            vdso: Vec::new(),
            rings: Vec::new(),
        };
        let mut vmas = mm.vmas.iter().zip(inherited).peekable();
        for run in map.runs.iter().filter(|run| run.is_present()) {
            let mut at = run.vaddr;
            while at < run.end() {
                while vmas.next_if(|(vma, _)| vma.end <= at).is_some() {}
                let Some((vma, inherited)) = vmas.peek().filter(|(vma, _)| vma.start <= at) else {
                    let what = format!("page at {at:#x} outside of every mapping");
                    return Err(Error::inconsistent(format!("pagemap-{pid}"), what));
                };
                let end = run.end().min(vma.end);
                let offset = run.pages_offset_bytes + (at - run.vaddr);
                let piece = PageRun {
                    vaddr: at,
                    nr_pages: (end - at) / PAGE,
                    pages_offset_bytes: offset,
                    ..*run
                };
                if vma.status & status::AREA_VDSO != 0 {
                    contents.vdso.push(piece);
                } else if aio::is_ring(vma) {
                    contents.rings.push(piece);
                } else if vma.status & (status::ANON_PRIVATE | status::FILE_PRIVATE) != 0 {
                    contents.segments.push(Segment {
                        offset,
                        address: at,
                        len: end - at,
                        compare: **inherited,
                    });
                }
                at = end;
            }
        }
        contents.segments.sort_by_key(|segment| segment.offset);
        Ok(contents)
    }

    /// The addresses that have stored pages, ascending.
    pub fn present(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = self
            .segments
            .iter()
            .map(|segment| segment.address..segment.address + segment.len)
            .collect();
        ranges.sort_by_key(|range| range.start);
        ranges
    }

    /// What was in a ring of asynchronous I/O; zeroes where nothing is stored. The range is a mapping's.
    pub fn read_kept(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let Some(pages) = &self.pages else {
            return Ok(bytes);
        };
        for run in self.rings.iter().filter(|run| range.contains(&run.vaddr)) {
            let start = (run.vaddr - range.start) as usize;
            let end = start + run.size_bytes() as usize;
            if let Some(part) = bytes.get_mut(start..end) {
                pages.read_exact_at(run.pages_offset_bytes, part)?;
            }
        }
        Ok(bytes)
    }

    /// What is to be written, in the order of the pages file.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Leaves those blocks of the pages file for later of which every part may be, and returns their parts.
    pub fn put_off(&mut self, may_be: impl Fn(&Segment) -> bool) -> Vec<Segment> {
        let (later, now): (Vec<_>, Vec<_>) = self
            .blocks()
            .into_iter()
            .partition(|block| block.iter().all(&may_be));
        self.segments = now.concat();
        later.concat()
    }

    /// The pages file, when nothing is to be written from it any more.
    pub fn into_pages(self) -> Option<PagesReader> {
        self.pages
    }

    /// Writes everything, with as many threads as there are processors.
    pub fn fill(&self, mem: &Mem, progress: &dyn Progress, cancel: &Cancel) -> Result<u64> {
        let Some(pages) = &self.pages else {
            return Ok(0);
        };
        let work = self.blocks();
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(work.len())
            .max(1);
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        let failed = Mutex::new(None);
        let worker = || {
            let mut buffers = Buffers::default();
            while let Some(block) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                if cancel.is_requested() {
                    return Err(Error::Cancelled);
                }
                for segment in block {
                    buffers.put(pages, mem, segment)?;
                    done.fetch_add(segment.len, Ordering::Relaxed);
                    progress.advance(segment.len);
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let guarded = || {
                if let Err(error) = worker() {
                    next.store(usize::MAX / 2, Ordering::Relaxed);
                    failed
                        .lock()
                        .unwrap_or_else(|poisoned| poisoned.into_inner())
                        .get_or_insert(error);
                }
            };
            for _ in 1..threads {
                scope.spawn(guarded);
            }
            guarded();
        });
        match failed
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
        {
            Some(error) => Err(error),
            None => Ok(done.into_inner()),
        }
    }

    /// The segments cut at the blocks of the pages file, block by block, so that each block is read and checked once.
    fn blocks(&self) -> Vec<Vec<Segment>> {
        let mut blocks: Vec<Vec<Segment>> = Vec::new();
        let mut last = None;
        for segment in &self.segments {
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

    /// Compares the kernel's vdso with the stored one: another one would have its functions elsewhere.
    pub fn check_vdso(&self, pid: i32, mem: &Mem) -> Result<()> {
        let Some(pages) = &self.pages else {
            return Ok(());
        };
        for run in &self.vdso {
            let (mut stored, mut here) = (
                vec![0; run.size_bytes() as usize],
                vec![0; run.size_bytes() as usize],
            );
            pages.read_exact_at(run.pages_offset_bytes, &mut stored)?;
            mem.read(run.vaddr, &mut here)?;
            // Behind its end may lie what an interrupted checkpoint left there.
            let end = find_room(&here).unwrap_or(here.len());
            if stored[..end] != here[..end] {
                return Err(Error::NotRestorable {
                    what: format!(
                        "pid {pid}: its vdso is not this kernel's; restore it on the kernel that it ran on"
                    ),
                });
            }
        }
        Ok(())
    }
}

/// One worker's buffers.
#[derive(Default)]
struct Buffers {
    block: BlockBuffer,
    number: Option<u64>,
    there: Vec<u8>,
}

impl Buffers {
    fn put(&mut self, pages: &PagesReader, mem: &Mem, segment: &Segment) -> Result<()> {
        let number = segment.offset / BLOCK_SIZE_BYTES;
        if self.number != Some(number) {
            self.number = None;
            pages.read_block(number, &mut self.block)?;
            self.number = Some(number);
        }
        let start = (segment.offset % BLOCK_SIZE_BYTES) as usize;
        let bytes = &self.block[start..start + segment.len as usize];
        if !segment.compare {
            return mem.write(segment.address, bytes);
        }
        self.there.resize(bytes.len(), 0);
        mem.read(segment.address, &mut self.there)?;
        for (start, end) in different(bytes, &self.there) {
            mem.write(segment.address + start as u64, &bytes[start..end])?;
        }
        Ok(())
    }
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

/// Gives back pages that a child inherited but does not have: it had dropped them itself (MADV_DONTNEED).
pub fn drop_inherited(
    puppet: &Puppet,
    mm: &MmEntry,
    inherited: &[bool],
    own: &[Range<u64>],
    parent: &[Range<u64>],
) -> Result<()> {
    for (vma, _) in mm
        .vmas
        .iter()
        .zip(inherited)
        .filter(|(vma, kept)| **kept && vma.status & KERNELS == 0)
    {
        if vma.status & (status::ANON_PRIVATE | status::FILE_PRIVATE) == 0 {
            continue;
        }
        for gap in gaps(vma.start..vma.end, own) {
            if overlaps(&gap, parent) {
                let args = [
                    gap.start,
                    gap.end - gap.start,
                    libc::MADV_DONTNEED as u64,
                    0,
                    0,
                    0,
                ];
                puppet.must("madvise (drop)", libc::SYS_madvise, args)?;
            }
        }
    }
    Ok(())
}

/// The parts of `range` that none of the ascending `covered` ranges covers.
fn gaps(range: Range<u64>, covered: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let mut at = range.start;
    let first = covered.partition_point(|one| one.end <= range.start);
    for one in covered[first..]
        .iter()
        .take_while(|one| one.start < range.end)
    {
        if one.start > at {
            found.push(at..one.start);
        }
        at = at.max(one.end);
    }
    if at < range.end {
        found.push(at..range.end);
    }
    found
}

fn overlaps(range: &Range<u64>, others: &[Range<u64>]) -> bool {
    let first = others.partition_point(|one| one.end <= range.start);
    others.get(first).is_some_and(|one| one.start < range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_is_not_covered() {
        assert_eq!(gaps(0..10, &[2..3, 5..7]), [0..2, 3..5, 7..10]);
        assert_eq!(gaps(4..6, &[2..3, 5..7]), std::slice::from_ref(&(4..5)));
        assert!(gaps(5..6, &[2..3, 5..7]).is_empty());
        let others = std::slice::from_ref(&(2..4));
        assert!(overlaps(&(0..3), others) && !overlaps(&(0..2), others));
    }

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
            compare: false,
        };
        let contents = Contents {
            pages: None,
            segments: vec![segment],
            vdso: Vec::new(),
            rings: Vec::new(),
        };
        let blocks = contents.blocks();
        assert_eq!(blocks.len(), 2);
        assert_eq!(
            (blocks[1][0].offset, blocks[1][0].address, blocks[1][0].len),
            (block, 0x11000, 4096)
        );
    }
}
