//! What each thread has of its own.

use cryopod_image::criu::{
    CoreEntry, DeadlineEntry, March, RseqEntry, ThreadCoreEntry, ThreadInfoX86, ThreadSasEntry,
    UserDesc,
};
use cryopod_sys::{process as task, ptrace};

use super::process::World;
use super::{credentials, settings, signals};
use crate::cpu;
use crate::error::{Context, Result};
use crate::freeze::FrozenProcess;
use crate::proc::{self, status::Status};
use crate::remote::visit::Visit;

/// Entries in the thread-local part of the descriptor table (asm/segment.h).
const TLS_ENTRIES: u32 = 3;
const TLS_FIRST: u32 = 12;

/// Reads one visited thread.
pub fn dump(
    world: &mut World<'_>,
    one: &FrozenProcess,
    visit: &mut Visit<'_>,
) -> Result<CoreEntry> {
    let pid = one.pid;
    let tid = visit.tid();
    let status = Status::read(pid, tid)?;
    let xstate = ptrace::xstate(tid).task("read its extended state", tid)?;
    let (robust_head, robust_len) = task::robust_list(tid).task("read its robust list", tid)?;
    let scheduling = task::scheduling(tid).task("read its scheduling", tid)?;
    let (seccomp_mode, seccomp_filter) = world.seccomp.of(tid, &status)?;
    let mut thread_core = ThreadCoreEntry {
        futex_rla: robust_head,
        futex_rla_len: robust_len as u32,
        sched_nice: Some(scheduling.nice),
        sched_policy: Some(scheduling.policy as u32),
        sched_prio: Some(scheduling.priority as u32),
        blk_sigset: Some(visit.mask()),
        sas: Some(alternate_stack(visit)?),
        pdeath_sig: Some(parent_death_signal(visit)?),
        signals_p: Some(signals::queued(tid, false, one.stop_signal.is_some())?),
        creds: Some(credentials::dump(visit, &status)?),
        seccomp_mode: Some(seccomp_mode),
        seccomp_filter,
        comm: Some(comm(pid, tid)?),
        rseq_entry: rseq(tid)?,
        cg_set: Some(world.cgroups.of(pid, tid)?),
        cryopod_timer_slack_ns: proc::read_text(tid, "timerslack_ns")
            .ok()
            .and_then(|text| text.trim().parse().ok()),
        cryopod_mce_policy: visit
            .call(
                libc::SYS_prctl,
                [libc::PR_MCE_KILL_GET as u64, 0, 0, 0, 0, 0],
            )?
            .ok()
            .map(|policy| policy as u32),
        cryopod_affinity: Some(task::affinity(tid).task("read its affinity", tid)?),
        cryopod_deadline: scheduling.deadline.map(|one| DeadlineEntry {
            runtime_ns: one.runtime_ns,
            deadline_ns: one.deadline_ns,
            period_ns: one.period_ns,
            flags: one.flags,
        }),
        ..ThreadCoreEntry::default()
    };
    settings::thread(visit, &mut thread_core)?;
    let thread_info = ThreadInfoX86 {
        clear_tid_addr: clear_tid_address(visit)?,
        gpregs: cpu::regs_entry(&cpu::continued(visit.original())),
        fpregs: cpu::fpregs_entry(&xstate),
        tls: thread_local_segments(visit)?,
    };
    Ok(CoreEntry {
        mtype: March::X86_64 as i32,
        thread_info: Some(thread_info),
        thread_core: Some(thread_core),
        cryopod_xstate: Some(xstate),
        ..CoreEntry::default()
    })
}

fn comm(pid: i32, tid: i32) -> Result<Vec<u8>> {
    let mut name = proc::read(pid, &format!("task/{tid}/comm"))?;
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    Ok(name)
}

/// sigaltstack(2): `stack_t` is sp, flags, size.
fn alternate_stack(visit: &mut Visit<'_>) -> Result<ThreadSasEntry> {
    let scratch = visit.scratch();
    visit.must(
        "sigaltstack",
        libc::SYS_sigaltstack,
        [0, scratch, 0, 0, 0, 0],
    )?;
    let stack: [u8; 24] = visit.read_scratch()?;
    let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|index| stack[at + index]));
    Ok(ThreadSasEntry {
        ss_sp: word(0),
        ss_flags: word(8) as u32,
        ss_size: word(16),
    })
}

fn parent_death_signal(visit: &mut Visit<'_>) -> Result<u32> {
    let scratch = visit.scratch();
    visit.must(
        "prctl (parent-death signal)",
        libc::SYS_prctl,
        [libc::PR_GET_PDEATHSIG as u64, scratch, 0, 0, 0, 0],
    )?;
    Ok(u32::from_ne_bytes(visit.read_scratch()?))
}

/// prctl(PR_GET_TID_ADDRESS), there since CONFIG_CHECKPOINT_RESTORE.
fn clear_tid_address(visit: &mut Visit<'_>) -> Result<u64> {
    let scratch = visit.scratch();
    visit.must(
        "prctl (tid address)",
        libc::SYS_prctl,
        [libc::PR_GET_TID_ADDRESS as u64, scratch, 0, 0, 0, 0],
    )?;
    Ok(u64::from_ne_bytes(visit.read_scratch()?))
}

fn rseq(tid: i32) -> Result<Option<RseqEntry>> {
    let area = ptrace::rseq_configuration(tid).task("read its rseq registration", tid)?;
    Ok(area.map(|area| RseqEntry {
        rseq_abi_pointer: area.rseq_abi_pointer,
        rseq_abi_size: area.rseq_abi_size,
        signature: area.signature,
        // A thread inside a critical section continues at its abort handler, so there is none to come back to.
        rseq_cs_pointer: None,
    }))
}

/// get_thread_area(2): only 32-bit code uses these, but a 64-bit program may have set them.
fn thread_local_segments(visit: &mut Visit<'_>) -> Result<Vec<UserDesc>> {
    let scratch = visit.scratch();
    let mut segments = Vec::new();
    for number in TLS_FIRST..TLS_FIRST + TLS_ENTRIES {
        visit.write_scratch(&number.to_ne_bytes())?;
        let desc = match visit.call(libc::SYS_get_thread_area, [scratch, 0, 0, 0, 0, 0])? {
            Ok(_) => visit.read_scratch::<16>()?,
            // Kernels without 32-bit support have no such call.
            Err(_) => return Ok(segments),
        };
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|index| desc[at + index]));
        let flags = word(12);
        segments.push(UserDesc {
            entry_number: number,
            base_addr: word(4),
            limit: word(8),
            seg_32bit: flags & 1 != 0,
            contents_l: flags & 2 != 0,
            contents_h: flags & 4 != 0,
            read_exec_only: flags & 8 != 0,
            limit_in_pages: flags & 16 != 0,
            seg_not_present: flags & 32 != 0,
            usable: flags & 64 != 0,
        });
    }
    Ok(segments)
}
