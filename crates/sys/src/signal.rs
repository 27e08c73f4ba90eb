//! Signals of this process: noting that one arrived.

use std::sync::atomic::{AtomicI32, Ordering};

use crate::{Result, check};

static RECEIVED: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: i32) {
    RECEIVED.store(signal, Ordering::SeqCst);
}

/// From now on the given signals are only noted (sigaction(2), no SA_RESTART, so that waits return EINTR).
pub fn note_instead_of_dying(signals: &[i32]) -> Result<()> {
    for &signal in signals {
        // SAFETY: a zeroed sigaction is valid; the handler only stores to an atomic, which is async-signal-safe.
        let rc = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as *const () as usize;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        check(i64::from(rc))?;
    }
    Ok(())
}

/// The last noted signal, once.
pub fn take_noted() -> Option<i32> {
    match RECEIVED.swap(0, Ordering::SeqCst) {
        0 => None,
        signal => Some(signal),
    }
}

/// Whether a signal was noted, without taking it.
pub fn is_noted() -> bool {
    RECEIVED.load(Ordering::SeqCst) != 0
}

/// Ends this process by `signal` with its default action, as a shell expects of a parent that stands for its child.
pub fn die_of(signal: i32) -> ! {
    // SAFETY: restores the default action and sends the signal to this process; if it does not end it, exit does.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        libc::raise(signal);
    }
    std::process::exit(128 + signal)
}
