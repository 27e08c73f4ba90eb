//! Which descriptors are one open file description.
//!
//! Two descriptors of different inodes are different for sure; among those of one inode kcmp(2) decides. It orders the
//! kernel's objects, so that a search takes a logarithmic number of calls even where a thousand files share an inode,
//! as all anonymous ones do.

use std::cmp::Ordering;
use std::collections::HashMap;

use cryopod_sys::process::{self, Kcmp};

use crate::error::{Context, Result};

/// A descriptor that leads to a known description.
#[derive(Clone, Copy, Debug)]
struct Known {
    pid: i32,
    fd: i32,
    id: u32,
}

/// Numbers open file descriptions.
#[derive(Debug, Default)]
pub struct Identities {
    /// By device and inode, in the order of kcmp(2).
    known: HashMap<(u64, u64), Vec<Known>>,
    last: u32,
}

impl Identities {
    /// A number that nobody has. CRIU's numbers begin with 1 as well.
    pub fn fresh(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    /// The number of the description behind a descriptor, and whether it is seen for the first time.
    pub fn of_descriptor(&mut self, inode: (u64, u64), pid: i32, fd: i32) -> Result<(u32, bool)> {
        let known = self.known.entry(inode).or_default();
        let found = search(known, |one| {
            process::kcmp(one.pid, pid, Kcmp::File, one.fd as u64, fd as u64).fd(
                "compare it (kcmp)",
                pid,
                fd,
            )
        })?;
        match found {
            Ok(at) => Ok((known[at].id, false)),
            Err(at) => {
                self.last += 1;
                let id = self.last;
                known.insert(at, Known { pid, fd, id });
                Ok((id, true))
            }
        }
    }
}

/// Like `binary_search_by`, with a comparison that can fail.
fn search<T>(
    sorted: &[T],
    mut compare: impl FnMut(&T) -> Result<Ordering>,
) -> Result<std::result::Result<usize, usize>> {
    let (mut low, mut high) = (0, sorted.len());
    while low < high {
        let middle = low.midpoint(high);
        match compare(&sorted[middle])? {
            Ordering::Equal => return Ok(Ok(middle)),
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
        }
    }
    Ok(Err(low))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd, OwnedFd};

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn a_search_finds_what_is_there_and_where_the_rest_belongs() {
        let sorted = [10, 20, 30];
        let at = |value: i32| search(&sorted, |one| Ok(one.cmp(&value))).unwrap();
        assert_eq!(at(20), Ok(1));
        assert_eq!(at(5), Err(0));
        assert_eq!(at(25), Err(2));
        assert_eq!(at(99), Err(3));
    }

    #[test]
    fn duplicates_are_one_and_twins_are_two() {
        let pid = std::process::id() as i32;
        let files: Vec<OwnedFd> = (0..20)
            .map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap())
            .collect();
        let copies: Vec<OwnedFd> = files
            .iter()
            .map(|file| rustix::io::dup(file.as_fd()).unwrap())
            .collect();
        let mut identities = Identities::default();
        let mut id = |file: &OwnedFd| {
            identities
                .of_descriptor((1, 1), pid, file.as_raw_fd())
                .unwrap()
        };
        let first: Vec<(u32, bool)> = files.iter().map(&mut id).collect();
        let again: Vec<(u32, bool)> = copies.iter().map(&mut id).collect();
        assert!(first.iter().all(|(_, new)| *new));
        for ((one, _), (copy, new)) in first.iter().zip(&again) {
            assert_eq!((one, &false), (copy, new));
        }
    }
}
