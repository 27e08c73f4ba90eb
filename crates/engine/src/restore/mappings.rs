//! Making an address space: which mappings are kept from the parent, which are made, which go.

use std::ops::Range;

use cryopod_image::criu::{MmEntry, VmaEntry, vma_extra, vma_status as status};
use cryopod_sys::memory::{HUGE_MASK, PAGE};

use super::aio;
use super::files::Files;
use super::gaps;
use super::tree::World;
use crate::dump::mappings::{KERNELS, MAP_DROPPABLE};
use crate::error::{Error, Result};
use crate::proc::{maps, mem::Mem};
use crate::remote::puppet::{Puppet, SCRATCH_BYTES};

/// End of user space with 47-bit addresses (Documentation/arch/x86/x86_64/mm.rst).
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// `arch_prctl(2)` codes of asm/prctl.h.
const ARCH_MAP_VDSO_64: u64 = 0x2003;

/// A stretch of addresses that no task of the tree uses, and cryopod neither: every task has its scratch area there.
pub fn find_scratch<'a>(spaces: impl Iterator<Item = &'a MmEntry>) -> Result<u64> {
    const LOWEST: u64 = 0x1_0000;
    let own = maps::read(std::process::id() as i32)?;
    let mut used: Vec<Range<u64>> = own
        .iter()
        .map(|mapping| mapping.start..mapping.end)
        .collect();
    // Growing stacks must find their guard gap free.
    const GUARD: u64 = 256 * PAGE;
    used.extend(
        spaces
            .flat_map(|mm| &mm.vmas)
            .map(|vma| vma.start.saturating_sub(GUARD)..vma.end),
    );
    used.sort_by_key(|range| range.start);
    let mut at = LOWEST;
    for range in used {
        if range.start > at && range.start - at >= SCRATCH_BYTES + PAGE {
            break;
        }
        at = at.max(range.end);
    }
    if at + SCRATCH_BYTES > USER_END {
        return Err(Error::NotRestorable {
            what: "an address space without room for a scratch page".into(),
        });
    }
    Ok(at)
}

fn is_special(vma: &VmaEntry) -> bool {
    vma.status & KERNELS != 0
}

/// Whether a mapping is of huge pages from a pool.
pub fn is_huge(vma: &VmaEntry) -> bool {
    vma.flags & libc::MAP_HUGETLB as u32 != 0
}

/// The kernel forces no writes into private huge pages from outside, so these are writable while they are filled.
fn is_closed(vma: &VmaEntry) -> bool {
    is_huge(vma)
        && vma.flags & libc::MAP_TYPE as u32 == libc::MAP_PRIVATE as u32
        && vma.prot & libc::PROT_WRITE as u32 == 0
}

/// What is mapped from a descriptor.
const OF_FILES: u32 = status::FILE_PRIVATE | status::FILE_SHARED | status::AREA_SOCKET;

/// The files that mappings want, each with the access it needs.
pub fn files(mm: &MmEntry) -> impl Iterator<Item = (u32, u32)> {
    let of_file = |vma: &&VmaEntry| vma.status & OF_FILES != 0;
    mm.vmas
        .iter()
        .filter(of_file)
        .map(|vma| (vma.shmid as u32, file_flags(vma)))
}

/// How the file of a mapping is to be opened. Old images do not say.
fn file_flags(vma: &VmaEntry) -> u32 {
    let shared = vma.status & (status::FILE_SHARED | status::AREA_SOCKET) != 0;
    let writes = shared && vma.prot & libc::PROT_WRITE as u32 != 0;
    vma.fdflags
        .unwrap_or(if writes { libc::O_RDWR } else { libc::O_RDONLY } as u32)
}

/// Whether a mapping of the parent, or a part of it, can serve the child as it is: made by the same call, with private
/// contents.
fn serves(parent: &VmaEntry, child: &VmaEntry, files: &Files) -> bool {
    let private = status::ANON_PRIVATE | status::FILE_PRIVATE;
    let plain = |vma: &VmaEntry| (vma.prot, vma.flags, vma.status);
    if plain(child) != plain(parent) || child.start < parent.start || parent.end < child.end {
        return false;
    }
    if is_special(child) || aio::is_ring(child) {
        let place = |vma: &VmaEntry| (vma.start, vma.end, vma.pgoff);
        return place(child) == place(parent);
    }
    // A child's memory is not locked.
    let is_locked = |vma: &VmaEntry| {
        vma.flags & libc::MAP_LOCKED as u32 != 0
            || vma.cryopod_extra.unwrap_or(0) & vma_extra::LOCKED_ON_FAULT != 0
    };
    // MADV_DONTFORK and MADV_WIPEONFORK are given after all children are made, so they do not stand in the way.
    let advice = |vma: &VmaEntry| vma.madv.unwrap_or(0) & EARLY_ADVICE;
    let file = || {
        files.same_file(child.shmid as u32, parent.shmid as u32)
            && parent.pgoff.checked_add(child.start - parent.start) == Some(child.pgoff)
    };
    child.status & private != 0
        && !is_locked(child)
        && advice(child) == advice(parent)
        && (child.status & status::FILE_PRIVATE == 0 || file())
}

/// Advice that is given as soon as a mapping is made.
const EARLY_ADVICE: u64 = 1 << libc::MADV_HUGEPAGE | 1 << libc::MADV_NOHUGEPAGE;

/// The mapping of an address space that has all of a range.
fn around(mm: &MmEntry, vma: &VmaEntry) -> Option<usize> {
    let behind = mm.vmas.partition_point(|one| one.start <= vma.start);
    let index = behind.checked_sub(1)?;
    (vma.end <= mm.vmas[index].end).then_some(index)
}

/// The mappings that a child keeps of its parent's, by place in its own list.
pub fn inherited(child: &MmEntry, parent: Option<&MmEntry>, files: &Files) -> Vec<bool> {
    let Some(parent) = parent else {
        return vec![false; child.vmas.len()];
    };
    let mut before = None;
    child
        .vmas
        .iter()
        .map(|vma| {
            // The ring of a context that is the child's own is made anew.
            let found = around(parent, vma)
                .filter(|_| !aio::is_alive(child, vma))
                .filter(|&index| serves(&parent.vmas[index], vma, files))
                // What is one mapping in the parent would be one in the child.
                .filter(|&index| before != Some((index, vma.start)));
            before = found.map(|index| (index, vma.end));
            found.is_some()
        })
        .collect()
}

/// Which mappings of an address space are handed on to those that are born with it, all of them or in part.
pub fn handed_on<'m>(
    mm: &MmEntry,
    heirs: impl Iterator<Item = &'m MmEntry>,
    files: &Files,
) -> Vec<bool> {
    let mut handed_on = vec![false; mm.vmas.len()];
    for heir in heirs {
        let kept = inherited(heir, Some(mm), files);
        for (vma, _) in heir.vmas.iter().zip(kept).filter(|(_, kept)| *kept) {
            if let Some(index) = around(mm, vma) {
                handed_on[index] = true;
            }
        }
    }
    handed_on
}

/// Unmaps everything but what is kept and the scratch area.
pub fn clear(puppet: &Puppet, mm: &MmEntry, kept: &[bool]) -> Result<()> {
    let scratch = puppet.scratch();
    let mut keep: Vec<Range<u64>> = std::iter::once(scratch..scratch + SCRATCH_BYTES)
        .chain(
            mm.vmas
                .iter()
                .zip(kept)
                .filter(|(_, kept)| **kept)
                .map(|(vma, _)| vma.start..vma.end),
        )
        // The vsyscall page belongs to the kernel's half.
        .filter(|range| range.end <= USER_END)
        .collect();
    keep.sort_by_key(|range| range.start);
    let mut at = 0;
    for range in keep.into_iter().chain(std::iter::once(USER_END..USER_END)) {
        if range.start > at {
            puppet.must(
                "munmap",
                libc::SYS_munmap,
                [at, range.start - at, 0, 0, 0, 0],
            )?;
        }
        at = at.max(range.end);
    }
    Ok(())
}

/// Makes the mappings that are not kept, in ascending order. Contents follow later, from outside.
pub fn make(
    puppet: &Puppet,
    mem: &Mem,
    mm: &MmEntry,
    kept: &[bool],
    world: &World<'_>,
) -> Result<()> {
    for (vma, _) in mm.vmas.iter().zip(kept).filter(|(_, kept)| **kept) {
        if is_closed(vma) {
            protect(puppet, vma, vma.prot | libc::PROT_WRITE as u32)?;
        }
    }
    let mut previous: Option<&VmaEntry> = None;
    let mut making = Making::default();
    for (vma, _) in mm.vmas.iter().zip(kept).filter(|(_, kept)| !**kept) {
        if !is_special(vma) && !aio::is_alive(mm, vma) {
            making = Making::of(vma, previous, making);
            map(puppet, mem, vma, making, world)?;
        }
        previous = Some(vma);
    }
    vdso(puppet, mm, kept)
}

fn map(
    puppet: &Puppet,
    mem: &Mem,
    vma: &VmaEntry,
    making: Making,
    world: &World<'_>,
) -> Result<()> {
    if vma.status & status::AREA_SYSVIPC != 0 {
        return world.ipc.attach(puppet, vma);
    }
    let known = libc::MAP_SHARED
        | libc::MAP_PRIVATE
        | MAP_DROPPABLE
        | libc::MAP_ANONYMOUS
        | libc::MAP_GROWSDOWN
        | libc::MAP_LOCKED
        | libc::MAP_NORESERVE;
    let mut flags = vma.flags & known as u32;
    if is_huge(vma) && vma.status & status::ANON_PRIVATE != 0 {
        flags |= vma.flags & (libc::MAP_HUGETLB as u32 | HUGE_MASK);
    }
    let on_fault = vma.cryopod_extra.unwrap_or(0) & vma_extra::LOCKED_ON_FAULT != 0;
    if on_fault {
        flags &= !(libc::MAP_LOCKED as u32);
    }
    let (fd, offset) = if vma.status & status::ANON_SHARED != 0 {
        flags &= !(libc::MAP_ANONYMOUS as u32);
        (i64::from(world.shmem.descriptor(vma.shmid)?), vma.pgoff)
    } else if vma.status & OF_FILES != 0 {
        (
            i64::from(
                world
                    .files
                    .mapping_descriptor(vma.shmid as u32, file_flags(vma))?,
            ),
            vma.pgoff,
        )
    } else if vma.status & status::ANON_PRIVATE != 0 {
        (-1, 0)
    } else if aio::is_ring(vma) {
        // Inherited from a process that is gone: only the memory is left of it.
        flags |= libc::MAP_ANONYMOUS as u32;
        (-1, 0)
    } else {
        let what = format!(
            "pid {}: mapping at {:#x} of status {:#x}",
            puppet.pid, vma.start, vma.status
        );
        return Err(Error::NotRestorable { what });
    };
    if vma.status & status::FILE_SHARED != 0 && world.files.places_itself(vma.shmid as u32) {
        return gaps::map(puppet, vma, flags, fd);
    }
    let len = vma.end - vma.start;
    let fixed = (libc::MAP_FIXED_NOREPLACE) as u32;
    let place = |at: u64, prot: u32, flags: u32| {
        let args = [
            at,
            len,
            u64::from(prot),
            u64::from(flags),
            fd as u64,
            offset,
        ];
        puppet.must("mmap", libc::SYS_mmap, args)
    };
    let prot = if making.writable_first || is_closed(vma) {
        vma.prot | libc::PROT_WRITE as u32
    } else {
        vma.prot
    };
    if making.elsewhere {
        let elsewhere = place(0, prot, flags)?;
        let mut byte = [0];
        mem.read(elsewhere, &mut byte)?;
        mem.write(elsewhere, &byte)?;
        let fixed = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        puppet.must(
            "mremap",
            libc::SYS_mremap,
            [elsewhere, len, len, fixed, vma.start, 0],
        )?;
        puppet.must(
            "madvise",
            libc::SYS_madvise,
            [vma.start, len, libc::MADV_DONTNEED as u64, 0, 0, 0],
        )?;
    } else {
        place(vma.start, prot, flags | fixed)?;
    }
    if making.writable_first {
        protect(puppet, vma, vma.prot)?;
    }
    if on_fault {
        const MLOCK_ONFAULT: u64 = 1;
        puppet.must(
            "mlock2",
            libc::SYS_mlock2,
            [vma.start, len, MLOCK_ONFAULT, 0, 0, 0],
        )?;
    }
    let huge = [libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE];
    for advice in huge
        .into_iter()
        .filter(|&advice| vma.madv.unwrap_or(0) & 1 << advice != 0)
    {
        puppet.must(
            "madvise",
            libc::SYS_madvise,
            [vma.start, len, advice as u64, 0, 0, 0],
        )?;
    }
    Ok(())
}

/// How a mapping is made so that it comes out as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Making {
    /// Writable first: that counts it against the commit limit (VM_ACCOUNT), as a program's relocated data is.
    writable_first: bool,
    /// Elsewhere, given a page and moved: anonymous pages remember the offset that they were born at, so the kernel
    /// does not make one mapping of it and the one before.
    elsewhere: bool,
}

impl Making {
    fn of(vma: &VmaEntry, previous: Option<&VmaEntry>, before: Self) -> Self {
        let private = vma.flags & libc::MAP_TYPE as u32 == libc::MAP_PRIVATE as u32;
        let read_only = private && vma.prot & libc::PROT_WRITE as u32 == 0;
        let accounted = vma.cryopod_extra.unwrap_or(0) & vma_extra::ACCOUNTED != 0;
        let mut making = Self {
            writable_first: read_only && accounted && !is_huge(vma),
            elsewhere: false,
        };
        let Some(previous) = previous.filter(|previous| would_merge(previous, vma)) else {
            return making;
        };
        if vma.status & status::ANON_PRIVATE != 0 {
            making.elsewhere = vma.flags & (libc::MAP_GROWSDOWN | libc::MAP_LOCKED) as u32 == 0;
        } else if vma.cryopod_extra.is_none() && previous.shmid == vma.shmid && read_only {
            // criu does not tell which of two was accounted; of three in a row, the second is told from the others.
            making.writable_first = !before.writable_first;
        }
        making
    }
}

/// Closes what was opened to be filled.
pub fn close(puppet: &Puppet, mm: &MmEntry) -> Result<()> {
    for vma in mm.vmas.iter().filter(|vma| is_closed(vma)) {
        protect(puppet, vma, vma.prot)?;
    }
    Ok(())
}

fn protect(puppet: &Puppet, vma: &VmaEntry, prot: u32) -> Result<()> {
    let args = [vma.start, vma.end - vma.start, prot.into(), 0, 0, 0];
    puppet.must("mprotect", libc::SYS_mprotect, args).map(drop)
}

/// Whether the kernel would make one mapping of two.
fn would_merge(previous: &VmaEntry, vma: &VmaEntry) -> bool {
    if is_huge(vma) {
        return false;
    }
    let private = status::ANON_PRIVATE | status::FILE_PRIVATE;
    let alike = |one: &VmaEntry| {
        (
            one.prot,
            one.flags,
            one.status & private,
            one.madv.unwrap_or(0),
            one.cryopod_extra,
        )
    };
    let goes_on = vma.status & status::FILE_PRIVATE == 0
        || previous.pgoff + (previous.end - previous.start) == vma.pgoff;
    previous.end == vma.start
        && vma.status & private != 0
        && alike(previous) == alike(vma)
        && goes_on
}

/// The advice that would change what children inherit: given when all children exist.
pub fn late_advice(puppet: &Puppet, mm: &MmEntry) -> Result<()> {
    for vma in mm.vmas.iter().filter(|vma| !is_special(vma)) {
        let bits = vma.madv.unwrap_or(0) & !EARLY_ADVICE;
        for advice in (0..64u64).filter(|advice| bits & 1 << advice != 0) {
            puppet.must(
                "madvise",
                libc::SYS_madvise,
                [vma.start, vma.end - vma.start, advice, 0, 0, 0],
            )?;
        }
    }
    Ok(())
}

/// arch_prctl(ARCH_MAP_VDSO_64) maps all parts of the vdso from one address on.
fn vdso(puppet: &Puppet, mm: &MmEntry, kept: &[bool]) -> Result<()> {
    let parts = |vma: &VmaEntry| vma.status & (status::AREA_VDSO | status::AREA_VVAR) != 0;
    let Some(first) = mm.vmas.iter().position(parts) else {
        return Ok(());
    };
    if kept[first] {
        return Ok(());
    }
    let start = mm.vmas[first].start;
    let args = [ARCH_MAP_VDSO_64, start, 0, 0, 0, 0];
    puppet.must("arch_prctl (map the vdso)", libc::SYS_arch_prctl, args)?;
    // How many mappings the data pages are is told differently by different dumpers; where they are is what matters.
    let span = |parts: &mut dyn Iterator<Item = Range<u64>>| {
        parts.fold(None, |span: Option<Range<u64>>, part| {
            Some(span.map_or(part.start, |span| span.start)..part.end)
        })
    };
    let wanted = span(
        &mut mm
            .vmas
            .iter()
            .filter(|vma| parts(vma))
            .map(|vma| vma.start..vma.end),
    );
    let here = maps::read(puppet.pid)?;
    let made =
        |mapping: &&maps::Mapping| mapping.is("[vdso]") || mapping.name.starts_with(b"[vvar");
    let made = span(
        &mut here
            .iter()
            .filter(made)
            .map(|mapping| mapping.start..mapping.end),
    );
    if wanted == made {
        return Ok(());
    }
    Err(Error::NotRestorable {
        what: format!(
            "pid {}: its vdso is laid out differently on this kernel",
            puppet.pid
        ),
    })
}

const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// A `syscall` instruction in some pages.
fn find_syscall(mem: &Mem, range: Range<u64>) -> Option<u64> {
    range.step_by(PAGE as usize).find_map(|at| {
        let mut page = [0; PAGE as usize];
        mem.read(at, &mut page).ok()?;
        page.windows(2)
            .position(|two| two == SYSCALL)
            .map(|found| at + found as u64)
    })
}

/// A `syscall` instruction in a task that is still a copy of cryopod: the vdso has one.
pub fn first_gate(pid: i32, mem: &Mem) -> Result<u64> {
    let maps = maps::read(pid)?;
    let vdso = maps.iter().find(|mapping| mapping.is("[vdso]"));
    vdso.and_then(|vdso| find_syscall(mem, vdso.start..vdso.end))
        .ok_or_else(no_gate)
}

/// A `syscall` instruction in the finished address space, by which the scratch area can be unmapped.
pub fn find_gate(mem: &Mem, mm: &MmEntry) -> Result<u64> {
    let runs = |vma: &&VmaEntry| {
        vma.prot & libc::PROT_EXEC as u32 != 0
            && vma.status & (status::AREA_VVAR | status::AREA_VSYSCALL) == 0
    };
    let mut candidates: Vec<&VmaEntry> = mm.vmas.iter().filter(runs).collect();
    // The vdso first: it always has one and is small.
    candidates.sort_by_key(|vma| vma.status & status::AREA_VDSO == 0);
    candidates
        .into_iter()
        .find_map(|vma| find_syscall(mem, vma.start..vma.end))
        .ok_or_else(no_gate)
}

fn no_gate() -> Error {
    Error::NotRestorable {
        what: "an address space without any system call instruction".into(),
    }
}
