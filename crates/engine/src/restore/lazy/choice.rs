//! What may come later, and what has to be there before the first instruction.

use std::ops::Range;

use cryopod_image::criu::{VmaEntry, vma_extra, vma_status as status};
use cryopod_sys::memory::PAGE;

use crate::dump::mappings::KERNELS;
use crate::restore::fill::Segment;
use crate::restore::plan::{Task, Thread};

/// A mapping with less than this is filled at once: following it would cost more.
const LEAST_BYTES: u64 = 1 << 20;

/// How much of a stack above the stack pointer is in use for certain.
const STACK_BYTES: u64 = 64 << 10;

/// The mappings of a task that may be filled later: not those that came from its parent, and not those that it hands on to
/// its children, which need their contents before, or nothing would be shared.
pub fn lazy(
    task: &Task,
    inherited: &[bool],
    handed_on: &[bool],
    segments: &[Segment],
) -> Vec<Range<u64>> {
    let Some(body) = &task.body else {
        return Vec::new();
    };
    let candidates = body.mm.vmas.iter().zip(inherited).zip(handed_on);
    candidates
        .filter(|((vma, inherited), handed_on)| {
            !**inherited && !**handed_on && can_be_followed(vma)
        })
        .map(|((vma, _), _)| vma.start..vma.end)
        .filter(|range| {
            let within = |segment: &&Segment| range.contains(&segment.address);
            let stored: u64 = segments
                .iter()
                .filter(within)
                .map(|segment| segment.len)
                .sum();
            stored >= LEAST_BYTES
        })
        .collect()
}

/// Whether userfaultfd can stand in for the contents of a mapping until they are there, with the program none the wiser.
fn can_be_followed(vma: &VmaEntry) -> bool {
    let flags = vma.flags as i32;
    let private = flags & libc::MAP_TYPE == libc::MAP_PRIVATE;
    // A locked mapping has all its pages, and a stack grows: neither is worth the exceptions.
    let special = libc::MAP_GROWSDOWN | libc::MAP_LOCKED | libc::MAP_HUGETLB;
    let on_fault = vma.cryopod_extra.unwrap_or(0) & vma_extra::LOCKED_ON_FAULT != 0;
    // A child must find zeroes there, but of a child's birth one learns only which pages the parent lacks.
    let wiped = vma.madv.unwrap_or(0) & 1 << libc::MADV_WIPEONFORK != 0;
    vma.status & status::ANON_PRIVATE != 0
        && vma.status & (KERNELS | status::AREA_STACK) == 0
        && private
        && flags & special == 0
        && !on_fault
        && !wiped
}

/// What is touched as soon as a thread goes on, and what the kernel touches for it at moments when it cannot wait: the
/// tid that it clears and the list of robust futexes that it walks when the thread ends.
pub fn hot(threads: &[Thread]) -> Vec<Range<u64>> {
    threads.iter().flat_map(hot_of_thread).collect()
}

fn hot_of_thread(thread: &Thread) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let mut near = |address: u64, before: u64, behind: u64| {
        let page = address & !(PAGE - 1);
        ranges.push(page.saturating_sub(before)..page.saturating_add(behind));
    };
    if let Some(info) = &thread.core.thread_info {
        let regs = &info.gpregs;
        near(regs.ip, PAGE, 2 * PAGE);
        near(regs.sp, PAGE, STACK_BYTES);
        near(regs.fs_base, PAGE, 2 * PAGE);
        near(regs.gs_base, PAGE, 2 * PAGE);
        near(info.clear_tid_addr, 0, PAGE);
    }
    if let Some(core) = &thread.core.thread_core {
        near(core.futex_rla, 0, 2 * PAGE);
        if let Some(rseq) = &core.rseq_entry {
            near(rseq.rseq_abi_pointer, 0, 2 * PAGE);
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vma(flags: i32, status: u32) -> VmaEntry {
        VmaEntry {
            start: 0x1000,
            end: 0x2000,
            flags: flags as u32,
            status,
            ..VmaEntry::default()
        }
    }

    #[test]
    fn only_plain_private_memory_may_come_later() {
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let regular = status::AREA_REGULAR | status::ANON_PRIVATE;
        assert!(can_be_followed(&vma(anonymous, regular)));
        assert!(can_be_followed(&vma(
            anonymous,
            regular | status::AREA_HEAP
        )));
        for flags in [
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            anonymous | libc::MAP_GROWSDOWN,
            anonymous | libc::MAP_LOCKED,
        ] {
            assert!(!can_be_followed(&vma(flags, regular)), "{flags:#x}");
        }
        for status in [
            regular | status::AREA_STACK,
            regular | status::AREA_VDSO,
            status::AREA_REGULAR | status::FILE_PRIVATE,
            status::AREA_REGULAR | status::ANON_SHARED,
        ] {
            assert!(
                !can_be_followed(&vma(libc::MAP_PRIVATE, status)),
                "{status:#x}"
            );
        }
        let wiped = VmaEntry {
            madv: Some(1 << libc::MADV_WIPEONFORK),
            ..vma(anonymous, regular)
        };
        assert!(!can_be_followed(&wiped));
    }
}
