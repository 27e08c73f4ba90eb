//! A progress bar for what takes longer than half a second, on a terminal.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cryopod::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::format;

/// What is over sooner is not worth a bar.
const PATIENCE: Duration = Duration::from_millis(500);

/// Draws bars. Without a thread of its own: a restore forks.
#[derive(Debug)]
pub(crate) struct Bars {
    enabled: bool,
    phase: Mutex<Option<Phase>>,
}

#[derive(Debug)]
struct Phase {
    name: String,
    total_bytes: Option<u64>,
    done_bytes: u64,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Bars {
    /// Bars on standard error, or none.
    pub(crate) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            phase: Mutex::new(None),
        }
    }

    fn phase(&self) -> std::sync::MutexGuard<'_, Option<Phase>> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Bars {
    fn begin(&self, phase: &str, total_bytes: Option<u64>) {
        if self.enabled {
            *self.phase() = Some(Phase {
                name: phase.to_owned(),
                total_bytes,
                done_bytes: 0,
                started: Instant::now(),
                bar: None,
            });
        }
    }

    fn advance(&self, bytes: u64) {
        if let Some(phase) = self.phase().as_mut() {
            phase.done_bytes = phase.done_bytes.saturating_add(bytes);
            if phase.bar.is_none() && phase.started.elapsed() >= PATIENCE {
                phase.bar = Some(phase.draw());
            }
            if let Some(bar) = &phase.bar {
                bar.set_message(phase.rate());
                bar.set_position(phase.done_bytes);
            }
        }
    }

    fn end(&self) {
        if let Some(bar) = self.phase().take().and_then(|phase| phase.bar) {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bars {
    /// A phase that failed leaves no bar behind either.
    fn drop(&mut self) {
        self.end();
    }
}

impl Phase {
    /// How fast it has been so far. The bar's own estimate knows nothing of the time before there was a bar.
    fn rate(&self) -> String {
        let bytes_per_second =
            self.done_bytes as f64 / self.started.elapsed().as_secs_f64().max(f64::EPSILON);
        format!("{}/s", format::bytes(bytes_per_second as u64))
    }

    fn draw(&self) -> ProgressBar {
        let template = match self.total_bytes {
            Some(_) => "{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes} {msg}",
            None => "{prefix} {binary_bytes} {msg}",
        };
        let bar =
            ProgressBar::with_draw_target(self.total_bytes, ProgressDrawTarget::stderr_with_hz(10))
                .with_prefix(self.name.clone())
                .with_message(self.rate())
                .with_position(self.done_bytes);
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }
}
