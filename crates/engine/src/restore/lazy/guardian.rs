//! What happens if the helper dies before everything is there.
//!
//! When a userfaultfd is closed, pages that are still missing read as zeroes. A program must never see that. So the
//! guardian, a second process, shares the helper's descriptor table: whatever userfaultfds the helper had, also those
//! of children that were forked a moment ago, stay open as long as the guardian lives. It does nothing but wait for the
//! helper's end, and then it ends the programs. Until then, whoever touches a missing page waits.
//!
//! What remains: somebody who kills both at the same moment. Both are in a session of their own and ignore the signals
//! that are sent to all.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use cryopod_sys::userfaultfd::{Event, Userfaultfd};
use cryopod_sys::{fd, process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::proc;

/// How often it looks who is left.
const INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// Waits for the end of `helper`, then ends the processes behind `pidfds`, all that they have forked, and whoever else
/// lacks pages. Returns when nobody does.
pub fn watch(helper: &OwnedFd, pidfds: &[(i32, OwnedFd)]) {
    let mut fds = [PollFd::new(helper, PollFlags::IN)];
    while poll(&mut fds, None).is_err() {}
    end_trees(pidfds);
    let mut spaces = fd::userfaultfds().unwrap_or_default();
    loop {
        // A process that left the tree and has not been found: as soon as it touches what is missing, it tells who it is.
        let born: Vec<Userfaultfd> = spaces.iter().flat_map(end_who_waits).collect();
        spaces.extend(born);
        spaces.retain(|space| !space.is_gone());
        if spaces.is_empty() {
            return;
        }
        let mut fds: Vec<PollFd<'_>> = spaces
            .iter()
            .map(|space| PollFd::new(space, PollFlags::IN))
            .collect();
        // Whatever wakes it, it looks at all of them.
        let _ = poll(&mut fds, Some(&INTERVAL));
    }
}

/// Stops everything first, so that nothing is made while it is being ended.
fn end_trees(pidfds: &[(i32, OwnedFd)]) {
    let mut seen = HashSet::new();
    let mut below: Vec<OwnedFd> = Vec::new();
    let mut open: Vec<i32> = Vec::new();
    for (pid, pidfd) in pidfds {
        // One that has ended has no children any more, and its pid may be somebody else's.
        if process::pidfd_kill(pidfd.as_fd(), libc::SIGSTOP).is_ok() && seen.insert(*pid) {
            open.push(*pid);
        }
    }
    while let Some(pid) = open.pop() {
        for child in proc::children(pid).unwrap_or_default() {
            if seen.insert(child)
                && let Ok(pidfd) = process::pidfd_open(child)
            {
                let _gone_is_fine = process::pidfd_kill(pidfd.as_fd(), libc::SIGSTOP);
                below.push(pidfd);
                open.push(child);
            }
        }
    }
    for pidfd in pidfds.iter().map(|(_, pidfd)| pidfd).chain(&below) {
        let _gone_is_fine = process::pidfd_kill(pidfd.as_fd(), libc::SIGKILL);
    }
}

/// Ends whoever waits for a page, and lets everybody else who waits for the helper go on. Returns children.
fn end_who_waits(space: &Userfaultfd) -> Vec<Userfaultfd> {
    let mut born = Vec::new();
    for event in space.read().unwrap_or_default() {
        match event {
            Event::Fault { tid, .. } => {
                // It waits in the fault, so the tid is still its own.
                let _gone_is_fine = process::kill(tid, libc::SIGKILL);
            }
            Event::Fork(child) => born.push(child),
            Event::Remap { .. } | Event::Remove(_) | Event::Unmap(_) => {}
        }
    }
    born
}
