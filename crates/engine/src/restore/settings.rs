//! Settings that a process makes itself: prctl(2), membarrier(2), set_mempolicy(2), its login user.

use cryopod_image::criu::{CoreEntry, MemoryPolicy, MmEntry, TaskCoreEntry, ThreadCoreEntry};
use cryopod_sys::process as task;

use crate::error::{Error, Result};
use crate::proc::{self, mem::Mem};
use crate::remote::puppet::Puppet;

/// `PR_SET_MEMORY_MERGE` (Linux 6.4).
const PR_SET_MEMORY_MERGE: i32 = 67;
/// `PR_SET_MDWE` (Linux 6.3).
const PR_SET_MDWE: i32 = 65;

fn prctl(puppet: &Puppet, call: &'static str, args: [u64; 5]) -> Result<()> {
    let [option, a, b, c, d] = args;
    puppet
        .must(call, libc::SYS_prctl, [option, a, b, c, d, 0])
        .map(drop)
}

/// The login user. Only a process itself may set it, and only once unless it has CAP_AUDIT_CONTROL.
pub fn login(puppet: &Puppet, mem: &Mem, core: &CoreEntry) -> Result<()> {
    let Some(wanted) = core.tc.as_ref().and_then(|tc| tc.loginuid) else {
        return Ok(());
    };
    let now = proc::read_text(puppet.pid, "loginuid").unwrap_or_default();
    if now.is_empty() || now.trim().parse() == Ok(wanted) {
        return Ok(());
    }
    const TEXT: u64 = 32;
    let mut bytes = b"/proc/self/loginuid\0".to_vec();
    bytes.resize(TEXT as usize, 0);
    let text = wanted.to_string();
    bytes.extend(text.as_bytes());
    let at = puppet.put(mem, &bytes)?;
    let flags = (libc::O_WRONLY | libc::O_CLOEXEC) as u64;
    let open = [libc::AT_FDCWD as u64, at, flags, 0, 0, 0];
    let written = match puppet.call(libc::SYS_openat, open)? {
        Ok(fd) => {
            let write = [fd, at + TEXT, text.len() as u64, 0, 0, 0];
            let written = puppet.call(libc::SYS_write, write)?;
            puppet.must("close", libc::SYS_close, [fd, 0, 0, 0, 0, 0])?;
            written
        }
        Err(errno) => Err(errno),
    };
    if let Err(error) = written {
        tracing::warn!(pid = puppet.pid, wanted, %error, "the login user is not restored");
    }
    Ok(())
}

/// PR_SET_THP_DISABLE. When all children exist, which inherit it.
pub fn huge_pages(puppet: &Puppet, mm: &MmEntry) -> Result<()> {
    let bits = mm
        .cryopod_thp_disable
        .unwrap_or(mm.thp_disabled.unwrap_or(false).into());
    if bits & 1 == 0 {
        return Ok(());
    }
    let args = [
        libc::PR_SET_THP_DISABLE as u64,
        1,
        u64::from(bits & !1),
        0,
        0,
    ];
    prctl(puppet, "prctl (no huge pages)", args)
}

/// Registrations for barriers, while the process has one thread: with more it would wait for all processors.
pub fn barriers(puppet: &Puppet, tc: &TaskCoreEntry) -> Result<()> {
    // MEMBARRIER_CMD_REGISTER_*: global, private, private with core synchronisation, private for rseq.
    const REGISTER: [u32; 4] = [1 << 2, 1 << 4, 1 << 6, 1 << 8];
    let mask = tc.membarrier_registration_mask.unwrap_or(0);
    for command in REGISTER.into_iter().filter(|command| mask & command != 0) {
        let args = [u64::from(command), 0, 0, 0, 0, 0];
        puppet.must("membarrier (register)", libc::SYS_membarrier, args)?;
    }
    Ok(())
}

/// What forbids the process to do things to its memory: last.
pub fn last(puppet: &Puppet, tc: &TaskCoreEntry) -> Result<()> {
    if tc.cryopod_memory_merge == Some(true) {
        let args = [PR_SET_MEMORY_MERGE as u64, 1, 0, 0, 0];
        prctl(puppet, "prctl (memory merge)", args)?;
    }
    if let Some(bits) = tc.cryopod_mdwe {
        let args = [PR_SET_MDWE as u64, bits.into(), 0, 0, 0];
        prctl(puppet, "prctl (deny write-execute)", args)?;
    }
    Ok(())
}

/// What each thread has of its own.
pub fn thread(puppet: &Puppet, mem: &Mem, core: &ThreadCoreEntry) -> Result<()> {
    if let Some(mode) = core.cryopod_tsc_mode {
        let args = [libc::PR_SET_TSC as u64, mode.into(), 0, 0, 0];
        prctl(puppet, "prctl (time stamp counter)", args)?;
    }
    if let Some(policy) = &core.cryopod_memory_policy {
        memory_policy(puppet, mem, policy)?;
    }
    let wanted = core.cryopod_io_priority.unwrap_or(0);
    if task::io_priority(puppet.tid).unwrap_or(0) != wanted
        && let Err(error) = task::set_io_priority(puppet.tid, wanted)
    {
        tracing::warn!(tid = puppet.tid, wanted, %error, "the I/O priority is not restored");
    }
    Ok(())
}

fn memory_policy(puppet: &Puppet, mem: &Mem, policy: &MemoryPolicy) -> Result<()> {
    if policy.nodes.len() > Puppet::data_bytes() {
        let what = "a set of too many memory nodes";
        return Err(Error::inconsistent(format!("core-{}", puppet.tid), what));
    }
    let at = puppet.put(mem, &policy.nodes)?;
    // The kernel takes one bit less than it is told.
    let bits = policy.nodes.len() as u64 * 8 + 1;
    let args = [policy.mode.into(), at, bits, 0, 0, 0];
    // Another host may not have any of these nodes; then memory comes from wherever there is some.
    if let Err(error) = puppet.call(libc::SYS_set_mempolicy, args)? {
        tracing::warn!(tid = puppet.tid, mode = policy.mode, %error, "the memory policy is not restored");
    }
    Ok(())
}
