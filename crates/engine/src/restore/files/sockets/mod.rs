//! Sockets, in the other direction: a room for each family, and one for the options that all have.

mod datagrams;
mod inet;
mod inet_options;
mod inets;
mod netlink;
pub(crate) mod options;
mod packet;
mod queued;
mod tcp;
mod unix;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use cryopod_image::SetReader;
use cryopod_image::criu::{FdTypes, FileEntry};

pub use self::inets::Inets;
pub use self::unix::Names;
use self::unix::{Borrow, Unix};
use crate::error::Result;
use crate::restore::RestoreOptions;

/// All sockets of a tree.
#[derive(Debug)]
pub struct Sockets {
    inets: Inets,
    unix: Unix,
}

impl Sockets {
    /// Reads what images say of the sockets among `entries`, and checks it.
    pub fn load(set: &SetReader, entries: &BTreeMap<u32, FileEntry>) -> Result<Self> {
        for entry in entries.values() {
            entry.nlsk.as_deref().map_or(Ok(()), netlink::check)?;
            entry.psk.as_deref().map_or(Ok(()), packet::check)?;
        }
        Ok(Self {
            inets: Inets::load(set, entries)?,
            unix: Unix::load(set, entries)?,
        })
    }

    /// Makes all sockets, as far as it can be done before the tree exists. `keep` gets each with the id of its entry.
    pub fn open(
        &mut self,
        set: &SetReader,
        entries: &BTreeMap<u32, FileEntry>,
        options: &RestoreOptions,
        mut keep: impl FnMut(u32, OwnedFd) -> Result<()>,
    ) -> Result<()> {
        for entry in entries.values() {
            if let Some(netlink) = &entry.nlsk {
                keep(entry.id, netlink::open(netlink)?)?;
            }
            if let Some(packet) = &entry.psk {
                keep(entry.id, packet::open(packet)?)?;
            }
        }
        self.inets.open(set, entries, options, &mut keep)?;
        self.unix.open(keep)
    }

    /// Completes the sockets: queues, options, shutdown. When all pids of the tree exist, and before files get owners.
    /// `borrow` gives the open file of a file entry.
    pub fn finish<'f>(&self, set: &SetReader, borrow: &Borrow<'_, 'f>) -> Result<()> {
        self.inets.finish(set)?;
        self.unix.finish(set, borrow)
    }

    /// The internet sockets, of which connections are still under repair.
    pub fn take_inets(&mut self) -> Inets {
        std::mem::take(&mut self.inets)
    }

    /// The names that were made: they go with this unless they are kept.
    pub fn take_names(&mut self) -> Names {
        self.unix.take_names()
    }
}

/// Whether a file is one that this room opens.
pub fn is_socket(entry: &FileEntry) -> bool {
    matches!(
        entry.r#type(),
        FdTypes::UnixSk | FdTypes::InetSk | FdTypes::NetlinkSk | FdTypes::PacketSk
    )
}
