//! Epoll instances (epoll(7)) and what they watch.
//!
//! An instance watches open files, each under the number its descriptor had when it was added. The image has the
//! numbers only, and restore adds them again in a process that has them. So some process that holds the instance must
//! also hold every watched file; where a file has moved to another number since, both numbers are recorded. An instance
//! that nobody holds, because it waits in the queue of a socket, is added to by any process that holds the files.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};

use cryopod_image::criu::{EventpollFileEntry, EventpollTfdEntry, FdTypes, FileEntry, FownEntry};
use cryopod_sys::Errno;
use cryopod_sys::fd::{EpollSlot, is_epoll_target};

use super::Description;
use super::seen::Seen;
use crate::error::{Error, Result, Unsupported};
use crate::proc;

/// An instance whose numbers are looked into when all descriptors of the tree are known.
#[derive(Debug)]
struct Instance {
    id: u32,
    flags: u32,
    owner: FownEntry,
    targets: Vec<EventpollTfdEntry>,
    /// Descriptors that lead to it: process and number.
    holders: Vec<(i32, i32)>,
    /// Where it was found in a queue: a duplicate of ours, and process and number of the socket.
    in_flight: Option<(OwnedFd, (i32, i32))>,
}

/// The epoll instances seen so far.
#[derive(Debug, Default)]
pub struct Epolls {
    instances: Vec<Instance>,
    /// The descriptor tables of the tree: a process that has it, and its number.
    tables: Vec<(i32, u32)>,
}

impl Epolls {
    /// Notes an instance.
    pub fn add(&mut self, one: &Description<'_>) -> Result<()> {
        let lines = one.seen.info.lines.iter();
        let targets = lines
            .filter(|line| line.starts_with("tfd:"))
            .map(|line| one.line(parse(one.id, line)))
            .collect::<Result<_>>()?;
        self.instances.push(Instance {
            id: one.id,
            flags: one.seen.flags(),
            owner: one.owner.clone(),
            targets,
            holders: Vec::new(),
            in_flight: None,
        });
        Ok(())
    }

    /// Notes the descriptor table of a process.
    pub fn table(&mut self, pid: i32, files_id: u32) {
        self.tables.push((pid, files_id));
    }

    /// Notes that a known instance was found in the queue of a socket, as `file`, which is ours.
    pub fn in_flight(&mut self, id: u32, file: OwnedFd, socket: (i32, i32)) {
        let known = self.instances.iter_mut().find(|instance| instance.id == id);
        if let Some(instance) = known {
            instance.in_flight = Some((file, socket));
        }
    }

    /// Notes a descriptor that leads to a known instance.
    pub fn held(&mut self, id: u32, pid: i32, fd: i32) {
        let known = self.instances.iter_mut().find(|instance| instance.id == id);
        if let Some(instance) = known {
            instance.holders.push((pid, fd));
        }
    }

    /// The entries of all instances.
    pub fn finish(self) -> Result<Vec<FileEntry>> {
        let mut entries = Vec::new();
        let mut lost = Vec::new();
        for instance in self.instances {
            let (tfd, home) = match instance.resolve(&self.tables) {
                Ok(found) => found,
                Err(target) => {
                    lost.push(instance.unsupported(target));
                    continue;
                }
            };
            let epfd = EventpollFileEntry {
                id: instance.id,
                flags: instance.flags,
                fown: instance.owner,
                tfd,
                cryopod_home: home,
            };
            entries.push(FileEntry {
                r#type: FdTypes::EventPoll.into(),
                id: epfd.id,
                epfd: Some(Box::new(epfd)),
                ..FileEntry::default()
            });
        }
        if lost.is_empty() {
            Ok(entries)
        } else {
            Err(Error::Unsupported(lost))
        }
    }
}

/// Targets, and the table that their numbers are of.
type Resolved = (Vec<EventpollTfdEntry>, Option<u32>);

impl Instance {
    /// The targets with the numbers they have in one of the processes, and its table unless it holds the instance; or a
    /// number that leads nowhere.
    fn resolve(&self, tables: &[(i32, u32)]) -> std::result::Result<Resolved, u32> {
        if self.targets.is_empty() {
            return Ok((Vec::new(), None));
        }
        let mut missing = 0;
        for &(pid, fd) in &self.holders {
            match self.resolve_in(pid, (pid, fd)) {
                Ok(targets) => return Ok((targets, None)),
                Err(target) => missing = target,
            }
        }
        if let Some((file, _)) = self.in_flight.as_ref().filter(|_| self.holders.is_empty()) {
            let own = (std::process::id() as i32, file.as_raw_fd());
            for &(pid, files_id) in tables {
                match self.resolve_in(pid, own) {
                    Ok(targets) => return Ok((targets, Some(files_id))),
                    Err(target) => missing = target,
                }
            }
        }
        Err(missing)
    }

    /// The numbers in process `pid`; `holder` is a descriptor that leads to the instance.
    fn resolve_in(
        &self,
        pid: i32,
        holder: (i32, i32),
    ) -> std::result::Result<Vec<EventpollTfdEntry>, u32> {
        let mut seen_before: HashMap<u32, u32> = HashMap::new();
        let mut others = None;
        let mut targets = self.targets.clone();
        for target in &mut targets {
            let offset = seen_before.entry(target.tfd).or_default();
            let slot = EpollSlot {
                epoll: holder.1 as u32,
                target: target.tfd,
                offset: *offset,
            };
            *offset += 1;
            if is_target(pid, target.tfd as i32, holder.0, slot, target) {
                continue;
            }
            let others = others.get_or_insert_with(|| proc::numbers(pid, "fd").unwrap_or_default());
            let moved = others
                .iter()
                .find(|&&fd| is_target(pid, fd, holder.0, slot, target));
            target.tfd = *moved.ok_or(slot.target)? as u32;
            target.cryopod_number = Some(slot.target);
        }
        Ok(targets)
    }

    fn unsupported(&self, target: u32) -> Unsupported {
        let found_at = self.in_flight.as_ref().map(|(_, socket)| *socket);
        let (pid, fd) = self
            .holders
            .first()
            .copied()
            .or(found_at)
            .unwrap_or_default();
        let what = format!(
            "epoll instance that watches a file (added as descriptor {target}) which no process that has the instance \
             has open any more: not supported"
        );
        Unsupported {
            pid,
            fd: Some(fd),
            what,
        }
    }
}

/// Whether descriptor `fd` is the watched file.
fn is_target(pid: i32, fd: i32, holder: i32, slot: EpollSlot, target: &EventpollTfdEntry) -> bool {
    let same_inode = || {
        Seen::place(pid, format!("fd/{fd}"))
            .is_ok_and(|seen| Some(seen.stat.st_ino) == target.inode)
    };
    if fd != slot.target as i32 && !same_inode() {
        return false;
    }
    match is_epoll_target(pid, fd, holder, slot) {
        Ok(same) => same,
        // A kernel whose kcmp(2) does not know epoll: the inode has to do.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => same_inode(),
        Err(_) => false,
    }
}

/// Parses `tfd: 8 events: 19 data: 8  pos:0 ino:61af sdev:7` (proc_pid_fdinfo(5)); all but `tfd` and `pos` are
/// hexadecimal.
fn parse(id: u32, line: &str) -> Option<EventpollTfdEntry> {
    let mut words = line.split([' ', '\t', ':']).filter(|word| !word.is_empty());
    let mut value = |key: &str| {
        if words.next()? == key {
            words.next()
        } else {
            None
        }
    };
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(EventpollTfdEntry {
        id,
        tfd: value("tfd")?.parse().ok()?,
        events: u32::try_from(hex(value("events")?)?).ok()?,
        data: hex(value("data")?)?,
        pos: Some(value("pos")?.parse::<i64>().ok()? as u64),
        inode: Some(hex(value("ino")?)?),
        dev: Some(hex(value("sdev")?)? as u32),
        cryopod_number: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read() {
        let line = "tfd:        8 events:       19 data: ffff00000000002a  pos:0 ino:61af sdev:7";
        let target = parse(5, line).unwrap();
        assert_eq!((target.id, target.tfd, target.events), (5, 8, 0x19));
        assert_eq!(
            (target.data, target.inode, target.dev),
            (0xffff_0000_0000_002a, Some(0x61af), Some(7))
        );
        assert_eq!(parse(5, "tfd: 8 events: 19"), None);
        assert_eq!(
            parse(5, "tfd: x events: 19 data: 1 pos:0 ino:1 sdev:1"),
            None
        );
    }

    #[test]
    fn an_instance_without_targets_needs_no_process() {
        let instance = Instance {
            id: 1,
            flags: 2,
            owner: FownEntry::default(),
            targets: Vec::new(),
            holders: Vec::new(),
            in_flight: None,
        };
        assert_eq!(instance.resolve(&[]), Ok((Vec::new(), None)));
    }
}
