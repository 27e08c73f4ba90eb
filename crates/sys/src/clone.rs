//! clone3(2): making the first task of a restored tree.

use std::mem::size_of;

use crate::{Errno, Result, check};

/// `struct clone_args`, for the local call below and for remote ones, where the engine lays it out in a tracee.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the fields of clone_args in clone(2)")]
pub struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

impl CloneArgs {
    /// The structure as the kernel reads it.
    pub fn to_bytes(&self) -> Vec<u8> {
        [
            self.flags,
            self.pidfd,
            self.child_tid,
            self.parent_tid,
            self.exit_signal,
            self.stack,
            self.stack_size,
            self.tls,
            self.set_tid,
            self.set_tid_size,
            self.cgroup,
        ]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect()
    }
}

/// Forks a child with the given pid that does nothing: it sleeps until a tracer takes it over, and dies with its parent.
///
/// EEXIST when the pid is taken, EPERM without CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN (clone(2), `set_tid`).
pub fn spawn_sleeper(pid: i32) -> Result<()> {
    let set_tid = [pid];
    let args = CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        set_tid: set_tid.as_ptr() as u64,
        set_tid_size: 1,
        ..CloneArgs::default()
    };
    sleep_in_child(&args).map(drop)
}

/// The same with whatever pid the kernel gives. Returns it.
pub fn spawn_any_sleeper() -> Result<i32> {
    sleep_in_child(&CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    })
}

fn sleep_in_child(args: &CloneArgs) -> Result<i32> {
    // SAFETY: no CLONE_VM, so the child runs on its own copy of this stack. It makes only raw system calls, touches no
    // lock, allocates nothing and never returns, so the state of other threads at this moment does not matter to it.
    unsafe {
        let rc = libc::syscall(libc::SYS_clone3, &raw const *args, size_of::<CloneArgs>());
        if rc == 0 {
            libc::syscall(
                libc::SYS_prctl,
                libc::PR_SET_PDEATHSIG,
                libc::SIGKILL,
                0,
                0,
                0,
            );
            loop {
                libc::syscall(libc::SYS_pause);
            }
        }
        check(rc).map(|pid| pid as i32)
    }
}

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The one that called; the child has this pid.
    Parent(i32),
    /// The new one.
    Child,
}

/// fork(2).
///
/// EBUSY when this process has other threads: the child would have the locks that they hold, and not them.
pub fn fork() -> Result<Fork> {
    alone()?;
    // SAFETY: there is no other thread, so the child has everything as it is here and may go on like this process.
    side(check(i64::from(unsafe { libc::fork() }))?)
}

/// Like [`fork`], with a child that shares the descriptor table (CLONE_FILES of clone(2)): what one of the two opens is
/// open until both have closed it or ended.
pub fn fork_sharing_descriptors() -> Result<Fork> {
    alone()?;
    let args = CloneArgs {
        flags: libc::CLONE_FILES as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // SAFETY: no CLONE_VM, so the child runs on its own copy of this stack; there is no other thread, so that copy is
    // whole. `args` is live.
    side(check(unsafe {
        libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>())
    })?)
}

fn alone() -> Result<()> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(|_| Errno::NOENT)?;
    if threads.count() == 1 {
        Ok(())
    } else {
        Err(Errno::BUSY)
    }
}

fn side(pid: i64) -> Result<Fork> {
    Ok(match pid {
        0 => Fork::Child,
        pid => Fork::Parent(pid as i32),
    })
}
