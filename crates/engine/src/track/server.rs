//! The tracker process: it holds userfaultfds open, and one word, and leaves with the root of its tree.
//!
//! It is nobody's child, has a session of its own, and of all descriptors only those that it needs. One caller is heard at a
//! time; what it hands over counts when it says so, and not if it goes away before. If the tracker dies, the kernel lifts all
//! protection, and nothing is lost but the knowledge.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_sys::clone::{self, Fork};
use cryopod_sys::process::exit_at_once;
use cryopod_sys::userfaultfd::Userfaultfd;
use cryopod_sys::{Errno, fd, process, signal, socket, wait};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::{SocketFlags, accept_with};

use super::Spaces;
use super::wire::{self, Word};
use crate::error::{Context, Error, Result};
use crate::proc::stat;

/// How /proc/PID/comm calls it.
const NAME: &str = "cryopod-track";

/// Callers that wait for one another.
const BACKLOG: i32 = 16;

/// Starts the tracker of the tree of `root`. When this returns it can be reached, it or one that somebody else started.
pub fn start(root: i32) -> Result<()> {
    let start_time = stat::read(root)?.start_time;
    let pidfd = process::pidfd_open(root).task("hold on to it", root)?;
    let listener = wire::socket()?;
    match socket::bind(listener.as_fd(), &wire::address(root, start_time)) {
        Err(Errno::ADDRINUSE) => return Ok(()),
        bound => bound.host("take the tracker's address")?,
    }
    rustix::net::listen(&listener, BACKLOG).host("listen at the tracker's address")?;
    match clone::fork().host("start a tracker")? {
        Fork::Parent(child) => {
            wait::wait(child, false).host("wait for the tracker's start")?;
            Ok(())
        }
        Fork::Child => match clone::fork() {
            Ok(Fork::Child) => {
                let served = prepare(&listener, &pidfd).and_then(|()| serve(&listener, &pidfd));
                exit_at_once(i32::from(served.is_err()))
            }
            Ok(Fork::Parent(_)) => exit_at_once(0),
            Err(_) => exit_at_once(1),
        },
    }
}

/// Lets go of everything that is the caller's.
fn prepare(listener: &OwnedFd, pidfd: &OwnedFd) -> Result<()> {
    process::set_session().host("make a session")?;
    signal::ignore(&[libc::SIGHUP, libc::SIGPIPE]).host("ignore signals")?;
    rustix::process::chdir("/").host("leave the working directory")?;
    let nothing = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .host("open /dev/null")?;
    rustix::stdio::dup2_stdin(&nothing).host("leave standard input")?;
    rustix::stdio::dup2_stdout(&nothing).host("leave standard output")?;
    rustix::stdio::dup2_stderr(&nothing).host("leave standard error")?;
    drop(nothing);
    let keep = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
        listener.as_fd(),
        pidfd.as_fd(),
    ];
    fd::close_all_but(&keep).host("close descriptors")?;
    // A name is for people only.
    let _ = std::fs::write("/proc/self/comm", NAME);
    Ok(())
}

/// Both ends of a connection ask who is at the other: nobody but root, or whoever this is, may have a say about memory.
pub fn check_peer(socket: BorrowedFd<'_>) -> Result<()> {
    let peer = socket::peer_credentials(socket).host("ask who is at the tracker's address")?;
    if peer.uid == 0 || peer.uid == rustix::process::geteuid().as_raw() {
        Ok(())
    } else {
        Err(Error::Tracker {
            what: "somebody else is at its address",
        })
    }
}

/// What a tracker knows.
#[derive(Default)]
struct State {
    base: Option<String>,
    spaces: Spaces,
    /// What the present caller handed over.
    fresh: Spaces,
}

/// Hears callers until the root of the tree is gone, or one says that it is to leave.
fn serve(listener: &OwnedFd, root: &OwnedFd) -> Result<()> {
    let mut state = State::default();
    let mut caller: Option<OwnedFd> = None;
    loop {
        let speaker = caller.as_ref().unwrap_or(listener);
        let mut fds = [
            PollFd::new(root, PollFlags::IN),
            PollFd::new(speaker, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).host("wait for callers"),
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        if fds[1].revents().is_empty() {
            continue;
        }
        caller = match caller.take() {
            None => accept_with(listener, SocketFlags::CLOEXEC)
                .ok()
                .filter(|caller| check_peer(caller.as_fd()).is_ok()),
            Some(caller) => match state.answer(caller.as_fd()) {
                Ok(true) => Some(caller),
                Ok(false) | Err(_) => {
                    state.fresh.clear();
                    None
                }
            },
        };
    }
}

impl State {
    /// Answers one word. False when the caller has gone.
    fn answer(&mut self, caller: BorrowedFd<'_>) -> Result<bool> {
        let Some(word) = wire::hear(caller, &mut self.fresh)? else {
            return Ok(false);
        };
        match word {
            Word::Hello => {
                self.spaces.retain(|_, uffd| !uffd.is_gone());
                let count = self.spaces.len() as u32;
                let own = std::process::id();
                wire::say(caller, &Word::State(own, count, self.base.clone()))?;
                let spaces = self.spaces.iter().map(|(pid, uffd)| (*pid, uffd));
                wire::hand_over(caller, spaces)?;
            }
            Word::Begin => {
                self.base = None;
                wire::say(caller, &Word::Done)?;
            }
            Word::Spaces(_) => {}
            Word::Commit(base) => {
                self.spaces.extend(self.fresh.drain());
                self.spaces
                    .retain(|_, uffd: &mut Userfaultfd| !uffd.is_gone());
                self.base = Some(base);
                wire::say(caller, &Word::Done)?;
            }
            Word::Leave => {
                wire::say(caller, &Word::Done)?;
                exit_at_once(0);
            }
            Word::State(..) | Word::Done => return Ok(false),
        }
        Ok(true)
    }
}
