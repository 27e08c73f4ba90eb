//! The helper: a process that fills the memory when `restore` is long done with everything else.
//!
//! It is nobody's child, has a session of its own, and of all descriptors only those that it needs, so that it holds up
//! nobody who waits for the end of a pipe. It leaves when everything is there or nobody is left who needs it.

use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_image::layers::LayeredPages;
use cryopod_sys::clone::{self, Fork};
use cryopod_sys::process::exit_at_once;
use cryopod_sys::{fd, process, signal, wait};
use rustix::fs::{Mode, OFlags};

use super::fill::Fill;
use super::news::{self, Listener, News, Teller};
use super::space::Space;
use super::{Filling, Later, guardian};
use crate::error::{Context, Error, Result};

/// How /proc/PID/comm calls the two.
const HELPER: &str = "cryopod-lazy";
const GUARDIAN: &str = "cryopod-guard";

/// What is sent to all processes of a terminal or at shutdown: a program is not ended by the end of its helper while it
/// may still be saving its data.
const IGNORED: [i32; 5] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGTSTP,
];

/// Starts the helper for what is still to come to the given processes of a tree, all of which are in `pids`. From its
/// return on, the caller's end loses nothing.
pub fn start(later: Vec<Later>, pids: &[i32], jobs: Option<NonZeroUsize>) -> Result<Filling> {
    let total_bytes = later.iter().map(Later::bytes).sum();
    let (listener, teller) = news::channel()?;
    match clone::fork().host("start a helper")? {
        Fork::Parent(child) => {
            drop(teller);
            wait::wait(child, false).host("wait for the helper's start")?;
            await_ready(listener, total_bytes)
        }
        Fork::Child => {
            drop(listener);
            match clone::fork() {
                Ok(Fork::Child) => serve(later, pids, jobs, &teller),
                Ok(Fork::Parent(_)) => exit_at_once(0),
                Err(errno) => {
                    let error = Err::<(), _>(errno).host("start a helper");
                    tell_failure(&teller, error);
                    exit_at_once(1)
                }
            }
        }
    }
}

fn await_ready(mut listener: Listener, total_bytes: u64) -> Result<Filling> {
    match listener.wait()? {
        Some(News::Ready(helper_pid)) => Ok(Filling {
            listener,
            helper_pid,
            total_bytes,
        }),
        Some(News::Failed(kind, what)) => Err(Error::Filling { kind, what }),
        _ => Err(Error::Ended {
            pid: 0,
            during: "started as a helper",
        }),
    }
}

fn tell_failure(teller: &Teller, done: Result<()>) {
    if let Err(error) = done {
        tracing::error!(%error, "the memory cannot be filled");
        teller.tell(&news::failure(&error));
    }
}

/// The helper's whole life.
fn serve(later: Vec<Later>, pids: &[i32], jobs: Option<NonZeroUsize>, teller: &Teller) -> ! {
    // A thread that panics would leave the others waiting for it; the guardian knows what to do when all are gone.
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    let done = prepare(&later, pids, teller).and_then(|guardian| {
        // Dropping it closes userfaultfds, in the guardian as well. On every way but the last, that must not happen.
        let fill = ManuallyDrop::new(fill(later)?);
        teller.tell(&News::Ready(std::process::id() as i32));
        fill.run(jobs, &mut |bytes| teller.tell(&News::Progress(bytes)))?;
        // Nothing is missing any more: from here on, the end of this process harms nobody.
        process::kill(guardian, libc::SIGKILL).task("end it", guardian)?;
        wait::wait(guardian, false).task("wait for it", guardian)?;
        drop(ManuallyDrop::into_inner(fill));
        teller.tell(&News::Done);
        Ok(())
    });
    let code = i32::from(done.is_err());
    tell_failure(teller, done);
    exit_at_once(code)
}

/// Lets go of everything that is the caller's, and brings the guardian to life.
fn prepare(later: &[Later], pids: &[i32], teller: &Teller) -> Result<i32> {
    process::set_session().host("make a session")?;
    signal::ignore(&IGNORED).host("ignore signals")?;
    rustix::process::chdir("/").host("leave the working directory")?;
    let nothing = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .host("open /dev/null")?;
    rustix::stdio::dup2_stdin(&nothing).host("leave standard input")?;
    rustix::stdio::dup2_stdout(&nothing).host("leave standard output")?;
    rustix::stdio::dup2_stderr(&nothing).host("leave standard error")?;
    drop(nothing);
    let mut pidfds: Vec<(i32, OwnedFd)> = Vec::new();
    for &pid in pids {
        pidfds.push((pid, process::pidfd_open(pid).task("hold on to it", pid)?));
    }
    let helper = process::pidfd_open(std::process::id() as i32).host("hold on to the helper")?;
    let keep: Vec<BorrowedFd<'_>> = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
        teller.as_fd(),
        helper.as_fd(),
    ]
    .into_iter()
    .chain(pidfds.iter().map(|(_, pidfd)| pidfd.as_fd()))
    .chain(later.iter().flat_map(Later::descriptors))
    .collect();
    fd::close_all_but(&keep).host("close descriptors")?;
    match clone::fork_sharing_descriptors().host("start a guardian")? {
        Fork::Parent(guardian) => {
            name(HELPER);
            // They are the guardian's from now on, and its descriptor table is this one.
            std::mem::forget((helper, pidfds));
            Ok(guardian)
        }
        Fork::Child => {
            name(GUARDIAN);
            guardian::watch(&helper, &pidfds);
            exit_at_once(0)
        }
    }
}

/// A name is for people only.
fn name(name: &str) {
    let _ = std::fs::write("/proc/self/comm", name);
}

fn fill(later: Vec<Later>) -> Result<Fill> {
    let blocks = later
        .iter()
        .enumerate()
        .flat_map(|(source, later)| later.blocks().into_iter().map(move |block| (source, block)))
        .collect();
    let mut sources: Vec<LayeredPages> = Vec::new();
    let mut spaces = Vec::new();
    for later in later {
        spaces.push(Space::new(
            later.pid,
            sources.len(),
            later.uffd,
            later.pending,
        ));
        sources.push(later.pages);
    }
    Fill::new(sources, spaces, blocks)
}
