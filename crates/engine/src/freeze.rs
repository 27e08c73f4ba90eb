//! Stopping a process tree, and letting it go again.
//!
//! Every thread is seized and interrupted; that is repeated until a whole pass over /proc finds nobody new, because a
//! thread that is not stopped yet may still fork. Seizing sends no signal and leaves job control as it is: a task that
//! was stopped stays so when it is let go.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cryopod_sys::ptrace::{self, options};
use cryopod_sys::wait::{self, Status};
use cryopod_sys::{Errno, process};

use crate::dump::Held;
use crate::error::{Context, Error, Result};
use crate::net::lock::Lock;
use crate::proc::{self, stat};
use crate::progress::Cancel;
use crate::remote::COPY_EXIT_CODE;

/// How long a task may take to stop before that is an error.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long to wait for tasks of a freeze that failed, to let them go. What comes to its stop later is let go when
/// cryopod ends, or stopped by the next attempt.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// A process of a frozen tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrozenProcess {
    /// Its pid.
    pub pid: i32,
    /// Its parent's pid.
    pub ppid: i32,
    /// Its living threads, the leader first; empty for a zombie.
    pub threads: Vec<i32>,
    /// Its leader is not among them: it has ended while others live on.
    pub leader_ended: bool,
    /// Whether it has ended and only its exit code is left.
    pub zombie: bool,
    /// The signal that stopped it, where job control did.
    pub stop_signal: Option<i32>,
    /// Ended copies of it that a cryopod which was killed left behind; nobody else collects them.
    pub leftovers: Vec<i32>,
}

impl FrozenProcess {
    /// The thread by whose files in /proc the process is read.
    pub fn reader(&self) -> i32 {
        self.threads.first().copied().unwrap_or(self.pid)
    }
}

/// What copies of a process that cryopod makes are called (see [`crate::dump`], live dumps).
pub const COPY_NAME: &str = "cryopod-copy";

/// How far a seized thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// Interrupted; its stop has not been seen yet.
    Asked,
    /// At its event stop.
    Still,
    /// At its event stop, in the middle of a job-control stop by this signal.
    JobStopped(i32),
}

/// A frozen tree. Dropping it lets the tree go.
#[derive(Debug)]
pub struct Frozen {
    root: i32,
    processes: Vec<FrozenProcess>,
    seized: BTreeMap<i32, Hold>,
    since: Instant,
    /// Connections that are locked while it stands still.
    held: RefCell<Held>,
    /// Keeps its listening sockets shut until its connections are unlocked.
    doors: RefCell<Option<Lock>>,
}

impl Frozen {
    /// Freezes the process `root` and all its descendants.
    ///
    /// A parent in vfork(2) stops only when its child has executed a program, which a child that was stopped first
    /// never does. So the parent is waited for first, and an attempt that takes too long is given up: everybody goes on
    /// for a moment, and it is tried again.
    pub fn freeze(root: i32, cancel: &Cancel) -> Result<Self> {
        let deadline = Instant::now() + STOP_LIMIT;
        let mut patience = Duration::from_millis(50);
        loop {
            match Self::attempt(root, patience, cancel) {
                Err(Error::DoesNotStop { .. }) if Instant::now() < deadline => {
                    tracing::debug!(root, ?patience, "somebody did not stop; trying again");
                    patience = (patience * 2).min(Duration::from_secs(2));
                    std::thread::sleep(Duration::from_millis(2));
                }
                other => return other,
            }
        }
    }

    fn attempt(root: i32, patience: Duration, cancel: &Cancel) -> Result<Self> {
        let mut frozen = Self {
            root,
            processes: Vec::new(),
            seized: BTreeMap::new(),
            since: Instant::now(),
            held: RefCell::default(),
            doors: RefCell::default(),
        };
        loop {
            let found = frozen.pass(patience, cancel)?;
            let stable = found == frozen.processes;
            frozen.processes = found;
            if stable {
                break;
            }
        }
        tracing::debug!(
            root,
            processes = frozen.processes.len(),
            threads = frozen.seized.len(),
            "frozen"
        );
        Ok(frozen)
    }

    /// The root's pid.
    pub fn root(&self) -> i32 {
        self.root
    }

    /// All processes, parents before their children.
    pub fn processes(&self) -> &[FrozenProcess] {
        &self.processes
    }

    /// The pids by which its living processes are asked; also those of threads, of processes whose first thread has ended.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let living = self.processes.iter().filter(|one| !one.zombie);
        let pids = living.flat_map(|one| {
            let reader = one.leader_ended.then(|| one.reader());
            std::iter::once(one.pid).chain(reader)
        });
        pids.collect()
    }

    /// Since when the tree stands still: the first interrupt.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Keeps connections locked until the tree goes on, or from now on if it ends.
    pub fn hold(&self, held: Held) {
        self.held.replace(held);
    }

    /// Keeps listening sockets shut for as long.
    pub(crate) fn keep_shut(&self, doors: Option<Lock>) {
        self.doors.replace(doors);
    }

    /// Unlocks the connections while the tree still stands.
    pub fn unlock(&self) {
        self.held.take();
        self.doors.take();
    }

    /// Lets the tree go. Returns how long it stood still.
    pub fn thaw(mut self) -> Duration {
        self.release();
        self.since.elapsed()
    }

    /// Ends every process of the tree, children before their parents. Returns how long it stood still.
    pub fn kill(mut self) -> Result<Duration> {
        let elapsed = self.since.elapsed();
        for one in self.processes.iter().rev().filter(|one| !one.zombie) {
            match process::kill(one.pid, SIGKILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(errno).task("end it", one.pid),
            }
        }
        // A tracer must collect its tracees' ends before their parents can, and a leader's comes after its threads'.
        for one in self.processes.iter().rev() {
            for &tid in one.threads.iter().rev() {
                collect_end(tid);
            }
        }
        self.seized.clear();
        if let Err(error) = self.held.take().end() {
            tracing::error!(%error, "the connections of the tree could not be kept for a restore");
        }
        Ok(elapsed)
    }

    /// Holds one thread of a process for a moment; nothing else of it.
    pub fn hold_one(pid: i32) -> Result<Self> {
        let mut held = Self {
            root: pid,
            processes: Vec::new(),
            seized: BTreeMap::new(),
            since: Instant::now(),
            held: RefCell::default(),
            doors: RefCell::default(),
        };
        held.seize(pid, pid)?;
        held.await_stops(Duration::from_millis(500), &Cancel::default())?;
        match held.seized.get(&pid) {
            Some(Hold::Still | Hold::JobStopped(_)) => Ok(held),
            _ => Err(Error::NoProcess { pid }),
        }
    }

    /// One pass: stops whatever is not stopped yet and gives what it saw.
    fn pass(&mut self, patience: Duration, cancel: &Cancel) -> Result<Vec<FrozenProcess>> {
        let mut found = Vec::new();
        let mut queue = std::collections::VecDeque::from([self.root]);
        while let Some(pid) = queue.pop_front() {
            if cancel.is_requested() {
                return Err(Error::Cancelled);
            }
            let mut one = match self.stop_process(pid) {
                Ok(one) => one,
                // Whoever was not the root and is gone was reaped; the next pass tells who its children belong to.
                Err(Error::NoProcess { .. }) if pid != self.root => continue,
                Err(error) => return Err(error),
            };
            self.await_vfork(&one, patience, cancel)?;
            match proc::children(pid) {
                Ok(children) => {
                    let (copies, children): (Vec<i32>, Vec<i32>) =
                        children.into_iter().partition(|&child| is_leftover(child));
                    one.leftovers = copies;
                    queue.extend(children);
                }
                Err(Error::NoProcess { .. }) if pid != self.root => {}
                Err(error) => return Err(error),
            }
            found.push(one);
        }
        self.await_stops(patience, cancel)?;
        Ok(found)
    }

    /// Lets a parent in vfork(2) come to its stop before its child is stopped: usually the child is about to execute a
    /// program. Where it is not, this gives up.
    fn await_vfork(
        &mut self,
        one: &FrozenProcess,
        patience: Duration,
        cancel: &Cancel,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        for &tid in &one.threads {
            let is_asked = self.seized.get(&tid) == Some(&Hold::Asked);
            if !is_asked || stat::read_thread(one.pid, tid).is_ok_and(|stat| stat.state != 'D') {
                continue;
            }
            match await_stop(tid, deadline, cancel) {
                Ok(Some(hold)) => self.seized.insert(tid, hold),
                Ok(None) => self.seized.remove(&tid),
                Err(Error::DoesNotStop { .. }) => return Ok(()),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    fn stop_process(&mut self, pid: i32) -> Result<FrozenProcess> {
        loop {
            let stat = stat::read(pid)?;
            let mut threads = proc::numbers(pid, "task")?;
            let ended = matches!(stat.state, 'Z' | 'X');
            if ended {
                threads.retain(|&tid| tid != pid);
            }
            let zombie = threads.is_empty();
            let new: Vec<i32> = threads
                .iter()
                .copied()
                .filter(|tid| !self.seized.contains_key(tid))
                .collect();
            if new.is_empty() {
                // The leader's tid is the pid; the rest in order.
                threads.sort_by_key(|&tid| (tid != pid, tid));
                let first = threads.first().unwrap_or(&pid);
                let stop_signal = match self.seized.get(first) {
                    Some(Hold::JobStopped(signal)) => Some(*signal),
                    _ => None,
                };
                return Ok(FrozenProcess {
                    pid,
                    ppid: stat.ppid,
                    threads,
                    leader_ended: ended && !zombie,
                    zombie,
                    stop_signal,
                    leftovers: Vec::new(),
                });
            }
            for tid in new {
                self.seize(pid, tid)?;
            }
        }
    }

    fn seize(&mut self, pid: i32, tid: i32) -> Result<()> {
        let wanted = options::SYSGOOD | options::SUSPEND_SECCOMP;
        let seized = match ptrace::seize(tid, wanted) {
            // Suspending seccomp needs CAP_SYS_ADMIN and a tracer without filters of its own.
            Err(Errno::PERM | Errno::INVAL) => ptrace::seize(tid, options::SYSGOOD),
            other => other,
        };
        match seized {
            Ok(()) => {
                self.seized.insert(tid, Hold::Asked);
                ptrace::interrupt(tid).task("interrupt it", tid)
            }
            Err(Errno::SRCH) => Ok(()),
            // An attempt before this one could not let it go.
            Err(Errno::PERM) if tracer(pid, tid) == Some(rustix::thread::gettid().as_raw_pid()) => {
                self.seized.insert(tid, Hold::Asked);
                ptrace::interrupt(tid).task("interrupt it", tid)
            }
            // A thread on its way out is refused too; the next look at the process finds it gone.
            Err(Errno::PERM) if is_ending(pid, tid) => Ok(()),
            Err(errno) => Err(refusal(pid, tid, errno)),
        }
    }

    /// Waits until every seized thread has come to its event stop.
    fn await_stops(&mut self, patience: Duration, cancel: &Cancel) -> Result<()> {
        let deadline = Instant::now() + patience;
        let asked: Vec<i32> = self
            .seized
            .iter()
            .filter(|(_, hold)| **hold == Hold::Asked)
            .map(|(&tid, _)| tid)
            .collect();
        for tid in asked {
            match await_stop(tid, deadline, cancel)? {
                Some(hold) => self.seized.insert(tid, hold),
                None => self.seized.remove(&tid),
            };
        }
        Ok(())
    }

    fn release(&mut self) {
        self.unlock();
        let (mut asked, still): (Vec<_>, Vec<_>) = std::mem::take(&mut self.seized)
            .into_iter()
            .partition(|(_, hold)| *hold == Hold::Asked);
        // Whoever stands still first: a parent in vfork comes to its stop only after its child went on.
        for (tid, _) in still {
            detach(tid);
        }
        // Not at a stop yet (a freeze that failed half-way): each is brought to one, or it could not be detached. All of
        // them in turn: the parent in vfork may be the first of these, and its child another.
        let deadline = Instant::now() + RELEASE_LIMIT;
        while !asked.is_empty() && Instant::now() < deadline {
            asked.retain(
                |&(tid, _)| match await_stop(tid, Instant::now(), &Cancel::default()) {
                    Ok(Some(_)) => {
                        detach(tid);
                        false
                    }
                    Err(Error::DoesNotStop { .. }) => true,
                    Ok(None) | Err(_) => false,
                },
            );
            std::thread::sleep(Duration::from_micros(200));
        }
        // The kernel detaches the rest when this process ends.
        for (tid, _) in asked {
            tracing::warn!(tid, "it did not stop to be let go");
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.release();
    }
}

fn detach(tid: i32) {
    match ptrace::detach(tid) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => tracing::warn!(tid, %error, "could not detach"),
    }
}

const SIGTRAP: i32 = 5;
const SIGKILL: i32 = 9;

/// Waits for the event stop of one thread; `None` when it ended instead.
fn await_stop(tid: i32, deadline: Instant, cancel: &Cancel) -> Result<Option<Hold>> {
    let mut pause = Duration::from_micros(20);
    loop {
        match wait::wait(tid, true) {
            // In a group stop, the kernel names the stopping signal beside the event; otherwise SIGTRAP.
            Ok(Some((_, Status::Event(_, SIGTRAP)))) => return Ok(Some(Hold::Still)),
            Ok(Some((_, Status::Event(_, signal)))) => return Ok(Some(Hold::JobStopped(signal))),
            Ok(Some((_, Status::Exited(_) | Status::Signaled(..)))) | Err(Errno::CHILD) => {
                return Ok(None);
            }
            // It was just about to take a signal: let it, the interrupt is still pending and stops it before the
            // first instruction of a handler.
            Ok(Some((_, Status::Stopped(signal)))) => {
                ptrace::cont(tid, signal).task("continue it", tid)?
            }
            Ok(Some(_)) => ptrace::cont(tid, 0).task("continue it", tid)?,
            Ok(None) if cancel.is_requested() => return Err(Error::Cancelled),
            Ok(None) if Instant::now() > deadline => {
                let state = stat::read(tid).map_or('?', |stat| stat.state);
                return Err(Error::DoesNotStop {
                    pid: tid,
                    state,
                    seconds: STOP_LIMIT.as_secs(),
                });
            }
            Ok(None) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(2));
            }
            Err(errno) => return Err(errno).task("wait for it", tid),
        }
    }
}

/// Whether a process is a copy that lost its maker: it has ended, has the name, and is of the kind that gives no signal.
fn is_leftover(pid: i32) -> bool {
    let Ok(stat) = stat::read(pid) else {
        return false;
    };
    let name = proc::read_text(pid, "comm");
    let is_named = name.is_ok_and(|name| name.trim_end() == COPY_NAME);
    let ended_alone = stat.exit_code == i32::from(COPY_EXIT_CODE) << 8;
    stat.state == 'Z' && stat.exit_signal == 0 && (is_named || ended_alone)
}

fn collect_end(tid: i32) {
    while let Ok(Some((_, status))) = wait::wait(tid, false) {
        if matches!(status, Status::Exited(_) | Status::Signaled(..)) {
            return;
        }
    }
}

fn is_ending(pid: i32, tid: i32) -> bool {
    const PF_EXITING: u32 = 0x4;
    match stat::read_thread(pid, tid) {
        Ok(stat) => matches!(stat.state, 'Z' | 'X') || stat.flags & PF_EXITING != 0,
        Err(_) => true,
    }
}

/// The thread that traces a thread, if any.
fn tracer(pid: i32, tid: i32) -> Option<i32> {
    let status = proc::status::Status::read(pid, tid).ok()?;
    let tracer = status.number("TracerPid").ok()? as i32;
    (tracer != 0).then_some(tracer)
}

fn refusal(pid: i32, tid: i32, errno: Errno) -> Error {
    match tracer(pid, tid) {
        Some(tracer) => Error::Traced { pid: tid, tracer },
        _ => Error::Task {
            operation: "stop (ptrace)",
            pid: tid,
            source: errno,
        },
    }
}
