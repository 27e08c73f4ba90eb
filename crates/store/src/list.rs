//! Listing checkpoints, and finding the newest.

use std::cmp::Reverse;
use std::ffi::CStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::Error;
use crate::fs;
use crate::name::{Label, Name, Ref};
use crate::store::{MAX_ATTEMPTS, Store, Stored};

/// One entry of a listing.
#[derive(Debug)]
pub enum Listed {
    /// A checkpoint.
    Whole(Box<Stored>),
    /// Something that is where checkpoints are, and is not a checkpoint that can be used.
    Broken {
        /// What it is called, if it has the name of a checkpoint; it can be removed by that name if it is a directory.
        reference: Option<Ref>,
        /// Where it is.
        path: PathBuf,
        /// Why it cannot be used.
        error: Error,
    },
}

impl Listed {
    /// The checkpoint, if it is one.
    #[must_use]
    pub fn stored(&self) -> Option<&Stored> {
        match self {
            Self::Whole(stored) => Some(stored),
            Self::Broken { .. } => None,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Whole(stored) => &stored.path,
            Self::Broken { path, .. } => path,
        }
    }
}

/// What makes one checkpoint newer than another: the time it was made at, then (for equal times) its name.
fn age(stored: &Stored) -> impl Ord + use<> {
    (
        stored.meta.created,
        stored.name.clone(),
        stored.label.clone(),
    )
}

impl Store {
    /// Every checkpoint, or every one under `label`, the newest first; after them, by path, what is broken. One
    /// broken checkpoint does not hide the others, nor is it hidden. A label that does not exist has no checkpoints.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the store itself cannot be read.
    pub fn list(&self, label: Option<&Label>) -> Result<Vec<Listed>, Error> {
        let mut listed = Vec::new();
        match label {
            Some(label) => {
                self.list_label(label, &mut listed);
            }
            None => self.list_labels(&mut listed)?,
        }
        listed.sort_by_cached_key(|entry| {
            (Reverse(entry.stored().map(age)), entry.path().to_owned())
        });
        Ok(listed)
    }

    /// The newest checkpoint under `label`: the one with the latest `created`, and of several such the one whose name
    /// sorts last. Broken ones are passed over with a warning.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is none; if there are broken ones only, the error of one of them;
    /// [`Error::Contended`].
    pub fn newest(&self, label: &Label) -> Result<Stored, Error> {
        for _ in 0..MAX_ATTEMPTS {
            let mut listed = Vec::new();
            let vanished = self.list_label(label, &mut listed);
            let mut newest: Option<Box<Stored>> = None;
            let mut failure = None;
            for entry in listed {
                match entry {
                    Listed::Whole(stored)
                        if newest
                            .as_ref()
                            .is_none_or(|other| age(other) < age(&stored)) =>
                    {
                        newest = Some(stored);
                    }
                    Listed::Whole(_) => {}
                    Listed::Broken { path, error, .. } => {
                        tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "passed over");
                        failure = Some(error);
                    }
                }
            }
            if let Some(stored) = newest {
                return Ok(*stored);
            }
            if let Some(error) = failure {
                return Err(error);
            }
            // What was removed meanwhile may have a successor, published after the names were read.
            if !vanished {
                return Err(self.dirs.not_found(label, None));
            }
        }
        Err(Error::Contended {
            path: self.dirs.checkpoints_path.join(label.as_str()),
        })
    }

    /// Adds everything in the store to `listed`.
    fn list_labels(&self, listed: &mut Vec<Listed>) -> Result<(), Error> {
        let root = &self.dirs.checkpoints_path;
        let entries = fs::names(self.dirs.checkpoints.as_fd())
            .map_err(|errno| Error::io("read", root, errno))?;
        for entry in entries {
            match Label::parse(&text(&entry)) {
                Ok(label) => {
                    self.list_label(&label, listed);
                }
                Err(error) => listed.push(foreign(fs::join(root, &entry), error)),
            }
        }
        Ok(())
    }

    /// Adds everything under `label` to `listed`. Says whether something was removed before it could be read.
    fn list_label(&self, label: &Label, listed: &mut Vec<Listed>) -> bool {
        let path = self.dirs.checkpoints_path.join(label.as_str());
        let dir = match self.dirs.open_label(label) {
            Ok(Some(dir)) => dir,
            Ok(None) => return false,
            Err(error) => {
                listed.push(Listed::Broken {
                    reference: None,
                    path,
                    error,
                });
                return false;
            }
        };
        let entries = match fs::names(dir.as_fd()) {
            Ok(entries) => entries,
            Err(Errno::NOENT) => return true,
            Err(errno) => {
                let error = Error::io("read", &path, errno);
                listed.push(Listed::Broken {
                    reference: None,
                    path,
                    error,
                });
                return false;
            }
        };
        let mut vanished = false;
        for entry in entries {
            let path = fs::join(&path, &entry);
            let name = match Name::parse(&text(&entry)) {
                Ok(name) => name,
                Err(error) => {
                    listed.push(foreign(path, error));
                    continue;
                }
            };
            match self.read(label, &name) {
                Ok(stored) => listed.push(Listed::Whole(Box::new(stored))),
                Err(Error::NotFound { .. }) => vanished = true,
                Err(error) => {
                    listed.push(Listed::Broken {
                        reference: Some(Ref::exact(label.clone(), name)),
                        path,
                        error,
                    });
                }
            }
        }
        vanished
    }
}

/// The entry for something whose name no checkpoint can have.
fn foreign(path: PathBuf, error: Error) -> Listed {
    Listed::Broken {
        reference: None,
        error: Error::Foreign {
            path: path.clone(),
            source: Box::new(error),
        },
        path,
    }
}

/// A file name as text. What is not UTF-8 turns into something that is not a name either.
fn text(name: &CStr) -> std::borrow::Cow<'_, str> {
    name.to_string_lossy()
}
