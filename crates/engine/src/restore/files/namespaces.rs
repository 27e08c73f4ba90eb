//! Open namespace files, of the namespaces that cryopod is in.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use cryopod_image::criu::NsFileEntry;
use rustix::fs::Mode;

use super::{corrupt, paths};
use crate::dump::files::namespaces::KINDS;
use crate::error::Result;

/// Opens the namespace file of a kind.
pub fn open(entry: &NsFileEntry) -> Result<OwnedFd> {
    let kind = KINDS
        .iter()
        .find(|(_, flag)| *flag as u32 == entry.ns_cflag);
    let (name, _) = kind.ok_or_else(|| corrupt(entry.id, "a namespace of unknown kind"))?;
    let path = PathBuf::from(format!("/proc/self/ns/{name}"));
    rustix::fs::open(&path, paths::open_flags(entry.flags), Mode::empty())
        .map_err(|errno| paths::failed("open", &path, errno))
}
