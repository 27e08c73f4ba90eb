//! Looking at other processes: pidfd, kcmp, robust lists, scheduling, sessions.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Errno, Result, check};

/// pidfd_open(2).
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    /// For any thread (Linux 6.9).
    const PIDFD_THREAD: u32 = libc::O_EXCL as u32;
    match pidfd_open_with(pid, 0) {
        // It is no process: a thread of one, such as one whose first thread has ended.
        Err(Errno::INVAL | Errno::NOENT) => pidfd_open_with(pid, PIDFD_THREAD),
        opened => opened,
    }
}

/// pidfd_getfd(2): a duplicate of descriptor `fd` of the process behind `pidfd`, close-on-exec.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: i32) -> Result<OwnedFd> {
    // SAFETY: plain integers in, a fresh descriptor out.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// What kcmp(2) compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Kcmp {
    /// The open file descriptions behind two descriptors.
    File = 0,
    /// Address spaces.
    Vm = 1,
    /// Descriptor tables.
    Files = 2,
    /// Root, working directory and umask.
    Fs = 3,
    /// Signal handlers.
    Sighand = 4,
}

/// kcmp(2): the order of two kernel objects; `Equal` when they are the same one.
pub fn kcmp(pid1: i32, pid2: i32, what: Kcmp, idx1: u64, idx2: u64) -> Result<std::cmp::Ordering> {
    // SAFETY: plain integers only.
    let order =
        check(unsafe { libc::syscall(libc::SYS_kcmp, pid1, pid2, what as i32, idx1, idx2) })?;
    Ok(match order {
        0 => std::cmp::Ordering::Equal,
        1 => std::cmp::Ordering::Less,
        _ => std::cmp::Ordering::Greater,
    })
}

/// get_robust_list(2): head and length of a thread's list of robust futexes.
pub fn robust_list(tid: i32) -> Result<(u64, u64)> {
    let (mut head, mut len) = (0u64, 0u64);
    // SAFETY: both out-pointers are live for the call.
    check(unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) })?;
    Ok((head, len))
}

/// Scheduling of one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// `SCHED_*`, with `SCHED_RESET_ON_FORK` where set.
    pub policy: i32,
    /// Real-time priority; 0 for the others.
    pub priority: i32,
    /// Nice value, -20 to 19.
    pub nice: i32,
    /// Of SCHED_DEADLINE only.
    pub deadline: Option<Deadline>,
}

/// The parameters of SCHED_DEADLINE; sched(7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline {
    /// Time it may run in each period, in nanoseconds.
    pub runtime_ns: u64,
    /// When that time must have come, in nanoseconds from the beginning of the period.
    pub deadline_ns: u64,
    /// Length of the period in nanoseconds.
    pub period_ns: u64,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
}

/// `struct sched_attr` in its first version.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// SCHED_DEADLINE of sched(7).
const SCHED_DEADLINE: i32 = 6;

fn deadline(tid: i32) -> Result<Deadline> {
    let mut attr = SchedAttr::default();
    let size = std::mem::size_of::<SchedAttr>();
    // SAFETY: `attr` is live and as long as said.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attr, size, 0) })?;
    Ok(Deadline {
        runtime_ns: attr.runtime,
        deadline_ns: attr.deadline,
        period_ns: attr.period,
        flags: attr.flags,
    })
}

fn set_deadline(tid: i32, deadline: Deadline) -> Result<()> {
    let attr = SchedAttr {
        size: std::mem::size_of::<SchedAttr>() as u32,
        policy: SCHED_DEADLINE as u32,
        flags: deadline.flags,
        runtime: deadline.runtime_ns,
        deadline: deadline.deadline_ns,
        period: deadline.period_ns,
        ..SchedAttr::default()
    };
    // SAFETY: `attr` is live, says its own size, and is only read.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const attr, 0) }).map(drop)
}

const IOPRIO_WHO_PROCESS: i32 = 1;

/// ioprio_get(2) of one thread; 0 where none was set.
pub fn io_priority(tid: i32) -> Result<u32> {
    // SAFETY: plain integers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) })
        .map(|priority| priority as u32)
}

/// ioprio_set(2) of one thread.
pub fn set_io_priority(tid: i32, priority: u32) -> Result<()> {
    // SAFETY: plain integers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, priority) })
        .map(drop)
}

/// sched_getscheduler(2), sched_getparam(2) and getpriority(2) of one thread.
pub fn scheduling(tid: i32) -> Result<Scheduling> {
    // SAFETY: plain integers only.
    let policy = check(i64::from(unsafe { libc::sched_getscheduler(tid) }))? as i32;
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: `param` is live and the only memory written.
    check(i64::from(unsafe {
        libc::sched_getparam(tid, &raw mut param)
    }))?;
    // The raw call gives 20 - nice, so that it never looks like an error.
    // SAFETY: plain integers only.
    let nice = check(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid) })?;
    Ok(Scheduling {
        policy,
        priority: param.sched_priority,
        nice: 20 - nice as i32,
        deadline: if policy & !libc::SCHED_RESET_ON_FORK == SCHED_DEADLINE {
            Some(deadline(tid)?)
        } else {
            None
        },
    })
}

/// sched_setscheduler(2) and setpriority(2), or sched_setattr(2), of one thread.
pub fn set_scheduling(tid: i32, scheduling: Scheduling) -> Result<()> {
    if let Some(deadline) = scheduling.deadline {
        return set_deadline(tid, deadline);
    }
    let param = libc::sched_param {
        sched_priority: scheduling.priority,
    };
    // SAFETY: `param` is live for the call.
    check(i64::from(unsafe {
        libc::sched_setscheduler(tid, scheduling.policy, &raw const param)
    }))?;
    // SAFETY: plain integers only.
    check(unsafe {
        libc::syscall(
            libc::SYS_setpriority,
            libc::PRIO_PROCESS,
            tid,
            scheduling.nice,
        )
    })
    .map(drop)
}

/// sched_getaffinity(2), as the kernel's bit mask.
pub fn affinity(tid: i32) -> Result<Vec<u8>> {
    let mut mask = vec![0u8; 1024];
    // SAFETY: the buffer is as long as said; the raw call returns the bytes written.
    let len = check(unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            tid,
            mask.len(),
            mask.as_mut_ptr(),
        )
    })?;
    mask.truncate(len as usize);
    Ok(mask)
}

/// sched_setaffinity(2) with the kernel's bit mask.
pub fn set_affinity(tid: i32, mask: &[u8]) -> Result<()> {
    // SAFETY: the buffer is as long as said and only read.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, mask.len(), mask.as_ptr()) })
        .map(drop)
}

/// kill(2).
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: plain integers only.
    check(i64::from(unsafe { libc::kill(pid, signal) })).map(drop)
}

/// tgkill(2).
pub fn kill_thread(pid: i32, tid: i32, signal: i32) -> Result<()> {
    // SAFETY: plain integers only.
    check(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) }).map(drop)
}

/// pidfd_send_signal(2): cannot hit a reused pid.
pub fn pidfd_kill(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: plain integers and a null pointer, which the call allows.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            0usize,
            0,
        )
    })
    .map(drop)
}

/// rt_tgsigqueueinfo(2): queues a signal with its siginfo for one thread. The kernel allows foreign `si_code`s only to a
/// thread for itself, so restore makes this call remotely; here it serves tests.
pub fn queue_signal(
    tgid: i32,
    tid: i32,
    signal: i32,
    info: &crate::ptrace::RawSiginfo,
) -> Result<()> {
    // SAFETY: `info` is a live siginfo_t-sized buffer that is only read.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            tgid,
            tid,
            signal,
            info.as_ptr(),
        )
    })
    .map(drop)
}

/// A limit as prlimit(2) reads it: soft and hard, `u64::MAX` for none.
pub fn rlimit(resource: u32) -> Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is live; the null new-limit pointer means "only read".
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, 0usize, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Sets a limit of this process; prlimit(2).
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` is live and only read; the null old-limit pointer is allowed.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, 0usize) })
        .map(drop)
}

/// RLIMIT_NOFILE for [`rlimit`] and [`set_rlimit`].
pub const RLIMIT_NOFILE: u32 = libc::RLIMIT_NOFILE;

/// prctl(PR_SET_CHILD_SUBREAPER): orphans below this process become its children.
pub fn set_child_subreaper(on: bool) -> Result<()> {
    // SAFETY: plain integers only.
    check(i64::from(unsafe {
        libc::prctl(
            libc::PR_SET_CHILD_SUBREAPER,
            libc::c_ulong::from(on),
            0,
            0,
            0,
        )
    }))
    .map(drop)
}

/// getpgid(2): the process group of a process, 0 for this one; the group is 0 when it is of an outer pid namespace.
pub fn group_of(pid: i32) -> Result<i32> {
    // SAFETY: plain integers only.
    Ok(check(i64::from(unsafe { libc::getpgid(pid) }))? as i32)
}

/// getsid(2): the session of a process, 0 for this one; the session is 0 when it is of an outer pid namespace.
pub fn session_of(pid: i32) -> Result<i32> {
    // SAFETY: plain integers only.
    Ok(check(i64::from(unsafe { libc::getsid(pid) }))? as i32)
}

/// setsid(2) of this process, for a freshly started child only.
pub fn set_session() -> Result<()> {
    // SAFETY: takes and touches nothing.
    check(i64::from(unsafe { libc::setsid() })).map(drop)
}

/// pidfd_open(2) with flags: O_NONBLOCK (PIDFD_NONBLOCK), O_EXCL (PIDFD_THREAD).
pub fn pidfd_open_with(pid: i32, flags: u32) -> Result<OwnedFd> {
    // SAFETY: plain integers in, a fresh descriptor out.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) })?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// _exit(2): ends this process without running anything more of it, such as what its parent registered before a fork.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: takes a plain integer and does not return.
    unsafe { libc::_exit(code) }
}
