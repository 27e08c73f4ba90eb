//! userfaultfd(2): being asked for pages that somebody else's memory lacks.
//!
//! ioctl_userfaultfd(2), Documentation/admin-guide/mm/userfaultfd.rst. The descriptor is made inside the process whose
//! memory it is about and then works from any process that holds it.

use std::mem::size_of;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::memory::PAGE;
use crate::{Errno, Result, check};

/// Flags for userfaultfd(2), made remotely. Without `UFFD_USER_MODE_ONLY`: pages that the kernel touches on behalf of
/// the process are asked for as well, which needs CAP_SYS_PTRACE where /proc/sys/vm/unprivileged_userfaultfd is 0.
pub const CREATE_FLAGS: u64 = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;

/// The same for one that [follows writes](Userfaultfd::follow_writes): it is never asked for a page, so that a process may
/// have it without any privilege (`UFFD_USER_MODE_ONLY`).
pub const FOLLOWER_FLAGS: u64 = CREATE_FLAGS | 1;

const UFFD_API: u64 = 0xaa;
const FEATURE_EVENT_FORK: u64 = 1 << 1;
const FEATURE_EVENT_REMAP: u64 = 1 << 2;
const FEATURE_EVENT_REMOVE: u64 = 1 << 3;
const FEATURE_EVENT_UNMAP: u64 = 1 << 6;
const FEATURE_THREAD_ID: u64 = 1 << 8;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURE_WP_ASYNC: u64 = 1 << 15;

const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_FORK: u8 = 0x13;
const EVENT_REMAP: u8 = 0x14;
const EVENT_REMOVE: u8 = 0x15;
const EVENT_UNMAP: u8 = 0x16;

const READ: libc::c_ulong = 2;
const READ_WRITE: libc::c_ulong = 3;

const fn request(direction: libc::c_ulong, number: libc::c_ulong, size: usize) -> libc::c_ulong {
    (direction << 30) | ((size as libc::c_ulong) << 16) | (0xaa << 8) | number
}

const UFFDIO_REGISTER: libc::c_ulong = request(READ_WRITE, 0x00, size_of::<Register>());
const UFFDIO_WAKE: libc::c_ulong = request(READ, 0x02, size_of::<Span>());
const UFFDIO_COPY: libc::c_ulong = request(READ_WRITE, 0x03, size_of::<Copy>());
const UFFDIO_ZEROPAGE: libc::c_ulong = request(READ_WRITE, 0x04, size_of::<Zeropage>());
const UFFDIO_WRITEPROTECT: libc::c_ulong = request(READ_WRITE, 0x06, size_of::<Protect>());
const UFFDIO_API: libc::c_ulong = request(READ_WRITE, 0x3f, size_of::<Api>());

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Span {
    start: u64,
    len: u64,
}

impl From<Range<u64>> for Span {
    fn from(range: Range<u64>) -> Self {
        Self {
            start: range.start,
            len: range.end.saturating_sub(range.start),
        }
    }
}

#[repr(C)]
struct Register {
    range: Span,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct Zeropage {
    range: Span,
    mode: u64,
    zeroed: i64,
}

#[repr(C)]
struct Protect {
    range: Span,
    mode: u64,
}

/// `struct uffd_msg`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Message {
    event: u8,
    reserved1: u8,
    reserved2: u16,
    reserved3: u32,
    arguments: [u64; 3],
}

/// What happened to the memory.
#[derive(Debug)]
pub enum Event {
    /// A thread waits for a page.
    Fault {
        /// The page's address.
        address: u64,
        /// The thread, as its own pid namespace numbers it.
        tid: i32,
    },
    /// The process makes a child, whose memory lacks the same pages.
    Fork(Userfaultfd),
    /// mremap(2) has moved a range.
    Remap {
        /// Where it was.
        from: u64,
        /// Where it is.
        to: u64,
        /// Its length.
        len: u64,
    },
    /// The contents of a range are being dropped: madvise(2).
    Remove(Range<u64>),
    /// A range is no longer mapped.
    Unmap(Range<u64>),
}

/// An open userfaultfd. When the last duplicate is closed, its ranges are ordinary memory again: pages that are still
/// missing then read as zeroes.
#[derive(Debug)]
pub struct Userfaultfd(OwnedFd);

impl From<OwnedFd> for Userfaultfd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Userfaultfd {
    /// UFFDIO_API, once, before anything else: asks to be told of everything that changes the mappings, and who waits.
    ///
    /// EPERM without CAP_SYS_PTRACE, which following forks needs.
    pub fn enable(&self) -> Result<()> {
        let mut api = Api {
            api: UFFD_API,
            features: FEATURE_EVENT_FORK
                | FEATURE_EVENT_REMAP
                | FEATURE_EVENT_REMOVE
                | FEATURE_EVENT_UNMAP
                | FEATURE_THREAD_ID,
            ioctls: 0,
        };
        // SAFETY: `api` has the layout of uffdio_api and is live.
        unsafe { self.ioctl(UFFDIO_API, &raw mut api) }
    }

    /// UFFDIO_API, once, before anything else: nothing is told of anything, but pages can be protected so that the first
    /// write lifts the protection, in the kernel (`UFFD_FEATURE_WP_ASYNC`, Linux 6.7). PAGEMAP_SCAN protects and tells
    /// ([`scan_written`](crate::pagemap::scan_written)).
    ///
    /// EINVAL where the kernel cannot do that.
    pub fn follow_writes(&self) -> Result<()> {
        let mut api = Api {
            api: UFFD_API,
            features: FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED,
            ioctls: 0,
        };
        // SAFETY: `api` has the layout of uffdio_api and is live.
        unsafe { self.ioctl(UFFDIO_API, &raw mut api) }
    }

    /// UFFDIO_REGISTER for missing pages.
    pub fn register(&self, range: Range<u64>) -> Result<()> {
        const MODE_MISSING: u64 = 1;
        self.register_for(range, MODE_MISSING)
    }

    /// UFFDIO_REGISTER for write protection; what is registered with this one already stays as it is. EBUSY where another
    /// userfaultfd watches, ENOMEM if nothing is mapped there.
    pub fn register_writes(&self, range: Range<u64>) -> Result<()> {
        const MODE_WP: u64 = 2;
        self.register_for(range, MODE_WP)
    }

    fn register_for(&self, range: Range<u64>, mode: u64) -> Result<()> {
        let mut register = Register {
            range: range.into(),
            mode,
            ioctls: 0,
        };
        // SAFETY: `register` has the layout of uffdio_register and is live.
        unsafe { self.ioctl(UFFDIO_REGISTER, &raw mut register) }
    }

    /// UFFDIO_COPY: puts whole pages where there are none and wakes who waits for them. Returns the bytes put, which may
    /// be fewer than asked for.
    ///
    /// When nothing was put: EEXIST if the first page is there already, EAGAIN while the mappings change (read the
    /// events first), ENOENT if the bytes do not all lie in one registered mapping, ESRCH if the memory is gone.
    pub fn copy(&self, to: u64, bytes: &[u8]) -> Result<u64> {
        let mut copy = Copy {
            to,
            from: bytes.as_ptr() as u64,
            len: bytes.len() as u64,
            mode: 0,
            copied: 0,
        };
        // SAFETY: `copy` has the layout of uffdio_copy and is live; `bytes` are live and only read, as many as said.
        let done = unsafe { self.ioctl(UFFDIO_COPY, &raw mut copy) };
        // Pages that were put before a failure are told in the structure.
        match (done, copy.copied) {
            (_, 1..) => Ok(copy.copied as u64),
            (Err(errno), _) => Err(errno),
            (Ok(()), _) => Err(Errno::IO),
        }
    }

    /// UFFDIO_ZEROPAGE: puts a page of zeroes where there is none and wakes who waits for it. Errors as
    /// [`Userfaultfd::copy`].
    pub fn zero(&self, page: u64) -> Result<()> {
        let mut zeropage = Zeropage {
            range: (page..page + PAGE).into(),
            mode: 0,
            zeroed: 0,
        };
        // SAFETY: `zeropage` has the layout of uffdio_zeropage and is live.
        let done = unsafe { self.ioctl(UFFDIO_ZEROPAGE, &raw mut zeropage) };
        // A failure may stand in the structure only.
        match zeropage.zeroed {
            0.. => done,
            errno => Err(Errno::from_raw_os_error(-errno as i32)),
        }
    }

    /// UFFDIO_WAKE: lets whoever waits for a page look again.
    pub fn wake(&self, page: u64) -> Result<()> {
        let mut range = Span::from(page..page + PAGE);
        // SAFETY: `range` has the layout of uffdio_range and is live.
        unsafe { self.ioctl(UFFDIO_WAKE, &raw mut range) }
    }

    /// Whether the memory is gone: its last process has ended or executes another program.
    pub fn is_gone(&self) -> bool {
        // Nothing is registered for write protection, so that lifting it changes nothing and fails in one way or
        // another.
        const LOWEST: u64 = 0x1_0000;
        let mut protect = Protect {
            range: (LOWEST..LOWEST + PAGE).into(),
            mode: 0,
        };
        // SAFETY: `protect` has the layout of uffdio_writeprotect and is live.
        unsafe { self.ioctl(UFFDIO_WRITEPROTECT, &raw mut protect) == Err(Errno::SRCH) }
    }

    /// Reads what happened, as much as there is; nothing where nothing did. Whoever caused an event other than a fault
    /// goes on as soon as it is read.
    pub fn read(&self) -> Result<Vec<Event>> {
        let mut messages = [Message::default(); 32];
        // SAFETY: `messages` is live and as long as said; any bytes are valid in it.
        let read = check(unsafe {
            libc::read(
                self.0.as_raw_fd(),
                messages.as_mut_ptr().cast(),
                size_of_val(&messages),
            )
        } as i64);
        match read {
            Ok(bytes) => Ok(messages[..bytes as usize / size_of::<Message>()]
                .iter()
                .filter_map(event)
                .collect()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        }
    }

    /// # Safety
    ///
    /// `argument` must point to the live structure that the request takes.
    unsafe fn ioctl<T>(&self, request: libc::c_ulong, argument: *mut T) -> Result<()> {
        // SAFETY: as the caller promises.
        check(i64::from(unsafe {
            libc::ioctl(self.0.as_raw_fd(), request, argument)
        }))
        .map(drop)
    }
}

/// Whether a process of this kernel can have its [writes followed](Userfaultfd::follow_writes).
pub fn can_follow_writes() -> bool {
    // SAFETY: a flag in, a fresh descriptor out.
    let made = check(unsafe { libc::syscall(libc::SYS_userfaultfd, FOLLOWER_FLAGS) });
    made.is_ok_and(|fd| {
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        let uffd = Userfaultfd(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        uffd.follow_writes().is_ok()
    })
}

fn event(message: &Message) -> Option<Event> {
    let [first, second, third] = message.arguments;
    Some(match message.event {
        EVENT_PAGEFAULT => Event::Fault {
            address: second & !(PAGE - 1),
            tid: third as u32 as i32,
        },
        // SAFETY: reading the event made this descriptor for us; nobody else owns it.
        EVENT_FORK => Event::Fork(Userfaultfd(unsafe {
            OwnedFd::from_raw_fd(first as u32 as i32)
        })),
        EVENT_REMAP => Event::Remap {
            from: first,
            to: second,
            len: third,
        },
        EVENT_REMOVE => Event::Remove(first..second),
        EVENT_UNMAP => Event::Unmap(first..second),
        // Only what was asked for is told.
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of this process with a userfaultfd on it; `None` where there is no such thing or no privilege.
    fn watched(pages: u64) -> Option<(Userfaultfd, u64)> {
        // SAFETY: a flag in, a fresh descriptor out.
        let fd = check(unsafe { libc::syscall(libc::SYS_userfaultfd, CREATE_FLAGS) }).ok()?;
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        let uffd = Userfaultfd(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        uffd.enable().ok()?;
        // SAFETY: no address is given, so nothing that exists is replaced.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                (pages * PAGE) as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(memory, libc::MAP_FAILED);
        let start = memory as u64;
        uffd.register(start..start + pages * PAGE).unwrap();
        Some((uffd, start))
    }

    fn byte_at(address: u64) -> u8 {
        // SAFETY: only used on mappings of these tests, which are never unmapped.
        unsafe { std::ptr::read_volatile(address as *const u8) }
    }

    #[test]
    fn pages_are_put_where_there_are_none() {
        let Some((uffd, start)) = watched(4) else {
            return;
        };
        let bytes = vec![7u8; 2 * PAGE as usize];
        assert_eq!(uffd.copy(start, &bytes), Ok(2 * PAGE));
        assert_eq!(byte_at(start + PAGE), 7);
        assert_eq!(uffd.copy(start + PAGE, &bytes), Err(Errno::EXIST));
        uffd.zero(start + 2 * PAGE).unwrap();
        assert_eq!(byte_at(start + 2 * PAGE), 0);
        assert_eq!(uffd.zero(start + 2 * PAGE), Err(Errno::EXIST));
        assert_eq!(uffd.copy(start + 3 * PAGE, &bytes), Err(Errno::NOENT));
        assert!(!uffd.is_gone());
        assert!(uffd.read().unwrap().is_empty());
    }

    #[test]
    fn what_was_written_is_known() {
        use crate::pagemap::{category, scan_written};
        use std::os::fd::AsFd;
        // SAFETY: a flag in, a fresh descriptor out.
        let Ok(fd) = check(unsafe { libc::syscall(libc::SYS_userfaultfd, FOLLOWER_FLAGS) }) else {
            return;
        };
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        let uffd = Userfaultfd(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        if uffd.follow_writes().is_err() {
            return;
        }
        // SAFETY: no address is given, so nothing that exists is replaced.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                8 * PAGE as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(memory, libc::MAP_FAILED);
        let start = memory as u64;
        // SAFETY: only used on the mapping above, which is never unmapped.
        let write = |page: u64| unsafe {
            std::ptr::write_volatile((start + page * PAGE) as *mut u8, 1);
        };
        let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
        let scan = || {
            let mut written = Vec::new();
            let mut unchanged = Vec::new();
            scan_written(pagemap.as_fd(), start, start + 8 * PAGE, |region| {
                let pages = (region.start - start) / PAGE..(region.end - start) / PAGE;
                match region.categories & category::WRITTEN {
                    0 => unchanged.extend(pages),
                    _ => written.extend(pages),
                }
            })
            .unwrap();
            (written, unchanged)
        };
        for page in 0..4 {
            write(page);
        }
        uffd.register_writes(start..start + 8 * PAGE).unwrap();
        assert_eq!(scan(), (vec![0, 1, 2, 3], vec![]));
        uffd.register_writes(start..start + 8 * PAGE).unwrap();
        write(1);
        write(5);
        // SAFETY: within the mapping above.
        unsafe {
            libc::madvise(
                (start + 2 * PAGE) as *mut _,
                PAGE as usize,
                libc::MADV_DONTNEED,
            )
        };
        assert_eq!(byte_at(start + 2 * PAGE), 0);
        assert_eq!(scan(), (vec![1, 5], vec![0, 3]));
        write(2);
        assert_eq!(scan(), (vec![2], vec![0, 1, 3, 5]));
    }

    #[test]
    fn a_fault_tells_the_page_and_who_waits() {
        let Some((uffd, start)) = watched(2) else {
            return;
        };
        std::thread::scope(|scope| {
            let touched = scope.spawn(|| byte_at(start + PAGE + 5));
            let (address, tid) = loop {
                // Other tests of this process may fork, which is an event as well.
                let events = uffd.read().unwrap().into_iter();
                let fault = |event| match event {
                    Event::Fault { address, tid } => Some((address, tid)),
                    _ => None,
                };
                if let Some(found) = events.filter_map(fault).next() {
                    break found;
                }
                std::thread::yield_now();
            };
            assert_eq!(address, start + PAGE);
            assert!(std::path::Path::new(&format!("/proc/self/task/{tid}")).exists());
            assert_eq!(uffd.copy(address, &[9; PAGE as usize]), Ok(PAGE));
            assert_eq!(touched.join().unwrap(), 9);
        });
    }
}
