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

/// rt_sigaction(2) for every signal. The kernel's `struct sigaction` is handler, flags, restorer, mask.
pub fn actions(visit: &mut Visit<'_>) -> Result<Vec<SaEntry>> {
    let scratch = visit.scratch();
    with_action()
        .map(|signal| {
            visit.must(
                "rt_sigaction",
                libc::SYS_rt_sigaction,
                [signal as u64, 0, scratch, 8, 0, 0],
            )?;
            let action: [u8; 32] = visit.read_scratch()?;
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
