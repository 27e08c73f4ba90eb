//! System V IPC in a namespace that others use too: shared memory, semaphores and message queues of the tree.
//!
//! Such objects belong to nobody, so it has to be decided which are the tree's. A segment is, when a task has it
//! attached, or made it and nobody has it attached. The kernel tells for each semaphore who did the last operation on it,
//! and for each queue who sent and received last: a set or queue is the tree's when tasks of it are among these, and no
//! other process that lives. What others use too is refused, because they would not find it changed by a restore. Sets
//! and queues that nobody has used yet stay where they are.
//!
//! What is to be undone at the end of a process (SEM_UNDO) cannot be read, and is lost.

use std::collections::{BTreeMap, HashSet};

use cryopod_image::criu::{IpcDescEntry, IpcMsg, IpcMsgEntry, IpcSemEntry, IpcShmEntry};
use cryopod_image::{Kind, SetWriter};
use cryopod_sys::{Errno, ipc};

use super::ids;
use super::shmem::{SharedFile, Shmem};
use crate::error::{Context, Result, Unsupported};
use crate::proc::sysvipc::{self, Object};
use crate::proc::{self};

/// MSGMAX can be set to this at most (msgctl.c of the kernel keeps it an int); more than any queue holds.
const MOST_MESSAGE_BYTES: usize = 1 << 24;

/// What a tree uses.
#[derive(Debug, Default)]
pub struct Objects {
    segments: Vec<Object>,
    sets: Vec<Object>,
    queues: Vec<Object>,
}

impl Objects {
    /// Finds what the processes `pids` use. What others use too is named in `found`.
    pub fn find(pids: &[i32], found: &mut Vec<Unsupported>) -> Result<Self> {
        let tree: HashSet<i32> = pids.iter().copied().collect();
        let mut objects = Self::default();
        let mut refuse = |pid: i32, what: &str, object: &Object| {
            let what = format!(
                "{what} {} (key {:#x}) that others use too: not supported",
                object.id, object.key
            );
            found.push(Unsupported {
                pid,
                fd: None,
                what,
            });
        };
        let segments = sysvipc::read("shm")?;
        let attached = if segments.is_empty() {
            BTreeMap::new()
        } else {
            attached(pids)?
        };
        for segment in segments {
            match attached.get(&segment.id) {
                Some((pid, times)) if *times != segment.attached => {
                    refuse(*pid, "System V shared memory segment", &segment);
                }
                Some(_) => objects.segments.push(segment),
                None if segment.attached == 0 && tree.contains(&segment.pids[0]) => {
                    objects.segments.push(segment);
                }
                None => {}
            }
        }
        for set in sysvipc::read("sem")? {
            let pids = last_users(&set);
            match whose(&pids, &tree) {
                Whose::Tree => objects.sets.push(set),
                Whose::Shared(pid) => refuse(pid, "System V semaphore set", &set),
                Whose::Others => {}
            }
        }
        for queue in sysvipc::read("msg")? {
            match whose(&queue.pids, &tree) {
                Whose::Tree => objects.queues.push(queue),
                Whose::Shared(pid) => refuse(pid, "System V message queue", &queue),
                Whose::Others => {}
            }
        }
        Ok(objects)
    }

    /// The numbers of the segments: those of their contents are the same.
    pub fn segments(&self) -> impl Iterator<Item = u32> {
        self.segments.iter().map(|segment| segment.id as u32)
    }

    /// Writes their images. The contents of segments are stored with other shared memory.
    pub fn write(&self, set: &SetWriter, shmem: &mut Shmem) -> Result<()> {
        let namespace = ids::namespaces().ipc_ns_id.map(u64::from);
        if !self.segments.is_empty() {
            let mut image = set.entries(Kind::IpcnsShm, namespace)?;
            for segment in &self.segments {
                let file = ipc::segment_file(segment.id, segment.size)
                    .host("attach a System V shared memory segment")?;
                image.push(&IpcShmEntry {
                    desc: description(segment),
                    size: segment.size,
                    in_pagemaps: Some(true),
                    hugetlb_flag: None,
                })?;
                shmem.add(SharedFile {
                    shmid: segment.id as u64,
                    file,
                    size_bytes: segment.size,
                });
            }
            image.finish()?;
        }
        if !self.sets.is_empty() {
            let mut image = set.entries(Kind::IpcnsSem, namespace)?;
            for one in &self.sets {
                let values = ipc::semaphore_values(one.id, one.size as u32)
                    .host("read the values of a System V semaphore set")?;
                let bytes = values
                    .iter()
                    .flat_map(|value| value.to_ne_bytes())
                    .collect();
                let entry = IpcSemEntry {
                    desc: description(one),
                    nsems: one.size as u32,
                };
                image.push_with_payload(&entry, &padded(bytes))?;
            }
            image.finish()?;
        }
        if !self.queues.is_empty() {
            let mut image = set.entries(Kind::IpcnsMsg, namespace)?;
            for queue in &self.queues {
                let limit = ipc::queue_limit(queue.id).host("look at a message queue")?;
                let messages = messages(queue.id).host("read a message queue (MSG_COPY)")?;
                image.push(&IpcMsgEntry {
                    desc: description(queue),
                    qbytes: limit as u32,
                    qnum: messages.len() as u32,
                })?;
                for message in messages {
                    let entry = IpcMsg {
                        mtype: message.kind as u64,
                        msize: message.text.len() as u32,
                    };
                    image.push_with_payload(&entry, &padded(message.text))?;
                }
            }
            image.finish()?;
        }
        Ok(())
    }
}

/// How often each segment is attached by the given processes, and one that does.
fn attached(pids: &[i32]) -> Result<BTreeMap<i32, (i32, u64)>> {
    let mut times = BTreeMap::new();
    for &pid in pids {
        let maps = match proc::read_text(pid, "maps") {
            Ok(maps) => maps,
            Err(error) if super::files::seen::is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        for line in maps.lines() {
            let mut words = line.split_ascii_whitespace().skip(4);
            if let (Some(inode), Some(name)) = (words.next(), words.next())
                && name.starts_with("/SYSV")
                && let Ok(id) = inode.parse::<i32>()
            {
                times.entry(id).or_insert((pid, 0)).1 += 1;
            }
        }
    }
    Ok(times)
}

/// Everybody who did the last operation on a semaphore.
fn last_users(set: &Object) -> Vec<i32> {
    (0..set.size as u32)
        .filter_map(|index| ipc::semaphore_pid(set.id, index).ok())
        .collect()
}

/// Whose an object is, by those who used it last.
#[derive(Debug, PartialEq, Eq)]
enum Whose {
    Tree,
    /// With one of the tree.
    Shared(i32),
    Others,
}

fn whose(pids: &[i32], tree: &HashSet<i32>) -> Whose {
    let Some(&ours) = pids.iter().find(|pid| tree.contains(pid)) else {
        return Whose::Others;
    };
    let is_other =
        |pid: &&i32| **pid != 0 && !tree.contains(pid) && proc::path(**pid, "stat").exists();
    match pids.iter().find(is_other) {
        Some(_) => Whose::Shared(ours),
        None => Whose::Tree,
    }
}

fn messages(id: i32) -> std::result::Result<Vec<ipc::Message>, Errno> {
    let mut messages = Vec::new();
    let mut room = 1 << 16;
    loop {
        match ipc::receive(id, Some(messages.len()), room) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return Ok(messages),
            Err(Errno::TOOBIG) if room < MOST_MESSAGE_BYTES => room *= 2,
            Err(errno) => return Err(errno),
        }
    }
}

fn description(object: &Object) -> IpcDescEntry {
    IpcDescEntry {
        key: object.key as u32,
        uid: object.uid,
        gid: object.gid,
        cuid: object.cuid,
        cgid: object.cgid,
        mode: object.mode,
        id: object.id as u32,
        cryopod_shared_namespace: Some(true),
    }
}

/// Filled up to a multiple of eight bytes.
fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_living_others_use_is_shared() {
        let own = std::process::id() as i32;
        let tree = HashSet::from([i32::MAX]);
        assert_eq!(whose(&[0, own], &tree), Whose::Others);
        assert_eq!(whose(&[0, i32::MAX], &tree), Whose::Tree);
        assert_eq!(whose(&[i32::MAX, own], &tree), Whose::Shared(i32::MAX));
        // Whoever has ended uses nothing.
        assert_eq!(whose(&[i32::MAX, i32::MAX - 1], &tree), Whose::Tree);
    }

    #[test]
    fn payloads_are_filled_up() {
        assert_eq!(padded(vec![1; 9]).len(), 16);
        assert!(padded(Vec::new()).is_empty());
    }
}
