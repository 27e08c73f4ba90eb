//! What each thread has of its own.

use cryopod_image::criu::{ThreadCoreEntry, ThreadInfoX86, UserDesc};
use cryopod_sys::cpu::component;
use cryopod_sys::{process as task, ptrace};

use super::plan::Thread;
use super::tree::World;
use super::{credentials, seccomp, settings};
use crate::cpu;
use crate::error::{Context, Error, Result};
use crate::proc::{self, mem::Mem};
use crate::remote::puppet::Puppet;

fn parts(thread: &Thread) -> Result<(&ThreadInfoX86, &ThreadCoreEntry)> {
    match (&thread.core.thread_info, &thread.core.thread_core) {
        (Some(info), Some(core)) => Ok((info, core)),
        _ => Err(Error::inconsistent(
            format!("core-{}", thread.tid),
            "registers or the thread's part are missing",
        )),
    }
}

/// Name, scheduling, stacks and lists: what harms nothing.
pub fn restore(_world: &World<'_>, puppet: &Puppet, mem: &Mem, thread: &Thread) -> Result<()> {
    let (info, core) = parts(thread)?;
    name(puppet, mem, thread)?;
    scheduling(puppet, core)?;
    settings::thread(puppet, mem, core)?;
    wake_tiles(puppet, mem, thread)?;
    if let Some(sas) = &core.sas {
        // SS_ONSTACK is a state and not a setting: it follows from the stack pointer.
        let flags = sas.ss_flags & !(libc::SS_ONSTACK as u32);
        let stack = [sas.ss_sp, u64::from(flags), sas.ss_size]
            .map(u64::to_ne_bytes)
            .concat();
        let at = puppet.put(mem, &stack)?;
        puppet.must("sigaltstack", libc::SYS_sigaltstack, [at, 0, 0, 0, 0, 0])?;
    }
    puppet.must(
        "set_tid_address",
        libc::SYS_set_tid_address,
        [info.clear_tid_addr, 0, 0, 0, 0, 0],
    )?;
    if core.futex_rla_len != 0 {
        let args = [core.futex_rla, u64::from(core.futex_rla_len), 0, 0, 0, 0];
        puppet.must("set_robust_list", libc::SYS_set_robust_list, args)?;
    }
    for segment in info
        .tls
        .iter()
        .filter(|segment| !segment.seg_not_present || segment.base_addr != 0)
    {
        thread_area(puppet, mem, segment)?;
    }
    if let Some(policy) = core.cryopod_mce_policy {
        let args = [
            libc::PR_MCE_KILL as u64,
            libc::PR_MCE_KILL_SET as u64,
            policy.into(),
            0,
            0,
            0,
        ];
        puppet.must("prctl (memory errors)", libc::SYS_prctl, args)?;
    }
    if let Some(slack) = core.cryopod_timer_slack_ns {
        puppet.must(
            "prctl (timer slack)",
            libc::SYS_prctl,
            [libc::PR_SET_TIMERSLACK as u64, slack, 0, 0, 0, 0],
        )?;
    }
    Ok(())
}

/// Has a thread use an AMX tile: only then does the kernel make room for tiles in its state, into which they can be
/// written (Documentation/arch/x86/xstate.rst).
fn wake_tiles(puppet: &Puppet, mem: &Mem, thread: &Thread) -> Result<()> {
    const HEADER: usize = 512;
    let Some(header) = thread
        .core
        .cryopod_xstate
        .as_ref()
        .and_then(|area| area.get(HEADER..HEADER + 8))
    else {
        return Ok(());
    };
    let present = header
        .iter()
        .rev()
        .fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
    if present & 1 << component::TILEDATA == 0 {
        return Ok(());
    }
    // One tile of 16 rows of 64 bytes.
    let mut configuration = [0u8; 64];
    configuration[0] = 1;
    configuration[16] = 64;
    configuration[48] = 16;
    let at = puppet.put(mem, &configuration)?;
    // ldtilecfg [rdi]; tilezero tmm0; syscall
    const CODE: [u8; 12] = [
        0xc4, 0xe2, 0x78, 0x49, 0x07, 0xc4, 0xe2, 0x7b, 0x49, 0xc0, 0x0f, 0x05,
    ];
    puppet
        .must_through(mem, &CODE, "getpid", libc::SYS_getpid, [at, 0, 0, 0, 0, 0])
        .map(drop)
}

/// prctl(PR_SET_NAME): the command name, of a thread or of the process that it leads.
pub fn name(puppet: &Puppet, mem: &Mem, thread: &Thread) -> Result<()> {
    let of_thread = thread
        .core
        .thread_core
        .as_ref()
        .and_then(|core| core.comm.as_ref());
    let of_process = thread.core.tc.as_ref().map(|tc| &tc.comm);
    let Some(comm) = of_thread.or(of_process) else {
        return Ok(());
    };
    let mut name: Vec<u8> = comm.iter().copied().take(15).collect();
    name.push(0);
    let at = puppet.put(mem, &name)?;
    puppet
        .must(
            "prctl (name)",
            libc::SYS_prctl,
            [libc::PR_SET_NAME as u64, at, 0, 0, 0, 0],
        )
        .map(drop)
}

fn scheduling(puppet: &Puppet, core: &ThreadCoreEntry) -> Result<()> {
    let wanted = task::Scheduling {
        policy: core.sched_policy.unwrap_or(0) as i32,
        priority: core.sched_prio.unwrap_or(0) as i32,
        nice: core.sched_nice.unwrap_or(0),
        deadline: core.cryopod_deadline.map(|one| task::Deadline {
            runtime_ns: one.runtime_ns,
            deadline_ns: one.deadline_ns,
            period_ns: one.period_ns,
            flags: one.flags,
        }),
    };
    if task::scheduling(puppet.tid).task("read its scheduling", puppet.tid)? != wanted {
        task::set_scheduling(puppet.tid, wanted).task("set its scheduling", puppet.tid)?;
    }
    if let Some(mask) = &core.cryopod_affinity
        && task::affinity(puppet.tid).task("read its affinity", puppet.tid)? != *mask
    {
        // Another host may not have any of these processors; then the program runs wherever it can.
        if let Err(error) = task::set_affinity(puppet.tid, mask) {
            tracing::warn!(tid = puppet.tid, %error, "processor affinity is not restored");
        }
    }
    Ok(())
}

/// set_thread_area(2).
fn thread_area(puppet: &Puppet, mem: &Mem, segment: &UserDesc) -> Result<()> {
    let bits = [
        segment.seg_32bit,
        segment.contents_l,
        segment.contents_h,
        segment.read_exec_only,
        segment.limit_in_pages,
        segment.seg_not_present,
        segment.usable,
    ];
    let flags = bits
        .iter()
        .enumerate()
        .fold(0u32, |flags, (bit, set)| flags | u32::from(*set) << bit);
    let desc = [
        segment.entry_number,
        segment.base_addr,
        segment.limit,
        flags,
    ]
    .map(u32::to_ne_bytes)
    .concat();
    let at = puppet.put(mem, &desc)?;
    puppet
        .must(
            "set_thread_area",
            libc::SYS_set_thread_area,
            [at, 0, 0, 0, 0, 0],
        )
        .map(drop)
}

/// Filters, credentials, rseq: after this the thread can do less.
/// `shared` filters it has already ([`seccomp::share`]).
pub fn bind(
    world: &World<'_>,
    puppet: &Puppet,
    mem: &Mem,
    thread: &Thread,
    shared: usize,
) -> Result<()> {
    let (_, core) = parts(thread)?;
    seccomp::restore(world.set, puppet, mem, core, shared)?;
    if let Some(creds) = &core.creds {
        credentials::restore(puppet, mem, creds)?;
    }
    let signal = u64::from(core.pdeath_sig.unwrap_or(0));
    let args = [libc::PR_SET_PDEATHSIG as u64, signal, 0, 0, 0, 0];
    puppet.must("prctl (parent-death signal)", libc::SYS_prctl, args)?;
    if let Some(rseq) = &core.rseq_entry
        && rseq.rseq_abi_pointer != 0
    {
        let args = [
            rseq.rseq_abi_pointer,
            u64::from(rseq.rseq_abi_size),
            0,
            u64::from(rseq.signature),
            0,
            0,
        ];
        puppet.must("rseq (register)", libc::SYS_rseq, args)?;
    }
    Ok(())
}

/// For a leader that has ended while others live on: it runs once more, to its end.
pub fn end(last: &Puppet, thread: &Thread) -> Result<()> {
    let tc = thread.core.tc.as_ref();
    let creds = thread.core.thread_core.as_ref();
    if let Some(creds) = creds.and_then(|core| core.creds.as_ref()) {
        credentials::restore_ids(last, creds)?;
    }
    // The kernel looks at what ended threads asked for as well.
    let args = [libc::PR_SET_PDEATHSIG as u64, 0, 0, 0, 0, 0];
    last.must("prctl (parent-death signal)", libc::SYS_prctl, args)?;
    let code = tc.map_or(0, |tc| tc.exit_code >> 8 & 0xff);
    last.leave_to(libc::SYS_exit, [code.into(), 0, 0, 0, 0, 0])
}

/// Registers and extended state: the thread is where it was.
pub fn resume(puppet: &Puppet, thread: &Thread) -> Result<()> {
    let (info, _) = parts(thread)?;
    let tid = puppet.tid;
    let current = ptrace::xstate(tid).task("read its extended state", tid)?;
    let xstate = cpu::xstate(
        &current,
        &info.fpregs,
        thread.core.cryopod_xstate.as_deref(),
    )?;
    ptrace::set_xstate(tid, &xstate).task("set its extended state", tid)?;
    ptrace::set_regs(tid, &cpu::regs(&info.gpregs)).task("set its registers", tid)?;
    Ok(())
}

/// The signal mask, with which signals that are queued become pending for real.
pub fn unblock(puppet: &Puppet, thread: &Thread) -> Result<()> {
    let (_, core) = parts(thread)?;
    let tid = puppet.tid;
    let of_process = thread.core.tc.as_ref().map(|tc| tc.blk_sigset);
    let mask = core.blk_sigset.or(of_process).unwrap_or(0);
    ptrace::set_sigmask(tid, mask).task("set its signal mask", tid)?;
    tracing::trace!(tid, comm = %proc::read_text(tid, "comm").unwrap_or_default().trim_end(), "ready");
    Ok(())
}
