//! Shared memory, made and filled in cryopod's own process before any task exists.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use cryopod_image::criu::vma_status as status;
use cryopod_image::layers::LayeredPagemap;
use cryopod_image::{Kind, SetReader};
use cryopod_sys::{Errno, fd, memory};

use super::files::Files;
use super::fill::{self, Crew, Destination, How, Job, Segment};
use super::plan::Plan;
use crate::dump::files::kind::magic::HUGETLBFS;
use crate::error::{Context, Error, Result};
use crate::proc::mem::Mem;
use crate::progress::NoProgress;

/// No shared memory of a real program is larger; a hostile image could otherwise ask for anything.
const LARGEST_BYTES: u64 = 1 << 46;

/// All shared anonymous memory of a tree.
#[derive(Debug, Default)]
pub struct Shared {
    files: BTreeMap<u64, OwnedFd>,
    pages_bytes: u64,
}

impl Shared {
    /// Makes all shared anonymous memory that the plan's mappings want, and fills it and the memfds.
    pub fn make(
        set: &SetReader,
        plan: &Plan,
        files: &Files,
        base: i32,
        crew: Crew<'_>,
    ) -> Result<Self> {
        // By number: size, and what pages of.
        let mut wanted: BTreeMap<u64, (u64, u32)> = BTreeMap::new();
        let vmas = plan
            .tasks
            .iter()
            .filter_map(|task| task.body.as_ref())
            .flat_map(|body| &body.mm.vmas);
        let plain = status::ANON_SHARED | status::AREA_SYSVIPC;
        for vma in vmas.filter(|vma| vma.status & plain == status::ANON_SHARED) {
            let end = vma
                .pgoff
                .checked_add(vma.end - vma.start)
                .filter(|&end| end <= LARGEST_BYTES);
            let end = end.ok_or_else(|| {
                Error::inconsistent("mm", format!("shared memory {}: too large", vma.shmid))
            })?;
            let huge = vma.flags & (libc::MAP_HUGETLB as u32 | memory::HUGE_MASK);
            let (size, _) = wanted.entry(vma.shmid).or_insert((0, huge));
            *size = end.max(*size);
        }
        let mut shared = Self::default();
        for (shmid, (size_bytes, huge)) in wanted {
            let file = memory::shared_anonymous(size_bytes, huge)
                .host("make shared memory (/proc/self/map_files)")?;
            shared.pages_bytes += fill(set, shmid, file.as_fd(), size_bytes, crew)?;
            let file = fd::duplicate_from(file.as_fd(), base).host("keep shared memory")?;
            shared.files.insert(shmid, file);
        }
        for (shmid, file, size_bytes) in files.memfd_inodes() {
            // Through a description of its own: the program's may append whatever is written.
            let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            let file = File::options()
                .read(true)
                .write(true)
                .open(&path)
                .map_err(|source| Error::Path {
                    operation: "open",
                    path,
                    source,
                })?;
            shared.pages_bytes += fill(set, shmid, file.as_fd(), size_bytes, crew)?;
        }
        Ok(shared)
    }

    /// The descriptor of one, which every task inherits.
    pub fn descriptor(&self, shmid: u64) -> Result<RawFd> {
        self.files
            .get(&shmid)
            .map(|file| file.as_raw_fd())
            .ok_or_else(|| Error::inconsistent("mm", format!("shared memory {shmid} is not known")))
    }

    /// Bytes read into shared memory.
    pub fn pages_bytes(&self) -> u64 {
        self.pages_bytes
    }
}

/// Writes the stored pages of one into its file. The last page may go beyond its end, the file does not.
pub fn fill(
    set: &SetReader,
    shmid: u64,
    file: BorrowedFd<'_>,
    size_bytes: u64,
    crew: Crew<'_>,
) -> Result<u64> {
    if !set.exists(Kind::PagemapShmem, Some(shmid)) {
        return Ok(0);
    }
    let map = LayeredPagemap::read(set, Kind::PagemapShmem, shmid)?;
    let pages = map.open(set)?;
    let mut segments: Vec<Segment> = (map.runs.iter())
        .map(|run| Segment {
            offset: run.pages_offset_bytes,
            address: run.vaddr,
            len: run.size_bytes(),
            how: How::Write,
        })
        .collect();
    segments.sort_by_key(|segment| segment.offset);
    let sink = Sink {
        file,
        size_bytes,
        huge: HugePages::of(file)?,
    };
    let job = Job {
        pages: &pages,
        to: &sink,
        segments: &segments,
        vdso: 0..0,
        pid: std::process::id() as i32,
    };
    let quiet = Crew {
        progress: &NoProgress,
        ..crew
    };
    fill::fill(&[job], quiet)
}

/// Makes all of a file of memory a hole: nothing is left of what was in it.
pub fn clear(file: BorrowedFd<'_>, size_bytes: u64) -> Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let len = size_bytes.next_multiple_of(memory::PAGE);
    fallocate(file, flags, 0, len).host("clear shared memory")
}

/// A file of memory to be written.
struct Sink<'a> {
    file: BorrowedFd<'a>,
    size_bytes: u64,
    huge: Option<HugePages>,
}

/// hugetlbfs has no write(2), so a file there is mapped.
struct HugePages {
    page_bytes: u64,
    /// This process's memory.
    own: Mem,
}

impl HugePages {
    fn of(file: BorrowedFd<'_>) -> Result<Option<Self>> {
        let statfs = rustix::fs::fstatfs(file).host("look at shared memory")?;
        if statfs.f_type as u64 != HUGETLBFS {
            return Ok(None);
        }
        Ok(Some(Self {
            page_bytes: statfs.f_bsize as u64,
            own: Mem::open(std::process::id() as i32)?,
        }))
    }

    fn write(&self, file: BorrowedFd<'_>, at: u64, bytes: &[u8]) -> Result<()> {
        let start = at / self.page_bytes * self.page_bytes;
        let len = (at - start + bytes.len() as u64).next_multiple_of(self.page_bytes);
        let window = memory::Window::map(file, start, len as usize)
            .host("map shared huge pages (are there enough in the pool?)")?;
        self.own.write(window.address() + (at - start), bytes)
    }
}

impl Destination for Sink<'_> {
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let inside = self.size_bytes.saturating_sub(at).min(bytes.len() as u64);
        let bytes = &bytes[..inside as usize];
        match &self.huge {
            _ if bytes.is_empty() => Ok(()),
            None => write_all(self.file, at, bytes),
            Some(huge) => huge.write(self.file, at, bytes),
        }
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        match rustix::io::pread(self.file, &mut *buffer, at) {
            Ok(count) if count == buffer.len() => Ok(()),
            Ok(_) => Err(Errno::IO).host("read shared memory"),
            Err(errno) => Err(errno).host("read shared memory"),
        }
    }
}

fn write_all(file: BorrowedFd<'_>, at: u64, bytes: &[u8]) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(file, &bytes[done..], at + done as u64) {
            Ok(0) => return Err(Errno::IO).host("fill shared memory"),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).host("fill shared memory"),
        }
    }
    Ok(())
}
