//! Signal descriptors.

use std::os::fd::{AsFd, OwnedFd};

use cryopod_image::criu::SignalfdEntry;
use cryopod_sys::fd;

use super::set_status;
use crate::error::{Context, Result};

/// Makes a signal descriptor.
pub fn open(entry: &SignalfdEntry) -> Result<OwnedFd> {
    let file = fd::signalfd(entry.sigmask, false).host("make a signalfd")?;
    set_status(file.as_fd(), entry.flags)?;
    Ok(file)
}
