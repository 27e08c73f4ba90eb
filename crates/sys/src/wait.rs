//! wait4(2) with `__WALL`: what a tracee did.

use crate::{Errno, Result, check};

/// One report of wait4(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The task ended with this exit code.
    Exited(i32),
    /// A signal ended the task; the flag tells whether it dumped core.
    Signaled(i32, bool),
    /// A ptrace event stop (`PTRACE_EVENT_*`) with the signal reported beside it.
    Event(i32, i32),
    /// Stopped at the entry or exit of a system call (needs `PTRACE_O_TRACESYSGOOD`).
    Syscall,
    /// Stopped by, or about to receive, this signal.
    Stopped(i32),
    /// Continued after a job-control stop.
    Continued,
}

impl Status {
    /// Decodes the status word of wait4(2).
    pub fn from_raw(raw: i32) -> Self {
        if libc::WIFEXITED(raw) {
            Self::Exited(libc::WEXITSTATUS(raw))
        } else if libc::WIFSIGNALED(raw) {
            Self::Signaled(libc::WTERMSIG(raw), libc::WCOREDUMP(raw))
        } else if libc::WIFCONTINUED(raw) {
            Self::Continued
        } else {
            let signal = libc::WSTOPSIG(raw);
            match raw >> 16 {
                0 if signal == libc::SIGTRAP | 0x80 => Self::Syscall,
                0 => Self::Stopped(signal),
                event => Self::Event(event, signal),
            }
        }
    }
}

/// Waits for `pid` (or any child with -1), retrying when a signal interrupts. With `no_hang`, `None` when nothing is
/// ready.
pub fn wait(pid: i32, no_hang: bool) -> Result<Option<(i32, Status)>> {
    loop {
        let found = wait_interruptible(pid, no_hang);
        if !matches!(found, Err(Errno::INTR)) {
            return found;
        }
    }
}

/// Like [`wait`], but returns EINTR when a signal arrives.
pub fn wait_interruptible(pid: i32, no_hang: bool) -> Result<Option<(i32, Status)>> {
    wait_with(pid, if no_hang { libc::WNOHANG } else { 0 })
}

/// What a child has done that its parent was not told yet: ended, or stopped. Does not wait.
pub fn news_of(pid: i32) -> Result<Option<Status>> {
    let news = wait_with(pid, libc::WNOHANG | libc::WUNTRACED)?;
    Ok(news.map(|(_, status)| status))
}

fn wait_with(pid: i32, flags: i32) -> Result<Option<(i32, Status)>> {
    let mut raw = 0i32;
    let flags = libc::__WALL | flags;
    // SAFETY: `raw` outlives the call and is the only memory written.
    let found = check(i64::from(unsafe {
        libc::waitpid(pid, &raw mut raw, flags)
    }))? as i32;
    Ok((found != 0).then(|| (found, Status::from_raw(raw))))
}
