//! Instances of io_uring (io_uring(7)) that rest: nothing they were asked for is still under way. Event loops keep such
//! instances to do many small calls in one (libuv).
//!
//! fdinfo tells how many requests an instance has taken and how many completions it has given; where both are the same
//! number, nothing is under way. What it does not tell is asked of a duplicate: whether an eventfd is registered. The
//! rest of an instance is memory that it shares with its program.
//!
//! Not to be seen from outside are the flags that an instance was made with. Those that change what its memory looks like
//! are found by that; IORING_SETUP_SUBMIT_ALL, _COOP_TASKRUN, _TASKRUN_FLAG and _IOPOLL a restored instance does not have.

use std::collections::HashMap;
use std::os::fd::AsFd;

use cryopod_image::criu::{CryopodIoUringEntry, FdTypes, FileEntry};
use cryopod_sys::Errno;
use cryopod_sys::io_uring::{self, Layout, Shared};
use cryopod_sys::memory::PAGE;
use rustix::event::EventfdFlags;

use super::Description;
use crate::error::{Context, Error, Result, Unsupported};
use crate::proc::fdinfo::FdInfo;
use crate::proc::maps::Mapping;
use crate::remote::visit::Visit;

/// Requests that an instance may have done. A restored one has to do as many, a few million a second.
pub const MAX_REQUESTS: u32 = 1 << 28;
/// Entries of either queue that the kernel allows (IORING_MAX_ENTRIES, IORING_MAX_CQ_ENTRIES).
pub const MAX_SUBMISSIONS: u32 = 32_768;
/// See [`MAX_SUBMISSIONS`].
pub const MAX_COMPLETIONS: u32 = 2 * MAX_SUBMISSIONS;

/// Where the name of a mapping says that it belongs to an instance.
pub const MAPPING: &[u8] = b"anon_inode:[io_uring]";

/// What an instance has registered that cannot be brought back, as far as fdinfo tells. While the instance is in use, it
/// tells nothing.
pub fn problem(info: &FdInfo) -> Option<&'static str> {
    let is_set = |key: &str| info.number(key).is_some_and(|count| count > 0);
    let lists = |key: &str| {
        let at = info.lines.iter().position(|line| line.starts_with(key));
        at.and_then(|at| info.lines.get(at + 1))
            .is_some_and(|line| line.starts_with(' '))
    };
    if info.number("SqThread").is_some_and(|thread| thread >= 0) {
        Some("io_uring instance with a thread of the kernel (IORING_SETUP_SQPOLL)")
    } else if is_set("UserFiles") || is_set("UserBufs") || lists("Personalities") {
        Some("io_uring instance with registered files, buffers or personalities")
    } else if lists("PollList") {
        Some("io_uring instance that polls files")
    } else {
        None
    }
}

/// Requests taken and completions seen, of an instance that rests.
fn counts(info: &FdInfo) -> Option<std::result::Result<(u32, u32), &'static str>> {
    let number = |key: &str| info.value(key)?.parse::<u32>().ok();
    let completions = u32::try_from(info.hex("CqMask")?).ok()?.checked_add(1)?;
    let (taken, shown) = (number("CachedSqHead")?, number("SqHead")?);
    let (given, tail) = (number("CachedCqTail")?, number("CqTail")?);
    let seen = number("CqHead")?;
    Some(if taken != shown || taken != given || given != tail {
        Err("io_uring instance with requests under way")
    } else if tail.wrapping_sub(seen) > completions {
        Err("io_uring instance whose program has lost count")
    } else if taken > MAX_REQUESTS {
        Err("io_uring instance that has done very many requests")
    } else {
        Ok((taken, seen))
    })
}

/// Threads can have instances registered under numbers of their own (IORING_REGISTER_RING_FDS), which only calls from
/// inside tell.
pub fn check_thread(pid: i32, visit: &mut Visit<'_>) -> Result<()> {
    const MOST: u64 = 16;
    const ENTER_REGISTERED_RING: u64 = 1 << 4;
    for number in 0..MOST {
        let args = [number, 0, 0, ENTER_REGISTERED_RING, 0, 0];
        match visit.call(libc::SYS_io_uring_enter, args)? {
            // Not a single one.
            Err(Errno::INVAL) => return Ok(()),
            Err(Errno::BADF) => {}
            Ok(_) | Err(_) => {
                let what = "io_uring instance registered with a thread: not supported".into();
                return Err(Error::Unsupported(vec![Unsupported {
                    pid,
                    fd: None,
                    what,
                }]));
            }
        }
    }
    Ok(())
}

/// The instances of a tree.
#[derive(Debug, Default)]
pub struct IoUrings {
    /// By device and inode, of which each has its own: number and layout.
    known: HashMap<(u64, u64), (u32, Layout)>,
}

impl IoUrings {
    /// The entry of an instance.
    pub(super) fn dump(&mut self, one: &Description<'_>) -> Result<FileEntry> {
        let info = &one.seen.info;
        let refuse = |what: &str| super::refuse(one.seen, format!("{what}: not supported"));
        let (requests, seen) = one.line(counts(info))?.map_err(refuse)?;
        let submissions = entries(one, "SqMask", MAX_SUBMISSIONS)?;
        let completions = entries(one, "CqMask", MAX_COMPLETIONS)?;
        let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).host("make an eventfd")?;
        match io_uring::has_eventfd(one.file.as_fd(), eventfd.as_fd()) {
            Ok(false) => {}
            Ok(true) => return Err(refuse("io_uring instance with an eventfd")),
            Err(_) => return Err(refuse("io_uring instance of a single task, or restricted")),
        }
        let (_, layout) =
            io_uring::setup(submissions, completions).host("make an io_uring instance")?;
        let memory =
            |offset, len| Shared::map(one.file.as_fd(), offset, len).map(|shared| shared.to_vec());
        let rings = memory(io_uring::OFFSET_RINGS, layout.rings_bytes())
            .or_else(|_| memory(io_uring::OFFSET_RINGS, layout.bare_rings_bytes()));
        let mut rings = one.check("map its rings", rings)?;
        let entries = memory(io_uring::OFFSET_SUBMISSIONS, layout.submissions_bytes());
        let entries = one.check("map its entries", entries)?;
        rings.resize(layout.rings_bytes(), 0);
        if requests <= 1 || !uses_first_only(&entries) {
            number_indices(&mut rings, &layout);
        }
        let entry = CryopodIoUringEntry {
            id: one.id,
            flags: one.seen.flags(),
            fown: one.owner.clone(),
            submissions,
            completions,
            requests,
            seen,
            rings,
            entries,
        };
        self.known.insert(one.seen.inode(), (one.id, layout));
        Ok(FileEntry {
            r#type: FdTypes::CryopodIoUring.into(),
            id: one.id,
            cryopod_io_uring: Some(Box::new(entry)),
            ..FileEntry::default()
        })
    }

    /// The number of the instance of that inode, whose memory is mapped so. Each process's descriptors come before its
    /// mappings.
    pub fn mapped(&self, inode: (u64, u64), mapping: &Mapping) -> std::result::Result<u32, String> {
        let (id, layout) = self
            .known
            .get(&inode)
            .ok_or("io_uring instance without a descriptor: not supported")?;
        let expected = match mapping.offset {
            io_uring::OFFSET_RINGS | io_uring::OFFSET_COMPLETIONS => {
                [layout.bare_rings_bytes(), layout.rings_bytes()]
            }
            io_uring::OFFSET_SUBMISSIONS => [layout.submissions_bytes(); 2],
            _ => return Err("ring of buffers of io_uring: not supported".into()),
        };
        let pages = expected.map(|size| (size as u64).next_multiple_of(PAGE));
        // Larger entries (IORING_SETUP_SQE128, _CQE32) show in the size.
        if pages.contains(&mapping.size_bytes()) {
            Ok(*id)
        } else {
            Err("io_uring instance with large entries: not supported".into())
        }
    }
}

/// Gives a ring of indices that is all zeroes those that stand for "one after the other".
///
/// An instance may have been made without a ring of indices (IORING_SETUP_NO_SQARRAY), which cannot be seen; there are
/// zeroes in its place. A restored one always has it, and numbered like this it does not matter.
fn number_indices(rings: &mut [u8], layout: &Layout) {
    let array = rings
        .get_mut(layout.index_array as usize..)
        .unwrap_or_default();
    if array.iter().any(|&byte| byte != 0) {
        return;
    }
    for (index, place) in (0_u32..).zip(array.chunks_exact_mut(4)) {
        place.copy_from_slice(&index.to_ne_bytes());
    }
}

/// Whether only the first entry was ever filled in, by a program to which a ring of indices full of zeroes is right.
fn uses_first_only(entries: &[u8]) -> bool {
    const ENTRY_BYTES: usize = 64;
    entries.iter().skip(ENTRY_BYTES).all(|&byte| byte == 0)
}

fn entries(one: &Description<'_>, key: &str, most: u32) -> Result<u32> {
    let info = &one.seen.info;
    let mask = info.hex(key).and_then(|mask| u32::try_from(mask).ok());
    let count = one.line(mask.and_then(|mask| mask.checked_add(1)))?;
    if count.is_power_of_two() && count <= most {
        Ok(count)
    } else {
        let what = format!("{key} of fd {:?} is {count} entries", one.seen.fd);
        Err(Error::NotRestorable { what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(lines: &[&str]) -> FdInfo {
        FdInfo {
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            ..FdInfo::default()
        }
    }

    const RESTING: [&str; 7] = [
        "SqHead:\t6",
        "CachedSqHead:\t6",
        "CqMask:\t0x7",
        "CqHead:\t4",
        "CqTail:\t6",
        "CachedCqTail:\t6",
        "PollList:",
    ];

    #[test]
    fn a_resting_instance_has_done_what_it_was_asked_for() {
        assert_eq!(counts(&info(&RESTING)), Some(Ok((6, 4))));
        for (at, line) in [
            (1, "CachedSqHead:\t7"),
            (5, "CachedCqTail:\t5"),
            (3, "CqHead:\t7"),
            (3, "CqHead:\t-1"),
        ] {
            let mut lines = RESTING;
            lines[at] = line;
            assert!(!matches!(counts(&info(&lines)), Some(Ok(_))), "{line}");
        }
        assert_eq!(counts(&info(&[])), None);
    }

    #[test]
    fn what_is_registered_is_named() {
        assert_eq!(problem(&info(&RESTING)), None);
        assert!(problem(&info(&["SqThread:\t41"])).is_some());
        assert!(problem(&info(&["SqThread:\t-1"])).is_none());
        assert!(problem(&info(&["UserFiles:\t1", "    0: x"])).is_some());
        assert!(problem(&info(&["UserBufs:\t0"])).is_none());
        assert!(problem(&info(&["PollList:", "  op=6, task_works=0"])).is_some());
        assert!(problem(&info(&["PollList:", "CqOverflowList:"])).is_none());
    }
}
