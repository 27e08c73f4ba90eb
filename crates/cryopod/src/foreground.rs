//! Standing in for a child in the foreground: passing signals on to it, and learning how it ended.
//!
//! [`prepare`] comes before the child exists, so that no signal ends this process and leaves the child; what arrives until
//! [`wait`] is kept for it. A child that leads a group of this process's own session is treated as a shell treats a job
//! ([`job`](self::job)).

mod job;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use cryopod_engine::Cancel;
use cryopod_sys::signal::Noted;
use cryopod_sys::wait::Status;
use cryopod_sys::{Errno, process, signal, wait as sys_wait};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use self::job::Job;
use crate::error::{Error, Result};
use crate::interrupt;

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGKILL: i32 = 9;
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;
const SIGTSTP: i32 = 20;
const SIGWINCH: i32 = 28;

/// The signals that are noted: those that are passed on to the child, and the one that tells of it.
const NOTED: &[i32] = &[
    SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM, SIGCONT, SIGTSTP, SIGWINCH, SIGCHLD,
];

/// Those that mean, as long as there is no child, that there shall be none.
const CANCELLING: &[i32] = &[SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

impl ExitStatus {
    /// Ends this process as the child ended: with its exit code, or by the same signal, so that a shell sees no
    /// difference. No core is dumped for it: the child's own is the one that matters.
    pub fn exit(self) -> ! {
        match self {
            Self::Exited(code) => std::process::exit(code),
            Self::Signaled(signal) => {
                /// RLIMIT_CORE, getrlimit(2).
                const RLIMIT_CORE: u32 = 4;
                let _ = process::set_rlimit(RLIMIT_CORE, 0, 0);
                cryopod_sys::signal::die_of(signal)
            }
        }
    }
}

/// From now on the signals that [`wait`] passes on do nothing to this process: they are kept for it. Until the child
/// exists, those that ask for an end cancel what is done to make it.
///
/// # Errors
///
/// [`Error::Child`] when the kernel refuses to have signals handled.
pub fn prepare() -> Result<Cancel> {
    interrupt::note(NOTED)?;
    Ok(Cancel::by_signals(interrupt::mask(CANCELLING)))
}

/// Waits for the child `pid` to end, and passes on to it every SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2,
/// SIGWINCH, SIGTSTP and SIGCONT that this process has got since [`prepare`] or gets from now on. What a terminal sends to
/// a whole group goes to the child's whole group, if it leads one.
///
/// # Errors
///
/// [`Error::Child`] if there is no such child.
pub fn wait(pid: i32) -> Result<ExitStatus> {
    wait_beside(pid, None)
}

/// What else is to be heard of while a child is waited for.
pub(crate) trait Beside {
    /// Is ready when there is news.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Takes the news in. Returns whether there may be more.
    fn look(&mut self) -> bool;
}

/// As [`wait`], hearing of something else beside.
pub(crate) fn wait_beside(pid: i32, mut beside: Option<&mut dyn Beside>) -> Result<ExitStatus> {
    let failed = |errno: Errno| Error::Child {
        operation: "wait for",
        pid,
        source: errno.into(),
    };
    prepare()?;
    let pidfd = process::pidfd_open(pid).map_err(failed)?;
    let job = Job::of(pid);
    // One descriptor for both.
    let news = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
    watch(&news, pidfd.as_fd()).map_err(failed)?;
    if let Some(beside) = &beside {
        watch(&news, beside.fd()).map_err(failed)?;
    }
    loop {
        if let Some(heard) = beside.take_if(|beside| !beside.look()) {
            epoll::delete(&news, heard.fd()).map_err(failed)?;
        }
        while let Some(noted) = signal::take_noted() {
            pass_on(pid, &job, noted);
        }
        match sys_wait::news_of(pid) {
            Ok(Some(Status::Exited(code))) => return Ok(ExitStatus::Exited(code)),
            Ok(Some(Status::Signaled(signal, _))) => return Ok(ExitStatus::Signaled(signal)),
            Ok(Some(Status::Stopped(signal))) => job.stopped(signal),
            Ok(None) => signal::await_readable(news.as_fd(), NOTED).map_err(failed)?,
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
}

fn watch(news: &OwnedFd, fd: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    epoll::add(news, fd, EventData::new_u64(0), EventFlags::IN)
}

fn pass_on(pid: i32, job: &Job, noted: Noted) {
    let signal = noted.signal;
    let from_terminal = matches!(signal, SIGINT | SIGQUIT | SIGTSTP | SIGCONT | SIGWINCH);
    if signal == SIGCHLD {
        return;
    }
    if signal == SIGCONT {
        job.continued();
    }
    // What a key did to this process's group, it did to the child if that is in the same group.
    if noted.sent || !job.is_in_own_group() {
        let leads_group = process::group_of(pid) == Ok(pid);
        let to = if from_terminal && leads_group {
            -pid
        } else {
            pid
        };
        let sent = if signal == SIGTSTP && job.is_elsewhere() && !cares_about_stops(pid) {
            SIGSTOP
        } else {
            signal
        };
        if let Err(errno) = process::kill(to, sent) {
            tracing::debug!(pid, signal, error = %errno, "could not pass on a signal");
        }
    }
    // A child that is a job tells of its stop itself, unless it stands still already. Otherwise whoever pressed the key
    // wants the terminal back now; a later SIGCONT is noted and passed on.
    if signal == SIGTSTP && !job.is_one() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let _ = process::kill(own, SIGSTOP);
    } else if signal == SIGTSTP && state_of(pid) == Some(b'T') {
        job::stop();
    }
}

/// Whether the process handles or ignores SIGTSTP. If it leaves it to the kernel, the kernel does nothing: the group of a
/// child with a session of its own has no parent in that session (setpgid(2), orphaned groups), and only SIGSTOP stops those.
fn cares_about_stops(pid: i32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    let mask = |key: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap_or("0");
        u64::from_str_radix(line.trim(), 16).unwrap_or(0)
    };
    (mask("SigCgt:") | mask("SigIgn:")) & (1 << (SIGTSTP - 1)) != 0
}

/// From now on, a program that this process becomes or starts has of its descriptors only the standard streams.
///
/// # Errors
///
/// [`Error::Child`] if the kernel refuses.
pub fn inherit_only_streams() -> Result<()> {
    cryopod_sys::fd::close_on_exec_from(3).map_err(|errno| Error::Child {
        operation: "close the descriptors of",
        pid: rustix::process::getpid().as_raw_nonzero().get(),
        source: errno.into(),
    })
}

/// Makes this process the leader of a session and a group of its own, setsid(2).
///
/// # Errors
///
/// [`Error::Child`] if it leads a group already.
pub fn start_session() -> Result<()> {
    process::set_session().map_err(|errno| Error::Child {
        operation: "make a session for",
        pid: rustix::process::getpid().as_raw_nonzero().get(),
        source: errno.into(),
    })
}

/// Ends the child `pid` and all its descendants, and collects its end. Everything is stopped first, so that nothing is
/// made while it is being ended. When this returns they have all ended, unless the kernel takes longer than seconds.
///
/// # Errors
///
/// [`Error::Child`] if there is no such child.
pub fn kill(pid: i32) -> Result<()> {
    let mut tree = Vec::new();
    let mut next = vec![pid];
    while let Some(one) = next.pop() {
        // One that is gone has no children, and needs no signal.
        if let Ok(pidfd) = process::pidfd_open(one) {
            let _ = process::pidfd_kill(pidfd.as_fd(), SIGSTOP);
            next.extend(children(one));
            tree.push(pidfd);
        }
    }
    for pidfd in &tree {
        let _ = process::pidfd_kill(pidfd.as_fd(), SIGKILL);
    }
    for pidfd in &tree {
        let patience = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&patience));
    }
    let failed = |errno: Errno| Error::Child {
        operation: "wait for",
        pid,
        source: errno.into(),
    };
    while let Some((_, status)) = sys_wait::wait(pid, false).map_err(failed)? {
        if matches!(status, Status::Exited(_) | Status::Signaled(..)) {
            break;
        }
    }
    Ok(())
}

/// Whether `pid` has ended: nothing is left of it, or only its exit code.
#[must_use]
pub fn has_ended(pid: i32) -> bool {
    match state_of(pid) {
        None => true,
        // Its first thread may have ended while others live on.
        Some(b'Z' | b'X') => std::fs::read_dir(format!("/proc/{pid}/task"))
            .map_or(true, |threads| threads.count() <= 1),
        Some(_) => false,
    }
}

/// The state of a process as in /proc/PID/stat.
fn state_of(pid: i32) -> Option<u8> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before the state may have parentheses of its own.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().bytes().next()
}

/// Waits until nothing is left of those of `pids` that have ended. Orphans are collected by init, in its own time. Not
/// for ever: somebody may never collect them.
pub(crate) fn await_collected(pids: impl Iterator<Item = i32>) {
    let deadline = Instant::now() + Duration::from_secs(5);
    for pid in pids {
        let path = format!("/proc/{pid}");
        while std::path::Path::new(&path).exists() && has_ended(pid) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The children of a process, those of all its threads.
fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|one| one.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    fn piped(script: &str) -> Child {
        Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn run(script: &str) -> ExitStatus {
        wait(piped(script).id() as i32).unwrap()
    }

    #[test]
    fn the_end_of_a_child_is_reported_as_it_was() {
        assert_eq!(run("exit 0"), ExitStatus::Exited(0));
        assert_eq!(run("exit 7"), ExitStatus::Exited(7));
        assert_eq!(run("kill -9 $$"), ExitStatus::Signaled(9));
        assert!(matches!(wait(1), Err(Error::Child { .. })));
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "what is tested waits for it")]
    fn a_tree_is_ended_as_a_whole() {
        let mut child = piped("sleep 1000 & echo $!; wait");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let below: i32 = line.trim().parse().unwrap();
        kill(child.id() as i32).unwrap();
        assert!(has_ended(below));
        assert!(!has_ended(std::process::id() as i32));
    }

    #[test]
    fn whether_a_process_cares_about_stops_is_in_its_status() {
        let mut child = piped("trap : TSTP; echo; read x");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(cares_about_stops(child.id() as i32));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!cares_about_stops(i32::MAX));
    }
}
