//! Signal actions and queued signals.

use cryopod_image::criu::{SaEntry, SignalQueueEntry};
use cryopod_sys::ptrace::SIGINFO_BYTES;

use crate::dump::signals::with_action;
use crate::error::{Error, Result};
use crate::proc::{mem::Mem, status::Status};
use crate::remote::puppet::Puppet;

/// The default action for every signal: cryopod's own handlers are none of the tree's, zombies included.
pub fn reset(puppet: &Puppet, mem: &Mem) -> Result<()> {
    actions(
        puppet,
        mem,
        &vec![SaEntry::default(); with_action().count()],
    )
}

/// rt_sigaction(2) for every signal whose action is not what the task has by birth.
pub fn actions(puppet: &Puppet, mem: &Mem, wanted: &[SaEntry]) -> Result<()> {
    if wanted.len() != with_action().count() {
        let what = format!("{} signal actions", wanted.len());
        return Err(Error::inconsistent(format!("core-{}", puppet.pid), what));
    }
    let status = Status::read(puppet.pid, puppet.pid)?;
    let special = status.mask("SigCgt")? | status.mask("SigIgn")?;
    for (signal, entry) in with_action().zip(wanted) {
        let plain = *entry == SaEntry::default()
            || *entry
                == SaEntry {
                    compat_sigaction: Some(false),
                    ..SaEntry::default()
                };
        if plain && special & 1 << (signal - 1) == 0 {
            continue;
        }
        let action = [entry.sigaction, entry.flags, entry.restorer, entry.mask]
            .map(u64::to_ne_bytes)
            .concat();
        let at = puppet.put(mem, &action)?;
        puppet.must(
            "rt_sigaction",
            libc::SYS_rt_sigaction,
            [signal as u64, at, 0, 8, 0, 0],
        )?;
    }
    Ok(())
}

/// Queues signals as they were. A thread may send itself any siginfo, so each queue is filled by its own thread.
pub fn queue(puppet: &Puppet, mem: &Mem, queue: &SignalQueueEntry, shared: bool) -> Result<()> {
    for entry in &queue.signals {
        let info = &entry.siginfo;
        let signal = info.get(..4).map_or(0, |word| {
            i32::from_ne_bytes([word[0], word[1], word[2], word[3]])
        });
        if info.len() != SIGINFO_BYTES || !(1..=64).contains(&signal) {
            return Err(Error::inconsistent(
                format!("core-{}", puppet.tid),
                "a queued signal is malformed",
            ));
        }
        let at = puppet.put(mem, info)?;
        let (pid, tid, signal) = (puppet.pid as u64, puppet.tid as u64, signal as u64);
        if shared {
            puppet.must(
                "rt_sigqueueinfo",
                libc::SYS_rt_sigqueueinfo,
                [pid, signal, at, 0, 0, 0],
            )?;
        } else {
            puppet.must(
                "rt_tgsigqueueinfo",
                libc::SYS_rt_tgsigqueueinfo,
                [pid, tid, signal, at, 0, 0],
            )?;
        }
    }
    Ok(())
}
