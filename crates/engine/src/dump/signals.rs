//! Signal actions and queued signals.

use cryopod_image::criu::{SaEntry, SiginfoEntry, SignalQueueEntry};
use cryopod_sys::ptrace;

use crate::error::{Context, Result};
use crate::remote::visit::Visit;

/// Signals are 1 to 64; the images hold actions for all but the two that cannot have one.
pub const SIGNALS: i32 = 64;

/// The signals that an image holds actions for, in its order.
pub fn with_action() -> impl Iterator<Item = i32> {
    (1..=SIGNALS).filter(|&signal| signal != libc::SIGKILL && signal != libc::SIGSTOP)
}

/// The kernel's `struct sigaction`: handler, flags, restorer, mask.
pub type Action = [u8; 32];

/// The actions of all signals, asked for one by one with rt_sigaction(2).
pub fn actions(mut ask: impl FnMut(i32) -> Result<Action>) -> Result<Vec<SaEntry>> {
    with_action()
        .map(|signal| {
            let action = ask(signal)?;
            let word =
                |at: usize| u64::from_ne_bytes(std::array::from_fn(|index| action[at + index]));
            Ok(SaEntry {
                sigaction: word(0),
                flags: word(8),
                restorer: word(16),
                mask: word(24),
                ..SaEntry::default()
            })
        })
        .collect()
}

/// The actions of the visited process.
pub fn visited(visit: &mut Visit<'_>) -> Result<Vec<SaEntry>> {
    let scratch = visit.scratch();
    actions(|signal| {
        let args = [signal as u64, 0, scratch, size_of::<u64>() as u64, 0, 0];
        visit.must("rt_sigaction", libc::SYS_rt_sigaction, args)?;
        visit.read_scratch()
    })
}

/// The signals queued for a thread, or (with `shared`) for its process, in their order, with their siginfo.
///
/// A SIGSTOP that waits in a process that is stopped already is left out: before the process can see it, SIGCONT takes
/// it back, or SIGKILL ends everything. Whoever queued it again while nothing can be blocked would be stopped by it.
pub fn queued(tid: i32, shared: bool, stopped: bool) -> Result<SignalQueueEntry> {
    let queued = ptrace::queued_signals(tid, shared).task("read its queued signals", tid)?;
    Ok(SignalQueueEntry {
        signals: queued
            .iter()
            .filter(|info| !(stopped && info.starts_with(&libc::SIGSTOP.to_ne_bytes())))
            .map(|info| SiginfoEntry {
                siginfo: info.to_vec(),
            })
            .collect(),
    })
}
