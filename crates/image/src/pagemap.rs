//! Pagemaps: which pages of an address space, or of a piece of shared memory, are in a pages file, and where.
//!
//! A pagemap file has a head that names a pages file, then one entry per run of pages, by ascending address. The
//! bytes of the runs that are [present](page_flags::PRESENT) are in the pages file one after the other from its
//! beginning; the other runs have none there. Several pagemaps may name the same pages file.

use std::fmt;

use crate::criu::{PagemapEntry, PagemapHead};
use crate::error::Error;
use crate::kind::Kind;
use crate::set::{EntryReader, EntryWriter, PagesReader, SetReader, SetWriter};

/// Size of a page. Image sets of x86-64 know no other.
pub const PAGE_SIZE_BYTES: u64 = 4096;

/// Bits of [`PageRun::flags`].
pub mod page_flags {
    /// The pages are those of the parent image set.
    pub const PARENT: u32 = 1 << 0;
    /// The pages may be filled in later. If they are not [`PRESENT`] as well, only their owner has them.
    pub const LAZY: u32 = 1 << 1;
    /// The pages are in the pages file.
    pub const PRESENT: u32 = 1 << 2;

    /// All there are.
    pub(super) const KNOWN: u32 = PARENT | LAZY | PRESENT;
}

/// Adjacent pages of the same sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// First address, a multiple of [`PAGE_SIZE_BYTES`]; in shared memory, offset in it.
    pub vaddr: u64,
    /// Number of pages, at least 1.
    pub nr_pages: u64,
    /// [`page_flags`] bits.
    pub flags: u32,
    /// Where the bytes of a present run begin in the pages file; of another, where those of the next begin.
    pub pages_offset_bytes: u64,
}

impl PageRun {
    /// Size of the memory.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.nr_pages * PAGE_SIZE_BYTES
    }

    /// First address behind the run.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.vaddr + self.size_bytes()
    }

    /// Whether the bytes are in the pages file.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.flags & page_flags::PRESENT != 0
    }

    /// Whether the bytes are those of the parent image set.
    #[must_use]
    pub fn in_parent(&self) -> bool {
        self.flags & page_flags::PARENT != 0
    }

    /// Whether the bytes may be filled in later.
    #[must_use]
    pub fn is_lazy(&self) -> bool {
        self.flags & page_flags::LAZY != 0
    }
}

/// What is wrong with an entry of a pagemap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PagemapFault {
    /// The address is not that of a page.
    Unaligned,
    /// There are no pages in it.
    Empty,
    /// It reaches beyond the end of any address space.
    Overflow,
    /// It begins before the run in front of it ends.
    OutOfOrder,
    /// Its flags contradict each other or are not known.
    Flags,
}

impl fmt::Display for PagemapFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unaligned => "its address is not a multiple of the page size",
            Self::Empty => "it has no pages",
            Self::Overflow => "it reaches beyond the end of the address space",
            Self::OutOfOrder => "it begins before the one in front of it ends",
            Self::Flags => "its flags make no sense",
        })
    }
}

/// A pagemap that has been checked: runs are in order, not empty, do not overlap and do not overflow.
///
/// The memory it takes is bounded by the size of the file, not by the number of pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pagemap {
    /// Number of the pages file.
    pub pages_id: u32,
    /// All runs by ascending address.
    pub runs: Vec<PageRun>,
}

impl Pagemap {
    /// Reads the pagemap of a process ([`Kind::Pagemap`], its pid) or of shared memory ([`Kind::PagemapShmem`]).
    ///
    /// # Errors
    ///
    /// Those of [`SetReader::entries`] and [`EntryReader::next_entry`]; [`Error::NoEntry`], [`Error::Pagemap`].
    pub fn read(set: &SetReader, kind: Kind, id: u64) -> Result<Self, Error> {
        Self::read_entries(set.entries(kind, Some(id))?)
    }

    pub(crate) fn read_entries(mut reader: EntryReader<'_>) -> Result<Self, Error> {
        let head: PagemapHead = reader.expect_entry()?;
        let mut checker = Checker::default();
        let mut runs = Vec::new();
        loop {
            let offset = reader.offset();
            let Some(entry) = reader.next_entry::<PagemapEntry>()? else {
                break;
            };
            let run = checker.check(&entry).map_err(|fault| Error::Pagemap {
                path: reader.path().to_owned(),
                entry: runs.len() as u64 + 1,
                offset,
                fault,
            })?;
            runs.push(run);
        }
        Ok(Self {
            pages_id: head.pages_id,
            runs,
        })
    }

    /// Number of bytes all present runs have in the pages file.
    #[must_use]
    pub fn pages_bytes(&self) -> u64 {
        self.runs
            .iter()
            .filter(|run| run.is_present())
            .map(PageRun::size_bytes)
            .sum()
    }

    /// Checks that a pages file has the bytes of all runs.
    ///
    /// # Errors
    ///
    /// [`Error::PagesTooShort`].
    pub fn check_pages(&self, pages: &PagesReader) -> Result<(), Error> {
        let (found_bytes, expected_bytes) = (pages.size_bytes(), self.pages_bytes());
        if found_bytes < expected_bytes {
            return Err(Error::PagesTooShort {
                path: pages.path().to_owned(),
                found_bytes,
                expected_bytes,
            });
        }
        Ok(())
    }
}

/// A pagemap being written. Call [`finish`](Self::finish), or the set cannot be finished.
///
/// It checks what it is given as a reader would: a mistake shows up when it is made.
pub struct PagemapWriter<'a> {
    file: EntryWriter<'a>,
    checker: Checker,
    count: u64,
}

impl<'a> PagemapWriter<'a> {
    /// Starts the pagemap of a process ([`Kind::Pagemap`], its pid) or of shared memory ([`Kind::PagemapShmem`])
    /// whose bytes go to the pages file `pages_id`.
    ///
    /// # Errors
    ///
    /// Those of [`SetWriter::entries`] and of [`EntryWriter`].
    pub fn create(set: &'a SetWriter, kind: Kind, id: u64, pages_id: u32) -> Result<Self, Error> {
        let mut file = set.entries(kind, Some(id))?;
        file.push(&PagemapHead { pages_id })?;
        Ok(Self {
            file,
            checker: Checker::default(),
            count: 0,
        })
    }

    /// Adds a run behind the last one. `vaddr` and `flags` are as in [`PageRun`].
    ///
    /// # Errors
    ///
    /// Those of [`EntryWriter::push`]; [`Error::Pagemap`] for a run no reader would accept.
    pub fn push(&mut self, vaddr: u64, nr_pages: u64, flags: u32) -> Result<(), Error> {
        // Readers older than the wide field take the narrow one, so no entry may exceed that.
        let mut vaddr = vaddr;
        let mut left = nr_pages;
        loop {
            let part = left.min(u32::MAX.into());
            self.push_part(vaddr, part, flags)?;
            left -= part;
            if left == 0 {
                return Ok(());
            }
            vaddr += part * PAGE_SIZE_BYTES;
        }
    }

    fn push_part(&mut self, vaddr: u64, nr_pages: u64, flags: u32) -> Result<(), Error> {
        let entry = PagemapEntry {
            vaddr,
            compat_nr_pages: u32::try_from(nr_pages).unwrap_or(u32::MAX),
            in_parent: (flags & page_flags::PARENT != 0).then_some(true),
            flags: Some(flags),
            nr_pages: Some(nr_pages),
        };
        self.count += 1;
        self.checker.check(&entry).map_err(|fault| Error::Pagemap {
            path: self.file.path().to_owned(),
            entry: self.count,
            offset: self.file.offset(),
            fault,
        })?;
        self.file.push(&entry)
    }

    /// Completes the file and returns how many bytes its pages file must have.
    ///
    /// # Errors
    ///
    /// Those of [`EntryWriter::finish`].
    pub fn finish(self) -> Result<u64, Error> {
        self.file.finish()?;
        Ok(self.checker.pages_bytes)
    }
}

/// Checks entries one after the other and finds where their bytes are.
#[derive(Default)]
struct Checker {
    /// First address the next run may have.
    end: u64,
    /// Bytes of the present runs so far.
    pages_bytes: u64,
}

impl Checker {
    fn check(&mut self, entry: &PagemapEntry) -> Result<PageRun, PagemapFault> {
        let flags = flags_of(entry).ok_or(PagemapFault::Flags)?;
        let nr_pages = entry.nr_pages.unwrap_or(entry.compat_nr_pages.into());
        if !entry.vaddr.is_multiple_of(PAGE_SIZE_BYTES) {
            return Err(PagemapFault::Unaligned);
        }
        if nr_pages == 0 {
            return Err(PagemapFault::Empty);
        }
        if entry.vaddr < self.end {
            return Err(PagemapFault::OutOfOrder);
        }
        let size_bytes = nr_pages
            .checked_mul(PAGE_SIZE_BYTES)
            .ok_or(PagemapFault::Overflow)?;
        let end = entry
            .vaddr
            .checked_add(size_bytes)
            .ok_or(PagemapFault::Overflow)?;
        let run = PageRun {
            vaddr: entry.vaddr,
            nr_pages,
            flags,
            pages_offset_bytes: self.pages_bytes,
        };

        // Runs do not overlap, so their sizes cannot add up to more than the highest address.
        self.end = end;
        if run.is_present() {
            self.pages_bytes += size_bytes;
        }
        debug_assert!(self.pages_bytes <= self.end);
        Ok(run)
    }
}

/// The flags of an entry, also of those that predate the field: such an entry is in the parent or present.
fn flags_of(entry: &PagemapEntry) -> Option<u32> {
    let in_parent = entry.in_parent == Some(true);
    let flags = match (entry.flags, in_parent) {
        (Some(flags), true) => flags | page_flags::PARENT,
        (Some(flags), false) => flags,
        (None, true) => page_flags::PARENT,
        (None, false) => page_flags::PRESENT,
    };
    let contradictory = flags & page_flags::PARENT != 0 && flags & page_flags::PRESENT != 0;
    (flags != 0 && flags & !page_flags::KNOWN == 0 && !contradictory).then_some(flags)
}
