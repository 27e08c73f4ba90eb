//! A child as a job: a process group of this process's own session, which may have the terminal.
//!
//! The rules are those of job control in the GNU C library's manual, "Implementing a Job Control Shell": the group in the
//! foreground is the child's; when it stops, this process takes the terminal back and stops as well, so that its own shell
//! sees a stopped job; when that one continues it, it hands the terminal over again.

use std::os::fd::{BorrowedFd, OwnedFd};

use cryopod_sys::{process, tty};

const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;
const SIGTTIN: i32 = 21;
const SIGTTOU: i32 = 22;

/// A child, seen from the terminal.
#[derive(Debug)]
pub(super) struct Job {
    /// Its group and session, as far as they are known.
    group: i32,
    own_session: bool,
    own_group: bool,
    /// This process's controlling terminal.
    terminal: Option<OwnedFd>,
}

impl Job {
    /// What the child `pid` is.
    pub(super) fn of(pid: i32) -> Self {
        let group = process::group_of(pid).unwrap_or(0);
        let session = process::session_of(pid);
        let job = Self {
            group,
            own_group: process::group_of(pid) == process::group_of(0),
            own_session: session.is_ok() && session == process::session_of(0),
            terminal: controlling_terminal(),
        };
        tracing::debug!(pid, ?job, "a child in the foreground");
        job
    }

    /// Whether it leads a group of this session.
    pub(super) fn is_one(&self) -> bool {
        self.own_session && !self.own_group && self.group > 0
    }

    /// Whether it is in this process's own group.
    pub(super) fn is_in_own_group(&self) -> bool {
        self.own_group
    }

    /// Whether it has another session.
    pub(super) fn is_elsewhere(&self) -> bool {
        !self.own_session
    }

    /// The child has been stopped by a signal.
    pub(super) fn stopped(&self, signal: i32) {
        if !self.is_one() {
            return;
        }
        let wants_terminal = matches!(signal, SIGTTIN | SIGTTOU);
        match self.foreground() {
            // This process has the terminal for it.
            Some(group) if group == own_group_id() && wants_terminal => self.go_on(),
            Some(group) if group == self.group => {
                self.take_back();
                if !nobody_controls_jobs() {
                    stop();
                } else if signal != SIGSTOP {
                    // Nobody would ever continue it, so the kernel would not have stopped it either.
                    self.go_on();
                }
            }
            Some(_) if wants_terminal && !nobody_controls_jobs() => stop(),
            _ => {}
        }
    }

    fn go_on(&self) {
        self.set_foreground(self.group);
        let _ = process::kill(-self.group, SIGCONT);
    }

    /// This process has been continued; the child will be.
    pub(super) fn continued(&self) {
        if self.is_one() && self.foreground() == Some(own_group_id()) {
            self.set_foreground(self.group);
        }
    }

    fn foreground(&self) -> Option<i32> {
        use std::os::fd::AsFd;
        tty::foreground(self.terminal.as_ref()?.as_fd()).ok()
    }

    fn take_back(&self) {
        self.set_foreground(own_group_id());
    }

    fn set_foreground(&self, group: i32) {
        use std::os::fd::AsFd;
        if let Some(terminal) = &self.terminal
            && let Err(error) = tty::set_foreground(terminal.as_fd(), group)
        {
            tracing::debug!(group, %error, "could not set the foreground group");
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Whoever writes to the terminal next is this process, or the script that it is a part of.
        if self.is_one() && self.foreground() == Some(self.group) {
            self.take_back();
        }
    }
}

/// Stops the whole group, like the key: this process may be a part of a pipeline. A later SIGCONT is noted.
pub(super) fn stop() {
    let _ = process::kill(0, SIGSTOP);
}

fn own_group_id() -> i32 {
    process::group_of(0).unwrap_or(0)
}

/// A duplicate of whichever standard stream is the controlling terminal.
fn controlling_terminal() -> Option<OwnedFd> {
    let streams: [BorrowedFd<'_>; 3] = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    let mut ours = streams
        .into_iter()
        .filter(|stream| tty::foreground(*stream).is_ok());
    rustix::io::fcntl_dupfd_cloexec(ours.next()?, 3).ok()
}

/// Whether this process's group is orphaned (setpgid(2)): nobody outside of it in its session could continue it. Its
/// members are looked at only upwards from this process.
fn nobody_controls_jobs() -> bool {
    let mut one = parent_of(std::process::id() as i32);
    loop {
        let Some(parent) = one else { return true };
        if process::session_of(parent) != process::session_of(0) {
            return true;
        }
        if process::group_of(parent) != process::group_of(0) {
            return false;
        }
        one = parent_of(parent);
    }
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before the state may have parentheses of its own.
    let (_, rest) = stat.rsplit_once(')')?;
    let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
    (parent > 0).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_of_a_process_is_in_its_status() {
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
        assert_eq!(parent_of(std::process::id() as i32), parent);
    }

    #[test]
    fn a_child_in_the_same_group_is_no_job() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let job = Job::of(child.id() as i32);
        assert!(job.is_in_own_group() && !job.is_one() && !job.is_elsewhere());
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
