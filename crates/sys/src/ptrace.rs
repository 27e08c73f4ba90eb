//! ptrace(2): stopping tasks of another process and looking at them.
//!
//! Only PTRACE_SEIZE is offered, never PTRACE_ATTACH: a seized task sees no SIGSTOP and keeps its job-control state.
//! All requests of one tracee must come from the thread that seized it.

use std::ffi::c_void;
use std::mem::{MaybeUninit, size_of};

use crate::{Result, check};

/// General-purpose registers as `PTRACE_GETREGSET` with `NT_PRSTATUS` gives them (`struct user_regs_struct`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are the registers they are named after"
)]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The number of the system call that the task is in; negative when it is in none.
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// `PTRACE_O_*` options, combined with `|`.
pub mod options {
    #![expect(missing_docs, reason = "named and described in ptrace(2)")]
    pub const SYSGOOD: i32 = libc::PTRACE_O_TRACESYSGOOD;
    pub const FORK: i32 = libc::PTRACE_O_TRACEFORK;
    pub const VFORK: i32 = libc::PTRACE_O_TRACEVFORK;
    pub const CLONE: i32 = libc::PTRACE_O_TRACECLONE;
    pub const EXITKILL: i32 = libc::PTRACE_O_EXITKILL;
    pub const SUSPEND_SECCOMP: i32 = 1 << 21;
}

/// `struct ptrace_rseq_configuration`: where a thread registered its restartable-sequences area.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RseqConfiguration {
    /// Address of `struct rseq` in the tracee; 0 when none is registered.
    pub rseq_abi_pointer: u64,
    /// Length in bytes given at registration.
    pub rseq_abi_size: u32,
    /// The signature that precedes every abort handler.
    pub signature: u32,
    /// Always 0 today.
    pub flags: u32,
    /// Reserved.
    pub pad: u32,
}

fn request(request: u32, tid: i32, addr: usize, data: usize) -> Result<i64> {
    // SAFETY: the callers below pass, for each request, either plain integers or pointers to live, large enough values
    // that outlive the call; ptrace(2) reads and writes nothing else in this process.
    check(unsafe { libc::ptrace(request, tid, addr as *mut c_void, data as *mut c_void) })
}

/// PTRACE_SEIZE: become the tracer of `tid` without stopping it.
pub fn seize(tid: i32, options: i32) -> Result<()> {
    request(libc::PTRACE_SEIZE, tid, 0, options as usize).map(drop)
}

/// PTRACE_SETOPTIONS on a stopped tracee.
pub fn set_options(tid: i32, options: i32) -> Result<()> {
    request(libc::PTRACE_SETOPTIONS, tid, 0, options as usize).map(drop)
}

/// PTRACE_INTERRUPT: ask a seized tracee to stop; the stop arrives through wait.
pub fn interrupt(tid: i32) -> Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

/// PTRACE_DETACH: let a stopped tracee go on as if it had never been traced.
pub fn detach(tid: i32) -> Result<()> {
    request(libc::PTRACE_DETACH, tid, 0, 0).map(drop)
}

/// PTRACE_CONT, injecting `signal` (0 for none).
pub fn cont(tid: i32, signal: i32) -> Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
}

/// PTRACE_SYSCALL: run to the next entry or exit of a system call.
pub fn cont_to_syscall(tid: i32, signal: i32) -> Result<()> {
    request(libc::PTRACE_SYSCALL, tid, 0, signal as usize).map(drop)
}

/// PTRACE_SINGLESTEP: run one instruction.
pub fn step(tid: i32, signal: i32) -> Result<()> {
    request(libc::PTRACE_SINGLESTEP, tid, 0, signal as usize).map(drop)
}

/// PTRACE_GETEVENTMSG: the message of the last ptrace event (the new tid after a fork or clone).
pub fn event_message(tid: i32) -> Result<u64> {
    let mut message: libc::c_ulong = 0;
    request(
        libc::PTRACE_GETEVENTMSG,
        tid,
        0,
        (&raw mut message) as usize,
    )?;
    Ok(message)
}

/// PTRACE_GETREGSET with NT_PRSTATUS. Fails with EINVAL for a task that runs 32-bit code.
pub fn regs(tid: i32) -> Result<Regs> {
    let mut regs = Regs::default();
    let mut iov = libc::iovec {
        iov_base: (&raw mut regs).cast(),
        iov_len: size_of::<Regs>(),
    };
    request(
        libc::PTRACE_GETREGSET,
        tid,
        libc::NT_PRSTATUS as usize,
        (&raw mut iov) as usize,
    )?;
    if iov.iov_len == size_of::<Regs>() {
        Ok(regs)
    } else {
        Err(crate::Errno::INVAL)
    }
}

/// PTRACE_SETREGSET with NT_PRSTATUS.
pub fn set_regs(tid: i32, regs: &Regs) -> Result<()> {
    let iov = libc::iovec {
        iov_base: std::ptr::from_ref(regs).cast_mut().cast(),
        iov_len: size_of::<Regs>(),
    };
    request(
        libc::PTRACE_SETREGSET,
        tid,
        libc::NT_PRSTATUS as usize,
        (&raw const iov) as usize,
    )
    .map(drop)
}

/// The regset of the extended state (`NT_X86_XSTATE` in elf.h).
const NT_X86_XSTATE: usize = 0x202;

/// The largest XSAVE area any x86-64 processor has today (AMX included), with room to spare.
const XSTATE_MAX_BYTES: usize = 16 << 10;

/// PTRACE_GETREGSET with NT_X86_XSTATE: the whole extended state in XSAVE's standard format.
pub fn xstate(tid: i32) -> Result<Vec<u8>> {
    let mut area = vec![0u8; XSTATE_MAX_BYTES];
    let mut iov = libc::iovec {
        iov_base: area.as_mut_ptr().cast(),
        iov_len: area.len(),
    };
    request(
        libc::PTRACE_GETREGSET,
        tid,
        NT_X86_XSTATE,
        (&raw mut iov) as usize,
    )?;
    area.truncate(iov.iov_len);
    Ok(area)
}

/// PTRACE_SETREGSET with NT_X86_XSTATE. `area` has this host's size and XSAVE's standard format.
pub fn set_xstate(tid: i32, area: &[u8]) -> Result<()> {
    let iov = libc::iovec {
        iov_base: area.as_ptr().cast_mut().cast(),
        iov_len: area.len(),
    };
    request(
        libc::PTRACE_SETREGSET,
        tid,
        NT_X86_XSTATE,
        (&raw const iov) as usize,
    )
    .map(drop)
}

/// PTRACE_GETSIGMASK: the blocked signals, bit N-1 for signal N.
pub fn sigmask(tid: i32) -> Result<u64> {
    let mut mask = 0u64;
    request(
        libc::PTRACE_GETSIGMASK,
        tid,
        size_of::<u64>(),
        (&raw mut mask) as usize,
    )?;
    Ok(mask)
}

/// PTRACE_SETSIGMASK.
pub fn set_sigmask(tid: i32, mask: u64) -> Result<()> {
    request(
        libc::PTRACE_SETSIGMASK,
        tid,
        size_of::<u64>(),
        (&raw const mask) as usize,
    )
    .map(drop)
}

/// Size of the kernel's `siginfo_t` in bytes.
pub const SIGINFO_BYTES: usize = 128;

/// A raw `siginfo_t`.
pub type RawSiginfo = [u8; SIGINFO_BYTES];

/// PTRACE_PEEKSIGINFO: all queued signals of a thread (or, with `shared`, of its process), oldest first.
pub fn queued_signals(tid: i32, shared: bool) -> Result<Vec<RawSiginfo>> {
    #[repr(C)]
    struct Args {
        offset: u64,
        flags: u32,
        count: i32,
    }
    const BATCH: usize = 32;
    let mut found = Vec::new();
    loop {
        let args = Args {
            offset: found.len() as u64,
            flags: u32::from(shared),
            count: BATCH as i32,
        };
        let mut batch = [[0u8; SIGINFO_BYTES]; BATCH];
        let count = request(
            libc::PTRACE_PEEKSIGINFO,
            tid,
            (&raw const args) as usize,
            (&raw mut batch) as usize,
        )? as usize;
        found.extend_from_slice(&batch[..count.min(BATCH)]);
        if count < BATCH {
            return Ok(found);
        }
    }
}

/// PTRACE_GET_RSEQ_CONFIGURATION (Linux 5.13): `None` when the thread registered nothing.
pub fn rseq_configuration(tid: i32) -> Result<Option<RseqConfiguration>> {
    const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
    let mut configuration = RseqConfiguration::default();
    request(
        PTRACE_GET_RSEQ_CONFIGURATION,
        tid,
        size_of::<RseqConfiguration>(),
        (&raw mut configuration) as usize,
    )?;
    Ok((configuration.rseq_abi_pointer != 0).then_some(configuration))
}

/// PTRACE_SECCOMP_GET_FILTER: the `index`-th classic BPF filter (newest first), as raw `struct sock_filter`s of 8 bytes.
/// ENOENT past the last one.
pub fn seccomp_filter(tid: i32, index: usize) -> Result<Vec<u8>> {
    const PTRACE_SECCOMP_GET_FILTER: u32 = 0x420c;
    let count = request(PTRACE_SECCOMP_GET_FILTER, tid, index, 0)? as usize;
    let mut filter = vec![0u8; count * 8];
    request(
        PTRACE_SECCOMP_GET_FILTER,
        tid,
        index,
        filter.as_mut_ptr() as usize,
    )?;
    Ok(filter)
}

/// PTRACE_POKEDATA: writes `bytes` at `addr`, also where the mapping is read-only (the page becomes a private copy).
pub fn poke(tid: i32, addr: u64, bytes: &[u8]) -> Result<()> {
    for (index, chunk) in bytes.chunks(8).enumerate() {
        let at = addr + 8 * index as u64;
        let mut word = [0u8; 8];
        if chunk.len() < 8 {
            word = peek(tid, at)?;
        }
        word[..chunk.len()].copy_from_slice(chunk);
        request(
            libc::PTRACE_POKEDATA,
            tid,
            at as usize,
            u64::from_ne_bytes(word) as usize,
        )?;
    }
    Ok(())
}

/// PTRACE_PEEKDATA: one word at `addr`.
pub fn peek(tid: i32, addr: u64) -> Result<[u8; 8]> {
    let mut word = MaybeUninit::<u64>::zeroed();
    // SAFETY: the raw request (unlike glibc's wrapper) stores the word through `data`, which points to live memory.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_ptrace,
            libc::PTRACE_PEEKDATA,
            tid,
            addr,
            word.as_mut_ptr(),
        )
    };
    check(rc)?;
    // SAFETY: zero is a valid u64, so it is initialised whatever the kernel wrote.
    Ok(unsafe { word.assume_init() }.to_ne_bytes())
}
