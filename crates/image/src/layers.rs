//! Pagemaps that build on others: where every page is, in the set itself or in one of its parents.
//!
//! A run marked [`PARENT`](crate::pagemap::page_flags::PARENT) is looked for under the same kind and number in the parent
//! set, and may be its parent's in turn. The pages files of all sets in which something was found are thought of as laid end to
//! end, each beginning at a multiple of [`BLOCK_SIZE_BYTES`], so that whoever reads by block reads each block of each file
//! once and need not know that there are several.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::digest::BLOCK_SIZE_BYTES;
use crate::error::Error;
use crate::kind::Kind;
use crate::pagemap::{PageRun, Pagemap, PagemapFault, page_flags};
use crate::set::{BlockBuffer, PagesReader, SetReader};

/// A pagemap with everything that it takes from parents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayeredPagemap {
    /// All runs by ascending address. All are present, and their offsets are those in [`LayeredPages`].
    pub runs: Vec<PageRun>,
    layers: Vec<Layer>,
}

/// A pages file that has some of the pages.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layer {
    /// How many parents lie between it and the first set.
    depth: u32,
    pages_id: u32,
    /// Where it begins among all, a multiple of [`BLOCK_SIZE_BYTES`].
    start_bytes: u64,
    /// What its own pagemap says that it has.
    size_bytes: u64,
}

impl LayeredPagemap {
    /// Reads the pagemap of a process ([`Kind::Pagemap`], its pid) or of shared memory ([`Kind::PagemapShmem`]), and those of
    /// the set's parents as far as they are needed.
    ///
    /// # Errors
    ///
    /// Those of [`Pagemap::read`] and [`SetReader::parent`]; [`Error::NoParent`], [`Error::NotInParent`];
    /// [`Error::PagesElsewhere`] for pages that only a page server has.
    pub fn read(set: &SetReader, kind: Kind, id: u64) -> Result<Self, Error> {
        let path = |set: &SetReader| -> Result<PathBuf, Error> {
            Ok(set.path().join(kind.file_name(Some(id))?))
        };
        let mut layered = Self::default();
        let (mut set, mut depth, mut end_bytes) = (set, 0, 0_u64);
        let mut wanted: Option<Vec<(u64, u64)>> = None;
        loop {
            let map = Pagemap::read(set, kind, id)?;
            let parts = match &wanted {
                None => map
                    .runs
                    .iter()
                    .map(|run| (*run, run.vaddr, run.end()))
                    .collect(),
                Some(wanted) => parts(&map, wanted, &path(set)?)?,
            };
            let overflow = || Error::Pagemap {
                path: set.path().to_owned(),
                entry: 0,
                offset: 0,
                fault: PagemapFault::Overflow,
            };
            let size_bytes = map.pages_bytes();
            let mut inherited = Vec::new();
            let mut used = false;
            for (run, start, end) in parts {
                if run.in_parent() {
                    inherited.push((start, end));
                    continue;
                }
                if !run.is_present() {
                    let (path, address) = (path(set)?, start);
                    return Err(Error::PagesElsewhere { path, address });
                }
                used = true;
                let offset = run.pages_offset_bytes + (start - run.vaddr);
                layered.runs.push(PageRun {
                    vaddr: start,
                    nr_pages: (end - start) / crate::pagemap::PAGE_SIZE_BYTES,
                    flags: page_flags::PRESENT,
                    pages_offset_bytes: end_bytes.checked_add(offset).ok_or_else(overflow)?,
                });
            }
            if used {
                layered.layers.push(Layer {
                    depth,
                    pages_id: map.pages_id,
                    start_bytes: end_bytes,
                    size_bytes,
                });
                end_bytes = size_bytes
                    .checked_next_multiple_of(BLOCK_SIZE_BYTES)
                    .and_then(|size| size.checked_add(end_bytes))
                    .ok_or_else(overflow)?;
            }
            if inherited.is_empty() {
                break;
            }
            let path = path(set)?;
            set = set.parent()?.ok_or(Error::NoParent { path })?;
            wanted = Some(inherited);
            depth += 1;
        }
        layered.runs.sort_by_key(|run| run.vaddr);
        Ok(layered)
    }

    /// Number of bytes of all runs.
    #[must_use]
    pub fn pages_bytes(&self) -> u64 {
        self.runs.iter().map(PageRun::size_bytes).sum()
    }

    /// Opens the pages files behind it, of the set that it was read from.
    ///
    /// # Errors
    ///
    /// Those of [`SetReader::pages`] and [`SetReader::parent`]; [`Error::PagesTooShort`].
    pub fn open(&self, set: &SetReader) -> Result<LayeredPages, Error> {
        let mut parts = Vec::with_capacity(self.layers.len());
        let (mut set, mut depth) = (set, 0);
        for layer in &self.layers {
            while depth < layer.depth {
                let path = set.path().to_owned();
                set = set.parent()?.ok_or(Error::NoParent { path })?;
                depth += 1;
            }
            let file = set.pages(layer.pages_id)?;
            if file.size_bytes() < layer.size_bytes {
                return Err(Error::PagesTooShort {
                    path: file.path().to_owned(),
                    found_bytes: file.size_bytes(),
                    expected_bytes: layer.size_bytes,
                });
            }
            parts.push((layer.start_bytes / BLOCK_SIZE_BYTES, file));
        }
        Ok(LayeredPages { parts })
    }
}

/// The parts of `map` that lie in `wanted`, which are ascending; all of them must be there. `path` is that of the map.
fn parts(
    map: &Pagemap,
    wanted: &[(u64, u64)],
    path: &std::path::Path,
) -> Result<Vec<(PageRun, u64, u64)>, Error> {
    let mut runs = map.runs.iter().peekable();
    let mut parts = Vec::new();
    for &(start, end) in wanted {
        let mut at = start;
        while at < end {
            while runs.next_if(|run| run.end() <= at).is_some() {}
            let Some(run) = runs.peek().filter(|run| run.vaddr <= at) else {
                return Err(Error::NotInParent {
                    path: path.to_owned(),
                    address: at,
                });
            };
            let to = run.end().min(end);
            parts.push((**run, at, to));
            at = to;
        }
    }
    Ok(parts)
}

/// The pages files behind a [`LayeredPagemap`], as if they were one.
pub struct LayeredPages {
    /// Each with the number of its first block.
    parts: Vec<(u64, PagesReader)>,
}

impl LayeredPages {
    /// Reads a block; see [`PagesReader::read_block`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read_block(&self, index: u64, buffer: &mut BlockBuffer) -> Result<(), Error> {
        let (first, part) = self.part(index)?;
        part.read_block(index - first, buffer)
    }

    /// Fills `buffer` with what is at `offset`; see [`PagesReader::read_exact_at`]. All of it must be in one file, as a run
    /// always is.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let (first, part) = self.part(offset / BLOCK_SIZE_BYTES)?;
        part.read_exact_at(offset - first * BLOCK_SIZE_BYTES, buffer)
    }

    /// The descriptors behind it, for a process that closes all others.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.parts.iter().flat_map(|(_, part)| part.descriptors())
    }

    /// The file that has a block, with the number of its first.
    fn part(&self, index: u64) -> Result<(u64, &PagesReader), Error> {
        let behind = self.parts.partition_point(|(first, _)| *first <= index);
        let part = behind.checked_sub(1).and_then(|at| self.parts.get(at));
        let (first, part) = part.ok_or_else(|| Error::OutOfRange {
            path: PathBuf::from("pages"),
            offset: index.saturating_mul(BLOCK_SIZE_BYTES),
            size_bytes: BLOCK_SIZE_BYTES,
            file_bytes: 0,
        })?;
        Ok((*first, part))
    }
}
