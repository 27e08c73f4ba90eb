//! System V IPC: objects are made under their old numbers (/proc/sys/kernel/*_next_id), before any task exists.
//!
//! Objects outlive processes, so on the machine of the checkpoint they are often still there. One that has the same
//! number, key and size and that nobody has attached is taken over: its contents become those of the checkpoint.

use std::collections::BTreeMap;

use cryopod_image::criu::{IpcDescEntry, IpcMsg, IpcMsgEntry, IpcSemEntry, IpcShmEntry, VmaEntry};
use cryopod_image::{Kind, SetReader};
use cryopod_sys::ipc;

use super::fill::Crew;
use super::shmem;
use crate::dump::ids;
use crate::error::{Context, Error, Result};
use crate::proc::sysvipc::{self, Object};
use crate::remote::puppet::Puppet;
use std::os::fd::AsFd;

/// A segment that goes with its last user.
const SHM_DEST: u32 = 0o1000;
/// Larger than the memory of any machine.
const LARGEST_BYTES: u64 = 1 << 46;
/// SEMMSL can be set to this at most.
const MOST_SEMAPHORES: u32 = 1 << 16;

/// The kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Segment,
    Semaphores,
    Queue,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Self::Segment => "System V shared memory segment",
            Self::Semaphores => "System V semaphore set",
            Self::Queue => "System V message queue",
        }
    }

    /// Its file in /proc/sysvipc; with "_next_id", that in /proc/sys/kernel.
    fn file(self) -> &'static str {
        match self {
            Self::Segment => "shm",
            Self::Semaphores => "sem",
            Self::Queue => "msg",
        }
    }

    fn remove(self, id: i32) -> cryopod_sys::Result<()> {
        match self {
            Self::Segment => ipc::remove_segment(id),
            Self::Semaphores => ipc::remove_semaphores(id),
            Self::Queue => ipc::remove_queue(id),
        }
    }
}

/// The objects of a tree. Those that were made are removed again unless they are kept.
#[derive(Debug, Default)]
pub struct Ipc {
    made: Vec<(Class, i32)>,
    /// Sizes of segments by number.
    segments: BTreeMap<u64, u64>,
    /// Segments that go when nobody has them any more.
    doomed: Vec<i32>,
    pages_bytes: u64,
}

impl Ipc {
    /// Makes all objects with their contents.
    pub fn make(set: &SetReader, crew: Crew<'_>) -> Result<Self> {
        let namespace = ids::namespaces().ipc_ns_id.map(u64::from);
        let mut objects = Self::default();
        if set.exists(Kind::IpcnsShm, namespace) {
            for entry in set.read_all::<IpcShmEntry>(Kind::IpcnsShm, namespace)? {
                objects.segment(set, &entry, crew)?;
            }
        }
        if set.exists(Kind::IpcnsSem, namespace) {
            let mut image = set.entries(Kind::IpcnsSem, namespace)?;
            while let Some((entry, values)) = image.next_with_payload::<IpcSemEntry>()? {
                objects.semaphores(&entry, &values)?;
            }
        }
        if set.exists(Kind::IpcnsMsg, namespace) {
            let mut image = set.entries(Kind::IpcnsMsg, namespace)?;
            while let Some(entry) = image.next_entry::<IpcMsgEntry>()? {
                let mut messages = Vec::new();
                for _ in 0..entry.qnum {
                    let Some((head, mut text)) = image.next_with_payload::<IpcMsg>()? else {
                        return Err(Error::inconsistent("ipcns-msg", "a message is missing"));
                    };
                    text.truncate(head.msize as usize);
                    messages.push(ipc::Message {
                        kind: head.mtype as i64,
                        text,
                    });
                }
                objects.queue(&entry, &messages)?;
            }
        }
        Ok(objects)
    }

    /// Bytes read into segments.
    pub fn pages_bytes(&self) -> u64 {
        self.pages_bytes
    }

    fn segment(&mut self, set: &SetReader, entry: &IpcShmEntry, crew: Crew<'_>) -> Result<()> {
        let desc = &entry.desc;
        if entry.size > LARGEST_BYTES || entry.hugetlb_flag.unwrap_or(0) != 0 {
            let what = format!(
                "{} {}: of this size or kind",
                Class::Segment.name(),
                desc.id
            );
            return Err(Error::NotRestorable { what });
        }
        let id = self.object(Class::Segment, desc, entry.size, |key| {
            ipc::make_segment(key, entry.size, 0)
        })?;
        ipc::set_segment(id, owner(desc)).host("set up a System V shared memory segment")?;
        let file =
            ipc::segment_file(id, entry.size).host("attach a System V shared memory segment")?;
        // One that was there already has contents, perhaps where there were none.
        shmem::clear(file.as_fd(), entry.size)?;
        self.pages_bytes += shmem::fill(set, id as u64, file.as_fd(), entry.size, crew)?;
        self.segments.insert(id as u64, entry.size);
        if desc.mode & SHM_DEST != 0 {
            self.doomed.push(id);
        }
        Ok(())
    }

    fn semaphores(&mut self, entry: &IpcSemEntry, values: &[u8]) -> Result<()> {
        let desc = &entry.desc;
        if entry.nsems == 0 || entry.nsems > MOST_SEMAPHORES {
            return Err(Error::inconsistent(
                "ipcns-sem",
                format!("set {}: bad size", desc.id),
            ));
        }
        let id = self.object(Class::Semaphores, desc, entry.nsems.into(), |key| {
            ipc::make_semaphores(key, entry.nsems)
        })?;
        ipc::set_semaphores(id, owner(desc)).host("set up a System V semaphore set")?;
        let values: Vec<u16> = values
            .chunks_exact(2)
            .take(entry.nsems as usize)
            .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]))
            .collect();
        if values.len() != entry.nsems as usize {
            return Err(Error::inconsistent(
                "ipcns-sem",
                format!("set {}: values are missing", desc.id),
            ));
        }
        ipc::set_semaphore_values(id, &values).host("set System V semaphores")
    }

    fn queue(&mut self, entry: &IpcMsgEntry, messages: &[ipc::Message]) -> Result<()> {
        const ROOM: usize = 1 << 24;
        let desc = &entry.desc;
        let id = self.object(Class::Queue, desc, u64::MAX, ipc::make_queue)?;
        ipc::set_queue(id, owner(desc), entry.qbytes.into()).host("set up a message queue")?;
        while ipc::receive(id, None, ROOM)
            .host("empty a message queue")?
            .is_some()
        {}
        for message in messages {
            ipc::send(id, message).host("put a message into its queue")?;
        }
        Ok(())
    }

    /// Takes an object over, or makes it. `size` is compared where objects have one.
    fn object(
        &mut self,
        class: Class,
        desc: &IpcDescEntry,
        size: u64,
        make: impl FnOnce(i32) -> cryopod_sys::Result<i32>,
    ) -> Result<i32> {
        let id = i32::try_from(desc.id)
            .map_err(|_| Error::inconsistent("ipcns", format!("number {}", desc.id)))?;
        if desc.cryopod_shared_namespace != Some(true) {
            let what = format!("{} {id} of a namespace of its own", class.name());
            return Err(Error::NotRestorable { what });
        }
        let key = desc.key as i32;
        let there = sysvipc::read(class.file())?;
        if let Some(object) = there.iter().find(|object| object.id == id) {
            return if is_same(object, key, size) {
                Ok(id)
            } else {
                Err(taken(class, id, key))
            };
        }
        if key != 0 && there.iter().any(|object| object.key == key) {
            return Err(taken(class, id, key));
        }
        let path = format!("/proc/sys/kernel/{}_next_id", class.file());
        std::fs::write(&path, id.to_string()).map_err(|source| Error::Path {
            operation: "write",
            path: path.into(),
            source,
        })?;
        let made = make(key).host("make an object of System V IPC")?;
        self.made.push((class, made));
        if made != id {
            return Err(taken(class, id, key));
        }
        Ok(id)
    }

    /// Attaches a part of a segment where a mapping was: all of it elsewhere, from where the part is moved.
    pub fn attach(&self, puppet: &Puppet, vma: &VmaEntry) -> Result<()> {
        let corrupt = || {
            let what = format!("segment {} of the mapping at {:#x}", vma.shmid, vma.start);
            Error::inconsistent(format!("mm-{}", puppet.pid), what)
        };
        let size = self.segments.get(&vma.shmid).ok_or_else(corrupt)?;
        let whole = size.next_multiple_of(cryopod_sys::memory::PAGE);
        let len = vma.end - vma.start;
        let behind = vma.pgoff.checked_add(len).filter(|&end| end <= whole);
        let behind = behind.ok_or_else(corrupt)?;
        let writable = vma.fdflags.unwrap_or(libc::O_RDWR as u32) & libc::O_ACCMODE as u32
            == libc::O_RDWR as u32;
        let mut flags = if writable { 0 } else { libc::SHM_RDONLY as u64 };
        if vma.prot & libc::PROT_EXEC as u32 != 0 {
            flags |= libc::SHM_EXEC as u64;
        }
        let at = puppet.must("shmat", libc::SYS_shmat, [vma.shmid, 0, flags, 0, 0, 0])?;
        let fixed = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        let part = at + vma.pgoff;
        puppet.must(
            "mremap",
            libc::SYS_mremap,
            [part, len, len, fixed, vma.start, 0],
        )?;
        for (start, end) in [(at, part), (at + behind, at + whole)] {
            if start < end {
                puppet.must("munmap", libc::SYS_munmap, [start, end - start, 0, 0, 0, 0])?;
            }
        }
        let args = [vma.start, len, vma.prot.into(), 0, 0, 0];
        puppet.must("mprotect", libc::SYS_mprotect, args).map(drop)
    }

    /// Marks segments that go with their last user, when all users have them.
    pub fn doom(&self) -> Result<()> {
        for &id in &self.doomed {
            ipc::remove_segment(id).host("mark a System V shared memory segment for removal")?;
        }
        Ok(())
    }

    /// The tree lives: what was made stays.
    pub fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for Ipc {
    fn drop(&mut self) {
        for &(class, id) in &self.made {
            if let Err(error) = class.remove(id) {
                tracing::warn!(id, %error, "a {} is left", class.name());
            }
        }
    }
}

fn owner(desc: &IpcDescEntry) -> ipc::Owner {
    ipc::Owner {
        uid: desc.uid,
        gid: desc.gid,
        mode: desc.mode,
    }
}

/// Whether an object is what it was at the checkpoint, with nobody at it.
fn is_same(object: &Object, key: i32, size: u64) -> bool {
    object.key == key && object.attached == 0 && (size == u64::MAX || object.size == size)
}

fn taken(class: Class, id: i32, key: i32) -> Error {
    Error::IpcTaken {
        what: class.name(),
        id,
        key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_unused_object_is_taken_over() {
        let object = Object {
            key: 7,
            size: 4096,
            ..Object::default()
        };
        assert!(is_same(&object, 7, 4096) && is_same(&object, 7, u64::MAX));
        assert!(!is_same(&object, 8, 4096) && !is_same(&object, 7, 8192));
        let used = Object {
            attached: 1,
            ..object
        };
        assert!(!is_same(&used, 7, 4096));
    }
}
