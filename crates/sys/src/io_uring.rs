//! io_uring instances as files: io_uring_setup(2), io_uring_enter(2), io_uring_register(2), and the memory that an
//! instance shares with its program.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Errno, Result, check};

/// Size in bytes of an entry of the submission queue, and of one of the completion queue (linux/io_uring.h).
const SUBMISSION_BYTES: u32 = 64;
const COMPLETION_BYTES: u32 = 16;

/// What to map of an instance (mmap(2)): the two rings, which are one piece of memory since Linux 5.4.
pub const OFFSET_RINGS: u64 = 0;
/// The completion ring by its own name; the same memory.
pub const OFFSET_COMPLETIONS: u64 = 0x800_0000;
/// The entries of the submission queue.
pub const OFFSET_SUBMISSIONS: u64 = 0x1000_0000;

const SETUP_CQSIZE: u32 = 1 << 3;
const FEATURE_SINGLE_MMAP: u32 = 1;

const REGISTER_EVENTFD: u32 = 4;
const UNREGISTER_EVENTFD: u32 = 5;

/// Where things are in the memory of the rings, in bytes, and how many entries there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Entries of the submission queue.
    pub submissions: u32,
    /// Entries of the completion queue.
    pub completions: u32,
    /// Tail of the submission ring: what the program has queued.
    pub submission_tail: u32,
    /// The ring of indices into the entries.
    pub index_array: u32,
    /// Head of the completion ring: what the program has seen.
    pub completion_head: u32,
    completion_entries: u32,
}

impl Layout {
    /// Size of the rings in bytes.
    pub fn rings_bytes(&self) -> usize {
        let array = self.index_array + self.submissions * 4;
        (array as usize).max(self.bare_rings_bytes())
    }

    /// Size of the rings in bytes where there is no ring of indices (IORING_SETUP_NO_SQARRAY).
    pub fn bare_rings_bytes(&self) -> usize {
        (self.completion_entries + self.completions * COMPLETION_BYTES) as usize
    }

    /// Size of the entries of the submission queue in bytes.
    pub fn submissions_bytes(&self) -> usize {
        (self.submissions * SUBMISSION_BYTES) as usize
    }
}

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    resv: [u32; 3],
    /// head, tail, ring_mask, ring_entries, flags, dropped, array, resv1, user_addr (two).
    sq_off: [u32; 10],
    /// head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1, user_addr (two).
    cq_off: [u32; 10],
}

/// Makes an instance without any flags, with so many entries, which must be powers of two.
///
/// # Errors
///
/// EPERM where the system does not allow it (kernel.io_uring_disabled); ENOSYS; EINVAL for other numbers.
pub fn setup(submissions: u32, completions: u32) -> Result<(OwnedFd, Layout)> {
    let mut params = Params {
        cq_entries: completions,
        flags: SETUP_CQSIZE,
        ..Params::default()
    };
    // SAFETY: `params` is a whole `struct io_uring_params` that the kernel reads and fills in.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_io_uring_setup, submissions, &raw mut params) })?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    if params.features & FEATURE_SINGLE_MMAP == 0 {
        return Err(Errno::NOSYS);
    }
    let layout = Layout {
        submissions: params.sq_entries,
        completions: params.cq_entries,
        submission_tail: params.sq_off[1],
        index_array: params.sq_off[6],
        completion_head: params.cq_off[0],
        completion_entries: params.cq_off[5],
    };
    if layout.submissions == submissions && layout.completions == completions {
        Ok((fd, layout))
    } else {
        Err(Errno::INVAL)
    }
}

/// Submits what is queued, up to `count` entries, without waiting. Returns how many were taken.
pub fn submit(fd: BorrowedFd<'_>, count: u32) -> Result<u32> {
    // SAFETY: no pointer is passed.
    let taken = check(unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            fd.as_raw_fd(),
            count,
            0_u32,
            0_u32,
            std::ptr::null::<u8>(),
            0_usize,
        )
    })?;
    u32::try_from(taken).map_err(|_| Errno::OVERFLOW)
}

/// Whether an eventfd is registered with an instance, which can only be told by registering another: where there was
/// none, `eventfd` is registered for a moment.
///
/// # Errors
///
/// EEXIST for an instance that belongs to one task alone (IORING_SETUP_SINGLE_ISSUER), EACCES or EBADFD for one with
/// restrictions.
pub fn has_eventfd(fd: BorrowedFd<'_>, eventfd: BorrowedFd<'_>) -> Result<bool> {
    let number = eventfd.as_raw_fd();
    match register(fd, REGISTER_EVENTFD, &raw const number, 1) {
        Err(Errno::BUSY) => Ok(true),
        Err(errno) => Err(errno),
        Ok(()) => register(fd, UNREGISTER_EVENTFD, std::ptr::null(), 0).map(|()| false),
    }
}

fn register(fd: BorrowedFd<'_>, code: u32, argument: *const i32, count: u32) -> Result<()> {
    // SAFETY: `argument` is null or points to `count` integers, which is what the two codes used here expect.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            fd.as_raw_fd(),
            code,
            argument,
            count,
        )
    };
    check(result).map(drop)
}

/// A piece of an instance's memory, mapped here for as long as this lives.
#[derive(Debug)]
pub struct Shared {
    address: *mut u8,
    len: usize,
}

impl Shared {
    /// Maps `len` bytes from one of the offsets above.
    pub fn map(fd: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self> {
        // SAFETY: no address is given, so nothing that exists is replaced.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(
                Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::NOMEM)
            );
        }
        Ok(Self {
            address: address.cast(),
            len,
        })
    }

    /// Sets the word at an offset in bytes, which the kernel may be reading.
    pub fn store(&self, at: u32, value: u32) {
        let at = at as usize;
        if !at.is_multiple_of(4) || at + 4 > self.len {
            return;
        }
        // SAFETY: aligned and within the mapping, which lives as long as `self`.
        let word = unsafe { AtomicU32::from_ptr(self.address.add(at).cast()) };
        word.store(value, Ordering::Release);
    }

    /// All bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        // SAFETY: both have `len` bytes and are different memory. Who else could write stands still.
        unsafe { std::ptr::copy_nonoverlapping(self.address, bytes.as_mut_ptr(), self.len) };
        bytes
    }

    /// Overwrites the beginning.
    pub fn fill(&self, bytes: &[u8]) {
        let len = bytes.len().min(self.len);
        // SAFETY: both have at least `len` bytes and are different memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address, len) };
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping that was made by `map`; no reference into it is left.
        unsafe { libc::munmap(self.address.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// Not every machine allows it.
    fn instance() -> Option<(OwnedFd, Layout)> {
        setup(8, 16).ok()
    }

    #[test]
    fn nothing_is_done_as_often_as_it_is_asked_for() {
        let Some((ring, layout)) = instance() else {
            return;
        };
        let rings = Shared::map(ring.as_fd(), OFFSET_RINGS, layout.rings_bytes()).unwrap();
        // Entries full of zeroes ask for nothing (IORING_OP_NOP).
        rings.store(layout.submission_tail, 5);
        assert_eq!(submit(ring.as_fd(), 8), Ok(5));
        assert_eq!(submit(ring.as_fd(), 8), Ok(0));
        let bytes = rings.to_vec();
        let tail = layout.completion_head as usize + 4;
        assert_eq!(bytes[tail..tail + 4], 5_u32.to_ne_bytes());
    }

    #[test]
    fn an_eventfd_is_found() {
        let Some((ring, _)) = instance() else { return };
        let eventfd = || rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let (one, other) = (eventfd(), eventfd());
        assert_eq!(has_eventfd(ring.as_fd(), one.as_fd()), Ok(false));
        assert_eq!(has_eventfd(ring.as_fd(), one.as_fd()), Ok(false));
        let number = one.as_raw_fd();
        register(ring.as_fd(), REGISTER_EVENTFD, &raw const number, 1).unwrap();
        assert_eq!(has_eventfd(ring.as_fd(), other.as_fd()), Ok(true));
    }
}
