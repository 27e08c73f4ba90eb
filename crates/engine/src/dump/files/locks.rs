//! Advisory locks and leases: filelocks.img.
//!
//! The kernel shows the locks of a descriptor in its fdinfo. What belongs to the description shows under every
//! descriptor that leads to it and is noted once; POSIX locks show only in the process that has them.

use std::collections::HashSet;

use cryopod_image::criu::{FileLockEntry, lock_kind, lock_type};
use cryopod_image::{Kind as Image, SetWriter};

use super::lazy::Lazy;
use super::seen::Seen;
use crate::error::Result;
use crate::proc::locks::{Access, Lock, LockKind};

/// The locks on an open file, and what the kernel shows of others that are not understood.
pub fn of(seen: &Seen) -> (Vec<Lock>, Vec<&str>) {
    let (mut locks, mut others) = (Vec::new(), Vec::new());
    for line in &seen.info.lines {
        let Some(line) = line.strip_prefix("lock:") else {
            continue;
        };
        match Lock::parse(line) {
            Some(lock) => locks.push(lock),
            None => others.push(line.trim()),
        }
    }
    (locks, others)
}

/// Why the locks on an open file cannot be checkpointed, in words, if they cannot. `outside` is for standard streams
/// that lead outside the tree; `wanted` is whether locks are to be checkpointed at all.
pub fn problem(seen: &Seen, outside: bool, wanted: bool) -> Option<String> {
    let (locks, others) = of(seen);
    let shown = seen.shown();
    if let Some(other) = others.first() {
        return Some(format!("lock on {shown} ({other}): not supported"));
    }
    let lock = locks.first()?;
    if outside {
        return Some(format!(
            "{lock} on {shown}, which leads outside: not supported"
        ));
    }
    (!wanted).then(|| {
        format!("{lock} on {shown}: locks are checkpointed only when asked for (--file-locks)")
    })
}

/// The locks noted so far.
pub struct Locks<'a> {
    image: Lazy<'a>,
    /// Descriptions whose own locks are noted.
    descriptions: HashSet<u32>,
    /// POSIX locks that are noted, by descriptor table and description.
    tables: HashSet<(u32, u32)>,
}

impl<'a> Locks<'a> {
    /// None yet.
    pub fn new(set: &'a SetWriter) -> Self {
        Self {
            image: Lazy::new(set, Image::FileLocks),
            descriptions: HashSet::new(),
            tables: HashSet::new(),
        }
    }

    /// Notes the locks that show at a descriptor of table `files_id` which leads to description `id`.
    pub fn add(&mut self, seen: &Seen, files_id: u32, id: u32) -> Result<()> {
        let (locks, _) = of(seen);
        if locks.is_empty() {
            return Ok(());
        }
        let new_description = self.descriptions.insert(id);
        let new_in_table = self.tables.insert((files_id, id));
        for lock in &locks {
            let is_new = match lock.kind {
                LockKind::Posix => new_in_table,
                LockKind::Flock | LockKind::Description | LockKind::Lease => new_description,
            };
            if is_new {
                self.image.writer()?.push(&entry(seen, lock))?;
            }
        }
        Ok(())
    }

    /// Completes the image.
    pub fn finish(self) -> Result<()> {
        self.image.finish()
    }
}

fn entry(seen: &Seen, lock: &Lock) -> FileLockEntry {
    let kind = match lock.kind {
        LockKind::Posix => lock_kind::POSIX,
        LockKind::Flock => lock_kind::FLOCK,
        LockKind::Description => lock_kind::OFD,
        LockKind::Lease => lock_kind::LEASE,
    };
    let access = match lock.access {
        Access::Read => lock_type::READ,
        Access::Write => lock_type::WRITE,
        Access::None => lock_type::NONE,
    };
    let breaking = if lock.breaking {
        lock_type::BREAKING
    } else {
        0
    };
    FileLockEntry {
        flag: kind,
        r#type: access | breaking,
        pid: seen.pid,
        fd: seen.fd.unwrap_or(-1),
        start: lock.start,
        // The parser saw to it that this does not overflow.
        len: lock.end.map_or(0, |end| end - lock.start + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(lines: &[&str]) -> Seen {
        let mut seen = Seen::sample("/var/lock/x", 0o100_644);
        seen.info.lines = lines.iter().map(|&line| line.to_owned()).collect();
        seen
    }

    #[test]
    fn a_lock_is_refused_by_name_unless_it_is_wanted() {
        let seen = seen(&["lock:\t1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF"]);
        let refused = problem(&seen, false, false).unwrap();
        for word in ["write flock", "/var/lock/x", "359", "--file-locks"] {
            assert!(refused.contains(word), "{refused}");
        }
        assert_eq!(problem(&seen, false, true), None);
        assert!(problem(&seen, true, true).is_some());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let seen = seen(&["lock:\t1: DELEG  ACTIVE    READ 359 00:13:11691 0 EOF"]);
        assert!(problem(&seen, false, true).unwrap().contains("DELEG"));
    }

    #[test]
    fn lengths_are_counted_from_the_last_byte() {
        let seen = seen(&[]);
        let lock = |line| Lock::parse(line).unwrap();
        let one = entry(&seen, &lock("1: POSIX  ADVISORY  READ 3 00:13:1 5 5"));
        assert_eq!((one.flag, one.r#type, one.start, one.len), (1, 0, 5, 1));
        let rest = entry(&seen, &lock("1: LEASE  BREAKING  UNLCK 3 00:13:1 0 EOF"));
        assert_eq!((rest.flag, rest.r#type, rest.start, rest.len), (8, 6, 0, 0));
    }
}
