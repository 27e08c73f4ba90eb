//! Signals that cancel a checkpoint instead of ending the process in the middle of it.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use cryopod_engine::Cancel;
use cryopod_sys::signal;

use crate::error::{Error, Result};

/// How often the watcher looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// While this lives, SIGINT, SIGTERM and SIGHUP request a [`Cancel`] instead of ending this process. It takes a thread,
/// so it cannot be used around a restore, which forks.
#[derive(Debug)]
pub struct CancelOnSignal {
    cancel: Cancel,
    done: Option<Sender<()>>,
    watcher: Option<JoinHandle<()>>,
}

impl CancelOnSignal {
    /// Starts watching.
    ///
    /// # Errors
    ///
    /// [`Error::Child`] when the kernel refuses to have the signals handled.
    pub fn watch() -> Result<Self> {
        /// SIGHUP, SIGINT, SIGTERM, signal(7).
        const SIGNALS: &[i32] = &[1, 2, 15];
        signal::note_instead_of_dying(SIGNALS).map_err(|errno| Error::Child {
            operation: "handle the signals of",
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            source: errno.into(),
        })?;
        let cancel = Cancel::default();
        let (done, wait_for_done) = mpsc::channel();
        let requested = cancel.clone();
        let watcher = std::thread::spawn(move || {
            while wait_for_done.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                if signal::is_noted() {
                    requested.request();
                    return;
                }
            }
        });
        Ok(Self {
            cancel,
            done: Some(done),
            watcher: Some(watcher),
        })
    }

    /// What the signals request.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Stops watching. The signal that arrived meanwhile, if any.
    #[must_use]
    pub fn finish(mut self) -> Option<i32> {
        self.stop();
        signal::take_noted()
    }

    fn stop(&mut self) {
        drop(self.done.take());
        if let Some(watcher) = self.watcher.take() {
            // It does nothing that could panic.
            let _ = watcher.join();
        }
    }
}

impl Drop for CancelOnSignal {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether a signal has arrived since [`CancelOnSignal::watch`] and was not taken by [`CancelOnSignal::finish`]: the
/// signals stay noted instead of deadly.
#[must_use]
pub fn is_noted() -> bool {
    signal::is_noted()
}
