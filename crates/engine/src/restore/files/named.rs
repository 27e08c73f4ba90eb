//! Opening a file entry by its path, with whatever its path needs first.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::Path;

use cryopod_image::SetReader;
use cryopod_image::criu::{FileEntry, RegFileEntry};

use super::ghosts::{Ghosts, Remap};
use super::{corrupt, paths};
use crate::error::Result;

/// What is needed to open a file entry by its path.
pub struct Named<'a> {
    /// The images.
    pub set: &'a SetReader,
    /// All file entries.
    pub entries: &'a BTreeMap<u32, FileEntry>,
    /// Which of them need a stand-in.
    pub remaps: &'a HashMap<u32, Remap>,
    /// Open a file also when it is not what it was.
    pub force: bool,
}

impl Named<'_> {
    /// Opens it with `flags`.
    pub fn open(&self, ghosts: &mut Ghosts, reg: &RegFileEntry, flags: u32) -> Result<OwnedFd> {
        let path = paths::path_of(reg);
        let open = |path: &Path| paths::open(reg, path, flags, self.force);
        match self.remaps.get(&reg.id) {
            None => open(path),
            Some(&Remap::Ghost(id)) => ghosts.open(self.set, id, path, open),
            Some(Remap::Linked(id)) => {
                let existing = self.entries.get(id).and_then(|entry| entry.reg.as_deref());
                let existing = existing.ok_or_else(|| corrupt(reg.id, "its link is not there"))?;
                ghosts.open_linked(paths::path_of(existing), path, open)
            }
        }
    }
}
