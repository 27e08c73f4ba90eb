//! Opening a file entry by its path, with whatever its path needs first.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use cryopod_image::SetReader;
use cryopod_image::criu::{FileEntry, RegFileEntry};

use super::ghosts::{Ghosts, Remap};
use super::paths::Comparison;
use super::pidfds::StandIn;
use super::{corrupt, paths};
use crate::dump::files::paths::owner_in_proc;
use crate::error::Result;

/// What is needed to open a file entry by its path.
pub struct Named<'a> {
    /// The images.
    pub set: &'a SetReader,
    /// All file entries.
    pub entries: &'a BTreeMap<u32, FileEntry>,
    /// Which of them need a stand-in.
    pub remaps: &'a HashMap<u32, Remap>,
    /// How files are compared with what they were.
    pub compared: Comparison,
    /// Processes that lend their pids to files of dead ones.
    pub stand_ins: &'a RefCell<Vec<StandIn>>,
}

impl Named<'_> {
    /// Opens it with `flags`.
    pub fn open(&self, ghosts: &mut Ghosts, reg: &RegFileEntry, flags: u32) -> Result<OwnedFd> {
        let path = paths::path_of(reg);
        let open = |path: &Path| paths::open(reg, path, flags, self.compared);
        match self.remaps.get(&reg.id) {
            None => open(path),
            Some(&Remap::Ghost(id)) => ghosts.open(self.set, id, path, open),
            Some(Remap::Linked(id)) => {
                let existing = self.entries.get(id).and_then(|entry| entry.reg.as_deref());
                let existing = existing.ok_or_else(|| corrupt(reg.id, "its link is not there"))?;
                ghosts.open_linked(paths::path_of(existing), path, open)
            }
            Some(&Remap::OfDead(pid)) => self.open_of_dead(reg, pid, open),
        }
    }

    /// Opens a file in /proc of a process that has ended: while a process has its pid, which ends when all
    /// tasks have their working directories.
    fn open_of_dead(
        &self,
        reg: &RegFileEntry,
        pid: i32,
        open: impl FnOnce(&Path) -> Result<OwnedFd>,
    ) -> Result<OwnedFd> {
        if owner_in_proc(&reg.name) != Some(pid) {
            return Err(corrupt(
                reg.id,
                "a file of a dead process that is not in its directory",
            ));
        }
        let mut stand_ins = self.stand_ins.borrow_mut();
        if stand_ins.iter().all(|one| one.pid() != pid) {
            stand_ins.push(StandIn::with_pid(pid)?);
        }
        let path = paths::path_of(reg);
        let file = open(path)?;
        // The position as well: to find it, the kernel asks the process.
        paths::seek(file.as_fd(), path, reg.flags, reg.pos)?;
        Ok(file)
    }
}
