//! An open store, and looking up one checkpoint in it.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::Error;
use crate::fs;
use crate::meta::{CheckpointMeta, read_bounded};
use crate::name::{Label, Name, Ref};
use crate::sweep;

/// What [`Store`] calls its description of a checkpoint.
pub(crate) const META_FILE: &str = "checkpoint.json";
/// Where in a checkpoint its image files are.
pub(crate) const IMAGES_DIR: &str = "images";
/// How often an operation starts over because another command got in between. Each time means that some other
/// command got its work done, so this is reached only by a store that is changed without pause.
pub(crate) const MAX_ATTEMPTS: usize = 1000;
/// Permissions of others, in a file's mode.
const OTHERS: u32 = 0o077;

/// A store's directories, open.
#[derive(Debug)]
pub(crate) struct Dirs {
    /// The store's own path, absolute.
    pub(crate) path: PathBuf,
    /// `tmp/`.
    pub(crate) tmp: OwnedFd,
    /// The path of `tmp/`.
    pub(crate) tmp_path: PathBuf,
    /// `checkpoints/`.
    pub(crate) checkpoints: OwnedFd,
    /// The path of `checkpoints/`.
    pub(crate) checkpoints_path: PathBuf,
}

/// A directory of named checkpoints. Cheap to clone, and usable from several threads and processes at once.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) dirs: Arc<Dirs>,
}

/// One whole checkpoint in a store.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The label it is under.
    pub label: Label,
    /// Its name under that label.
    pub name: Name,
    /// Its directory, absolute.
    pub path: PathBuf,
    /// What its `checkpoint.json` says.
    pub meta: CheckpointMeta,
}

impl Stored {
    /// The directory with its image files.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.path.join(IMAGES_DIR)
    }

    /// The reference to exactly this checkpoint.
    #[must_use]
    pub fn reference(&self) -> Ref {
        Ref::exact(self.label.clone(), self.name.clone())
    }
}

impl Store {
    /// Opens the store in `dir`, making it (mode 0700, as are missing parents) if there is none, and deletes what
    /// interrupted commands left in its `tmp/`.
    ///
    /// A `dir` that exists keeps its permissions; if they let others in, a warning is emitted, for checkpoints hold
    /// the memory of processes.
    ///
    /// # Errors
    ///
    /// [`Error::StoreNotADirectory`], [`Error::NotAStore`], [`Error::InTheWay`], [`Error::NoSpace`], [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = std::path::absolute(dir).map_err(|source| Error::io("find", dir, source))?;
        let root = open_root(&path)?;
        refuse_foreign(root.as_fd(), &path)?;
        let checkpoints_path = path.join("checkpoints");
        let tmp_path = path.join("tmp");
        // In this order: a directory with tmp/ but without checkpoints/ is not a store (see refuse_foreign).
        let (checkpoints, new_checkpoints) =
            make_part(root.as_fd(), "checkpoints", &checkpoints_path)?;
        let (tmp, new_tmp) = make_part(root.as_fd(), "tmp", &tmp_path)?;
        if new_checkpoints || new_tmp {
            fs::flush(root.as_fd(), &path)?;
        }
        sweep::sweep(tmp.as_fd(), &tmp_path);
        Ok(Self {
            dirs: Arc::new(Dirs {
                path,
                tmp,
                tmp_path,
                checkpoints,
                checkpoints_path,
            }),
        })
    }

    /// The store's directory, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dirs.path
    }

    /// The checkpoint that `reference` means.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::MissingMeta`], [`Error::NotAFile`] or [`Error::Unreadable`] for a checkpoint that
    /// is there but cannot be used; [`Error::InTheWay`], [`Error::Io`].
    pub fn get(&self, reference: &Ref) -> Result<Stored, Error> {
        match &reference.name {
            Some(name) => self.read(&reference.label, name),
            None => self.newest(&reference.label),
        }
    }

    /// Whether the name is taken, by a checkpoint or by anything else. For refusing early: only
    /// [`crate::Staging::publish`] decides.
    ///
    /// # Errors
    ///
    /// [`Error::InTheWay`] if the label is not a directory, [`Error::Io`].
    pub fn contains(&self, label: &Label, name: &Name) -> Result<bool, Error> {
        let Some(label_dir) = self.dirs.open_label(label)? else {
            return Ok(false);
        };
        match rustix::fs::statat(&label_dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Error::io(
                "look at",
                &self.dirs.checkpoint_path(label, name),
                errno,
            )),
        }
    }

    /// Reads one checkpoint's description. A checkpoint may be replaced while it is read; what is missing or broken in
    /// a directory that no longer has the name says nothing about the one that has.
    pub(crate) fn read(&self, label: &Label, name: &Name) -> Result<Stored, Error> {
        let path = self.dirs.checkpoint_path(label, name);
        for _ in 0..MAX_ATTEMPTS {
            let Some(label_dir) = self.dirs.open_label(label)? else {
                return Err(self.dirs.not_found(label, Some(name)));
            };
            let dir = match fs::open_dir(label_dir.as_fd(), name.as_str()) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => return Err(self.dirs.not_found(label, Some(name))),
                Err(errno) if fs::is_in_the_way(errno) => return Err(Error::InTheWay { path }),
                Err(errno) => return Err(Error::io("open", &path, errno)),
            };
            match read_meta(dir.as_fd(), &path) {
                Ok(meta) => {
                    return Ok(Stored {
                        label: label.clone(),
                        name: name.clone(),
                        path,
                        meta,
                    });
                }
                Err(error) if fs::is_same(label_dir.as_fd(), name.as_str(), dir.as_fd()) => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        Err(Error::Contended { path })
    }
}

impl Dirs {
    /// The path of a checkpoint.
    pub(crate) fn checkpoint_path(&self, label: &Label, name: &Name) -> PathBuf {
        self.checkpoints_path
            .join(label.as_str())
            .join(name.as_str())
    }

    /// Opens the directory of a label; `None` if there is no such label.
    pub(crate) fn open_label(&self, label: &Label) -> Result<Option<OwnedFd>, Error> {
        let path = || self.checkpoints_path.join(label.as_str());
        match fs::open_dir(self.checkpoints.as_fd(), label.as_str()) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) if fs::is_in_the_way(errno) => Err(Error::InTheWay { path: path() }),
            Err(errno) => Err(Error::io("open", &path(), errno)),
        }
    }

    /// The error for a checkpoint that is not there.
    pub(crate) fn not_found(&self, label: &Label, name: Option<&Name>) -> Error {
        Error::NotFound {
            reference: Ref {
                label: label.clone(),
                name: name.cloned(),
            },
            store: self.path.clone(),
        }
    }
}

/// Opens the store's own directory, and makes it if need be. Unlike everything below it, it may be a link: it is
/// what the caller asked for.
fn open_root(path: &Path) -> Result<OwnedFd, Error> {
    let open = || {
        rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    let opened = match open() {
        Err(Errno::NOENT) => {
            make_root(path)?;
            open()
        }
        opened => opened,
    };
    let root = match opened {
        Ok(root) => root,
        Err(Errno::NOTDIR) => {
            return Err(Error::StoreNotADirectory {
                path: path.to_owned(),
            });
        }
        Err(errno) => return Err(Error::io("open", path, errno)),
    };
    let stat = rustix::fs::fstat(&root).map_err(|errno| Error::io("look at", path, errno))?;
    if stat.st_mode & OTHERS != 0 {
        let mode = format!("{:o}", stat.st_mode & 0o7777);
        tracing::warn!(path = %path.display(), mode, "others may enter the store; it holds the memory of processes");
    }
    let owner = stat.st_uid;
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        tracing::warn!(path = %path.display(), owner, "the store belongs to another user");
    }
    Ok(root)
}

/// Makes the store's own directory and its parents, and sees to it that they stay.
fn make_root(path: &Path) -> Result<(), Error> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|ancestor| !ancestor.exists())
        .collect();
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(source)
            if matches!(
                source.kind(),
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory
            ) =>
        {
            return Err(Error::StoreNotADirectory {
                path: path.to_owned(),
            });
        }
        Err(source) => return Err(Error::io("create", path, source)),
    }
    for parent in missing.iter().filter_map(|made| made.parent()) {
        // One that may be entered but not read cannot be flushed; that is no reason to do without a store.
        if let Ok(dir) = rustix::fs::open(parent, fs::OPEN_DIR, Mode::empty()) {
            fs::flush(dir.as_fd(), parent)?;
        }
    }
    Ok(())
}

/// Refuses a directory such as `/` or `/var`, whose `tmp/` is not a store's: what is abandoned there is not ours to
/// delete. A store's `checkpoints/` is made before its `tmp/`, and its `tmp/` is closed to others.
fn refuse_foreign(root: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    if rustix::fs::statat(root, "checkpoints", AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Ok(());
    }
    match rustix::fs::statat(root, "tmp", AtFlags::SYMLINK_NOFOLLOW) {
        Ok(tmp)
            if FileType::from_raw_mode(tmp.st_mode) == FileType::Directory
                && tmp.st_mode & OTHERS != 0 =>
        {
            Err(Error::NotAStore {
                path: path.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// Opens one of the store's directories, making it if need be.
fn make_part(root: BorrowedFd<'_>, name: &str, path: &Path) -> Result<(OwnedFd, bool), Error> {
    fs::make_dir(root, name).map_err(|errno| match errno {
        errno if fs::is_in_the_way(errno) => Error::InTheWay {
            path: path.to_owned(),
        },
        errno => Error::io("create", path, errno),
    })
}

/// Reads the description in an open checkpoint directory, which `path` names in errors.
fn read_meta(dir: BorrowedFd<'_>, path: &Path) -> Result<CheckpointMeta, Error> {
    let meta_path = path.join(META_FILE);
    let file = match fs::open_regular(dir, META_FILE) {
        Ok(Some(file)) => file,
        Ok(None) => return Err(Error::NotAFile { path: meta_path }),
        Err(Errno::NOENT) => {
            return Err(Error::MissingMeta {
                path: path.to_owned(),
            });
        }
        Err(errno) => return Err(Error::io("open", &meta_path, errno)),
    };
    let bytes = read_bounded(file).map_err(|source| Error::io("read", &meta_path, source))?;
    CheckpointMeta::from_slice(&bytes).map_err(|source| Error::Unreadable {
        path: meta_path,
        source: Box::new(source),
    })
}
