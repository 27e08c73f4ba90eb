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

use cryopod_sys::ptrace::{self, Regs};
use cryopod_sys::wait::{self, Status};
use cryopod_sys::{Errno, memory::PAGE};

use super::{outcome, restart};
use crate::error::{Context, Error, Result};
use crate::proc::mem::Mem;

/// Bytes of the scratch page mapped for the time of a visit.
pub const SCRATCH_BYTES: u64 = 4 * PAGE;

/// What calls may use of it: as much as there is on a stack, where the page was not to be had.
pub const BORROWED_BYTES: usize = 256;

/// Room for one way home.
const WAY_BYTES: usize = 192;
const WAYS: usize = 3;
/// What a visit needs behind the end of the vdso.
pub const ROOM_BYTES: usize = WAY_BYTES * WAYS;

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
    /// A SIGSTOP arrived during the visit; it is sent once more at the end.
    stop_again: bool,
}

/// Where the thread continues if it has to go home alone.
#[derive(Clone, Copy)]
enum Undo {
    /// munmap what the call itself returned.
    UnmapResult,
    /// munmap the scratch page at this address.
    Unmap(u64),
    /// Nothing.
    Nothing,
}

impl<'a> Visit<'a> {
    /// Enters a thread that is held in an event stop, by way of `room` in its vdso (see [`find_room`]).
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

    /// Leaves the thread as it was found.
    pub fn leave(mut self) -> Result<()> {
        self.go_home()
    }

    fn go_home(&mut self) -> Result<()> {
        if self.home {
            return Ok(());
        }
        self.home = true;
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
            cryopod_sys::process::kill(self.tid, SIGSTOP).task("stop it again", self.tid)?;
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
        for _entry_then_exit in 0..2 {
            self.run_to_syscall_stop()?;
        }
        Ok(ptrace::regs(self.tid)
            .task("read its registers", self.tid)?
            .rax)
    }

    fn run_to_syscall_stop(&mut self) -> Result<()> {
        loop {
            ptrace::cont_to_syscall(self.tid, 0).task("continue it", self.tid)?;
            match self.wait()? {
                Status::Syscall => return Ok(()),
                Status::Stopped(signal) => self.keep_signal(signal)?,
                _ => {}
            }
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
        let code = way_home(&resumed(&self.original), self.mask, undo);
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

const SIGSTOP: i32 = 19;

/// The few numbers of asm/unistd_64.h and asm-generic/mman.h needed here.
mod nr {
    pub const MMAP: i64 = 9;
    pub const MUNMAP: i64 = 11;
}
mod libc_map {
    pub const PRIVATE: u32 = 0x02;
    pub const ANONYMOUS: u32 = 0x20;
}

/// The registers with which a thread that goes home alone continues: what the kernel would have made of an interrupted
/// system call on the way back to user mode.
fn resumed(original: &Regs) -> Regs {
    const RESTART_SYSCALL: u64 = 219;
    let mut regs = *original;
    if (regs.orig_rax as i64) >= 0 {
        let number = match regs.rax as i64 {
            restart::ERESTARTSYS | restart::ERESTARTNOINTR | restart::ERESTARTNOHAND => {
                regs.orig_rax
            }
            restart::ERESTART_RESTARTBLOCK => RESTART_SYSCALL,
            _ => return regs,
        };
        regs.rax = number;
        regs.rip -= 2;
    }
    regs
}

/// `syscall`, the undo, rt_sigprocmask(SIG_SETMASK), every register that a system call or this code changes, a jump.
/// The flags need nothing: SYSCALL and SYSRET keep them, and mov and jmp do not touch them.
fn way_home(regs: &Regs, mask: u64, undo: Undo) -> Vec<u8> {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let mut code = Vec::with_capacity(WAY_BYTES);
    let imm64 = |code: &mut Vec<u8>, opcode: [u8; 2], value: u64| {
        code.extend_from_slice(&opcode);
        code.extend_from_slice(&value.to_le_bytes());
    };
    code.extend_from_slice(&SYSCALL);
    let unmap = match undo {
        Undo::UnmapResult => {
            code.extend_from_slice(&[0x48, 0x89, 0xc7]); // mov rdi, rax
            true
        }
        Undo::Unmap(address) => {
            imm64(&mut code, [0x48, 0xbf], address); // mov rdi, address
            true
        }
        Undo::Nothing => false,
    };
    if unmap {
        code.push(0xbe); // mov esi, SCRATCH_BYTES
        code.extend_from_slice(&(SCRATCH_BYTES as u32).to_le_bytes());
        code.extend_from_slice(&[0xb8, 11, 0, 0, 0]); // mov eax, munmap
        code.extend_from_slice(&SYSCALL);
    }
    code.extend_from_slice(&[0xb8, 14, 0, 0, 0]); // mov eax, rt_sigprocmask
    code.extend_from_slice(&[0xbf, 2, 0, 0, 0]); // mov edi, SIG_SETMASK
    code.extend_from_slice(&[0x48, 0x8d, 0x35]); // lea rsi, [rip + to the mask]
    let lea = code.len();
    code.extend_from_slice(&[0; 4]);
    code.extend_from_slice(&[0xba, 0, 0, 0, 0]); // mov edx, 0
    code.extend_from_slice(&[0x41, 0xba, 8, 0, 0, 0]); // mov r10d, 8
    code.extend_from_slice(&SYSCALL);
    for (opcode, value) in [
        ([0x48, 0xb8], regs.rax),
        ([0x48, 0xb9], regs.rcx),
        ([0x48, 0xba], regs.rdx),
        ([0x48, 0xbe], regs.rsi),
        ([0x48, 0xbf], regs.rdi),
        ([0x49, 0xb8], regs.r8),
        ([0x49, 0xb9], regs.r9),
        ([0x49, 0xba], regs.r10),
        ([0x49, 0xbb], regs.r11),
    ] {
        imm64(&mut code, opcode, value);
    }
    code.extend_from_slice(&[0xff, 0x25, 0, 0, 0, 0]); // jmp [rip + 0]
    code.extend_from_slice(&regs.rip.to_le_bytes());
    let to_mask = (code.len() - (lea + 4)) as u32;
    code[lea..lea + 4].copy_from_slice(&to_mask.to_le_bytes());
    code.extend_from_slice(&mask.to_le_bytes());
    assert!(code.len() <= WAY_BYTES, "a way home must fit its place");
    code
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

/// Finds [`ROOM_BYTES`] in a vdso that nobody needs at run time: behind the end of its ELF image, else over its section
/// headers (which only debuggers read, from a copy of their own). Gives the offset in the vdso.
///
/// The answer follows from the ELF header alone, so that what a killed cryopod left there does not matter to the next.
pub fn find_room(vdso: &[u8]) -> Option<usize> {
    const ALIGN: usize = 16;
    let image = Elf(vdso);
    let (segments, sections) = (image.segments_end()?, image.section_headers()?);
    let fits = |at: usize| {
        vdso.len()
            .checked_sub(at)
            .is_some_and(|left| left >= ROOM_BYTES)
    };
    let behind = segments.max(sections.end).checked_next_multiple_of(ALIGN)?;
    let over = sections.start.checked_next_multiple_of(ALIGN)?;
    [Some(behind), (over >= segments && over > 0).then_some(over)]
        .into_iter()
        .flatten()
        .find(|&at| fits(at))
}

/// As much of a 64-bit ELF image as is needed here; see elf(5).
struct Elf<'a>(&'a [u8]);

impl Elf<'_> {
    fn long(&self, at: usize) -> Option<usize> {
        let bytes = self.0.get(at..at.checked_add(8)?)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    }

    fn half(&self, at: usize) -> Option<usize> {
        let bytes = self.0.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(u16::from_le_bytes(bytes).into())
    }

    /// End of the last byte that a program header speaks of.
    fn segments_end(&self) -> Option<usize> {
        let (start, size, count) = (self.long(0x20)?, self.half(0x36)?, self.half(0x38)?);
        (0..count).try_fold(0, |end: usize, index| {
            let header = start.checked_add(index * size)?;
            let segment = self
                .long(header.checked_add(8)?)?
                .checked_add(self.long(header.checked_add(32)?)?)?;
            Some(end.max(segment))
        })
    }

    fn section_headers(&self) -> Option<std::ops::Range<usize>> {
        let (start, size, count) = (self.long(0x28)?, self.half(0x3a)?, self.half(0x3c)?);
        Some(start..start.checked_add(size * count)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_home_fits_its_place() {
        for undo in [
            Undo::UnmapResult,
            Undo::Unmap(0x7fff_ffff_f000),
            Undo::Nothing,
        ] {
            let code = way_home(&Regs::default(), u64::MAX, undo);
            assert!(code.len() <= WAY_BYTES);
            assert_eq!(code[..2], [0x0f, 0x05]);
            assert_eq!(code[code.len() - 8..], u64::MAX.to_le_bytes());
        }
    }

    #[test]
    fn an_interrupted_call_is_restarted() {
        let mut regs = Regs {
            orig_rax: 7,
            rax: -512i64 as u64,
            rip: 100,
            ..Regs::default()
        };
        assert_eq!((resumed(&regs).rax, resumed(&regs).rip), (7, 98));
        regs.rax = -516i64 as u64;
        assert_eq!(resumed(&regs).rax, 219);
        regs.orig_rax = u64::MAX;
        assert_eq!(resumed(&regs), regs);
    }

    /// An ELF image of 8 KiB with one segment and sections as told.
    fn vdso(segment_end: u64, sections_at: u64, sections: u16) -> Vec<u8> {
        let mut image = vec![0xaa; 8192];
        for (at, value) in [
            (0x20, 0x40),
            (0x28, sections_at),
            (0x48, 0),
            (0x60, segment_end),
        ] {
            image[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        for (at, value) in [(0x36, 56u16), (0x38, 1), (0x3a, 64), (0x3c, sections)] {
            image[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        image
    }

    #[test]
    fn room_is_behind_the_image_whatever_lies_there() {
        assert_eq!(find_room(&vdso(5000, 5600, 16)), Some(6624));
        // No room behind, but the section headers may be covered.
        assert_eq!(find_room(&vdso(6000, 7000, 16)), Some(7008));
        assert_eq!(find_room(&vdso(8000, 7000, 16)), None);
        assert_eq!(find_room(&[]), None);
    }

    #[test]
    fn any_bytes_are_taken() {
        for length in 0..200 {
            let _no_panic = find_room(&vec![0xff; length]);
        }
    }
}
