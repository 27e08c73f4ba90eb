//! Advisory locks and leases as the kernel shows them: the lines of /proc/locks (proc_locks(5)) and those behind `lock:`
//! in /proc/PID/fdinfo/FD (proc_pid_fdinfo(5)), which have the same form.

use std::fmt;
use std::fs;

use crate::error::{Error, Result};
use std::path::PathBuf;

/// What kind of lock it is, by whom it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// flock(2): to the open file description.
    Flock,
    /// F_SETLK (fcntl_locking(2)): to the process, or whoever shares its descriptor table.
    Posix,
    /// F_OFD_SETLK: a range that belongs to the open file description.
    Description,
    /// F_SETLEASE (fcntl(2)): to the open file description.
    Lease,
}

/// What a lock allows its holder, and keeps others from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
    /// A lease that its holder was asked to give up.
    None,
}

/// One lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lock {
    /// What kind it is.
    pub kind: LockKind,
    /// What it allows; of a lease that is being broken, what will be left of it.
    pub access: Access,
    /// Somebody waits for the lease to be given up.
    pub breaking: bool,
    /// Who asked for it: a pid, or -1 where it belongs to a description.
    pub pid: i32,
    /// Device of the file, major and minor.
    pub device: (u32, u32),
    /// Inode of the file.
    pub inode: u64,
    /// First byte.
    pub start: i64,
    /// Last byte; `None` to the end of the file, however long it gets.
    pub end: Option<i64>,
}

impl Lock {
    /// Parses `1: POSIX  ADVISORY  WRITE 1234 08:01:567 0 EOF`. The number before the colon says nothing.
    ///
    /// `None` for what is no lock of a file: a line that is not understood, or one of who waits for a lock (`->`).
    pub fn parse(line: &str) -> Option<Self> {
        let (number, rest) = line.split_once(':')?;
        number.trim().parse::<u64>().ok()?;
        let mut words = rest.split_ascii_whitespace();
        let mut word = || words.next();
        let (kind, mode) = (word()?, word()?);
        let (kind, breaking) = match (kind, mode) {
            ("FLOCK", "ADVISORY") => (LockKind::Flock, false),
            ("POSIX", "ADVISORY") => (LockKind::Posix, false),
            ("OFDLCK", "ADVISORY") => (LockKind::Description, false),
            ("LEASE", "ACTIVE") => (LockKind::Lease, false),
            ("LEASE", "BREAKING") => (LockKind::Lease, true),
            _ => return None,
        };
        let access = match word()? {
            "READ" => Access::Read,
            "WRITE" => Access::Write,
            "UNLCK" if kind == LockKind::Lease => Access::None,
            _ => return None,
        };
        let pid = word()?.parse().ok()?;
        let mut place = word()?.split(':');
        let device = {
            let mut number = || u32::from_str_radix(place.next()?, 16).ok();
            (number()?, number()?)
        };
        let inode = place.next()?.parse().ok()?;
        let start: i64 = word()?.parse().ok()?;
        let end = match word()? {
            "EOF" => None,
            end => Some(end.parse::<i64>().ok()?),
        };
        let whole = place.next().is_none() && word().is_none();
        let sound = start >= 0 && end.is_none_or(|end| end >= start && end < i64::MAX);
        (whole && sound).then_some(Self {
            kind,
            access,
            breaking,
            pid,
            device,
            inode,
            start,
            end,
        })
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::None => "ended",
        };
        let kind = match self.kind {
            LockKind::Flock => "flock",
            LockKind::Posix => "POSIX lock",
            LockKind::Description => "OFD lock",
            LockKind::Lease if self.breaking => "lease (being broken)",
            LockKind::Lease => "lease",
        };
        write!(f, "{access} {kind}")?;
        match (self.start, self.end) {
            (0, None) => {}
            (start, None) => write!(f, " from byte {start} on")?,
            (start, Some(end)) => write!(f, " of bytes {start} to {end}")?,
        }
        if self.pid > 0 {
            write!(f, ", taken by pid {}", self.pid)?;
        }
        Ok(())
    }
}

/// Every lock of /proc/locks that is held; whoever only waits for one is left out.
pub fn read_all() -> Result<Vec<Lock>> {
    let path = PathBuf::from("/proc/locks");
    let text = fs::read_to_string(&path).map_err(|source| Error::Path {
        operation: "read",
        path,
        source,
    })?;
    Ok(text.lines().filter_map(Lock::parse).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_kind_is_told_from_the_others() {
        let lock = Lock::parse("1: POSIX  ADVISORY  WRITE 1234 08:1a:567 10 19").unwrap();
        assert_eq!((lock.kind, lock.access), (LockKind::Posix, Access::Write));
        assert_eq!((lock.pid, lock.device, lock.inode), (1234, (8, 0x1a), 567));
        assert_eq!((lock.start, lock.end), (10, Some(19)));
        let lock = Lock::parse("\t2: FLOCK  ADVISORY  READ 7 00:2f:9 0 EOF").unwrap();
        assert_eq!((lock.kind, lock.access), (LockKind::Flock, Access::Read));
        assert_eq!((lock.start, lock.end), (0, None));
        let lock = Lock::parse("3: OFDLCK ADVISORY  READ -1 00:2f:9 0 0").unwrap();
        assert_eq!((lock.kind, lock.pid), (LockKind::Description, -1));
        let lock = Lock::parse("4: LEASE  BREAKING  UNLCK 7 00:2f:9 0 EOF").unwrap();
        assert_eq!((lock.kind, lock.access), (LockKind::Lease, Access::None));
        assert!(lock.breaking);
        assert_eq!(
            lock.to_string(),
            "ended lease (being broken), taken by pid 7"
        );
    }

    #[test]
    fn who_waits_holds_nothing() {
        assert_eq!(
            Lock::parse("1: -> POSIX  ADVISORY  WRITE 12 08:01:5 0 EOF"),
            None
        );
        assert_eq!(
            Lock::parse("1: DELEG  ACTIVE    READ 12 08:01:5 0 EOF"),
            None
        );
        assert_eq!(
            Lock::parse("1: FLOCK  ADVISORY  UNLCK 12 08:01:5 0 EOF"),
            None
        );
        assert_eq!(
            Lock::parse("1: POSIX  ADVISORY  WRITE 12 08:01:5 9 3"),
            None
        );
        assert_eq!(
            Lock::parse("1: POSIX  ADVISORY  WRITE 12 08:01:5 0 EOF more"),
            None
        );
    }

    #[test]
    fn this_machines_locks_are_read() {
        let file = tempfile::tempfile().unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let inode = rustix::fs::fstat(&file).unwrap().st_ino;
        let own = std::process::id() as i32;
        let held = |lock: &Lock| (lock.pid, lock.inode) == (own, inode);
        assert!(read_all().unwrap().iter().any(held));
    }

    proptest! {
        #[test]
        fn any_text_is_taken(line in "[ -~]{0,80}") {
            let _no_panic = Lock::parse(&line);
        }

        #[test]
        fn what_the_kernel_prints_comes_back(
            kind in prop::sample::select(vec!["FLOCK  ADVISORY ", "POSIX  ADVISORY ", "OFDLCK ADVISORY ", "LEASE  ACTIVE   "]),
            access in prop::sample::select(vec!["READ", "WRITE"]),
            pid in -1..i32::MAX,
            device in any::<(u8, u16)>(),
            inode: u64,
            start in 0..i64::MAX - 1,
            length in prop::option::of(0..1i64 << 40),
        ) {
            let end = length.map(|length| start.saturating_add(length).min(i64::MAX - 1));
            let shown = end.map_or("EOF".to_owned(), |end| end.to_string());
            let line = format!("9: {kind} {access} {pid} {:02x}:{:02x}:{inode} {start} {shown}", device.0, device.1);
            let lock = Lock::parse(&line).unwrap();
            prop_assert_eq!((lock.pid, lock.inode, lock.start, lock.end), (pid, inode, start, end));
            prop_assert_eq!(lock.device, (u32::from(device.0), u32::from(device.1)));
        }
    }
}
