//! What fcntl(2), ioctl(2) and friends know of a descriptor that `rustix` does not ask.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Errno, Result, check};

/// Who gets signals for a descriptor: `struct f_owner_ex` of F_GETOWN_EX.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// F_OWNER_TID (0), F_OWNER_PID (1) or F_OWNER_PGRP (2).
    pub kind: i32,
    /// The thread, process or group; 0 for none.
    pub pid: i32,
}

/// fcntl(F_GETOWN_EX).
pub fn owner(fd: BorrowedFd<'_>) -> Result<Owner> {
    let mut owner = Owner::default();
    // SAFETY: `owner` has the layout of f_owner_ex and is live.
    check(i64::from(unsafe {
        libc::fcntl(fd.as_raw_fd(), F_GETOWN_EX, &raw mut owner)
    }))?;
    Ok(owner)
}

/// fcntl(F_SETOWN_EX). The kernel remembers the caller's uids with it.
pub fn set_owner(fd: BorrowedFd<'_>, owner: Owner) -> Result<()> {
    // SAFETY: `owner` has the layout of f_owner_ex, is live and only read.
    check(i64::from(unsafe {
        libc::fcntl(fd.as_raw_fd(), F_SETOWN_EX, &raw const owner)
    }))
    .map(drop)
}

/// F_SETOWN_EX, for remote calls.
pub const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_GETOWNER_UIDS: i32 = 17;
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;

/// fcntl(F_GETOWNER_UIDS): real and effective uid of whoever set the owner.
pub fn owner_uids(fd: BorrowedFd<'_>) -> Result<(u32, u32)> {
    let mut uids = [0u32; 2];
    // SAFETY: the call writes two uid_t.
    check(i64::from(unsafe {
        libc::fcntl(fd.as_raw_fd(), F_GETOWNER_UIDS, uids.as_mut_ptr())
    }))?;
    Ok((uids[0], uids[1]))
}

/// fcntl(F_GETSIG): the signal sent instead of SIGIO; 0 for SIGIO.
pub fn signal(fd: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: plain integers only.
    Ok(check(i64::from(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETSIG) }))? as i32)
}

/// fcntl(F_SETSIG).
pub fn set_signal(fd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: plain integers only.
    check(i64::from(unsafe {
        libc::fcntl(fd.as_raw_fd(), F_SETSIG, signal)
    }))
    .map(drop)
}

/// fcntl(F_DUPFD_CLOEXEC): a duplicate with a number of at least `at_least`.
pub fn duplicate_from(fd: BorrowedFd<'_>, at_least: i32) -> Result<OwnedFd> {
    // SAFETY: plain integers only.
    let fd = check(i64::from(unsafe {
        libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, at_least)
    }))?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// close_range(2) with CLOSE_RANGE_CLOEXEC: every descriptor from `first` on is closed by the next execve(2), whoever
/// left it open. Nothing is closed now.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: plain integers only; no descriptor changes hands.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}

/// ioctl(FIONREAD): bytes that can be read.
pub fn readable_bytes(fd: BorrowedFd<'_>) -> Result<u32> {
    let mut bytes = 0i32;
    // SAFETY: the call writes one int.
    check(i64::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut bytes)
    }))?;
    Ok(bytes.max(0) as u32)
}

/// signalfd(2) for the given mask (bit N-1 for signal N), close-on-exec.
pub fn signalfd(mask: u64, nonblocking: bool) -> Result<OwnedFd> {
    let flags = libc::SFD_CLOEXEC | if nonblocking { libc::SFD_NONBLOCK } else { 0 };
    // SAFETY: the mask is live, 8 bytes long as said, and only read.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, 8usize, flags) })?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// ioctl(TFD_IOC_SET_TICKS): sets the count of expirations that a timerfd reports at the next read.
pub fn set_timer_ticks(fd: BorrowedFd<'_>, ticks: u64) -> Result<()> {
    /// `_IOW('T', 0, u64)`.
    const TFD_IOC_SET_TICKS: libc::c_ulong = (1 << 30) | (8 << 16) | (0x54 << 8);
    // SAFETY: the call reads one u64.
    check(i64::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), TFD_IOC_SET_TICKS, &raw const ticks)
    }))
    .map(drop)
}

/// One target of an epoll instance, `struct kcmp_epoll_slot` of kcmp(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpollSlot {
    /// Descriptor of the epoll instance in the second process.
    pub epoll: u32,
    /// Number under which the target was added.
    pub target: u32,
    /// Which of the targets that were added under this number, in the order of /proc/PID/fdinfo/EPOLL.
    pub offset: u32,
}

/// kcmp(2) with KCMP_EPOLL_TFD: whether descriptor `fd` of process `pid` is the open file that a slot of an epoll
/// instance of process `holder` watches. ENOENT when there is no such slot.
pub fn is_epoll_target(pid: i32, fd: i32, holder: i32, slot: EpollSlot) -> Result<bool> {
    const KCMP_EPOLL_TFD: i32 = 7;
    // SAFETY: `slot` has the layout of kcmp_epoll_slot, is live and only read.
    let order = check(unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            pid,
            holder,
            KCMP_EPOLL_TFD,
            fd as u64,
            &raw const slot,
        )
    })?;
    Ok(order == 0)
}

/// Like [`set_owner`], with `uid` and `euid` as those the kernel remembers. Needs CAP_SETUID when these are not ours.
///
/// The user ids are changed for a thread that exists only for this call. That makes the kernel clear the dumpable flag
/// of the whole process, which is set again.
pub fn set_owner_as(fd: BorrowedFd<'_>, owner: Owner, uid: u32, euid: u32) -> Result<()> {
    let keep = u32::MAX;
    let set = || {
        // The raw call, unlike libc's, changes this thread only.
        // SAFETY: plain integers only.
        check(unsafe { libc::syscall(libc::SYS_setresuid, uid, euid, keep) })?;
        set_owner(fd, owner)
    };
    // SAFETY: these calls take and touch nothing.
    if unsafe { (libc::getuid(), libc::geteuid()) } == (uid, euid) {
        return set_owner(fd, owner);
    }
    let done = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, set)
            .map_err(|_| Errno::AGAIN)?;
        // Joining fails only after a panic, and there is none in the closure.
        thread.join().unwrap_or(Err(Errno::AGAIN))
    });
    // SAFETY: plain integers only.
    check(i64::from(unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0)
    }))?;
    done
}

/// Closes every descriptor of this process but those given (close_range(2)).
///
/// For a process that was just forked, which leaves everything that its parent's values owned alone from then on: the
/// numbers in them mean nothing any more.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut next = 0u32;
    for fd in keep.into_iter().map(Some).chain([None]) {
        let last = match fd {
            Some(0) => None,
            Some(fd) => Some(fd - 1),
            None => Some(u32::MAX),
        };
        if let Some(last) = last.filter(|&last| last >= next) {
            // SAFETY: plain integers; that nobody uses what is closed is what the caller promises above, and whoever
            // does gets EBADF: nothing is opened behind its back in between.
            check(unsafe { libc::syscall(libc::SYS_close_range, next, last, 0) })?;
        }
        next = fd.map_or(u32::MAX, |fd| fd + 1);
    }
    Ok(())
}

/// Duplicates of all open userfaultfds of this process, whoever opened them: its descriptor table may be shared.
pub fn userfaultfds() -> Result<Vec<crate::userfaultfd::Userfaultfd>> {
    let entries = std::fs::read_dir("/proc/self/fd").map_err(|_| Errno::NOENT)?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let is_one = std::fs::read_link(entry.path())
            .is_ok_and(|link| link.as_os_str() == "anon_inode:[userfaultfd]");
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok());
        if let Some(number) = number.filter(|_| is_one) {
            // SAFETY: plain integers in, a fresh descriptor out.
            let fd = check(i64::from(unsafe {
                libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0)
            }))?;
            // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
            found.push(unsafe { OwnedFd::from_raw_fd(fd as i32) }.into());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_inherited_from_a_number_on() {
        let file = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: plain integers only; the descriptor is ours.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) };
        close_on_exec_from(file.as_raw_fd() as u32).unwrap();
        // SAFETY: plain integers only.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags, libc::FD_CLOEXEC);
    }
}
