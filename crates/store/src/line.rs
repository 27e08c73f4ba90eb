//! Checkpoints that build on others: who needs whom, and holding on to one while it is needed.
//!
//! A checkpoint whose description names a `parent` lacks pages that the parent has. Whoever makes or reads such a checkpoint
//! holds a shared flock(2) on the directory of each checkpoint below it; whoever takes a checkpoint away holds an exclusive one, and
//! looks for its children only then. So nobody builds on what is being removed.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::Error;
use crate::fs;
use crate::list::Listed;
use crate::name::{Label, Name, Ref};
use crate::store::{IMAGES_DIR, Store, Stored};

/// A lock on a checkpoint: as long as it lives, nobody can remove or replace it.
#[derive(Debug)]
pub struct Hold {
    _dir: OwnedFd,
}

impl Stored {
    /// The way to its images from those of any other checkpoint of the same store.
    #[must_use]
    pub fn images_from_sibling(&self) -> PathBuf {
        PathBuf::from("../../..")
            .join(self.label.as_str())
            .join(self.name.as_str())
            .join(IMAGES_DIR)
    }
}

impl Store {
    /// Keeps a checkpoint from being removed or replaced.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it is not the one any more; [`Error::Io`].
    pub fn hold(&self, stored: &Stored) -> Result<Hold, Error> {
        let (label, name) = (&stored.label, &stored.name);
        let dir = self.lock(label, name, FlockOperation::LockShared)?;
        // It may have been replaced before it was locked.
        if self.read(label, name)?.meta.id != stored.meta.id {
            return Err(self.dirs.not_found(label, Some(name)));
        }
        Ok(Hold { _dir: dir })
    }

    /// Locks a checkpoint for being taken away, and makes sure that nobody needs it.
    pub(crate) fn claim(&self, label: &Label, name: &Name) -> Result<Hold, Error> {
        let dir = self.lock(label, name, FlockOperation::NonBlockingLockExclusive)?;
        let by = self.dependents(label, name)?;
        if by.is_empty() {
            Ok(Hold { _dir: dir })
        } else {
            let reference = Ref::exact(label.clone(), name.clone());
            Err(Error::Needed { reference, by })
        }
    }

    fn lock(
        &self,
        label: &Label,
        name: &Name,
        operation: FlockOperation,
    ) -> Result<OwnedFd, Error> {
        let path = self.dirs.checkpoint_path(label, name);
        let not_found = || self.dirs.not_found(label, Some(name));
        let label_dir = self.dirs.open_label(label)?.ok_or_else(not_found)?;
        let dir = match fs::open_dir(label_dir.as_fd(), name.as_str()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Err(not_found()),
            Err(errno) if fs::is_in_the_way(errno) => return Err(Error::InTheWay { path }),
            Err(errno) => return Err(Error::io("open", &path, errno)),
        };
        match fs::lock(dir.as_fd(), operation) {
            Ok(()) if fs::is_same(label_dir.as_fd(), name.as_str(), dir.as_fd()) => Ok(dir),
            Ok(()) => Err(not_found()),
            Err(Errno::WOULDBLOCK) => Err(Error::InUse {
                reference: Ref::exact(label.clone(), name.clone()),
            }),
            Err(errno) => Err(Error::io("lock", &path, errno)),
        }
    }

    /// The checkpoints that have this one as their parent, sorted.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the store cannot be read.
    pub fn dependents(&self, label: &Label, name: &Name) -> Result<Vec<Ref>, Error> {
        let reference = Ref::exact(label.clone(), name.clone());
        let listed = self.list(None)?;
        let mut found: Vec<Ref> = listed
            .iter()
            .filter_map(Listed::stored)
            .filter(|stored| stored.meta.parent.as_ref() == Some(&reference))
            .map(Stored::reference)
            .collect();
        found.sort();
        Ok(found)
    }

    /// The checkpoint with this id, if it is in the store.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the store cannot be read.
    pub fn find(&self, id: &str) -> Result<Option<Stored>, Error> {
        let listed = self.list(None)?;
        let mut whole = listed.iter().filter_map(Listed::stored);
        Ok(whole
            .find(|stored| stored.meta.id.as_deref() == Some(id))
            .cloned())
    }

    /// A checkpoint and all that it builds on, the one without a parent last.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if one is missing; [`Error::LongLine`] if there are more than `limit`, which a circle has as well.
    pub fn line_of(&self, stored: &Stored, limit: usize) -> Result<Vec<Stored>, Error> {
        let mut line = vec![stored.clone()];
        let mut next = stored.meta.parent.clone();
        while let Some(parent) = next {
            if line.len() > limit {
                let reference = stored.reference();
                return Err(Error::LongLine { reference, limit });
            }
            let parent = self.get(&parent)?;
            next = parent.meta.parent.clone();
            line.push(parent);
        }
        Ok(line)
    }
}
