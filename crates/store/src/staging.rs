//! Making a checkpoint: staged out of sight, flushed, then put in place in one step.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, FlockOperation, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::Error;
use crate::fs::{self, Tree};
use crate::line::Hold;
use crate::meta::CheckpointMeta;
use crate::name::{Label, Name, Ref};
use crate::store::{Dirs, IMAGES_DIR, MAX_ATTEMPTS, META_FILE, Store, Stored};
use crate::sweep::NoSweep;

/// What [`Staging::publish`] does with a checkpoint that has the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replace {
    /// Refuse, and leave it alone.
    #[default]
    No,
    /// Put the new one in its place in one step, and delete it.
    Yes,
}

/// A checkpoint that is being made. Dropping it deletes it; a crash leaves it to the next [`Store::open`].
#[derive(Debug)]
pub struct Staging {
    /// The store it is for.
    dirs: Arc<Dirs>,
    /// What it is called in `tmp/`.
    id: String,
    /// Its directory, absolute.
    path: PathBuf,
    /// Its directory, open and locked: the lock is what tells it from an abandoned one.
    dir: OwnedFd,
    /// Whether it is out of `tmp/`, so that nothing is left to delete.
    published: bool,
}

/// The pause between two attempts to lock a checkpoint that somebody else replaces, which takes as long as a few flushes.
const IN_USE_PAUSE: Duration = Duration::from_millis(10);

/// How a staged checkpoint got to its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placed {
    /// The name was free.
    New,
    /// The one that had the name is in `tmp/` now, where the new one was.
    Exchanged,
}

impl Store {
    /// Begins a checkpoint: makes `tmp/UUID/images/`, which no other command touches as long as this process lives
    /// and keeps what is returned.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], [`Error::Io`].
    pub fn stage(&self) -> Result<Staging, Error> {
        let dirs = Arc::clone(&self.dirs);
        let id = uuid::Uuid::new_v4().to_string();
        let path = dirs.tmp_path.join(&id);
        let failed = |errno: Errno| Error::io("create", &path, errno);
        // Until the new directory is locked it looks abandoned.
        let no_sweep = NoSweep::begin(dirs.tmp.as_fd(), &dirs.tmp_path)?;
        rustix::fs::mkdirat(&dirs.tmp, &id, fs::PRIVATE_DIR).map_err(failed)?;
        let dir = fs::open_dir(dirs.tmp.as_fd(), &id).map_err(failed)?;
        fs::lock(dir.as_fd(), FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| Error::io("lock", &path, errno))?;
        drop(no_sweep);
        let staging = Staging {
            dirs,
            id,
            path,
            dir,
            published: false,
        };
        rustix::fs::mkdirat(&staging.dir, IMAGES_DIR, fs::PRIVATE_DIR)
            .map_err(|errno| Error::io("create", &staging.images(), errno))?;
        Ok(staging)
    }
}

impl Staging {
    /// The directory of the checkpoint, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is called in `tmp/`: a UUID, which no other checkpoint ever had.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its image files go. Exists.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.path.join(IMAGES_DIR)
    }

    /// Writes `checkpoint.json`, flushes every file and directory, and gives the checkpoint its name, in one step.
    /// `label` and `name` override those in `meta`. Every file that `meta` names has to be in
    /// [`Staging::images`] already, with the size it says.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] with [`Replace::No`]; [`Error::Needed`] and [`Error::InUse`] for one that is to be replaced, unless the
    /// new one has the same id and therefore the same contents; [`Error::FileMismatch`]; [`Error::MetaField`] and the like for a `meta`
    /// that could not be read back; [`Error::NoSpace`], [`Error::InTheWay`], [`Error::StagingLost`],
    /// [`Error::RenameUnsupported`], [`Error::Io`]. After all of these the store is as it was before.
    ///
    /// [`Error::NotDurable`] is different: the checkpoint is whole and in place.
    pub fn publish(
        mut self,
        meta: &CheckpointMeta,
        label: &Label,
        name: &Name,
        replace: Replace,
    ) -> Result<Stored, Error> {
        let meta = CheckpointMeta {
            label: label.clone(),
            name: name.clone(),
            ..meta.clone()
        };
        self.write_meta(&meta.to_vec()?)?;
        let tree = Tree::scan(self.dir.as_fd(), &self.path)?;
        self.check_files(&meta, &tree)?;
        tree.flush(self.dir.as_fd(), &self.path)?;
        self.place(&meta, replace)?;
        let path = self.dirs.checkpoint_path(label, name);
        tracing::debug!(path = %path.display(), "published");
        Ok(Stored {
            label: label.clone(),
            name: name.clone(),
            path,
            meta,
        })
    }

    /// Writes `checkpoint.json`.
    fn write_meta(&self, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path.join(META_FILE);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, META_FILE, flags, fs::PRIVATE_FILE)
            .map_err(|errno| Error::io("create", &path, errno))?;
        File::from(file)
            .write_all(bytes)
            .map_err(|source| Error::io("write", &path, source))
    }

    /// Checks that what the description promises is there.
    fn check_files(&self, meta: &CheckpointMeta, tree: &Tree) -> Result<(), Error> {
        for file in &meta.files {
            let relative = Path::new(IMAGES_DIR).join(&file.name);
            let problem = match tree.files.get(&relative) {
                Some(size_bytes) if *size_bytes == file.size_bytes => continue,
                Some(size_bytes) => {
                    format!("has {size_bytes} bytes instead of {}", file.size_bytes)
                }
                None => "is not there".to_owned(),
            };
            return Err(Error::FileMismatch {
                path: self.path.join(relative),
                problem,
            });
        }
        Ok(())
    }

    /// Moves the staged directory to its name, flushes the directories that changed, and deletes what it replaced.
    fn place(&mut self, meta: &CheckpointMeta, replace: Replace) -> Result<(), Error> {
        let (label, name) = (&meta.label, &meta.name);
        let _claim = match replace {
            Replace::Yes => self.claim_replaced(meta)?,
            Replace::No => None,
        };
        let dirs = Arc::clone(&self.dirs);
        // A checkpoint that is replaced turns up in tmp/ unlocked. It must not be deleted before the exchange is on
        // disk: a power failure could bring back its name, then without its files.
        let no_sweep = NoSweep::begin(dirs.tmp.as_fd(), &dirs.tmp_path)?;
        let (label_dir, placed) = self.rename(label, name, replace)?;
        self.published = true;
        let path = dirs.checkpoint_path(label, name);
        fs::flush(label_dir.as_fd(), &path)
            .and_then(|()| fs::flush(dirs.checkpoints.as_fd(), &dirs.checkpoints_path))
            .and_then(|()| fs::flush(dirs.tmp.as_fd(), &dirs.tmp_path))
            .map_err(|error| Error::NotDurable {
                path,
                source: Box::new(error),
            })?;
        drop(no_sweep);
        if placed == Placed::Exchanged {
            delete_staged(&dirs, &self.id, &self.path);
        }
        Ok(())
    }

    /// Locks the checkpoint that is to be replaced, if there is one, unless nobody who builds on it would notice. Others may
    /// replace it at the same time, one after the other.
    fn claim_replaced(&self, meta: &CheckpointMeta) -> Result<Option<Hold>, Error> {
        let store = Store {
            dirs: Arc::clone(&self.dirs),
        };
        let (label, name) = (&meta.label, &meta.name);
        let mut refused = None;
        for _ in 0..MAX_ATTEMPTS {
            let has_same_id = |old: &Stored| meta.id.is_some() && old.meta.id == meta.id;
            if store.read(label, name).is_ok_and(|old| has_same_id(&old)) {
                return Ok(None);
            }
            match store.claim(label, name) {
                Ok(claim) => return Ok(Some(claim)),
                Err(error @ Error::InUse { .. }) => {
                    refused = Some(error);
                    std::thread::sleep(IN_USE_PAUSE);
                }
                // It was there a moment ago, and so may be the one that took its place.
                Err(Error::NotFound { .. }) if store.contains(label, name)? => {}
                // What else may be in the way is found by the rename.
                Err(Error::NotFound { .. } | Error::InTheWay { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(|| Error::Contended {
            path: self.dirs.checkpoint_path(label, name),
        }))
    }

    /// Moves the staged directory to its name. Other commands may remove the label's directory when it is empty, or
    /// take or free the name, between any two steps; then it starts over.
    fn rename(
        &self,
        label: &Label,
        name: &Name,
        replace: Replace,
    ) -> Result<(OwnedFd, Placed), Error> {
        let checkpoints = self.dirs.checkpoints.as_fd();
        for _ in 0..MAX_ATTEMPTS {
            let (label_dir, new_label) = match fs::make_dir(checkpoints, label.as_str()) {
                Ok(made) => made,
                Err(Errno::NOENT) => continue,
                Err(errno) => {
                    let path = self.dirs.checkpoints_path.join(label.as_str());
                    return Err(match errno {
                        errno if fs::is_in_the_way(errno) => Error::InTheWay { path },
                        errno => Error::io("create", &path, errno),
                    });
                }
            };
            match self.rename_into(label_dir.as_fd(), label, name, replace) {
                Ok(Some(placed)) => return Ok((label_dir, placed)),
                Ok(None) => {}
                Err(error) => {
                    if new_label {
                        // Fails if another command has used it meanwhile, as it should.
                        let _ =
                            rustix::fs::unlinkat(checkpoints, label.as_str(), AtFlags::REMOVEDIR);
                    }
                    return Err(error);
                }
            }
        }
        Err(Error::Contended {
            path: self.dirs.checkpoint_path(label, name),
        })
    }

    /// One attempt of [`Staging::rename`] into the directory of the label. `None`: another command got in between.
    fn rename_into(
        &self,
        label_dir: BorrowedFd<'_>,
        label: &Label,
        name: &Name,
        replace: Replace,
    ) -> Result<Option<Placed>, Error> {
        let path = self.dirs.checkpoint_path(label, name);
        let taken = match rustix::fs::statat(label_dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => true,
            Ok(_) => return Err(Error::InTheWay { path }),
            Err(Errno::NOENT) => false,
            Err(errno) => return Err(Error::io("look at", &path, errno)),
        };
        if taken && replace == Replace::No {
            let reference = Ref::exact(label.clone(), name.clone());
            return Err(Error::Exists {
                reference,
                store: self.dirs.path.clone(),
            });
        }
        let (flags, placed) = if taken {
            (RenameFlags::EXCHANGE, Placed::Exchanged)
        } else {
            (RenameFlags::NOREPLACE, Placed::New)
        };
        match rustix::fs::renameat_with(&self.dirs.tmp, &self.id, label_dir, name.as_str(), flags) {
            Ok(()) => Ok(Some(placed)),
            Err(Errno::EXIST) => Ok(None),
            Err(Errno::NOENT) if fs::is_same(self.dirs.tmp.as_fd(), &self.id, self.dir.as_fd()) => {
                Ok(None)
            }
            Err(Errno::NOENT) => Err(Error::StagingLost {
                path: self.path.clone(),
            }),
            Err(errno @ (Errno::INVAL | Errno::NOSYS)) => Err(Error::RenameUnsupported {
                path,
                source: errno.into(),
            }),
            Err(errno) => Err(Error::io("rename the checkpoint to", &path, errno)),
        }
    }
}

#[cfg(test)]
impl Staging {
    /// Goes away as the process does in a crash: the lock is dropped, the files are not.
    pub(crate) fn crash(mut self) {
        self.published = true;
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            delete_staged(&self.dirs, &self.id, &self.path);
        }
    }
}

/// Deletes the directory `id` in `tmp/`. A failure costs space, until the next command sweeps, and nothing else.
fn delete_staged(dirs: &Dirs, id: &str, path: &Path) {
    if let Err(error) = fs::remove_tree(dirs.tmp.as_fd(), id, path) {
        tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "cannot delete");
    }
}
