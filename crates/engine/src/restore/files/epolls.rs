//! Epoll instances: made early, filled in a task that has what they watch.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use cryopod_image::criu::{EventpollFileEntry, FdinfoEntry};
use cryopod_sys::Errno;
use rustix::event::epoll::CreateFlags;

use super::{set_status, tables};
use crate::error::{Context, Error, Result};
use crate::proc::mem::Mem;
use crate::remote::puppet::Puppet;

/// Makes an epoll instance that watches nothing yet.
pub fn open(entry: &EventpollFileEntry) -> Result<OwnedFd> {
    let file = rustix::event::epoll::create(CreateFlags::CLOEXEC).host("make an epoll instance")?;
    set_status(file.as_fd(), entry.flags)?;
    Ok(file)
}

/// The highest number that a file is watched under and does not have.
pub fn highest_number<'e>(entries: impl Iterator<Item = &'e EventpollFileEntry>) -> Result<i32> {
    let mut highest = 0;
    for target in entries.flat_map(|entry| &entry.tfd) {
        let number = target.cryopod_number.unwrap_or(0);
        if number >= tables::HIGHEST_FD {
            let what = format!("file {}: an impossible watched number", target.id);
            return Err(Error::inconsistent("files", what));
        }
        highest = highest.max(number as i32);
    }
    Ok(highest)
}

/// The table, and the descriptor in it, by which an instance is filled: one that has all watched numbers. Without a
/// descriptor, no table leads to the instance, and it is filled by the number that it has in this process.
pub fn home(
    entry: &EventpollFileEntry,
    tables: &BTreeMap<u32, Vec<FdinfoEntry>>,
) -> Result<Option<(u32, Option<u32>)>> {
    if entry.tfd.is_empty() {
        return Ok(None);
    }
    // Tables are in the order of numbers.
    let has =
        |table: &[FdinfoEntry], fd: u32| table.binary_search_by_key(&fd, |one| one.fd).is_ok();
    let has_all = |table: &[FdinfoEntry]| entry.tfd.iter().all(|target| has(table, target.tfd));
    let mut held = false;
    for (&files_id, table) in tables {
        let Some(own) = table.iter().find(|one| one.id == entry.id) else {
            continue;
        };
        held = true;
        if has_all(table) {
            return Ok(Some((files_id, Some(own.fd))));
        }
    }
    let stands_in = |(files_id, table): &(&u32, &Vec<FdinfoEntry>)| {
        entry.cryopod_home.is_none_or(|home| home == **files_id) && has_all(table)
    };
    match tables.iter().find(stands_in) {
        Some((&files_id, _)) if !held => return Ok(Some((files_id, None))),
        // Perhaps in a queue, and nobody takes it out.
        None if tables.is_empty() => return Ok(None),
        _ => {}
    }
    let what = format!(
        "file {}: an epoll instance that watches descriptors which nobody who has it has",
        entry.id
    );
    Err(Error::inconsistent("files", what))
}

/// Has a task add what an instance, its descriptor `epoll`, watches. `lenient` tells which of the task's descriptors
/// are no longer what they were (streams that lead elsewhere now): those may be of a kind that cannot be watched.
/// `close_on_exec` tells which of them have that flag; from `base` on, numbers are free for a moment's use.
pub fn fill(
    puppet: &Puppet,
    mem: &Mem,
    entry: &EventpollFileEntry,
    epoll: u32,
    base: i32,
    close_on_exec: impl Fn(u32) -> bool,
    lenient: impl Fn(u32) -> bool,
) -> Result<()> {
    for target in &entry.tfd {
        // struct epoll_event is packed on x86-64.
        let mut event = target.events.to_ne_bytes().to_vec();
        event.extend(target.data.to_ne_bytes());
        let lent = target
            .cryopod_number
            .map(|number| Lent::new(puppet, target.tfd, number, base));
        let lent = lent.transpose()?;
        let number = lent.as_ref().map_or(target.tfd, |lent| lent.number);
        let at = puppet.put(mem, &event)?;
        let args = [
            u64::from(epoll),
            libc::EPOLL_CTL_ADD as u64,
            u64::from(number),
            at,
            0,
            0,
        ];
        let added = puppet.call(libc::SYS_epoll_ctl, args)?;
        if let Some(lent) = lent {
            lent.give_back(puppet, &close_on_exec)?;
        }
        match added {
            Ok(_) => {}
            Err(Errno::PERM) if lenient(target.tfd) => {
                tracing::warn!(
                    pid = puppet.pid,
                    fd = target.tfd,
                    "a redirected stream cannot be watched by epoll"
                );
            }
            Err(source) => {
                return Err(Error::Remote {
                    call: "epoll_ctl",
                    pid: puppet.tid,
                    source,
                });
            }
        }
    }
    Ok(())
}

/// A number that a file has for a moment, because it was watched under it and that shows; whoever has the number
/// otherwise is kept elsewhere meanwhile.
struct Lent {
    number: u32,
    owner: Option<u64>,
}

impl Lent {
    fn new(puppet: &Puppet, file: u32, number: u32, base: i32) -> Result<Self> {
        let aside = [
            u64::from(number),
            libc::F_DUPFD_CLOEXEC as u64,
            base as u64,
            0,
            0,
            0,
        ];
        let owner = puppet.call(libc::SYS_fcntl, aside)?.ok();
        tables::place(puppet, file as i32, number, true)?;
        Ok(Self { number, owner })
    }

    fn give_back(self, puppet: &Puppet, close_on_exec: &impl Fn(u32) -> bool) -> Result<()> {
        match self.owner {
            Some(owner) => {
                tables::place(
                    puppet,
                    owner as i32,
                    self.number,
                    close_on_exec(self.number),
                )?;
                tables::close_range(puppet, owner as u32, owner as u32 + 1)
            }
            None => tables::close_range(puppet, self.number, self.number + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use cryopod_image::criu::EventpollTfdEntry;

    use super::*;

    fn entry(targets: &[u32]) -> EventpollFileEntry {
        let tfd = targets
            .iter()
            .map(|&tfd| EventpollTfdEntry {
                tfd,
                ..EventpollTfdEntry::default()
            })
            .collect();
        EventpollFileEntry {
            id: 9,
            tfd,
            ..EventpollFileEntry::default()
        }
    }

    fn table(descriptors: &[(u32, u32)]) -> Vec<FdinfoEntry> {
        descriptors
            .iter()
            .map(|&(fd, id)| FdinfoEntry {
                id,
                fd,
                ..FdinfoEntry::default()
            })
            .collect()
    }

    #[test]
    fn the_home_has_all_numbers() {
        let tables = BTreeMap::from([
            (1, table(&[(3, 9), (4, 1)])),
            (2, table(&[(4, 1), (5, 2), (6, 9)])),
        ]);
        assert_eq!(home(&entry(&[4, 5]), &tables).unwrap(), Some((2, Some(6))));
        assert_eq!(home(&entry(&[4]), &tables).unwrap(), Some((1, Some(3))));
        assert_eq!(home(&entry(&[]), &tables).unwrap(), None);
        assert!(home(&entry(&[7]), &tables).is_err());
        assert_eq!(home(&entry(&[7]), &BTreeMap::new()).unwrap(), None);
    }

    #[test]
    fn what_is_in_a_queue_is_filled_by_somebody_who_has_the_numbers() {
        let tables = BTreeMap::from([(1, table(&[(4, 1)])), (2, table(&[(4, 3)]))]);
        let mut entry = entry(&[4]);
        assert_eq!(home(&entry, &tables).unwrap(), Some((1, None)));
        entry.cryopod_home = Some(2);
        assert_eq!(home(&entry, &tables).unwrap(), Some((2, None)));
        entry.cryopod_home = Some(3);
        assert!(home(&entry, &tables).is_err());
    }
}
