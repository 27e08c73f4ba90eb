//! A task under construction: remote calls without a way home.
//!
//! The task dies with cryopod (PTRACE_O_EXITKILL), so its registers may be anything between calls. It is held at the
//! entry and exit of each call; single steps would be fewer stops, but their SIGTRAP cannot be told from one that the
//! program has pending, and resets the program's action for it while it is blocked.

use std::time::{Duration, Instant};

use cryopod_sys::Errno;
use cryopod_sys::clone::CloneArgs;
use cryopod_sys::ptrace::{self, Regs};
use cryopod_sys::wait::{self, Status};

use super::outcome;
use crate::error::{Context, Error, Result};
use crate::proc::{self, mem::Mem};

/// Bytes of the scratch area: the first page holds the `syscall` instruction, the rest is for arguments.
pub const SCRATCH_BYTES: u64 = 0x10000;
/// Where arguments may be put, from the start of the scratch area.
const DATA: u64 = 0x1000;
/// Events of ptrace(2) that tell of a new task.
pub const PTRACE_EVENT_FORK: i32 = 1;
/// See [`PTRACE_EVENT_FORK`].
pub const PTRACE_EVENT_VFORK: i32 = 2;
/// See [`PTRACE_EVENT_FORK`].
pub const PTRACE_EVENT_CLONE: i32 = 3;

/// A stopped task, or one of its threads, that does what it is told.
#[derive(Clone, Debug)]
pub struct Puppet {
    /// Its process.
    pub pid: i32,
    /// Its thread.
    pub tid: i32,
    /// Address of the `syscall` instruction that it uses.
    gate: u64,
    /// Address of the scratch area, once there is one.
    scratch: u64,
    base: Regs,
}

impl Puppet {
    /// Takes over a stopped thread that will make calls through the `syscall` instruction at `gate`.
    pub fn new(pid: i32, tid: i32, gate: u64) -> Result<Self> {
        let base = ptrace::regs(tid).task("read its registers", tid)?;
        Ok(Self {
            pid,
            tid,
            gate,
            scratch: 0,
            base,
        })
    }

    /// From now on calls go through a `syscall` instruction at the start of the scratch area at `scratch`.
    pub fn settle(&mut self, scratch: u64) {
        self.gate = scratch;
        self.scratch = scratch;
    }

    /// Address of the scratch area.
    pub fn scratch(&self) -> u64 {
        self.scratch
    }

    /// Address of the argument room in the scratch area.
    pub fn data(&self) -> u64 {
        self.scratch + DATA
    }

    /// Bytes of the argument room.
    pub const fn data_bytes() -> usize {
        (SCRATCH_BYTES - DATA) as usize
    }

    /// Puts bytes into the argument room and gives their address.
    pub fn put(&self, mem: &Mem, bytes: &[u8]) -> Result<u64> {
        assert!(
            bytes.len() <= Self::data_bytes(),
            "the argument room is a bound that callers keep"
        );
        mem.write(self.data(), bytes)?;
        Ok(self.data())
    }

    /// Makes the task do a system call.
    pub fn call(&self, number: i64, args: [u64; 6]) -> Result<std::result::Result<u64, Errno>> {
        Ok(outcome(self.go(number, args, &mut None)?))
    }

    /// Like [`Puppet::call`], with a failure of the call itself as error.
    pub fn must(&self, call: &'static str, number: i64, args: [u64; 6]) -> Result<u64> {
        self.call(number, args)?.map_err(|source| Error::Remote {
            call,
            pid: self.tid,
            source,
        })
    }

    /// Like [`Puppet::must`], by way of a few instructions that end in the `syscall`.
    pub fn must_through(
        &self,
        mem: &Mem,
        code: &[u8],
        call: &'static str,
        number: i64,
        args: [u64; 6],
    ) -> Result<u64> {
        const PLACE: u64 = 64;
        mem.write(self.scratch + PLACE, code)?;
        let detour = Self {
            gate: self.scratch + PLACE,
            ..self.clone()
        };
        detour.must(call, number, args)
    }

    /// clone3(2) in the task. The new task is traced too and stands still when this returns its tid.
    pub fn fork(&self, mem: &Mem, args: &CloneArgs, set_tid: i32) -> Result<i32> {
        const CLONE3: i64 = 435;
        let mut bytes = set_tid.to_ne_bytes().to_vec();
        bytes.resize(16, 0);
        let place = self.data();
        bytes.extend(
            CloneArgs {
                set_tid: place,
                set_tid_size: 1,
                ..*args
            }
            .to_bytes(),
        );
        self.put(mem, &bytes)?;
        let mut born = None;
        let size = (bytes.len() - 16) as u64;
        let deadline = Instant::now() + RELEASE_LIMIT;
        let made = loop {
            let rax = self.go(CLONE3, [place + 16, size, 0, 0, 0, 0], &mut born)?;
            match outcome(rax) {
                // A process can be collected a moment before the numbers of its threads are free.
                Err(Errno::EXIST) if is_unseen(set_tid) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                made => break made,
            }
        };
        made.map_err(|source| match source {
            Errno::EXIST => Error::PidTaken {
                pid: set_tid,
                holder: crate::restore::holder(set_tid),
            },
            source => Error::Remote {
                call: "clone3",
                pid: self.tid,
                source,
            },
        })?;
        let child = born.ok_or(Error::Ended {
            pid: set_tid,
            during: "made",
        })?;
        await_birth(child)?;
        Ok(child)
    }

    /// Sets the registers for a call that the task makes when it is let go: its last.
    pub fn leave_to(&self, number: i64, args: [u64; 6]) -> Result<()> {
        self.aim(number, args)
    }

    fn aim(&self, number: i64, args: [u64; 6]) -> Result<()> {
        let mut regs = self.base;
        regs.rip = self.gate;
        regs.orig_rax = u64::MAX;
        regs.rax = number as u64;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        ptrace::set_regs(self.tid, &regs).task("set its registers", self.tid)
    }

    fn go(&self, number: i64, args: [u64; 6], born: &mut Option<i32>) -> Result<u64> {
        self.aim(number, args)?;
        for _entry_then_exit in 0..2 {
            self.run_to_syscall_stop(born)?;
        }
        Ok(ptrace::regs(self.tid)
            .task("read its registers", self.tid)?
            .rax)
    }

    fn run_to_syscall_stop(&self, born: &mut Option<i32>) -> Result<()> {
        loop {
            ptrace::cont_to_syscall(self.tid, 0).task("continue it", self.tid)?;
            match wait::wait(self.tid, false).task("wait for it", self.tid)? {
                Some((_, Status::Syscall)) => return Ok(()),
                Some((
                    _,
                    Status::Event(PTRACE_EVENT_FORK | PTRACE_EVENT_VFORK | PTRACE_EVENT_CLONE, _),
                )) => {
                    *born = Some(
                        ptrace::event_message(self.tid).task("ask for its child", self.tid)? as i32,
                    );
                }
                // A fault means that the gate is not where it was thought to be.
                Some((_, Status::Stopped(signal @ (SIGSEGV | SIGILL | SIGBUS)))) => {
                    let regs = ptrace::regs(self.tid).task("read its registers", self.tid)?;
                    tracing::debug!(
                        tid = self.tid,
                        signal,
                        gate = self.gate,
                        ?regs,
                        "fault in a remote call"
                    );
                    return Err(Error::UnexpectedStop {
                        pid: self.tid,
                        signal,
                    });
                }
                // Signals of helpers and zombies are none of the program's: they are dropped here.
                Some((_, Status::Stopped(_) | Status::Event(..) | Status::Continued)) => {}
                Some((_, Status::Exited(_) | Status::Signaled(..))) | None => {
                    return Err(Error::Ended {
                        pid: self.tid,
                        during: "restored",
                    });
                }
            }
        }
    }
}

/// How long the kernel may take to free the number of a thread that is gone.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// Whether nobody is seen to have a number.
fn is_unseen(tid: i32) -> bool {
    !proc::path(tid, "").exists()
}

/// Waits until a new task that is traced from its birth stands still.
pub fn await_birth(child: i32) -> Result<()> {
    loop {
        match wait::wait(child, false).task("wait for it", child)? {
            Some((_, Status::Event(..) | Status::Stopped(_))) => return Ok(()),
            Some((_, Status::Exited(_) | Status::Signaled(..))) | None => {
                return Err(Error::Ended {
                    pid: child,
                    during: "made",
                });
            }
            Some(_) => ptrace::cont(child, 0).task("continue it", child)?,
        }
    }
}

const SIGILL: i32 = 4;
const SIGBUS: i32 = 7;
const SIGSEGV: i32 = 11;
