//! POSIX message queues.
//!
//! A queue outlives its users, so on the machine of the checkpoint it is often still there. One that has the same limits and
//! that nobody has open is taken over: what is in it becomes what was in it at the checkpoint.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use cryopod_image::criu::{
    CryopodMqueueEntry, CryopodMqueueFileEntry, CryopodMqueueMessage, CryopodMqueueNotify,
    FileEntry,
};
use cryopod_image::{Kind as Image, SetReader};
use cryopod_sys::Errno;
use cryopod_sys::mqueue::{self, Attributes};
use rustix::fs::{Gid, Mode, OFlags, SeekFrom, Uid};

use super::corrupt;
use crate::dump::files::mqueues::{LONGEST_BYTES, MOST_MESSAGES, clear, outside};
use crate::error::{Context, Error, Result};
use crate::proc::mem::Mem;
use crate::remote::puppet::Puppet;

/// The longest name a file can have.
const LONGEST_NAME: usize = 255;
/// Signals are numbered from 1 to this.
const LAST_SIGNAL: u32 = 64;

/// All queues of an image set, by number.
#[derive(Debug, Default)]
pub struct Mqueues {
    entries: BTreeMap<u32, CryopodMqueueEntry>,
    /// Descriptions by the number of their file entry.
    opened: BTreeMap<u32, OwnedFd>,
    made: Made,
}

/// Queues that were made. They are removed again unless they are kept.
#[derive(Debug, Default)]
pub struct Made(Vec<CString>);

impl Made {
    /// The tree lives: they stay.
    pub fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for name in &self.0 {
            if let Err(error) = mqueue::unlink(name) {
                tracing::warn!(?name, %error, "a message queue is left");
            }
        }
    }
}

impl Mqueues {
    /// Reads cryopod-mqueue.img, without the messages.
    pub fn load(set: &SetReader) -> Result<Self> {
        let mut queues = Self::default();
        if !set.exists(Image::CryopodMqueue, None) {
            return Ok(queues);
        }
        let mut image = set.entries(Image::CryopodMqueue, None)?;
        while let Some(entry) = image.next_entry::<CryopodMqueueEntry>()? {
            check(&entry)?;
            for _ in 0..entry.messages {
                let message = image.expect_entry::<CryopodMqueueMessage>()?;
                if u64::from(message.size_bytes) > entry.message_size_bytes {
                    return Err(inconsistent(entry.id, "a message is too long"));
                }
                image.skip_payload(message.size_bytes.into())?;
            }
            let id = entry.id;
            if queues.entries.insert(id, entry).is_some() {
                return Err(inconsistent(id, "there are two of it"));
            }
        }
        Ok(queues)
    }

    /// Makes all of them, with what is in them, and opens their descriptors among `files`. First those that have lost their
    /// names, which must have had one to be opened, and may have had that of another.
    pub fn make(&mut self, set: &SetReader, files: &BTreeMap<u32, FileEntry>) -> Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        for unlinked in [true, false] {
            let mut image = set.entries(Image::CryopodMqueue, None)?;
            while let Some(entry) = image.next_entry::<CryopodMqueueEntry>()? {
                let mut made = (entry.unlinked == unlinked)
                    .then(|| self.queue(&entry))
                    .transpose()?;
                for _ in 0..entry.messages {
                    let message = image.next_with_payload::<CryopodMqueueMessage>()?;
                    let (head, text) =
                        message.ok_or_else(|| inconsistent(entry.id, "it has fewer messages"))?;
                    if let Some((_, queue)) = &made {
                        mqueue::send(queue.as_fd(), &text, head.priority)
                            .map_err(failed(&entry, "put a message into"))?;
                    }
                }
                if let Some((name, queue)) = made.take() {
                    self.open_all(&entry, &name, &queue, files)?;
                }
            }
        }
        Ok(())
    }

    /// Opens all descriptors of a queue, and takes its name away if it had none.
    fn open_all(
        &mut self,
        queue: &CryopodMqueueEntry,
        name: &CStr,
        file: &OwnedFd,
        files: &BTreeMap<u32, FileEntry>,
    ) -> Result<()> {
        let all = files
            .values()
            .filter_map(|file| file.cryopod_mqueue.as_deref());
        for entry in all.filter(|entry| entry.queue == queue.id) {
            let opened = open(entry, name, file)?;
            self.opened.insert(entry.id, opened);
        }
        if queue.unlinked {
            mqueue::unlink(name).map_err(failed(queue, "remove the name of"))?;
            self.made.0.retain(|made| made.as_c_str() != name);
        }
        Ok(())
    }

    /// An empty queue, and what it is called for now.
    fn queue(&mut self, entry: &CryopodMqueueEntry) -> Result<(CString, OwnedFd)> {
        let name = c_name(entry)?;
        let wanted = Attributes {
            max_messages: entry.max_messages,
            message_size_bytes: entry.message_size_bytes,
            messages: 0,
        };
        let (name, queue) = match mqueue::make(&name, &wanted) {
            // The name that it does not have any more is another's by now.
            Err(Errno::EXIST) if entry.unlinked => {
                let aside = format!("cryopod-{}-{}", std::process::id(), entry.id);
                let aside = CString::new(aside).unwrap_or_default();
                let made = mqueue::make(&aside, &wanted).map_err(failed(entry, "make"))?;
                self.made.0.push(aside.clone());
                (aside, made)
            }
            Err(Errno::EXIST) => {
                let queue = take_over(entry, &name, &wanted)?;
                (name, queue)
            }
            made => {
                let made = made.map_err(failed(entry, "make"))?;
                self.made.0.push(name.clone());
                (name, made)
            }
        };
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        let stat = rustix::fs::fstat(&queue).map_err(failed(entry, "look at"))?;
        if (stat.st_uid, stat.st_gid) != (entry.uid, entry.gid) {
            let given = rustix::fs::fchown(&queue, Some(uid), Some(gid));
            given.map_err(failed(entry, "set the owner of"))?;
        }
        let mode = Mode::from_bits_truncate(entry.mode & 0o7777);
        rustix::fs::fchmod(&queue, mode).map_err(failed(entry, "set the permissions of"))?;
        Ok((name, queue))
    }

    /// The description of a file entry, which was opened with its queue.
    pub fn take(&mut self, entry: &CryopodMqueueFileEntry) -> Result<OwnedFd> {
        let opened = self.opened.remove(&entry.id);
        opened.ok_or_else(|| corrupt(entry.id, "its message queue is missing"))
    }

    /// How process `pid` is to be told of messages, and of which queues.
    pub fn notifications(&self, pid: i32) -> impl Iterator<Item = (u32, CryopodMqueueNotify)> {
        self.entries.values().filter_map(move |entry| {
            let notify = entry.notify.filter(|notify| notify.pid == pid as u32)?;
            Some((entry.id, notify))
        })
    }

    /// The queues that were made.
    pub fn take_made(&mut self) -> Made {
        std::mem::take(&mut self.made)
    }
}

/// mq_notify(2) in a process, by its descriptor `fd`.
pub fn notify(puppet: &Puppet, mem: &Mem, fd: u32, notify: CryopodMqueueNotify) -> Result<()> {
    // `struct sigevent`: value, signal, kind; 64 bytes.
    let mut event = vec![0; 8];
    event.extend(notify.signal.to_ne_bytes());
    event.extend(notify.kind.to_ne_bytes());
    event.resize(64, 0);
    let at = puppet.put(mem, &event)?;
    let args = [fd.into(), at, 0, 0, 0, 0];
    puppet
        .must("mq_notify", libc::SYS_mq_notify, args)
        .map(drop)
}

/// Opens a queue as a file entry has it: the way it was opened, mq_open(2) or open(2), shows in its flags.
fn open(entry: &CryopodMqueueFileEntry, name: &CStr, queue: &OwnedFd) -> Result<OwnedFd> {
    /// The kernel's O_LARGEFILE, which open(2) sets by itself.
    const LARGE: u32 = 0o100_000;
    let file = if entry.flags & LARGE == 0 {
        mqueue::open(name, entry.flags as i32).host("open a message queue (mq_open)")?
    } else {
        let inner = format!("/proc/self/fd/{}", queue.as_raw_fd());
        // By the mounted path only where that leads to the same queue.
        let wanted = rustix::fs::fstat(queue).host("look at a message queue")?;
        let mounted = entry.path.as_deref().map(path_of).filter(|path| {
            rustix::fs::stat(*path)
                .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (wanted.st_dev, wanted.st_ino))
        });
        let path = mounted.unwrap_or(Path::new(&inner));
        let settable = (libc::O_ACCMODE | libc::O_NONBLOCK) as u32;
        let flags = OFlags::from_bits_retain(entry.flags & settable) | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).host("open a message queue")?
    };
    if entry.pos != 0 {
        rustix::fs::seek(&file, SeekFrom::Start(entry.pos))
            .host("set the position of a message queue")?;
    }
    Ok(file)
}

/// Empties a queue that is there already, if nobody has it open and it is like the one that was.
fn take_over(entry: &CryopodMqueueEntry, name: &CStr, wanted: &Attributes) -> Result<OwnedFd> {
    let taken = |how: String| Error::MqueueTaken {
        name: shown(entry),
        how,
    };
    let queue =
        mqueue::open(name, libc::O_RDWR | libc::O_NONBLOCK).map_err(failed(entry, "open"))?;
    let found = mqueue::attributes(queue.as_fd()).map_err(failed(entry, "look at"))?;
    if (found.max_messages, found.message_size_bytes)
        != (wanted.max_messages, wanted.message_size_bytes)
    {
        return Err(taken("there already, with other limits".to_owned()));
    }
    let stat = rustix::fs::fstat(&queue).map_err(failed(entry, "look at"))?;
    if let Some(pid) = outside(&[]).get(&(stat.st_dev, stat.st_ino)) {
        return Err(taken(format!("in use by {}", crate::restore::holder(*pid))));
    }
    clear(&queue).map_err(failed(entry, "empty"))?;
    Ok(queue)
}

fn check(entry: &CryopodMqueueEntry) -> Result<()> {
    let corrupt = |what| Err(inconsistent(entry.id, what));
    let name = entry.name.as_slice();
    if name.is_empty()
        || name.len() > LONGEST_NAME
        || name.iter().any(|byte| matches!(byte, 0 | b'/'))
    {
        return corrupt("bad name");
    }
    if !(1..=MOST_MESSAGES).contains(&entry.max_messages)
        || !(1..=LONGEST_BYTES).contains(&entry.message_size_bytes)
        || u64::from(entry.messages) > entry.max_messages
    {
        return corrupt("beyond what the kernel allows");
    }
    match entry.notify {
        Some(notify)
            if notify.kind == libc::SIGEV_SIGNAL as u32
                && !(1..=LAST_SIGNAL).contains(&notify.signal) =>
        {
            corrupt("a notification by no signal")
        }
        Some(notify) if notify.kind > libc::SIGEV_NONE as u32 => {
            corrupt("a notification of another kind")
        }
        _ => Ok(()),
    }
}

fn c_name(entry: &CryopodMqueueEntry) -> Result<CString> {
    CString::new(entry.name.as_slice()).map_err(|_| inconsistent(entry.id, "bad name"))
}

fn shown(entry: &CryopodMqueueEntry) -> String {
    String::from_utf8_lossy(&entry.name).into_owned()
}

fn path_of(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

fn failed(entry: &CryopodMqueueEntry, operation: &'static str) -> impl Fn(Errno) -> Error {
    let name = shown(entry);
    move |source| Error::Mqueue {
        operation,
        name: name.clone(),
        source,
    }
}

fn inconsistent(id: u32, what: &str) -> Error {
    Error::inconsistent("cryopod-mqueue", format!("queue {id}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8]) -> CryopodMqueueEntry {
        CryopodMqueueEntry {
            id: 3,
            name: name.to_vec(),
            max_messages: 10,
            message_size_bytes: 64,
            ..CryopodMqueueEntry::default()
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(check(&entry(b"name")).is_ok());
        for name in [&b""[..], b"a/b", b"a\0b", &[b'x'; 256]] {
            assert!(check(&entry(name)).is_err(), "{name:?}");
        }
        let with = |change: fn(&mut CryopodMqueueEntry)| {
            let mut entry = entry(b"name");
            change(&mut entry);
            check(&entry)
        };
        assert!(with(|one| one.messages = 11).is_err());
        assert!(with(|one| one.max_messages = 0).is_err());
        assert!(with(|one| one.message_size_bytes = u64::MAX).is_err());
        let notify = |kind, signal| CryopodMqueueNotify {
            pid: 1,
            kind,
            signal,
        };
        for (kind, signal, fine) in [(0, 10, true), (0, 0, false), (1, 0, true), (2, 0, false)] {
            let mut entry = entry(b"name");
            entry.notify = Some(notify(kind, signal));
            assert_eq!(check(&entry).is_ok(), fine, "{kind} {signal}");
        }
    }
}
