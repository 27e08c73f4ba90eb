//! Shared anonymous memory as a file that can be handed on.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::{Errno, Result};

/// Size of a page in bytes.
pub const PAGE: u64 = 4096;

/// The page size in the flags of mmap(2), memfd_create(2) and shmget(2), as a power of two: MAP_HUGE_SHIFT. 0 is the
/// default huge page size.
pub const HUGE_SHIFT: u32 = 26;

/// All bits of that.
pub const HUGE_MASK: u32 = 0x3f << HUGE_SHIFT;

/// The bits for huge pages of `page_bytes`.
pub fn huge_size_flags(page_bytes: u64) -> u32 {
    page_bytes.checked_ilog2().unwrap_or(0) << HUGE_SHIFT
}

/// Makes a shared anonymous mapping of `size_bytes` and returns a read-write descriptor of the file behind it. `huge` is
/// 0 or MAP_HUGETLB with [`huge_size_flags`].
///
/// A mapping of that descriptor looks in /proc/PID/maps just as mmap(MAP_SHARED|MAP_ANONYMOUS) does ("/dev/zero
/// (deleted)"), which a memfd does not. Needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN (proc_pid_map_files(5)).
pub fn shared_anonymous(size_bytes: u64, huge: u32) -> Result<OwnedFd> {
    let len = usize::try_from(size_bytes).map_err(|_| Errno::NOMEM)?;
    // SAFETY: no address is given, so nothing that exists is replaced; NORESERVE so that a sparse mapping costs nothing.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | huge as i32,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(last_error());
    }
    let start = address as u64;
    let page = match huge {
        0 => PAGE,
        huge => 1 << ((huge & HUGE_MASK) >> HUGE_SHIFT),
    };
    let path = format!(
        "/proc/self/map_files/{start:x}-{:x}",
        start + size_bytes.next_multiple_of(page)
    );
    let file = File::options().read(true).write(true).open(path);
    // SAFETY: the mapping made above; no reference into it exists.
    unsafe { libc::munmap(address, len) };
    file.map(OwnedFd::from)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// A piece of a file mapped into this process, to be written through /proc/self/mem: a page that cannot be had is an
/// error there, and not a signal.
#[derive(Debug)]
pub struct Window {
    address: u64,
    len: usize,
}

impl Window {
    /// Maps `len` bytes of `file` from `offset` on, both multiples of the file's page size. mmap(2).
    pub fn map(file: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self> {
        // SAFETY: no address is given, so nothing that exists is replaced, and nobody makes references into it.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(last_error());
        }
        let address = address as u64;
        Ok(Self { address, len })
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping made above; no reference into it exists.
        unsafe { libc::munmap(self.address as *mut libc::c_void, self.len) };
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::NOMEM)
}
