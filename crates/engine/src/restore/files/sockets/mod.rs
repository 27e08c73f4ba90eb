//! Sockets, in the other direction: a room for each family, and one for the options that all have.

#[allow(dead_code, reason = "each family adds its use")]
pub(crate) mod options;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use cryopod_image::SetReader;
use cryopod_image::criu::{FdTypes, FileEntry};

use crate::error::{Error, Result};

/// All sockets of a tree.
#[derive(Debug, Default)]
pub struct Sockets {}

impl Sockets {
    /// Reads what images say of the sockets among `entries`, and checks it.
    pub fn load(_set: &SetReader, _entries: &BTreeMap<u32, FileEntry>) -> Result<Self> {
        Ok(Self::default())
    }

    /// Makes all sockets, as far as it can be done before the tree exists. `keep` gets each with the id of its entry.
    pub fn open(
        &mut self,
        entries: &BTreeMap<u32, FileEntry>,
        _keep: impl FnMut(u32, OwnedFd) -> Result<()>,
    ) -> Result<()> {
        match entries.values().find(|entry| is_socket(entry)) {
            None => Ok(()),
            Some(entry) => Err(Error::NotRestorable {
                what: format!("file {}: of kind {:?}", entry.id, entry.r#type()),
            }),
        }
    }

    /// Completes the sockets: queues, options, shutdown. When all pids of the tree exist, and before files get owners.
    pub fn finish(&self, _set: &SetReader) -> Result<()> {
        Ok(())
    }
}

/// Whether a file is one that this room opens.
pub fn is_socket(entry: &FileEntry) -> bool {
    matches!(
        entry.r#type(),
        FdTypes::UnixSk | FdTypes::InetSk | FdTypes::NetlinkSk | FdTypes::PacketSk
    )
}
