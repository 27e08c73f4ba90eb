//! PAGEMAP_SCAN: which pages of an address space are there.
//!
//! Documentation/admin-guide/mm/pagemap.rst. The ioctl came with Linux 6.7.

use std::mem::size_of;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Errno, Result, check};

/// `PAGE_IS_*` categories.
pub mod category {
    /// The page is write-protected by userfaultfd's asynchronous mode or is not (written since).
    pub const WRITTEN: u64 = 1 << 1;
    /// The page belongs to a file (shared anonymous memory counts as one).
    pub const FILE: u64 = 1 << 2;
    /// The page is in memory.
    pub const PRESENT: u64 = 1 << 3;
    /// The page is in swap.
    pub const SWAPPED: u64 = 1 << 4;
    /// The page is the shared page of zeroes.
    pub const PFNZERO: u64 = 1 << 5;
    /// The page is mapped by a huge entry.
    pub const HUGE: u64 = 1 << 6;
    /// No page but a guard: MADV_GUARD_INSTALL of madvise(2). Since Linux 6.15.
    pub const GUARD: u64 = 1 << 8;
}

/// A run of pages of the same categories (`struct page_region`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Address behind the last page.
    pub end: u64,
    /// `category` bits.
    pub categories: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong =
    (3 << 30) | ((size_of::<ScanArg>() as libc::c_ulong) << 16) | (0x66 << 8) | 16;

/// Scans `start..end` of the address space behind an open /proc/PID/pagemap for pages that are present or swapped, not
/// the zero page, and (with `anonymous_only`) not a file's. `found` is called for each run, in ascending order.
pub fn scan(
    pagemap: BorrowedFd<'_>,
    start: u64,
    end: u64,
    anonymous_only: bool,
    found: impl FnMut(Region),
) -> Result<()> {
    let unwanted = category::PFNZERO | if anonymous_only { category::FILE } else { 0 };
    let wanted = ScanArg {
        category_inverted: unwanted,
        category_mask: unwanted,
        category_anyof_mask: category::PRESENT | category::SWAPPED,
        return_mask: category::PRESENT | category::SWAPPED | category::HUGE,
        ..ScanArg::default()
    };
    run(pagemap, start, end, wanted, found)
}

/// Scans `start..end` like [`scan`], also telling which pages were written to ([`category::WRITTEN`]) since they were last
/// scanned so, and protects them again in the same step (`PM_SCAN_WP_MATCHING`). Says nothing about mappings that no
/// userfaultfd [follows](crate::userfaultfd::Userfaultfd::register_writes).
pub fn scan_written(
    pagemap: BorrowedFd<'_>,
    start: u64,
    end: u64,
    mut found: impl FnMut(Region),
) -> Result<()> {
    const PROTECT: u64 = 1;
    let wanted = |unwanted| ScanArg {
        flags: PROTECT,
        category_inverted: unwanted,
        category_mask: unwanted,
        category_anyof_mask: category::PRESENT | category::SWAPPED,
        return_mask: category::WRITTEN,
        ..ScanArg::default()
    };
    let unwanted = category::PFNZERO | category::GUARD;
    match run(pagemap, start, end, wanted(unwanted), &mut found) {
        // Before Linux 6.15 guards cannot be told.
        Err(Errno::INVAL) => run(pagemap, start, end, wanted(category::PFNZERO), found),
        scanned => scanned,
    }
}

/// Whether the mapping of a page is followed by a userfaultfd that stops nobody (`PM_SCAN_CHECK_WPASYNC`).
pub fn is_followed(pagemap: BorrowedFd<'_>, page: u64) -> bool {
    const CHECK: u64 = 2;
    let wanted = ScanArg {
        flags: CHECK,
        category_mask: category::PRESENT,
        return_mask: category::PRESENT,
        ..ScanArg::default()
    };
    run(pagemap, page, page + crate::memory::PAGE, wanted, |_| {}).is_ok()
}

/// Scans `start..end` like [`scan`] for guards. EINVAL where the kernel does not tell them.
pub fn guards(
    pagemap: BorrowedFd<'_>,
    start: u64,
    end: u64,
    found: impl FnMut(Region),
) -> Result<()> {
    let wanted = ScanArg {
        category_mask: category::GUARD,
        return_mask: category::GUARD,
        ..ScanArg::default()
    };
    run(pagemap, start, end, wanted, found)
}

fn run(
    pagemap: BorrowedFd<'_>,
    start: u64,
    end: u64,
    wanted: ScanArg,
    mut found: impl FnMut(Region),
) -> Result<()> {
    const BATCH: usize = 512;
    let mut regions = vec![Region::default(); BATCH];
    let mut at = start;
    while at < end {
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            start: at,
            end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: BATCH as u64,
            ..wanted
        };
        // SAFETY: `arg` is live, and its `vec` points to `vec_len` regions that are live and may be written.
        let count = check(i64::from(unsafe {
            libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg)
        }))?;
        regions
            .iter()
            .take(count as usize)
            .copied()
            .for_each(&mut found);
        if arg.walk_end <= at {
            break;
        }
        at = arg.walk_end;
    }
    Ok(())
}

/// Whether any page of `range` is there, be it the shared page of zeroes.
pub fn any_page(pagemap: BorrowedFd<'_>, range: Range<u64>) -> Result<bool> {
    let wanted = ScanArg {
        category_anyof_mask: category::PRESENT | category::SWAPPED,
        ..ScanArg::default()
    };
    Ok(first(pagemap, range, wanted)?.is_some())
}

/// The first page of `range` that is there and not the shared page of zeroes; guards count as pages.
pub fn first_page(pagemap: BorrowedFd<'_>, range: Range<u64>) -> Result<Option<u64>> {
    let wanted = ScanArg {
        category_inverted: category::PFNZERO,
        category_mask: category::PFNZERO,
        category_anyof_mask: category::PRESENT | category::SWAPPED,
        ..ScanArg::default()
    };
    first(pagemap, range, wanted)
}

fn first(pagemap: BorrowedFd<'_>, range: Range<u64>, wanted: ScanArg) -> Result<Option<u64>> {
    let mut region = Region::default();
    let mut arg = ScanArg {
        size: size_of::<ScanArg>() as u64,
        start: range.start,
        end: range.end,
        vec: (&raw mut region) as u64,
        vec_len: 1,
        max_pages: 1,
        return_mask: category::PRESENT,
        ..wanted
    };
    // SAFETY: `arg` is live, and its `vec` points to one region that is live and may be written.
    let count = check(i64::from(unsafe {
        libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg)
    }))?;
    Ok((count > 0).then_some(region.start))
}
