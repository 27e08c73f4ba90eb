//! Waiting for something to become so. Nothing here measures time: a deadline only ends a test that hangs.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long to wait for what takes moments on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Asks `look` again and again until it gives something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s in vain for {what}", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Asks again and again until `condition` holds.
pub fn until_true(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    until(what, || Ok(condition().then_some(())))
}
