//! Settings that only the process itself can be asked for: prctl(2), membarrier(2), get_mempolicy(2).

use cryopod_image::criu::{MemoryPolicy, TaskCoreEntry, ThreadCoreEntry};

use crate::error::Result;
use crate::remote::visit::Visit;

/// `PR_GET_MEMORY_MERGE` (Linux 6.4).
const PR_GET_MEMORY_MERGE: i32 = 68;
/// `PR_GET_MDWE` (Linux 6.3).
const PR_GET_MDWE: i32 = 66;
/// `MEMBARRIER_CMD_GET_REGISTRATIONS` (Linux 6.3).
const GET_REGISTRATIONS: u64 = 1 << 9;

/// What the process has once.
pub fn process(visit: &mut Visit<'_>, tc: &mut TaskCoreEntry) -> Result<()> {
    let prctl = |visit: &mut Visit<'_>, option: i32| -> Result<Option<u64>> {
        // An older kernel has no such setting.
        let got = visit.call(libc::SYS_prctl, [option as u64, 0, 0, 0, 0, 0])?;
        Ok(got.ok().filter(|&value| value != 0))
    };
    tc.cryopod_memory_merge = prctl(visit, PR_GET_MEMORY_MERGE)?.map(|_| true);
    tc.cryopod_mdwe = prctl(visit, PR_GET_MDWE)?.map(|bits| bits as u32);
    let registered = visit.call(libc::SYS_membarrier, [GET_REGISTRATIONS, 0, 0, 0, 0, 0])?;
    tc.membarrier_registration_mask = registered
        .ok()
        .map(|mask| mask as u32)
        .filter(|&mask| mask != 0);
    Ok(())
}

/// What each thread has of its own.
pub fn thread(visit: &mut Visit<'_>, core: &mut ThreadCoreEntry) -> Result<()> {
    let tid = visit.tid();
    core.cryopod_tsc_mode = time_stamp_counter(visit)?;
    core.cryopod_memory_policy = memory_policy(visit)?;
    core.cryopod_io_priority = cryopod_sys::process::io_priority(tid)
        .ok()
        .filter(|&priority| priority != 0);
    Ok(())
}

/// PR_GET_TSC: whether reading the time stamp counter is a fault, where that is not allowed as usual.
fn time_stamp_counter(visit: &mut Visit<'_>) -> Result<Option<u32>> {
    let place = visit.scratch();
    let args = [libc::PR_GET_TSC as u64, place, 0, 0, 0, 0];
    if visit.call(libc::SYS_prctl, args)?.is_err() {
        return Ok(None);
    }
    let mode = u32::from_ne_bytes(visit.read_scratch()?);
    Ok((mode != libc::PR_TSC_ENABLE as u32).then_some(mode))
}

/// get_mempolicy(2) of the thread: mode and set of nodes, where it is not the default.
fn memory_policy(visit: &mut Visit<'_>) -> Result<Option<MemoryPolicy>> {
    const MASK_BYTES: usize = 128;
    const MASK: u64 = 8;
    let place = visit.scratch();
    let bits = (MASK_BYTES * 8) as u64;
    let args = [place, place + MASK, bits, 0, 0, 0];
    // Kernels without NUMA have no such call.
    if visit.call(libc::SYS_get_mempolicy, args)?.is_err() {
        return Ok(None);
    }
    let answer: [u8; MASK as usize + MASK_BYTES] = visit.read_scratch()?;
    let (head, nodes) = answer.split_at(MASK as usize);
    let mode = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]);
    Ok((mode != 0).then(|| MemoryPolicy {
        mode,
        nodes: nodes.to_vec(),
    }))
}
