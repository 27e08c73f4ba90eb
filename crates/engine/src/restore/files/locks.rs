//! Advisory locks and leases, taken again by the tasks that held them.
//!
//! The order matters. Leases come before owners are set: a lease that was being broken is broken anew, and the signal
//! of that must reach nobody but the task under construction, which drops it. POSIX locks come last of all: a process
//! loses those on a file when it closes any descriptor of that file, and every task starts with many to close.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use cryopod_image::criu::{FileLockEntry, lock_kind, lock_type};
use cryopod_image::{Kind as Image, SetReader};
use cryopod_sys::Errno;

use super::{Files, paths};
use crate::error::{Context, Error, Result};
use crate::proc::locks;
use crate::proc::mem::Mem;
use crate::remote::puppet::Puppet;

/// filelocks.img.
#[derive(Debug, Default)]
pub struct Locks {
    entries: Vec<FileLockEntry>,
}

impl Locks {
    /// Reads and checks it.
    pub fn load(set: &SetReader) -> Result<Self> {
        if !set.exists(Image::FileLocks, None) {
            return Ok(Self::default());
        }
        let entries = set.read_all::<FileLockEntry>(Image::FileLocks, None)?;
        entries.iter().try_for_each(check)?;
        Ok(Self { entries })
    }

    /// Checks that every lock is on a descriptor of a task. `has` tells whether a process has a descriptor.
    fn check_holders(&self, has: impl Fn(i32, u32) -> bool) -> Result<()> {
        let lost = self
            .entries
            .iter()
            .find(|lock| !has(lock.pid, lock.fd as u32));
        lost.map_or(Ok(()), |lock| {
            Err(corrupt(lock, "nobody has that descriptor"))
        })
    }

    /// The locks of a process: those that belong to the process itself (POSIX), or to descriptions.
    fn of(&self, pid: i32, posix: bool) -> impl Iterator<Item = &FileLockEntry> {
        let belongs = move |lock: &&FileLockEntry| {
            lock.pid == pid && (lock.flag == lock_kind::POSIX) == posix
        };
        self.entries.iter().filter(belongs)
    }
}

fn check(lock: &FileLockEntry) -> Result<()> {
    let access = lock.r#type & !lock_type::BREAKING;
    let breaking = lock.r#type & lock_type::BREAKING != 0;
    let of_lease = breaking || access == lock_type::NONE;
    if access > lock_type::NONE || (of_lease && lock.flag != lock_kind::LEASE) {
        return Err(corrupt(lock, "of unknown type"));
    }
    if breaking && access == lock_type::WRITE {
        return Err(corrupt(lock, "a lease that is broken to be whole"));
    }
    let kinds = [
        lock_kind::POSIX,
        lock_kind::FLOCK,
        lock_kind::OFD,
        lock_kind::LEASE,
    ];
    if !kinds.contains(&lock.flag) {
        return Err(corrupt(lock, "of unknown kind"));
    }
    if lock.fd < 0 || lock.start < 0 || lock.len < 0 || lock.start.checked_add(lock.len).is_none() {
        return Err(corrupt(lock, "an impossible range"));
    }
    Ok(())
}

fn corrupt(lock: &FileLockEntry, what: &str) -> Error {
    let what = format!("lock of pid {} on descriptor {}: {what}", lock.pid, lock.fd);
    Error::inconsistent("filelocks", what)
}

impl Files {
    /// Checks that every lock is one of a task; `holders` are pids and the tables they use.
    pub fn check_locks(&self, holders: &[(i32, u32)]) -> Result<()> {
        self.locks.check_holders(|pid, fd| {
            let tables = holders.iter().filter(|(holder, _)| *holder == pid);
            let found = |files_id: &u32| self.number(*files_id, fd).is_some();
            tables.map(|(_, files_id)| files_id).any(found)
        })
    }

    /// Has a task take the locks that belong to descriptions and that it was found to have. Before [`Files::arm`].
    pub fn lock_descriptions(&self, puppet: &Puppet, mem: &Mem, files_id: u32) -> Result<()> {
        self.lock(puppet, mem, files_id, false)
    }

    /// Has a task take its POSIX locks. After [`Files::close_high`].
    pub fn lock_ranges(&self, puppet: &Puppet, mem: &Mem, files_id: u32) -> Result<()> {
        self.lock(puppet, mem, files_id, true)
    }

    fn lock(&self, puppet: &Puppet, mem: &Mem, files_id: u32, posix: bool) -> Result<()> {
        for lock in self.locks.of(puppet.pid, posix) {
            let id = self.number(files_id, lock.fd as u32);
            let id = id.ok_or_else(|| corrupt(lock, "nobody has that descriptor"))?;
            take(puppet, mem, lock, self.borrow(id)?)?;
        }
        Ok(())
    }
}

/// Has a task take a lock. `file` is our duplicate of the description.
fn take(puppet: &Puppet, mem: &Mem, lock: &FileLockEntry, file: BorrowedFd<'_>) -> Result<()> {
    match lock.flag {
        lock_kind::FLOCK => {
            let how = match lock.r#type {
                lock_type::READ => libc::LOCK_SH,
                _ => libc::LOCK_EX,
            };
            let args = [lock.fd as u64, (how | libc::LOCK_NB) as u64, 0, 0, 0, 0];
            let taken = puppet.call(libc::SYS_flock, args)?;
            outcome(puppet, lock, file, "flock", taken)
        }
        lock_kind::POSIX => range(puppet, mem, lock, file, libc::F_SETLK),
        lock_kind::OFD => range(puppet, mem, lock, file, libc::F_OFD_SETLK),
        _ => lease(puppet, lock, file),
    }
}

/// A lock of a range of bytes.
fn range(
    puppet: &Puppet,
    mem: &Mem,
    lock: &FileLockEntry,
    file: BorrowedFd<'_>,
    command: i32,
) -> Result<()> {
    // struct flock: type, whence, start, length, pid.
    let kind = if lock.r#type == lock_type::READ {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    } as u32;
    let mut wanted = (kind | (libc::SEEK_SET as u32) << 16)
        .to_ne_bytes()
        .to_vec();
    wanted.extend([0; 4]);
    wanted.extend(lock.start.to_ne_bytes());
    wanted.extend(lock.len.to_ne_bytes());
    wanted.extend([0; 8]);
    let at = puppet.put(mem, &wanted)?;
    let taken = puppet.call(
        libc::SYS_fcntl,
        [lock.fd as u64, command as u64, at, 0, 0, 0],
    )?;
    outcome(puppet, lock, file, "fcntl (lock)", taken)
}

/// A lease, and whoever wanted it to be given up.
fn lease(puppet: &Puppet, lock: &FileLockEntry, file: BorrowedFd<'_>) -> Result<()> {
    let left = lock.r#type & !lock_type::BREAKING;
    let breaking = lock.r#type & lock_type::BREAKING != 0;
    let whole = if !breaking {
        left
    } else if left == lock_type::READ || is_writable(file)? {
        lock_type::WRITE
    } else {
        lock_type::READ
    };
    let set = |command: i32, value: u32| {
        let args = [lock.fd as u64, command as u64, u64::from(value), 0, 0, 0];
        puppet.call(libc::SYS_fcntl, args)
    };
    outcome(
        puppet,
        lock,
        file,
        "fcntl (F_SETLEASE)",
        set(libc::F_SETLEASE, whole)?,
    )?;
    if breaking {
        break_lease(lock, file, left)?;
    }
    // The kernel has made the task the owner of its signals; who owns them is restored with other owners.
    set(libc::F_SETOWN, 0)?
        .map(drop)
        .map_err(|source| Error::Remote {
            call: "fcntl (F_SETOWN)",
            pid: puppet.tid,
            source,
        })
}

fn is_writable(file: BorrowedFd<'_>) -> Result<bool> {
    let flags = rustix::fs::fcntl_getfl(file).host("ask for the flags of a file")?;
    Ok(flags.bits() & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32)
}

/// Opens the file in a way that the lease does not allow, without waiting: from then on it is being broken.
fn break_lease(lock: &FileLockEntry, file: BorrowedFd<'_>, left: u32) -> Result<()> {
    let access = if left == lock_type::READ {
        libc::O_RDONLY
    } else {
        libc::O_WRONLY
    };
    match paths::reopen(file, (access | libc::O_NONBLOCK) as u32) {
        Ok(_) => Err(corrupt(lock, "a lease that nothing breaks")),
        Err(Error::Path { source, .. })
            if source.raw_os_error() == Some(Errno::WOULDBLOCK.raw_os_error()) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Names the holder where a lock is somebody else's by now.
fn outcome(
    puppet: &Puppet,
    lock: &FileLockEntry,
    file: BorrowedFd<'_>,
    call: &'static str,
    result: std::result::Result<u64, Errno>,
) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(Errno::AGAIN | Errno::ACCESS) => Err(Error::LockTaken {
            path: name(file),
            holder: holder(file),
        }),
        Err(source) => {
            tracing::debug!(pid = puppet.pid, ?lock, "cannot be taken");
            Err(Error::Remote {
                call,
                pid: puppet.tid,
                source,
            })
        }
    }
}

fn name(file: BorrowedFd<'_>) -> PathBuf {
    let own = paths::own_path(file);
    std::fs::read_link(&own).unwrap_or(own)
}

/// Who has a lock on a file, in words.
fn holder(file: BorrowedFd<'_>) -> String {
    let Ok(stat) = rustix::fs::fstat(file) else {
        return "somebody".to_owned();
    };
    let held = locks::read_all().unwrap_or_default();
    let found = held.into_iter().find(|lock| lock.inode == stat.st_ino);
    match found {
        Some(lock) if lock.pid > 0 => crate::restore::holder(lock.pid),
        Some(_) => "a process (it is a lock of a description)".to_owned(),
        None => "somebody who has it open".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(flag: u32, kind: u32, start: i64, len: i64) -> FileLockEntry {
        FileLockEntry {
            flag,
            r#type: kind,
            pid: 5,
            fd: 3,
            start,
            len,
        }
    }

    #[test]
    fn impossible_locks_are_corruption() {
        for good in [
            lock(1, 0, 0, 0),
            lock(2, 1, 0, 0),
            lock(4, 1, 5, 9),
            lock(8, 6, 0, 0),
            lock(8, 4, 0, 0),
        ] {
            assert!(check(&good).is_ok(), "{good:?}");
        }
        for bad in [
            lock(0, 0, 0, 0),
            lock(3, 0, 0, 0),
            lock(1, 2, 0, 0),
            lock(1, 5, 0, 0),
            lock(2, 3, 0, 0),
            lock(8, 5, 0, 0),
            lock(8, 9, 0, 0),
            lock(1, 0, -1, 0),
            lock(1, 0, 1, i64::MAX),
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_lock_belongs_to_a_descriptor() {
        let locks = Locks {
            entries: vec![lock(1, 0, 0, 0), lock(2, 0, 0, 0)],
        };
        assert!(locks.check_holders(|pid, fd| (pid, fd) == (5, 3)).is_ok());
        assert!(locks.check_holders(|_, fd| fd == 4).is_err());
        assert_eq!(locks.of(5, true).count(), 1);
        assert_eq!(locks.of(5, false).count(), 1);
        assert_eq!(locks.of(6, false).count(), 0);
    }
}
