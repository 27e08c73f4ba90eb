//! Which pages are stored of each address space, and what is to be done with them.
//!
//! What a child inherited from its parent is compared first: pages that are equal stay shared, copy-on-write, as they
//! were.

use std::collections::HashMap;
use std::ops::Range;

use cryopod_image::criu::{MmEntry, vma_status as status};
use cryopod_image::layers::{LayeredPagemap, LayeredPages};
use cryopod_image::pagemap::PageRun;
use cryopod_image::{Kind, SetReader};
use cryopod_sys::memory::PAGE;

use super::aio;
use super::fill::{How, Job, Segment, blocks};
use super::mappings::is_huge;
use crate::dump::mappings::KERNELS;
use crate::error::{Error, Result};
use crate::proc::mem::Mem;
use crate::remote::puppet::Puppet;

/// The largest vdso that is looked at; there are a few pages of it.
const MAX_VDSO_BYTES: u64 = 1 << 20;

/// The stored pages of one address space, as they are to be put back.
pub struct Contents {
    pid: i32,
    pages: Option<LayeredPages>,
    /// Runs to put, cut at the ends of mappings, in the order of the pages file.
    segments: Vec<Segment>,
    /// Where the stored pages of the vdso are.
    vdso: Range<u64>,
    /// Rings of asynchronous I/O as they were.
    rings: Vec<PageRun>,
}

/// Which pages of each process are stored, by pid: all of it is read before anything is made, so that it is known how much
/// there will be to do, and that all of it is there.
#[derive(Debug, Default)]
pub struct Maps(HashMap<i32, LayeredPagemap>);

impl Maps {
    /// Reads the page maps of processes.
    pub fn read(set: &SetReader, pids: impl Iterator<Item = i32>) -> Result<Self> {
        let mut maps = HashMap::new();
        for pid in pids {
            maps.insert(pid, LayeredPagemap::read(set, Kind::Pagemap, pid as u64)?);
        }
        Ok(Self(maps))
    }

    /// How much is stored, in bytes.
    pub fn pages_bytes(&self) -> u64 {
        self.0.values().map(LayeredPagemap::pages_bytes).sum()
    }

    /// The map of a process; each is needed once.
    pub fn take(&mut self, pid: i32) -> Result<LayeredPagemap> {
        let map = self.0.remove(&pid);
        map.ok_or_else(|| Error::inconsistent(format!("pagemap-{pid}"), "it was not read"))
    }
}

impl Contents {
    /// Lays the page map of `pid` over its mappings. `inherited` tells which of those came from the parent.
    pub fn new(
        set: &SetReader,
        pid: i32,
        map: &LayeredPagemap,
        mm: &MmEntry,
        inherited: &[bool],
    ) -> Result<Self> {
        let pages = match map.pages_bytes() {
            0 => None,
            _ => Some(map.open(set)?),
        };
        let mut contents = Self {
            pid,
            pages,
            segments: Vec::new(),
            vdso: 0..0,
            rings: Vec::new(),
        };
        let mut vmas = mm.vmas.iter().zip(inherited).peekable();
        for run in &map.runs {
            let mut at = run.vaddr;
            while at < run.end() {
                while vmas.next_if(|(vma, _)| vma.end <= at).is_some() {}
                let Some((vma, inherited)) = vmas.peek().filter(|(vma, _)| vma.start <= at) else {
                    let what = format!("page at {at:#x} outside of every mapping");
                    return Err(Error::inconsistent(format!("pagemap-{pid}"), what));
                };
                let end = run.end().min(vma.end);
                let offset = run.pages_offset_bytes + (at - run.vaddr);
                let segment = |how| Segment {
                    offset,
                    address: at,
                    len: end - at,
                    how,
                };
                if vma.status & status::AREA_VDSO != 0 {
                    contents.add_vdso(at..end)?;
                    contents.segments.push(segment(How::Check));
                } else if aio::is_ring(vma) {
                    contents.rings.push(PageRun {
                        vaddr: at,
                        nr_pages: (end - at) / PAGE,
                        pages_offset_bytes: offset,
                        ..*run
                    });
                } else if vma.status & (status::ANON_PRIVATE | status::FILE_PRIVATE) != 0 {
                    let how = if **inherited {
                        How::Compare
                    } else {
                        How::Write
                    };
                    contents.segments.push(segment(how));
                }
                at = end;
            }
        }
        contents.segments.sort_by_key(|segment| segment.offset);
        Ok(contents)
    }

    fn add_vdso(&mut self, part: Range<u64>) -> Result<()> {
        if self.vdso.is_empty() {
            self.vdso.start = part.start;
        }
        self.vdso.end = part.end;
        if self.vdso.end - self.vdso.start > MAX_VDSO_BYTES {
            let what = "a vdso of that size";
            return Err(Error::inconsistent(format!("mm-{}", self.pid), what));
        }
        Ok(())
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
        let (later, now): (Vec<_>, Vec<_>) = blocks(&self.segments)
            .into_iter()
            .partition(|block| block.iter().all(&may_be));
        self.segments = now.concat();
        later.concat()
    }

    /// Leaves for later what can be filled when the whole tree is there: pages that nobody was or will be born with, and
    /// that can be written at any time.
    pub fn put_off_own(&mut self, mm: &MmEntry, handed_on: &[bool]) -> Vec<Segment> {
        self.put_off(|segment| {
            let behind = mm.vmas.partition_point(|vma| vma.start <= segment.address);
            let own = behind
                .checked_sub(1)
                .is_some_and(|index| !handed_on[index] && !is_huge(&mm.vmas[index]));
            own && segment.how == How::Write
        })
    }

    /// The same address space with other pieces to be put there.
    pub fn with_segments(self, segments: Vec<Segment>) -> Self {
        Self { segments, ..self }
    }

    /// What is to be put into an address space, where that is anything.
    pub fn job<'a>(&'a self, mem: &'a Mem) -> Option<Job<'a>> {
        Some(Job {
            pages: self.pages.as_ref()?,
            to: mem,
            segments: &self.segments,
            vdso: self.vdso.clone(),
            pid: self.pid,
        })
    }

    /// The pages file, when nothing is to be written from it any more.
    pub fn into_pages(self) -> Option<LayeredPages> {
        self.pages
    }
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
}
