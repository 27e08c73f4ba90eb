//! Signals that cancel a checkpoint or a restore instead of ending the process in the middle of it.

use cryopod_engine::Cancel;
use cryopod_sys::signal;

use crate::error::{Error, Result};

/// SIGHUP, SIGINT, SIGTERM, signal(7).
const SIGNALS: &[i32] = &[1, 2, 15];

/// The bits of signals.
pub(crate) fn mask(signals: &[i32]) -> u64 {
    signals.iter().fold(0, |mask, &one| mask | signal::bit(one))
}

/// Has signals noted instead of ending this process.
pub(crate) fn note(signals: &[i32]) -> Result<()> {
    signal::note_instead_of_dying(signals).map_err(|errno| Error::Child {
        operation: "handle the signals of",
        pid: rustix::process::getpid().as_raw_nonzero().get(),
        source: errno.into(),
    })
}

/// From [`CancelOnSignal::watch`] on, SIGINT, SIGTERM and SIGHUP request a [`Cancel`] instead of ending this process.
#[derive(Debug)]
pub struct CancelOnSignal {
    cancel: Cancel,
}

impl CancelOnSignal {
    /// Starts watching.
    ///
    /// # Errors
    ///
    /// [`Error::Child`] when the kernel refuses to have the signals handled.
    pub fn watch() -> Result<Self> {
        note(SIGNALS)?;
        Ok(Self {
            cancel: Cancel::by_signals(mask(SIGNALS)),
        })
    }

    /// What the signals request.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Stops watching: what has arrived cancels nothing any more. Says whether anything has.
    pub fn finish(self) -> bool {
        let arrived = is_noted();
        while is_noted() {
            signal::take_noted();
        }
        arrived
    }
}

/// Whether a signal has arrived since [`CancelOnSignal::watch`] that was not dropped by [`CancelOnSignal::finish`]: the
/// signals stay noted instead of deadly.
#[must_use]
pub fn is_noted() -> bool {
    signal::noted() & mask(SIGNALS) != 0
}
