//! inotify(7), fanotify(7) and file handles, as far as `rustix` does not know them.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Errno, Result, check};

/// ioctl(INOTIFY_IOC_SETNEXTWD): the number that the next watch of an inotify instance gets.
pub fn set_next_watch(inotify: BorrowedFd<'_>, number: i32) -> Result<()> {
    /// `_IOW('I', 0, __s32)`, linux/inotify.h.
    const INOTIFY_IOC_SETNEXTWD: libc::c_ulong = (1 << 30) | (4 << 16) | (0x49 << 8);
    // SAFETY: the number is passed by value; no memory is touched.
    check(i64::from(unsafe {
        libc::ioctl(inotify.as_raw_fd(), INOTIFY_IOC_SETNEXTWD, number)
    }))
    .map(drop)
}

/// fanotify_init(2). `flags` are `FAN_*` (the group remembers FAN_CLOEXEC, so nothing is added here), `event_flags` the
/// open flags of descriptors in events.
pub fn fanotify_init(flags: u32, event_flags: u32) -> Result<OwnedFd> {
    // SAFETY: plain integers in, a fresh descriptor out.
    let fd = check(i64::from(unsafe {
        libc::fanotify_init(flags, event_flags)
    }))?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// fanotify_mark(2) for what `path` leads to, links followed.
pub fn fanotify_mark(group: BorrowedFd<'_>, flags: u32, mask: u64, path: &CStr) -> Result<()> {
    // SAFETY: the path is a live string that ends in a zero byte and is only read.
    check(i64::from(unsafe {
        libc::fanotify_mark(
            group.as_raw_fd(),
            flags,
            mask,
            libc::AT_FDCWD,
            path.as_ptr(),
        )
    }))
    .map(drop)
}

/// Longest file handle there is (MAX_HANDLE_SZ, linux/exportfs.h).
pub const LONGEST_HANDLE_BYTES: usize = 128;

/// open_by_handle_at(2) with O_PATH: the file of a handle, below the mount that `mount` was opened on.
pub fn open_by_handle(mount: BorrowedFd<'_>, kind: i32, handle: &[u8]) -> Result<OwnedFd> {
    #[repr(C)]
    struct FileHandle {
        bytes: u32,
        kind: i32,
        handle: [u8; LONGEST_HANDLE_BYTES],
    }
    let mut wanted = FileHandle {
        bytes: handle.len() as u32,
        kind,
        handle: [0; LONGEST_HANDLE_BYTES],
    };
    wanted
        .handle
        .get_mut(..handle.len())
        .ok_or(Errno::OVERFLOW)?
        .copy_from_slice(handle);
    // SAFETY: `wanted` is laid out as struct file_handle, is live and as long as it says.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut wanted,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    })?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
