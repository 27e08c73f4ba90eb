//! Files that can be opened only when the tree's processes exist: those in /proc of its processes, and descriptors of
//! processes. cryopod opens them then, and the tasks get them by [`Courier`](super::courier::Courier).

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use cryopod_image::criu::{FileEntry, RegFileEntry};
use rustix::fs::Mode;

use super::{FD_CLOEXEC, Files, corrupt, owners, paths, pidfds, raise};
use crate::dump::files::paths::owner_in_proc;
use crate::error::Result;
use crate::proc;
use crate::proc::mem::Mem;
use crate::remote::puppet::Puppet;

/// Whether a file is one of a process in /proc that does not exist yet.
pub fn is_late(reg: &RegFileEntry) -> bool {
    owner_in_proc(&reg.name).is_some_and(|pid| !proc::path(pid, "").exists())
}

/// The files by number of their entry, empty until they are opened.
#[derive(Debug, Default)]
pub struct Late {
    files: BTreeMap<u32, OnceCell<OwnedFd>>,
}

impl Late {
    /// Notes a file to be opened.
    pub fn await_later(&mut self, id: u32) {
        self.files.entry(id).or_default();
    }

    /// Whether a file is one of these.
    pub fn contains(&self, id: u32) -> bool {
        self.files.contains_key(&id)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// A file, where it is open by now.
    pub fn get(&self, id: u32) -> Option<&OwnedFd> {
        self.files.get(&id)?.get()
    }
}

impl Files {
    /// Opens what could not be opened before: when all processes and threads of the tree exist.
    pub fn open_late(&self) -> Result<()> {
        self.stand_ins.borrow_mut().clear();
        for (&id, place) in &self.late.files {
            let file = raise(open(self.entry(id)?)?, self.base)?;
            if let Some(owner) = super::owner(self.entry(id)?) {
                owners::restore(owner, file.as_fd())?;
            }
            place
                .set(file)
                .map_err(|_| corrupt(id, "it is opened twice"))?;
        }
        Ok(())
    }

    /// Gives a task whose table is `files_id` the files that came late. After [`Files::open_late`].
    pub fn hand_late(&self, puppet: &Puppet, mem: &Mem, files_id: u32) -> Result<()> {
        if self.late.is_empty() {
            return Ok(());
        }
        for one in self.table(files_id)? {
            if let Some(file) = self.late.get(one.id) {
                let close_on_exec = one.flags & FD_CLOEXEC != 0;
                self.courier
                    .hand(puppet, mem, file.as_fd(), one.fd, close_on_exec)?;
            }
        }
        Ok(())
    }
}

fn open(entry: &FileEntry) -> Result<OwnedFd> {
    if let Some(pidfd) = &entry.pidfd {
        return pidfds::open(pidfd);
    }
    let reg = entry
        .reg
        .as_deref()
        .ok_or_else(|| corrupt(entry.id, "it has no description"))?;
    let path = paths::path_of(reg);
    let file = rustix::fs::open(path, paths::open_flags(reg.flags), Mode::empty())
        .map_err(|errno| paths::failed("open", path, errno))?;
    paths::seek(file.as_fd(), path, reg.flags, reg.pos)?;
    Ok(file)
}
