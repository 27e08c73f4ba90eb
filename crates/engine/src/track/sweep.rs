//! One address space at the moment of a checkpoint: what is followed from now on, and what has not changed.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;

use cryopod_sys::pagemap::{category, is_followed, scan_written};
use cryopod_sys::process;
use cryopod_sys::userfaultfd::{FOLLOWER_FLAGS, Userfaultfd};

use crate::dump::aio;
use crate::dump::memory::Space;
use crate::error::{Context, Error, Result};
use crate::proc;
use crate::proc::maps::Mapping;
use crate::remote::visit::Visit;

/// Has a process make a userfaultfd that follows writes.
pub fn follow(space: &Space) -> Result<Userfaultfd> {
    let pid = space.pid;
    let pidfd = process::pidfd_open(pid).task("hold on to it", pid)?;
    let mut visit = Visit::enter(space.reader, &space.mem, space.room)?;
    let number = libc::SYS_userfaultfd;
    let made = visit.take_descriptor(number, [FOLLOWER_FLAGS, 0, 0, 0, 0, 0], |fd| {
        process::pidfd_getfd(pidfd.as_fd(), fd).fd("take the userfaultfd", pid, fd)
    });
    visit.leave()?;
    let made = made?.map_err(|source| Error::Remote {
        call: "userfaultfd",
        pid,
        source,
    })?;
    let uffd = Userfaultfd::from(made);
    uffd.follow_writes()
        .task("follow what is written to", pid)?;
    Ok(uffd)
}

/// The mappings in which writes can be followed: private memory that is nobody's file. Of a page that a private mapping of a
/// file has dropped, the kernel does not tell that it is the file's again; stacks are not worth it. None where a device may be
/// told to write to memory later, without a fault.
pub fn trackable(maps: &[Mapping]) -> Vec<&Mapping> {
    if maps.iter().any(aio::is_ring) {
        return Vec::new();
    }
    let fits =
        |one: &&Mapping| !one.shared && one.inode == 0 && one.is_user() && !one.is("[stack]");
    maps.iter().filter(fits).collect()
}

/// Registers what is not registered yet, and finds what was not written to since the last sweep, ascending. From then on
/// everything counts as not written to. Also says whether anything was registered, which may join mappings.
///
/// What is believed was followed before, and by this userfaultfd: only one can, so registering it again is refused for any
/// other. Everything else has changed.
pub fn sweep(uffd: &Userfaultfd, space: &Space) -> Result<(Vec<Range<u64>>, bool)> {
    let path = proc::path(space.reader, "pagemap");
    let pagemap = File::open(&path).map_err(|source| Error::Path {
        operation: "open",
        path,
        source,
    })?;
    let mut unchanged: Vec<Range<u64>> = Vec::new();
    let mut has_registered = false;
    for mapping in trackable(&space.layout.maps) {
        let (start, end) = (mapping.start, mapping.end);
        let is_known = is_followed(pagemap.as_fd(), start);
        if let Err(error) = uffd.register_writes(start..end) {
            tracing::debug!(pid = space.pid, start, %error, "a mapping is not tracked");
            continue;
        }
        has_registered |= !is_known;
        scan_written(pagemap.as_fd(), start, end, |region| {
            if is_known && region.categories & category::WRITTEN == 0 {
                match unchanged.last_mut() {
                    Some(last) if last.end == region.start => last.end = region.end,
                    _ => unchanged.push(region.start..region.end),
                }
            }
        })
        .task("scan its page map for what was written", space.pid)?;
    }
    Ok((unchanged, has_registered))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_memory_that_is_nobodys_is_followed() {
        let mapping = |name: &str, shared, inode| Mapping {
            name: name.into(),
            shared,
            inode,
            ..Mapping::default()
        };
        let mut maps = vec![
            mapping("", false, 0),
            mapping("[heap]", false, 0),
            mapping("[anon:x]", false, 0),
            mapping("[stack]", false, 0),
            mapping("[vdso]", false, 0),
            mapping("[vvar]", false, 0),
            mapping("/dev/zero (deleted)", true, 7),
            mapping("/anon_hugepage (deleted)", false, 8),
            mapping("/bin/true", false, 9),
        ];
        let found: Vec<Vec<u8>> = trackable(&maps)
            .into_iter()
            .map(|one| one.name.clone())
            .collect();
        assert_eq!(found, [&b""[..], b"[heap]", b"[anon:x]"]);
        maps.push(mapping("/[aio] (deleted)", true, 10));
        assert!(trackable(&maps).is_empty());
    }
}
