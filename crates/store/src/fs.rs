//! The few file system operations the store is made of, relative to open directories and never through a link.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::error::Error;

/// rwx for the owner, nothing for others: the contents are the memory of processes.
pub(crate) const PRIVATE_DIR: Mode = Mode::RWXU;
/// rw for the owner, nothing for others.
pub(crate) const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);
/// How a directory is opened: itself, not what a link there points to.
pub(crate) const OPEN_DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// The deepest directory in a checkpoint that is flushed or deleted. Engines write flat directories.
const MAX_DEPTH: usize = 32;
/// How many threads flush files. Flushing waits for the disk, not for the processor, and file systems join the
/// journal commits of calls that come together; more threads than this gain nothing measurable on one disk.
const FLUSH_THREADS: usize = 4;

/// Opens the directory `name` in `parent`.
pub(crate) fn open_dir(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, OPEN_DIR, Mode::empty())
}

/// Makes the directory `name` in `parent` unless it is there, and opens it. The flag says whether it is new.
pub(crate) fn make_dir(parent: BorrowedFd<'_>, name: &str) -> Result<(OwnedFd, bool), Errno> {
    let new = match rustix::fs::mkdirat(parent, name, PRIVATE_DIR) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno),
    };
    Ok((open_dir(parent, name)?, new))
}

/// Whether `errno`, from [`open_dir`], says that something other than a directory is there.
pub(crate) fn is_in_the_way(errno: Errno) -> bool {
    errno == Errno::NOTDIR || errno == Errno::LOOP
}

/// flock(2), going on after signals.
pub(crate) fn lock(file: BorrowedFd<'_>, operation: FlockOperation) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::fs::flock(file, operation))
}

/// Whether `name` in `parent` is still the file that is open as `file`.
pub(crate) fn is_same(parent: BorrowedFd<'_>, name: &str, file: BorrowedFd<'_>) -> bool {
    let (Ok(named), Ok(open)) = (
        rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW),
        rustix::fs::fstat(file),
    ) else {
        return false;
    };
    (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino)
}

/// The names in a directory, each once, without `.` and `..`.
pub(crate) fn names(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = BTreeSet::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !is_dot(entry.file_name()) {
            names.insert(entry.file_name().to_owned());
        }
    }
    Ok(names.into_iter().collect())
}

/// Whether `name` is `.` or `..`.
fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// `dir` joined with a name from [`names`].
pub(crate) fn join(dir: &Path, name: &CStr) -> PathBuf {
    dir.join(OsStr::from_bytes(name.to_bytes()))
}

/// Deletes the directory `name` in `parent` and everything in it; `path` is what it is called in errors. What is gone
/// already is not an error: another command may be deleting the same directory.
pub(crate) fn remove_tree(
    parent: BorrowedFd<'_>,
    name: impl Arg,
    path: &Path,
) -> Result<(), Error> {
    let name = name
        .into_c_str()
        .map_err(|errno| Error::io("delete", path, errno))?;
    remove_level(parent, &name, path, 0)
}

/// [`remove_tree`], `depth` levels below where it began.
fn remove_level(
    parent: BorrowedFd<'_>,
    name: &CStr,
    path: &Path,
    depth: usize,
) -> Result<(), Error> {
    let failed = |errno: Errno| Error::io("delete", path, errno);
    if depth > MAX_DEPTH {
        return Err(failed(Errno::NAMETOOLONG));
    }
    let dir = match rustix::fs::openat(parent, name, OPEN_DIR, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed(errno)),
    };
    for name in names(dir.as_fd()).map_err(failed)? {
        let path = join(path, &name);
        match rustix::fs::unlinkat(&dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // Linux answers EISDIR, POSIX asks for EPERM: unlink(2).
            Err(Errno::ISDIR | Errno::PERM) => remove_level(dir.as_fd(), &name, &path, depth + 1)?,
            Err(errno) => return Err(Error::io("delete", &path, errno)),
        }
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

/// Everything in a directory tree that has to reach the disk.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Regular files, by path relative to the tree, with their sizes in bytes.
    pub(crate) files: BTreeMap<PathBuf, u64>,
    /// Directories, by path relative to the tree, parents before children; the first is the tree itself, `.`.
    pub(crate) dirs: Vec<PathBuf>,
}

impl Tree {
    /// Looks at everything under `root`; `path` is what it is called in errors. Links, sockets and the like have
    /// no contents to flush and are passed over.
    pub(crate) fn scan(root: BorrowedFd<'_>, path: &Path) -> Result<Self, Error> {
        let mut tree = Self {
            files: BTreeMap::new(),
            dirs: vec![PathBuf::from(".")],
        };
        let mut next = 0;
        while let Some(relative) = tree.dirs.get(next).cloned() {
            next += 1;
            let absolute = path.join(&relative);
            let failed = |errno: Errno| Error::io("read", &absolute, errno);
            if relative.components().count() > MAX_DEPTH {
                return Err(failed(Errno::NAMETOOLONG));
            }
            let dir =
                rustix::fs::openat(root, &relative, OPEN_DIR, Mode::empty()).map_err(failed)?;
            for name in names(dir.as_fd()).map_err(failed)? {
                let stat =
                    rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                let child = join(&relative, &name);
                let child = child.strip_prefix(".").map(Path::to_owned).unwrap_or(child);
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => tree.dirs.push(child),
                    FileType::RegularFile => {
                        tree.files
                            .insert(child, u64::try_from(stat.st_size).unwrap_or(0));
                    }
                    _ => {}
                }
            }
        }
        Ok(tree)
    }

    /// Flushes every file, then every directory, children before parents.
    pub(crate) fn flush(&self, root: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
        let mut files: Vec<(&Path, u64)> = self
            .files
            .iter()
            .map(|(file, size)| (file.as_path(), *size))
            .collect();
        // The largest first: nothing then waits long after the others are done.
        files.sort_by_key(|(_, size_bytes)| std::cmp::Reverse(*size_bytes));
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..FLUSH_THREADS.min(files.len()) {
                scope.spawn(|| {
                    while let Some((file, _)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) =
                            flush_one(root, file, OFlags::NOFOLLOW | OFlags::CLOEXEC, path)
                        {
                            next.store(files.len(), Ordering::Relaxed);
                            failure
                                .lock()
                                .unwrap_or_else(std::sync::PoisonError::into_inner)
                                .get_or_insert(error);
                        }
                    }
                });
            }
        });
        if let Some(error) = failure
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
        {
            return Err(error);
        }
        self.dirs
            .iter()
            .rev()
            .try_for_each(|dir| flush_one(root, dir, OPEN_DIR, path))
    }
}

/// Flushes `relative`, a file or a directory in `root`.
fn flush_one(
    root: BorrowedFd<'_>,
    relative: &Path,
    flags: OFlags,
    path: &Path,
) -> Result<(), Error> {
    let opened = rustix::fs::openat(root, relative, flags, Mode::empty())
        .map_err(|errno| Error::io("open", &path.join(relative), errno))?;
    flush(opened.as_fd(), &path.join(relative))
}

/// fsync(2) of an open file or directory, which `path` names in errors.
pub(crate) fn flush(file: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    rustix::io::retry_on_intr(|| rustix::fs::fsync(file))
        .map_err(|errno| Error::io("flush", path, errno))
}

/// Opens the regular file `name` in `dir` for reading. `None`: something other than a regular file is there.
pub(crate) fn open_regular(dir: BorrowedFd<'_>, name: &str) -> Result<Option<File>, Errno> {
    // NONBLOCK: a FIFO put there must not make us wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => file,
        // A link, or a socket: open(2).
        Err(Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let regular =
        FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::RegularFile;
    Ok(regular.then(|| File::from(file)))
}
