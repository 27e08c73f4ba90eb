//! A visit to a living program: calls made in a thread that goes on untouched, even if cryopod is killed meanwhile.
//!
//! The calls run from a *way home*: a few instructions behind the end of the target's vdso (the last page is never
//! full, and a write through /proc/PID/mem makes it a private copy, so no mapping changes). They do one system call,
//! give the signal mask back, load the registers of the moment of the freeze and jump to where the thread was. While
//! cryopod lives, the thread is held at the entry and exit of the call and never gets further. If cryopod dies, the
//! thread walks the way home by itself. Every write to the thread's registers goes from one such state to another:
//!
//! ```text
//! frozen --enter--> way A: mmap a scratch page        (home: munmap what it mapped)
//!        --call---> way B: any number of calls        (home: munmap the scratch page)
//!        --leave--> way C: munmap the scratch page    (home: nothing more)
//!                   trap again, registers as they were, frozen
//! ```
//!
//! Single-stepping is out of the question here: the trap flag stays set when the tracer dies, and the next
//! instruction would end the program with SIGTRAP.

use std::ops::Range;

use cryopod_sys::ptrace::{self, Regs, options};
use cryopod_sys::wait::{self, Status};
use cryopod_sys::{Errno, memory::PAGE, process};

use super::outcome;
use super::puppet::{PTRACE_EVENT_CLONE, PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK};
use super::way::{COPY_GATE, Leaves, ROOM_BYTES, Undo, WAY_BYTES, resumed, way_home};
use crate::error::{Context, Error, Result};
use crate::proc::mem::Mem;

/// Bytes of the scratch page mapped for the time of a visit.
pub const SCRATCH_BYTES: u64 = 4 * PAGE;

/// What calls may use of it: as much as there is on a stack, where the page was not to be had.
pub const BORROWED_BYTES: usize = 256;

/// A visit to one stopped thread.
pub struct Visit<'a> {
    tid: i32,
    mem: &'a Mem,
    original: Regs,
    mask: u64,
    /// Address of the three ways home.
    ways: u64,
    /// What was there before.
    covered: Vec<u8>,
    scratch: u64,
    /// What was on the stack where the scratch room is, when it is there.
    borrowed: Option<Vec<u8>>,
    home: bool,
    /// The process that a clone made.
    born: Option<i32>,
    /// A clone was begun and its end not awaited yet.
    copying: bool,
    /// A SIGSTOP arrived during the visit; it is sent once more at the end.
    stop_again: bool,
}

impl<'a> Visit<'a> {
    /// Enters a thread that is held in an event stop, by way of `room` in its vdso (see [`find_room`](super::vdso::find_room)).
    pub fn enter(tid: i32, mem: &'a Mem, room: u64) -> Result<Self> {
        let mut original = ptrace::regs(tid).task("read its registers", tid)?;
        leave_critical_section(tid, mem, &mut original)?;
        let mask = ptrace::sigmask(tid).task("read its signal mask", tid)?;
        let covered = mem.read_vec(room, ROOM_BYTES)?;
        let mut visit = Self {
            tid,
            mem,
            original,
            mask,
            ways: room,
            covered,
            scratch: 0,
            borrowed: None,
            home: true,
            born: None,
            copying: false,
            stop_again: false,
        };
        visit.pave(0, Undo::UnmapResult)?;
        visit.home = false;
        let args = [
            0,
            SCRATCH_BYTES,
            3,
            (libc_map::PRIVATE | libc_map::ANONYMOUS) as u64,
            u64::MAX,
            0,
        ];
        match outcome(visit.go(0, nr::MMAP, args, true)?) {
            Ok(scratch) => {
                visit.scratch = scratch;
                visit.pave(1, Undo::Unmap(scratch))?;
            }
            Err(Errno::NOMEM | Errno::AGAIN) => {
                visit.borrow_stack()?;
                visit.pave(1, Undo::Nothing)?;
            }
            Err(source) => {
                let call = "mmap (scratch page)";
                return Err(Error::Remote {
                    call,
                    pid: tid,
                    source,
                });
            }
        }
        visit.pave(2, Undo::Nothing)?;
        Ok(visit)
    }

    /// The visited thread.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// The registers at the moment of the freeze.
    pub fn original(&self) -> &Regs {
        &self.original
    }

    /// The signal mask at the moment of the freeze.
    pub fn mask(&self) -> u64 {
        self.mask
    }

    /// Address of [`BORROWED_BYTES`] of memory in the target that calls may read and write.
    pub fn scratch(&self) -> u64 {
        self.scratch
    }

    /// What was mapped for this visit, if anything was.
    pub fn scratch_mapping(&self) -> Option<Range<u64>> {
        let mapped = self.borrowed.is_none();
        mapped.then_some(self.scratch..self.scratch + SCRATCH_BYTES)
    }

    /// A program at its limit (RLIMIT_AS, or locked memory) gets no page more. Below its stack pointer, behind the red
    /// zone of the ABI, is room that no function relies on; it is put back all the same.
    fn borrow_stack(&mut self) -> Result<()> {
        const RED_ZONE: u64 = 128;
        let place = self
            .original
            .rsp
            .saturating_sub(RED_ZONE + BORROWED_BYTES as u64)
            & !15;
        self.borrowed = Some(self.mem.read_vec(place, BORROWED_BYTES)?);
        self.scratch = place;
        Ok(())
    }

    /// The address of a page that was mapped for this visit and that nothing has touched.
    pub fn untouched_page(&self) -> Option<u64> {
        self.borrowed
            .is_none()
            .then_some(self.scratch + SCRATCH_BYTES - PAGE)
    }

    /// Makes the thread do a system call.
    pub fn call(&mut self, number: i64, args: [u64; 6]) -> Result<std::result::Result<u64, Errno>> {
        Ok(outcome(self.go(1, number, args, false)?))
    }

    /// Like [`Visit::call`], with a failure of the call itself as error.
    pub fn must(&mut self, call: &'static str, number: i64, args: [u64; 6]) -> Result<u64> {
        self.call(number, args)?.map_err(|source| Error::Remote {
            call,
            pid: self.tid,
            source,
        })
    }

    /// Reads back what a call left in the scratch page.
    pub fn read_scratch<const N: usize>(&self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.mem.read(self.scratch, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes to the scratch page.
    pub fn write_scratch(&self, bytes: &[u8]) -> Result<()> {
        self.mem.write(self.scratch, bytes)
    }

    /// Begins a copy of the whole process, copy-on-write, that will never run: clone(2) without CLONE_VM. It is traced by
    /// this thread, stands still, gives no signal when it ends, and ends when the tracer does. The call is at its
    /// entry after this; [`Visit::run_copy`] lets it do its work, [`Visit::await_copy`] waits for it. So several
    /// processes are copied at the same time.
    ///
    /// The way home of the first call is not needed any more; that of the clone takes its place. It sends the copy to
    /// its end, should cryopod die before it has told the kernel to kill the copy then.
    pub fn begin_copy(&mut self) -> Result<()> {
        let undo = match self.borrowed {
            Some(_) => Undo::Nothing,
            None => Undo::Unmap(self.scratch),
        };
        self.pave_for(0, undo, Leaves::Copy)?;
        let births = options::CLONE | options::FORK | options::VFORK;
        self.set_options(options::SYSGOOD | births)?;
        // The table of descriptors is shared until the copy drops it: copying it would open every file once more.
        let flags = (libc::CLONE_FILES | libc::CLONE_FS) as u64;
        self.begin(0, nr::CLONE, [flags, 0, 0, 0, 0, 0], false)
    }

    /// Lets the thread make the copy.
    pub fn run_copy(&mut self) -> Result<()> {
        ptrace::cont_to_syscall(self.tid, 0).task("continue it", self.tid)?;
        self.copying = true;
        Ok(())
    }

    /// Waits for the copy and gives its pid.
    pub fn await_copy(&mut self) -> Result<std::result::Result<i32, Errno>> {
        self.copying = false;
        let cloned = self.end();
        self.set_options(options::SYSGOOD)?;
        let born = self.born.take();
        match outcome(cloned?) {
            // The kernel's answer is a pid of the target's own namespace; the event's is one of cryopod's.
            Ok(pid) => born.map(Ok).ok_or(Error::Ended {
                pid: pid as i32,
                during: "copied",
            }),
            Err(errno) => Ok(Err(errno)),
        }
    }

    /// Has the process make a descriptor and fetches it, with the thread still at the exit of the call; then the process
    /// closes it. If cryopod dies in between, the way home closes it.
    ///
    /// As for [`Visit::copy_process`], it takes the place of the first way home.
    pub fn take_descriptor<T>(
        &mut self,
        number: i64,
        args: [u64; 6],
        fetch: impl FnOnce(i32) -> Result<T>,
    ) -> Result<std::result::Result<T, Errno>> {
        let scratch = self.borrowed.is_none().then_some(self.scratch);
        self.pave(0, Undo::CloseResult(scratch))?;
        let fd = match outcome(self.go(0, number, args, false)?) {
            Ok(fd) => fd,
            Err(errno) => return Ok(Err(errno)),
        };
        let fetched = fetch(fd as i32);
        self.must("close", libc::SYS_close, [fd, 0, 0, 0, 0, 0])?;
        fetched.map(Ok)
    }

    /// Address of the `syscall` instruction that a copy of this process makes its calls with.
    pub fn gate_of_copy(&self) -> u64 {
        self.ways + COPY_GATE
    }

    fn set_options(&self, wanted: i32) -> Result<()> {
        match ptrace::set_options(self.tid, wanted | options::SUSPEND_SECCOMP) {
            Err(Errno::PERM | Errno::INVAL) => ptrace::set_options(self.tid, wanted),
            other => other,
        }
        .task("set what is traced of it", self.tid)
    }

    /// Leaves the thread as it was found.
    pub fn leave(mut self) -> Result<()> {
        self.go_home()
    }

    fn go_home(&mut self) -> Result<()> {
        if self.home {
            return Ok(());
        }
        self.home = true;
        if self.copying
            && let Ok(pid) = self.await_copy()?
        {
            process::kill(pid, SIGKILL).task("end it", pid)?;
        }
        if let Some(bytes) = self.borrowed.take() {
            self.mem.write(self.scratch, &bytes)?;
        } else if self.scratch != 0 {
            self.go(
                2,
                nr::MUNMAP,
                [self.scratch, SCRATCH_BYTES, 0, 0, 0, 0],
                false,
            )?;
        }
        self.trap_again()?;
        ptrace::set_sigmask(self.tid, self.mask).task("give back its signal mask", self.tid)?;
        ptrace::set_regs(self.tid, &self.original).task("give back its registers", self.tid)?;
        if self.stop_again {
            process::kill(self.tid, SIGSTOP).task("stop it again", self.tid)?;
        }
        self.mem.write(self.ways, &self.covered)
    }

    /// From the exit of a call into an event stop, the only place where the kernel handles the restart of the call
    /// that the *original* registers are in. No user instruction runs in between.
    fn trap_again(&mut self) -> Result<()> {
        ptrace::interrupt(self.tid).task("interrupt it", self.tid)?;
        ptrace::cont(self.tid, 0).task("continue it", self.tid)?;
        loop {
            match self.wait()? {
                Status::Event(..) => return Ok(()),
                Status::Stopped(signal) => self.keep_signal(signal)?,
                _ => {}
            }
            ptrace::cont(self.tid, 0).task("continue it", self.tid)?;
        }
    }

    /// Runs one system call from way `way`, to its exit.
    fn go(&mut self, way: usize, number: i64, args: [u64; 6], first: bool) -> Result<u64> {
        self.begin(way, number, args, first)?;
        ptrace::cont_to_syscall(self.tid, 0).task("continue it", self.tid)?;
        self.end()
    }

    /// Runs to the entry of a system call from way `way`.
    fn begin(&mut self, way: usize, number: i64, args: [u64; 6], first: bool) -> Result<()> {
        let mut regs = self.original;
        regs.rip = self.ways + (way * WAY_BYTES) as u64;
        regs.orig_rax = u64::MAX;
        regs.rax = number as u64;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        ptrace::set_regs(self.tid, &regs).task("set its registers", self.tid)?;
        if first {
            // Only now: were it done before and cryopod died, the thread would keep the full mask.
            ptrace::set_sigmask(self.tid, u64::MAX).task("block its signals", self.tid)?;
        }
        ptrace::cont_to_syscall(self.tid, 0).task("continue it", self.tid)?;
        self.await_syscall_stop()
    }

    /// Waits for the exit of a system call that goes on, and gives what it left in rax.
    fn end(&mut self) -> Result<u64> {
        self.await_syscall_stop()?;
        let regs = ptrace::regs(self.tid).task("read its registers", self.tid)?;
        Ok(regs.rax)
    }

    fn await_syscall_stop(&mut self) -> Result<()> {
        loop {
            match self.wait()? {
                Status::Syscall => return Ok(()),
                Status::Stopped(signal) => self.keep_signal(signal)?,
                Status::Event(PTRACE_EVENT_FORK | PTRACE_EVENT_VFORK | PTRACE_EVENT_CLONE, _) => {
                    let pid = ptrace::event_message(self.tid);
                    self.born = Some(pid.task("ask for its child", self.tid)? as i32);
                }
                _ => {}
            }
            ptrace::cont_to_syscall(self.tid, 0).task("continue it", self.tid)?;
        }
    }

    fn wait(&self) -> Result<Status> {
        let (_, status) = wait::wait(self.tid, false)
            .task("wait for it", self.tid)?
            .ok_or(Error::Ended {
                pid: self.tid,
                during: "visited",
            })?;
        match status {
            Status::Exited(_) | Status::Signaled(..) => Err(Error::Ended {
                pid: self.tid,
                during: "visited",
            }),
            status => Ok(status),
        }
    }

    /// Only SIGSTOP gets through a full mask.
    fn keep_signal(&mut self, signal: i32) -> Result<()> {
        if signal != SIGSTOP {
            return Err(Error::UnexpectedStop {
                pid: self.tid,
                signal,
            });
        }
        self.stop_again = true;
        Ok(())
    }

    /// Writes the way home number `way`.
    fn pave(&self, way: usize, undo: Undo) -> Result<()> {
        self.pave_for(way, undo, Leaves::Caller)
    }

    fn pave_for(&self, way: usize, undo: Undo, leaves: Leaves) -> Result<()> {
        let code = way_home(&resumed(&self.original), self.mask, undo, leaves);
        self.mem.write(self.ways + (way * WAY_BYTES) as u64, &code)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.go_home() {
            tracing::warn!(tid = self.tid, %error, "the visit did not end well");
        }
    }
}

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;

/// The few numbers of asm/unistd_64.h and asm-generic/mman.h needed here.
mod nr {
    pub const MMAP: i64 = 9;
    pub const MUNMAP: i64 = 11;
    pub const CLONE: i64 = 56;
}
mod libc_map {
    pub const PRIVATE: u32 = 0x02;
    pub const ANONYMOUS: u32 = 0x20;
}

/// A thread stopped inside a restartable sequence was interrupted there, so its continuation is the abort handler.
/// Running anything else first would make the kernel forget the sequence (it clears `rseq_cs` when it finds the
/// instruction pointer outside), and the sequence would go on as if it had not been interrupted.
///
/// Layout: `struct rseq` and `struct rseq_cs` in linux/rseq.h.
fn leave_critical_section(tid: i32, mem: &Mem, regs: &mut Regs) -> Result<()> {
    const RSEQ_CS: u64 = 8;
    let Ok(Some(area)) = ptrace::rseq_configuration(tid) else {
        return Ok(());
    };
    let section = mem.read_u64(area.rseq_abi_pointer + RSEQ_CS)?;
    if section == 0 {
        return Ok(());
    }
    let start = mem.read_u64(section + 8)?;
    let length = mem.read_u64(section + 16)?;
    if regs.rip.wrapping_sub(start) < length {
        regs.rip = mem.read_u64(section + 24)?;
    }
    Ok(())
}
