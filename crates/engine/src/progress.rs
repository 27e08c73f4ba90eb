//! Telling the caller how far long work is, and being told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Hears how far a dump or restore is. Called from several threads.
pub trait Progress: Sync {
    /// A phase begins; with a total in bytes where it is known.
    fn begin(&self, phase: &str, total_bytes: Option<u64>);
    /// So many bytes more of the phase are done.
    fn advance(&self, bytes: u64);
    /// The phase is over.
    fn end(&self);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _phase: &str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn end(&self) {}
}

/// A request to stop that may come from another thread at any time, or with a signal.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    requested: Arc<AtomicBool>,
    signals: u64,
}

impl Cancel {
    /// One that is also requested by any of these signals, once it is noted (bit N-1 for signal N; see
    /// [`cryopod_sys::signal`]).
    pub fn by_signals(signals: u64) -> Self {
        Self {
            signals,
            ..Self::default()
        }
    }

    /// Asks whoever holds a clone to stop soon and undo what it did.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
    }

    /// Whether that was asked.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst) || cryopod_sys::signal::noted() & self.signals != 0
    }
}
