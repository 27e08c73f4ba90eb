//! The mappings of an address space as CRIU's images name them.

use std::ops::Range;
use std::os::unix::fs::PermissionsExt;

use cryopod_image::criu::{VmaEntry, vma_extra, vma_status as status};
use cryopod_sys::memory::huge_size_flags;

use super::files::Files;
use super::{aio, guards};
use crate::error::Result;
use crate::proc::maps::{self, Mapping};
use crate::proc::{self, status::Status};

/// What the kernel itself puts into every address space.
pub const KERNELS: u32 = status::AREA_VSYSCALL | status::AREA_VDSO | status::AREA_VVAR;

/// madvise(2) advice that shows in VmFlags, and its number. In `VmaEntry::madv`, advice N is bit N.
pub const ADVICE: [(&[u8; 2], i32); 8] = [
    (b"sr", libc::MADV_SEQUENTIAL),
    (b"rr", libc::MADV_RANDOM),
    (b"dc", libc::MADV_DONTFORK),
    (b"dd", libc::MADV_DONTDUMP),
    (b"mg", libc::MADV_MERGEABLE),
    (b"hg", libc::MADV_HUGEPAGE),
    (b"nh", libc::MADV_NOHUGEPAGE),
    (b"wf", libc::MADV_WIPEONFORK),
];

/// VmFlags of mappings that a copy of the process does not have as they are.
const NOT_COPIED: [&[u8; 2]; 3] = [b"dc", b"wf", b"ht"];

/// How the mappings of sockets are called: rings of packet sockets, packet(7).
pub const SOCKET: &[u8] = b"socket:[";

/// A range whose private pages belong into the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpRange {
    /// Addresses.
    pub range: Range<u64>,
    /// Only pages that are no longer a file's, and zeroes among them too.
    pub file: bool,
    /// All pages whatever they are: the vdso, and rings of asynchronous I/O.
    pub all: bool,
    /// A copy of the process made by clone(2) does not have these pages, or not reliably: MADV_DONTFORK,
    /// MADV_WIPEONFORK, huge pages of a pool that may run out, and the vdso, where visits leave traces.
    pub not_copied: bool,
}

/// The mappings of a process, as far as they can be told while it stands still for a moment only.
///
/// The kernel tells VmFlags together with a count of all pages, which takes its time. A copy of the process has the same
/// mappings with the same flags, and can be asked when the process goes on; what it does not tell makes the process be
/// asked itself, at once.
#[derive(Debug)]
pub struct Layout {
    /// Ascending.
    pub maps: Vec<Mapping>,
    /// Whether they have their flags.
    pub flagged: bool,
    /// What is behind each.
    backing: Vec<Backing>,
}

/// What is behind a mapping.
#[derive(Clone, Copy, Debug, Default)]
struct Backing {
    /// Its file's number in the images.
    id: Option<u32>,
    /// How that is opened.
    flags: Option<u32>,
}

impl Layout {
    /// Reads the mappings of a process that stands still.
    pub fn read(pid: i32, status: &Status) -> Result<Self> {
        let mut layout = Self {
            maps: maps::read(pid)?,
            flagged: false,
            backing: Vec::new(),
        };
        let has_bytes = |line: &str| status.number(line).is_ok_and(|kib| kib != 0);
        // Nothing is locked in a copy. Huge pages of a pool that may run out are better read from the process itself.
        if has_bytes("VmLck") || has_bytes("HugetlbPages") || layout.maps.iter().any(is_unclear) {
            layout.flag(pid, maps::read_flagged(pid)?)?;
        }
        Ok(layout)
    }

    /// Takes in the same mappings once more, with their flags.
    pub fn flag(&mut self, pid: i32, flagged: Vec<Mapping>) -> Result<()> {
        if !maps::are_same(&self.maps, &flagged) {
            return Err(proc::misread(pid, "smaps", "other mappings than before"));
        }
        self.maps = flagged;
        self.flagged = true;
        Ok(())
    }

    /// Reads the mappings once more: those of private memory that is nobody's file may have been joined since.
    pub fn refresh(&mut self, pid: i32) -> Result<()> {
        let maps = match self.flagged {
            true => maps::read_flagged(pid)?,
            false => maps::read(pid)?,
        };
        let known = |one: &Mapping| {
            let index = self.maps.binary_search_by_key(&one.start, |old| old.start);
            let backing = index.ok().and_then(|index| self.backing.get(index));
            backing
                .copied()
                .ok_or_else(|| proc::misread(pid, "maps", "a mapping that was not there before"))
        };
        self.backing = maps.iter().map(known).collect::<Result<_>>()?;
        self.maps = maps;
        Ok(())
    }

    /// Writes what files there are behind the mappings.
    pub fn dump_files(&mut self, files: &mut Files<'_>, pid: i32) -> Result<()> {
        let backing = self.maps.iter().map(|one| Backing::dump(files, pid, one));
        self.backing = backing.collect::<Result<_>>()?;
        Ok(())
    }

    /// The private mappings that a copy of the process does not have as they are, for whatever reason. Where flags are
    /// not known, `lacks` tells.
    pub fn left_out(
        &self,
        mut lacks: impl FnMut(&Mapping) -> Result<bool>,
    ) -> Result<Vec<&Mapping>> {
        let mut left_out = Vec::new();
        for mapping in &self.maps {
            if is_not_copied(mapping) || !self.flagged && lacks(mapping)? {
                left_out.push(mapping);
            }
        }
        Ok(left_out)
    }

    /// What is to be read of some of the mappings.
    pub fn ranges(&self, some: &[&Mapping]) -> Vec<DumpRange> {
        some.iter()
            .filter_map(|mapping| range(&entry(mapping, Backing::default())))
            .collect()
    }

    /// All mappings as the images have them, and what is to be read of them. Their flags are known. The `guards` are those
    /// of the whole address space.
    pub fn describe(&self, guards: &[Range<u64>]) -> Dumped {
        let mut dumped = Dumped::default();
        for (mapping, backing) in self.maps.iter().zip(&self.backing) {
            let entry = entry(mapping, *backing);
            dumped.ranges.extend(range(&entry).map(|range| DumpRange {
                not_copied: is_not_copied(mapping),
                ..range
            }));
            dumped.entries.push(entry);
        }
        // Not mappings of their own, but told like such, behind all others.
        dumped.ranges = guards::cut(dumped.ranges, guards);
        dumped.entries.extend(guards.iter().map(guards::entry));
        dumped
    }
}

/// Whether what a mapping is can only be told by its flags.
fn is_unclear(mapping: &Mapping) -> bool {
    // A memfd may have been sealed between one mapping and another.
    let sealed = mapping.shared
        && mapping.prot & libc::PROT_WRITE as u32 == 0
        && mapping.name.starts_with(b"/memfd:");
    mapping.name == ANONYMOUS_HUGE || sealed
}

fn is_not_copied(mapping: &Mapping) -> bool {
    let all = mapping.is("[vdso]") || aio::is_ring(mapping);
    all || NOT_COPIED.iter().any(|flag| mapping.has(flag))
}

impl Backing {
    fn dump(files: &mut Files<'_>, pid: i32, mapping: &Mapping) -> Result<Self> {
        let none = Self::default();
        match mapping.name.as_slice() {
            name if name.starts_with(b"[") || name.starts_with(b"/SYSV") => return Ok(none),
            _ if aio::is_ring(mapping) || mapping.inode == 0 || is_private_huge(mapping) => {
                return Ok(none);
            }
            _ => {}
        }
        let link = map_file(mapping);
        if mapping.name.starts_with(SOCKET) {
            let id = files.mapped_socket(pid, &link)?;
            return Ok(Self {
                id: Some(id),
                flags: None,
            });
        }
        let flags = access(pid, mapping);
        Ok(Self {
            id: Some(files.mapped(pid, &link, flags, mapping)?),
            flags: Some(flags),
        })
    }
}

/// An address space without its contents.
#[derive(Debug, Default)]
pub struct Dumped {
    /// For mm-PID.img.
    pub entries: Vec<VmaEntry>,
    /// What to read.
    pub ranges: Vec<DumpRange>,
}

fn entry(mapping: &Mapping, backing: Backing) -> VmaEntry {
    let mut entry = VmaEntry {
        start: mapping.start,
        end: mapping.end,
        pgoff: mapping.offset,
        prot: mapping.prot,
        flags: flags(mapping),
        status: status::AREA_REGULAR,
        fd: -1,
        madv: Some(advice(mapping)),
        cryopod_extra: Some(extra(mapping)),
        ..VmaEntry::default()
    };
    match mapping.name.as_slice() {
        b"[vsyscall]" => entry.status = status::AREA_VSYSCALL,
        b"[vdso]" => entry.status |= status::AREA_VDSO,
        name if name.starts_with(b"[vvar") => entry.status |= status::AREA_VVAR,
        _ if aio::is_ring(mapping) => {
            entry.status = status::AREA_AIORING;
            entry.madv = None;
        }
        name if name.starts_with(b"/SYSV") => system_v(&mut entry, mapping),
        _ if mapping.inode == 0 || is_private_huge(mapping) => anonymous(&mut entry, mapping),
        name if name.starts_with(SOCKET) => entry.status |= status::AREA_SOCKET,
        name => file(&mut entry, mapping, name),
    }
    if let Some(id) = backing.id {
        entry.shmid = id.into();
        entry.fdflags = backing.flags;
    }
    if entry.status & KERNELS != 0 {
        // As criu has it: the kernel's own pages look like private anonymous ones.
        entry.status |= status::ANON_PRIVATE;
        entry.flags |= libc::MAP_ANONYMOUS as u32;
        entry.madv = None;
        entry.cryopod_extra = None;
    }
    entry
}

/// MAP_DROPPABLE (Linux 6.11): memory that the kernel may take back at any time, and that a child gets empty.
pub const MAP_DROPPABLE: i32 = 0x08;

fn flags(mapping: &Mapping) -> u32 {
    let kind = match mapping.shared {
        true => libc::MAP_SHARED,
        false if mapping.has(b"dp") => MAP_DROPPABLE,
        false => libc::MAP_PRIVATE,
    };
    let more = [
        (b"gd", libc::MAP_GROWSDOWN),
        (b"lo", libc::MAP_LOCKED),
        (b"nr", libc::MAP_NORESERVE),
    ];
    let huge = if is_huge(mapping) {
        libc::MAP_HUGETLB as u32 | huge_size_flags(mapping.page_bytes)
    } else {
        0
    };
    let flags = more
        .iter()
        .filter(|(flag, _)| mapping.has(flag))
        .fold(kind, |flags, (_, bit)| flags | bit);
    flags as u32 | huge
}

fn advice(mapping: &Mapping) -> u64 {
    ADVICE
        .iter()
        .filter(|(flag, _)| mapping.has(flag))
        .fold(0, |bits, (_, advice)| bits | 1 << advice)
}

/// What VmFlags tell and CRIU's fields do not.
fn extra(mapping: &Mapping) -> u32 {
    let bits = [
        (b"ac", vma_extra::ACCOUNTED),
        (b"lf", vma_extra::LOCKED_ON_FAULT),
    ];
    bits.iter()
        .filter(|(flag, _)| mapping.has(flag))
        .fold(0, |bits, (_, bit)| bits | bit)
}

fn anonymous(entry: &mut VmaEntry, mapping: &Mapping) {
    entry.status |= status::ANON_PRIVATE;
    entry.flags |= libc::MAP_ANONYMOUS as u32;
    entry.pgoff = 0;
    if mapping.is("[heap]") {
        entry.status |= status::AREA_HEAP;
    }
    if mapping.is("[stack]") {
        entry.status |= status::AREA_STACK;
    }
}

/// The inode of a segment is its number.
fn system_v(entry: &mut VmaEntry, mapping: &Mapping) {
    entry.status |= status::ANON_SHARED | status::AREA_SYSVIPC;
    entry.flags |= libc::MAP_ANONYMOUS as u32;
    entry.shmid = mapping.inode;
    entry.fdflags = Some(if mapping.has(b"mw") {
        libc::O_RDWR
    } else {
        libc::O_RDONLY
    } as u32);
}

fn is_huge(mapping: &Mapping) -> bool {
    mapping.has(b"ht")
}

/// What mmap(MAP_ANONYMOUS|MAP_HUGETLB) makes is a deleted file of this name.
const ANONYMOUS_HUGE: &[u8] = b"/anon_hugepage (deleted)";

fn is_private_huge(mapping: &Mapping) -> bool {
    !mapping.shared && mapping.name == ANONYMOUS_HUGE && is_huge(mapping)
}

/// What no path leads to, so that it is stored as a memfd: a memfd, shared anonymous memory, and the same of huge pages.
/// A file of such a name in a file system is never without its directory.
fn is_memory_file(name: &[u8]) -> bool {
    name.starts_with(b"/memfd:") || matches!(name, b"/dev/zero (deleted)" | ANONYMOUS_HUGE)
}

fn map_file(mapping: &Mapping) -> String {
    format!("map_files/{:x}-{:x}", mapping.start, mapping.end)
}

/// How the file of a mapping was opened: a shared mapping may be made writable if it was for writing. Without flags the
/// link tells that (proc_pid_map_files(5)).
fn access(pid: i32, mapping: &Mapping) -> u32 {
    const WRITABLE: u32 = 0o200;
    let writes = if mapping.flags.is_empty() {
        let link = || std::fs::symlink_metadata(proc::path(pid, &map_file(mapping)));
        mapping.prot & libc::PROT_WRITE as u32 != 0
            || link().is_ok_and(|link| link.permissions().mode() & WRITABLE != 0)
    } else {
        mapping.has(b"mw")
    };
    if mapping.shared && writes {
        libc::O_RDWR as u32
    } else {
        libc::O_RDONLY as u32
    }
}

fn file(entry: &mut VmaEntry, mapping: &Mapping, name: &[u8]) {
    entry.status |= if mapping.shared {
        status::FILE_SHARED
    } else {
        status::FILE_PRIVATE
    };
    if is_memory_file(name) {
        entry.status |= status::AREA_MEMFD;
    }
}

/// What of a mapping is stored with the process: only what is private, and not what its program expects to lose.
fn range(entry: &VmaEntry) -> Option<DumpRange> {
    let droppable = entry.flags & libc::MAP_TYPE as u32 == MAP_DROPPABLE as u32;
    let private = entry.status & (status::ANON_PRIVATE | status::FILE_PRIVATE) != 0 && !droppable;
    let all = entry.status & (status::AREA_VDSO | status::AREA_AIORING) != 0;
    let wanted = all || (private && entry.status & KERNELS == 0);
    // Huge pages are stored whole: what is given back of them later must not be a part of one.
    let huge = entry.flags & libc::MAP_HUGETLB as u32 != 0;
    wanted.then_some(DumpRange {
        range: entry.start..entry.end,
        file: huge || entry.status & status::FILE_PRIVATE != 0,
        all,
        not_copied: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(flags: &[&[u8; 2]]) -> Mapping {
        Mapping {
            start: 0x1000,
            end: 0x3000,
            flags: flags.iter().map(|&&flag| flag).collect(),
            ..Mapping::default()
        }
    }

    #[test]
    fn flags_and_advice_come_from_vmflags() {
        let one = mapping(&[b"gd", b"dc", b"hg"]);
        assert_eq!(
            flags(&one),
            (libc::MAP_PRIVATE | libc::MAP_GROWSDOWN) as u32
        );
        assert_eq!(
            advice(&one),
            1 << libc::MADV_DONTFORK | 1 << libc::MADV_HUGEPAGE
        );
    }

    #[test]
    fn huge_pages_are_told_with_their_size() {
        let mut one = mapping(&[b"ht"]);
        one.page_bytes = 2 << 20;
        one.name = b"/anon_hugepage (deleted)".to_vec();
        assert_eq!(
            flags(&one),
            (libc::MAP_PRIVATE | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB) as u32
        );
        assert!(is_private_huge(&one));
        one.shared = true;
        assert!(!is_private_huge(&one) && is_memory_file(&one.name));
    }

    #[test]
    fn only_private_memory_is_stored_with_the_process() {
        let entry = |status| VmaEntry {
            end: 1,
            status,
            flags: libc::MAP_PRIVATE as u32,
            ..VmaEntry::default()
        };
        assert!(range(&entry(status::AREA_REGULAR | status::ANON_PRIVATE)).is_some());
        assert!(
            range(&entry(status::AREA_REGULAR | status::FILE_PRIVATE))
                .is_some_and(|range| range.file)
        );
        assert!(
            range(&entry(status::AREA_REGULAR | status::AREA_VDSO)).is_some_and(|range| range.all)
        );
        assert!(range(&entry(status::AREA_REGULAR | status::ANON_SHARED)).is_none());
        assert!(range(&entry(status::AREA_REGULAR | status::AREA_VVAR)).is_none());
    }
}
