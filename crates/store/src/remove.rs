//! Removing checkpoints: out of sight in one step, then deleted.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use crate::error::Error;
use crate::fs;
use crate::name::{Label, Name, Ref};
use crate::store::Store;
use crate::sweep::NoSweep;

/// A checkpoint that is no longer there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The label it was under.
    pub label: Label,
    /// Its name.
    pub name: Name,
}

impl Store {
    /// Removes one checkpoint; without a name in `reference`, the newest under the label. Given the name, one that is
    /// broken is removed as well.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Needed`] if others build on it; [`Error::InUse`]; [`Error::InTheWay`] if it is not a directory; [`Error::Io`]. [`Error::NotDeleted`] if it is
    /// out of the store and some of its files are left in `tmp/`.
    pub fn remove(&self, reference: &Ref) -> Result<Removed, Error> {
        let exact = self.resolve(reference)?;
        self.remove_exact(exact)
    }

    /// Removes several checkpoints, each as [`Store::remove`] does; one result for each, in the same order. What they
    /// mean is settled before anything is removed, so that naming a label twice does not remove two checkpoints. What others
    /// among them need goes after those.
    pub fn remove_all(&self, references: &[Ref]) -> Vec<Result<Removed, Error>> {
        let mut outcomes: Vec<Option<Result<Removed, Error>>> = Vec::new();
        let mut waiting: Vec<(usize, Removed)> = Vec::new();
        for (index, reference) in references.iter().enumerate() {
            match self.resolve(reference) {
                Ok(exact) => {
                    waiting.push((index, exact));
                    outcomes.push(None);
                }
                Err(error) => outcomes.push(Some(Err(error))),
            }
        }
        // Each round removes at least one, or is the last.
        let mut progress = true;
        while !waiting.is_empty() {
            let mut later = Vec::new();
            let last = !progress;
            progress = false;
            for (index, exact) in waiting {
                match self.remove_exact(exact.clone()) {
                    Err(Error::Needed { .. }) if !last => later.push((index, exact)),
                    outcome => {
                        progress |= outcome.is_ok();
                        outcomes[index] = Some(outcome);
                    }
                }
            }
            waiting = later;
        }
        outcomes.into_iter().flatten().collect()
    }

    /// Which checkpoint `reference` means. It need not exist, if it has a name.
    fn resolve(&self, reference: &Ref) -> Result<Removed, Error> {
        let label = reference.label.clone();
        let name = match &reference.name {
            Some(name) => name.clone(),
            None => self.newest(&label)?.name,
        };
        Ok(Removed { label, name })
    }

    /// Removes exactly this one.
    fn remove_exact(&self, removed: Removed) -> Result<Removed, Error> {
        let id = uuid::Uuid::new_v4().to_string();
        self.take_out(&removed, &id)?;
        match fs::remove_tree(self.dirs.tmp.as_fd(), &id, &self.dirs.tmp_path.join(&id)) {
            Ok(()) => Ok(removed),
            Err(error) => {
                let reference = Ref::exact(removed.label, removed.name);
                Err(Error::NotDeleted {
                    reference,
                    source: Box::new(error),
                })
            }
        }
    }

    /// Moves a checkpoint to `tmp/` as `id`, and flushes that.
    fn take_out(&self, Removed { label, name }: &Removed, id: &str) -> Result<(), Error> {
        let dirs = &self.dirs;
        let path = dirs.checkpoint_path(label, name);
        let _claim = self.claim(label, name)?;
        // Not to be deleted before it is on disk that the name is gone: see Staging::place.
        let _no_sweep = NoSweep::begin(dirs.tmp.as_fd(), &dirs.tmp_path)?;
        let Some(label_dir) = dirs.open_label(label)? else {
            return Err(dirs.not_found(label, Some(name)));
        };
        match rustix::fs::statat(&label_dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
            Ok(_) => return Err(Error::InTheWay { path }),
            Err(Errno::NOENT) => return Err(dirs.not_found(label, Some(name))),
            Err(errno) => return Err(Error::io("look at", &path, errno)),
        }
        match rustix::fs::renameat(&label_dir, name.as_str(), &dirs.tmp, id) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Err(dirs.not_found(label, Some(name))),
            Err(errno) => return Err(Error::io("remove", &path, errno)),
        }
        tracing::debug!(path = %path.display(), "removed");
        fs::flush(label_dir.as_fd(), &path)?;
        fs::flush(dirs.tmp.as_fd(), &dirs.tmp_path)?;
        // The label goes with its last checkpoint; this fails if it was not the last.
        if rustix::fs::unlinkat(&dirs.checkpoints, label.as_str(), AtFlags::REMOVEDIR).is_ok() {
            fs::flush(dirs.checkpoints.as_fd(), &dirs.checkpoints_path)?;
        }
        Ok(())
    }
}
