//! Instances of io_uring.
//!
//! The kernel counts requests and completions for itself, and programs remember the counts: a new instance is brought to
//! them by asking it, as often as it takes, for nothing (IORING_OP_NOP). Then its memory gets the contents it had.

use std::os::fd::{AsFd, OwnedFd};

use cryopod_image::criu::CryopodIoUringEntry;
use cryopod_sys::Errno;
use cryopod_sys::io_uring::{self, Layout, Shared};

use super::{corrupt, set_status};
use crate::dump::files::io_urings::{MAX_COMPLETIONS, MAX_REQUESTS, MAX_SUBMISSIONS};
use crate::error::{Context, Error, Result};

/// Makes an instance.
pub fn open(entry: &CryopodIoUringEntry) -> Result<OwnedFd> {
    check(entry)?;
    let (file, layout) = io_uring::setup(entry.submissions, entry.completions)
        .host("make an io_uring instance (io_uring_setup; is kernel.io_uring_disabled set?)")?;
    if entry.rings.len() != layout.rings_bytes()
        || entry.entries.len() != layout.submissions_bytes()
    {
        let what = format!("file {}: an io_uring instance of another kernel", entry.id);
        return Err(Error::NotRestorable { what });
    }
    let map = |offset, len| Shared::map(file.as_fd(), offset, len).host("map an io_uring instance");
    let rings = map(io_uring::OFFSET_RINGS, layout.rings_bytes())?;
    let entries = map(io_uring::OFFSET_SUBMISSIONS, layout.submissions_bytes())?;
    count(entry, &file, &layout, &rings).host("count with an io_uring instance")?;
    rings.fill(&entry.rings);
    entries.fill(&entry.entries);
    set_status(file.as_fd(), entry.flags)?;
    Ok(file)
}

fn check(entry: &CryopodIoUringEntry) -> Result<()> {
    let is_size = |count: u32, most| count.is_power_of_two() && count <= most;
    let unseen = entry.requests.checked_sub(entry.seen);
    if is_size(entry.submissions, MAX_SUBMISSIONS)
        && is_size(entry.completions, MAX_COMPLETIONS)
        && entry.requests <= MAX_REQUESTS
        && unseen.is_some_and(|unseen| unseen <= entry.completions)
    {
        Ok(())
    } else {
        Err(corrupt(entry.id, "an io_uring instance that cannot be"))
    }
}

/// Has the instance do requests until it has done as many as it is to. The memory of a new one is full of zeroes, and so
/// is a request for nothing.
fn count(
    entry: &CryopodIoUringEntry,
    file: &OwnedFd,
    layout: &Layout,
    rings: &Shared,
) -> std::result::Result<(), Errno> {
    let mut done = 0;
    while done < entry.requests {
        let batch = layout.submissions.min(entry.requests - done);
        rings.store(layout.submission_tail, done + batch);
        match io_uring::submit(file.as_fd(), batch) {
            Ok(0) => return Err(Errno::IO),
            Ok(taken) => done += taken,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno),
        }
        // Never further than the program was: the kernel may have looked how much room that leaves, and remember it.
        rings.store(layout.completion_head, done.min(entry.seen));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An instance with zeroes for memory; `None` where the machine does not allow any.
    fn entry(requests: u32, seen: u32) -> Option<CryopodIoUringEntry> {
        let (_, layout) = io_uring::setup(4, 8).ok()?;
        Some(CryopodIoUringEntry {
            id: 1,
            submissions: 4,
            completions: 8,
            requests,
            seen,
            rings: vec![0; layout.rings_bytes()],
            entries: vec![0; layout.submissions_bytes()],
            ..CryopodIoUringEntry::default()
        })
    }

    #[test]
    fn a_new_instance_counts_from_where_the_old_one_was() {
        let Some(entry) = entry(1003, 998) else {
            return;
        };
        let file = open(&entry).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        let info = crate::proc::fdinfo::FdInfo::read(std::process::id() as i32, fd).unwrap();
        assert_eq!(info.number("CachedSqHead"), Some(1003));
        assert_eq!(info.number("CachedCqTail"), Some(1003));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (requests, seen) in [(7, 8), (20, 3), (MAX_REQUESTS + 1, MAX_REQUESTS)] {
            let Some(entry) = entry(requests, seen) else {
                return;
            };
            assert!(open(&entry).is_err(), "{requests} {seen}");
        }
        let mut entry = entry(0, 0).unwrap();
        entry.rings.pop();
        assert!(open(&entry).is_err());
        entry.submissions = 3;
        assert!(open(&entry).is_err());
    }
}
