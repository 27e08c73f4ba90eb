//! Deciding what in `tmp/` is abandoned.
//!
//! Whoever makes a checkpoint in `tmp/` holds an exclusive flock(2) on its directory; the kernel drops it when the
//! holder dies, however it dies. What can be locked is therefore abandoned, with one gap: a directory
//! cannot be created (or renamed into `tmp/`) and locked in one step. `tmp/` itself is locked to close it:
//!
//! * shared, by whoever has a directory in `tmp/` that is not locked and must not go: one just created, or a published
//!   one just moved there, until it may be deleted;
//! * exclusive, by the sweep while it looks for directories that nobody has locked, until it has locked them.
//!
//! The sweep does not wait for its lock: if somebody is in that gap just now, the next command sweeps. Neither does it
//! keep it while deleting, which may take long; by then it has locked the directories one by one. Two commands that
//! delete the same directory do each other no harm.
//!
//! Locks belong to an open file description, so `tmp/` is opened anew for each: two threads that shared a descriptor
//! would drop each other's lock.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::Error;
use crate::fs;

/// A shared lock on `tmp/`: while it lives nothing in there is taken for abandoned.
#[derive(Debug)]
pub(crate) struct NoSweep {
    /// `tmp/`, opened for this lock alone.
    _tmp: OwnedFd,
}

impl NoSweep {
    /// Waits for a sweep to be done with looking, and holds off others.
    pub(crate) fn begin(tmp: BorrowedFd<'_>, path: &Path) -> Result<Self, Error> {
        let own = fs::open_dir(tmp, ".").map_err(|errno| Error::io("open", path, errno))?;
        fs::lock(own.as_fd(), FlockOperation::LockShared)
            .map_err(|errno| Error::io("lock", path, errno))?;
        Ok(Self { _tmp: own })
    }
}

/// Whether this is a name that [`crate::Store`] gives to directories in `tmp/`. Nothing else is ever deleted there.
fn is_ours(name: &CString) -> bool {
    name.to_str().is_ok_and(|text| {
        uuid::Uuid::try_parse(text).is_ok_and(|uuid| uuid.as_hyphenated().to_string() == text)
    })
}

/// Deletes what nobody holds. Never fails: whoever opens a store has something else in mind, and what could not be
/// deleted does no harm but take space. Returns how many directories it deleted.
pub(crate) fn sweep(tmp: BorrowedFd<'_>, path: &Path) -> usize {
    let abandoned = match claim_abandoned(tmp) {
        Ok(abandoned) => abandoned,
        Err(errno) => {
            tracing::warn!(path = %path.display(), error = %errno, "cannot look for abandoned files");
            return 0;
        }
    };
    let mut deleted = 0;
    for (name, _lock) in abandoned {
        let path = fs::join(path, &name);
        match fs::remove_tree(tmp, name.as_c_str(), &path) {
            Ok(()) => {
                deleted += 1;
                tracing::info!(path = %path.display(), "deleted what an interrupted command left");
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), error = &error as &dyn std::error::Error, "cannot delete");
            }
        }
    }
    deleted
}

/// Locks every directory in `tmp/` that nobody has locked.
fn claim_abandoned(tmp: BorrowedFd<'_>) -> Result<Vec<(CString, OwnedFd)>, Errno> {
    let own = fs::open_dir(tmp, ".")?;
    match fs::lock(own.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    }
    let mut claimed = Vec::new();
    for name in fs::names(own.as_fd())? {
        if !is_ours(&name) {
            continue;
        }
        let Ok(dir) = rustix::fs::openat(&own, &name, fs::OPEN_DIR, rustix::fs::Mode::empty())
        else {
            continue;
        };
        if fs::lock(dir.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok() {
            claimed.push((name, dir));
        }
    }
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    /// What is in a store's `tmp/`.
    fn left(store: &Store) -> usize {
        fs::names(store.dirs.tmp.as_fd()).unwrap().len()
    }

    fn sweep_now(store: &Store) -> usize {
        sweep(store.dirs.tmp.as_fd(), &store.dirs.tmp_path)
    }

    #[test]
    fn a_directory_is_safe_before_it_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let no_sweep = NoSweep::begin(store.dirs.tmp.as_fd(), &store.dirs.tmp_path).unwrap();
        let also = NoSweep::begin(store.dirs.tmp.as_fd(), &store.dirs.tmp_path).unwrap();
        std::fs::create_dir(store.dirs.tmp_path.join(uuid::Uuid::new_v4().to_string())).unwrap();
        assert_eq!(sweep_now(&store), 0);
        drop(no_sweep);
        assert_eq!(sweep_now(&store), 0);
        drop(also);
        assert_eq!(sweep_now(&store), 1);
        assert_eq!(left(&store), 0);
    }

    #[test]
    fn what_is_held_stays_until_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let staging = store.stage().unwrap();
        std::fs::write(staging.images().join("pages-1.img"), b"memory").unwrap();
        assert_eq!(sweep_now(&store), 0);
        assert!(staging.images().join("pages-1.img").exists());
        // What a crash leaves: the directory without the lock.
        let path = staging.path().to_owned();
        staging.crash();
        assert!(path.exists());
        assert_eq!(sweep_now(&store), 1);
        assert!(!path.exists());
    }

    #[test]
    fn nothing_else_in_tmp_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let tmp = &store.dirs.tmp_path;
        std::fs::create_dir(tmp.join("systemd-private")).unwrap();
        std::fs::create_dir(tmp.join("67E55044-10B1-426F-9247-BB680E5FE0C8")).unwrap();
        std::fs::write(tmp.join(uuid::Uuid::new_v4().to_string()), b"a file").unwrap();
        std::os::unix::fs::symlink("/etc", tmp.join(uuid::Uuid::new_v4().to_string())).unwrap();
        assert_eq!(sweep_now(&store), 0);
        assert_eq!(left(&store), 4);
    }
}
