//! POSIX message queues (mq_overview(7)), which the kernel keeps as files of an inner file system.
//!
//! A queue belongs to whoever knows its name, so one that a process outside the tree has open is refused: a restore would
//! take its messages back in time. Reading such a file tells who is to be notified, but not with which value (the
//! `sigev_value` of mq_notify(3)).
//!
//! There is no peeking: to read the messages is to take them, and they have to be put back. That is done by a child of
//! cryopod, which finishes it even if cryopod is killed in between, while all of the tree stands still. A notification
//! that waits would go off at the first message that is put into the empty queue, and so is refused where there are
//! messages (a state that does not last: whoever wants to be notified has yet to read them).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use cryopod_image::criu::{
    CryopodMqueueEntry, CryopodMqueueFileEntry, CryopodMqueueMessage, CryopodMqueueNotify, FdTypes,
    FileEntry,
};
use cryopod_image::{Kind as Image, SetWriter};
use cryopod_sys::mqueue::{self, Attributes};
use cryopod_sys::stand_in::{self, Role};
use cryopod_sys::{Errno, signal};
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags};

use super::Description;
use super::kind::magic;
use super::lazy::Lazy;
use super::seen::{Seen, is_gone};
use crate::error::{Context, Error, Result};
use crate::proc;

/// `SIGEV_THREAD`: the library's own business, by a socket that it has open.
const BY_THREAD: u32 = libc::SIGEV_THREAD as u32;
/// Most messages in a queue, whatever the limits are (HARD_MSGMAX).
pub const MOST_MESSAGES: u64 = 65_536;
/// The longest a message can be, whatever the limits are (HARD_MSGSIZEMAX).
pub const LONGEST_BYTES: u64 = 16 << 20;

/// What reading a queue tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Status {
    /// Bytes of all messages.
    bytes: u64,
    /// Who is to be notified, and how.
    notify: Option<CryopodMqueueNotify>,
}

impl Status {
    fn read(queue: &File) -> std::io::Result<Option<Self>> {
        let mut text = [0; 256];
        let len = queue.read_at(&mut text, 0)?;
        Ok(Self::parse(&String::from_utf8_lossy(&text[..len])))
    }

    /// `QSIZE:129 NOTIFY:0 SIGNO:0 NOTIFY_PID:0`, filled up with blanks.
    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let words = text.split_ascii_whitespace();
            words
                .filter_map(|word| word.split_once(':'))
                .find_map(|(name, value)| (name == key).then(|| value.parse::<u64>().ok())?)
        };
        let number = |key: &str| u32::try_from(value(key)?).ok();
        let notify = CryopodMqueueNotify {
            pid: number("NOTIFY_PID")?,
            kind: number("NOTIFY")?,
            signal: number("SIGNO")?,
        };
        Some(Self {
            bytes: value("QSIZE")?,
            notify: (notify != CryopodMqueueNotify::default()).then_some(notify),
        })
    }
}

/// Opens a queue once more. It is another description, on which reading and sending never wait.
fn open(seen: &Seen, access: OFlags) -> Result<File> {
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let path = seen.proc_path();
    let opened = rustix::fs::open(&path, flags, Mode::empty());
    opened.map(File::from).map_err(|errno| Error::Path {
        operation: "open the message queue behind",
        path,
        source: errno.into(),
    })
}

/// Why a queue cannot be checkpointed, in words. `outside` are those that others have open, with one who has.
pub fn problem(seen: &Seen, pids: &[i32], outside: &HashMap<(u64, u64), i32>) -> Option<String> {
    let shown = format!("POSIX message queue {}", seen.shown());
    if let Some(pid) = outside.get(&seen.inode()) {
        return Some(format!(
            "{shown}: pid {pid}, outside of the tree, has it open too: not supported"
        ));
    }
    let looked = open(seen, OFlags::RDONLY).and_then(|queue| {
        let status = Status::read(&queue).map_err(|source| Error::Path {
            operation: "read",
            path: seen.proc_path(),
            source,
        })?;
        let attributes = mqueue::attributes(queue.as_fd()).host("look at a message queue")?;
        Ok((status, attributes))
    });
    let (status, attributes) = match looked {
        Ok((Some(status), attributes)) => (status, attributes),
        Ok((None, _)) => return Some(format!("{shown}: what it says of itself is not understood")),
        Err(error) if is_gone(&error) => return None,
        Err(error) => return Some(format!("{shown}: {error}")),
    };
    let notify = status.notify?;
    let is_ours = i32::try_from(notify.pid).is_ok_and(|pid| pids.contains(&pid));
    let what = if notify.kind == BY_THREAD {
        "notifies by a thread (mq_notify with SIGEV_THREAD)"
    } else if !is_ours {
        "somebody outside of the tree is to be notified"
    } else if attributes.messages > 0 {
        "a notification waits for the messages in it to be read"
    } else {
        return None;
    };
    Some(format!("{shown}: {what}: not supported"))
}

/// The queues that processes other than `pids` have open, with one who has each.
pub fn outside(pids: &[i32]) -> HashMap<(u64, u64), i32> {
    let ours: HashSet<i32> = pids.iter().copied().collect();
    let mut found = HashMap::new();
    let own = std::process::id() as i32;
    let others = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = others.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for pid in others.filter(|pid| *pid != own && !ours.contains(pid)) {
        for fd in proc::numbers(pid, "fd").unwrap_or_default() {
            let place = proc::path(pid, &format!("fd/{fd}"));
            let Ok(stat) = rustix::fs::stat(&place) else {
                continue;
            };
            let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode)
                == rustix::fs::FileType::RegularFile;
            if is_file
                && rustix::fs::statfs(&place).is_ok_and(|fs| fs.f_type as u64 == magic::MQUEUE)
            {
                found.insert((stat.st_dev, stat.st_ino), pid);
            }
        }
    }
    found
}

/// The queues of a tree.
pub struct Mqueues<'a> {
    image: Lazy<'a>,
    /// By device and inode.
    known: HashMap<(u64, u64), u32>,
    queues: Vec<(CryopodMqueueEntry, File)>,
}

impl<'a> Mqueues<'a> {
    pub fn new(set: &'a SetWriter) -> Self {
        Self {
            image: Lazy::new(set, Image::CryopodMqueue),
            known: HashMap::new(),
            queues: Vec::new(),
        }
    }

    /// The entry of a descriptor.
    pub(super) fn dump(&mut self, one: &Description<'_>) -> Result<FileEntry> {
        let seen = one.seen;
        let queue = match self.known.get(&seen.inode()) {
            Some(&queue) => queue,
            None => {
                self.queues.push(self.describe(one)?);
                self.known.insert(seen.inode(), one.id);
                one.id
            }
        };
        // The inner file system has no directories but its root.
        let is_path =
            seen.stat.st_nlink > 0 && seen.link.iter().filter(|&&b| b == b'/').count() > 1;
        let entry = CryopodMqueueFileEntry {
            id: one.id,
            flags: seen.flags(),
            fown: one.owner.clone(),
            queue,
            pos: seen.info.pos,
            path: is_path.then(|| seen.link.clone()),
        };
        Ok(FileEntry {
            r#type: FdTypes::CryopodMqueue.into(),
            id: one.id,
            cryopod_mqueue: Some(Box::new(entry)),
            ..FileEntry::default()
        })
    }

    fn describe(&self, one: &Description<'_>) -> Result<(CryopodMqueueEntry, File)> {
        let seen = one.seen;
        let queue = open(seen, OFlags::RDWR)?;
        let attributes = one.check("ask for its attributes", mqueue::attributes(queue.as_fd()))?;
        let status = Status::read(&queue).ok().flatten();
        let status = one.line(status)?;
        if let Some(notify) = status
            .notify
            .filter(|one| one.kind == libc::SIGEV_SIGNAL as u32)
        {
            tracing::warn!(
                pid = notify.pid,
                queue = seen.shown(),
                "the value that comes with the signal of mq_notify cannot be read: it will be 0"
            );
        }
        let unlinked = seen.stat.st_nlink == 0;
        let link = if unlinked {
            seen.undeleted_name()
        } else {
            &seen.link
        };
        let name = link.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let entry = CryopodMqueueEntry {
            id: one.id,
            name: name.to_vec(),
            unlinked,
            mode: seen.stat.st_mode,
            uid: seen.stat.st_uid,
            gid: seen.stat.st_gid,
            max_messages: attributes.max_messages,
            message_size_bytes: attributes.message_size_bytes,
            messages: 0,
            notify: status.notify,
        };
        Ok((entry, queue))
    }

    /// Takes a copy of the messages. With everything else done, because they have to be taken out and put back.
    pub fn finish(mut self) -> Result<()> {
        for (mut entry, queue) in self.queues {
            let mut copy = copy_messages(queue.as_fd())?;
            let messages = copy.read().host("read a copy of messages")?;
            entry.messages = messages.len() as u32;
            let image = self.image.writer()?;
            image.push(&entry)?;
            for (priority, text) in messages {
                let entry = CryopodMqueueMessage {
                    priority,
                    size_bytes: text.len() as u32,
                };
                image.push_with_payload(&entry, &text)?;
            }
        }
        self.image.finish()
    }
}

/// Messages in a file: of each its length and priority, four bytes each, and its text.
struct Copy {
    file: File,
}

const HEAD_BYTES: u64 = 8;

impl Copy {
    /// Room for messages of that many bytes.
    fn new(size_bytes: u64) -> std::result::Result<Self, Errno> {
        let memfd = rustix::fs::memfd_create("cryopod", MemfdFlags::CLOEXEC)?;
        if size_bytes > 0 {
            // Now, and not when a message has been taken that must be put somewhere.
            rustix::fs::fallocate(&memfd, FallocateFlags::KEEP_SIZE, 0, size_bytes)?;
        }
        Ok(Self { file: memfd.into() })
    }

    /// All messages.
    fn read(&mut self) -> std::result::Result<Vec<(u32, Vec<u8>)>, Errno> {
        let mut bytes = Vec::new();
        let read =
            std::io::Seek::rewind(&mut self.file).and_then(|()| self.file.read_to_end(&mut bytes));
        read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let mut rest = bytes.as_slice();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let (head, text) = rest.split_first_chunk().ok_or(Errno::IO)?;
            let (len, priority) = parse_head(*head);
            let (text, behind) = text.split_at_checked(len).ok_or(Errno::IO)?;
            messages.push((priority, text.to_vec()));
            rest = behind;
        }
        Ok(messages)
    }
}

fn parse_head(head: [u8; HEAD_BYTES as usize]) -> (usize, u32) {
    let [a, b, c, d, e, f, g, h] = head;
    (
        u32::from_ne_bytes([a, b, c, d]) as usize,
        u32::from_ne_bytes([e, f, g, h]),
    )
}

fn make_head(len: usize, priority: u32) -> [u8; HEAD_BYTES as usize] {
    let mut head = [0; HEAD_BYTES as usize];
    head[..4].copy_from_slice(&(len as u32).to_ne_bytes());
    head[4..].copy_from_slice(&priority.to_ne_bytes());
    head
}

/// Copies what is in a queue, which is as it was afterwards.
fn copy_messages(queue: BorrowedFd<'_>) -> Result<Copy> {
    let attributes = mqueue::attributes(queue).host("look at a message queue")?;
    let status = Status::read(&File::from(
        queue
            .try_clone_to_owned()
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            .host("duplicate a message queue")?,
    ));
    let bytes = status.ok().flatten().map_or(0, |status| status.bytes);
    let room = bytes + attributes.messages * HEAD_BYTES;
    let copy = Copy::new(room).host("make room for a copy of messages")?;
    if attributes.messages == 0 {
        return Ok(copy);
    }
    if attributes.message_size_bytes > LONGEST_BYTES || attributes.messages > MOST_MESSAGES {
        let what = "a POSIX message queue beyond what the kernel allows".to_owned();
        return Err(Error::NotRestorable { what });
    }
    let mut buffer = vec![0; attributes.message_size_bytes as usize];
    let copied = signal::with_blocked(u64::MAX, |_| {
        stand_in::call_as(&Role::default(), || {
            take_and_put_back(queue, &copy.file, &attributes, &mut buffer)
        })
    });
    copied.host("copy the messages of a POSIX message queue")?;
    Ok(copy)
}

/// In a child: no memory is allocated. Whatever fails, what was taken is put back.
fn take_and_put_back(
    queue: BorrowedFd<'_>,
    copy: &File,
    attributes: &Attributes,
    buffer: &mut [u8],
) -> std::result::Result<(), Errno> {
    let mut end = 0;
    let mut result = Ok(());
    for _ in 0..attributes.messages {
        let (len, priority) = match again(|| mqueue::receive(queue, buffer)) {
            Ok(message) => message,
            Err(Errno::AGAIN) => break,
            Err(errno) => {
                result = Err(errno);
                break;
            }
        };
        let head = make_head(len, priority);
        let text = buffer.get(..len).unwrap_or_default();
        let stored =
            write_at(copy, &head, end).and_then(|()| write_at(copy, text, end + HEAD_BYTES));
        if let Err(errno) = stored {
            result = again(|| mqueue::send(queue, text, priority)).and(Err(errno));
            break;
        }
        end += HEAD_BYTES + len as u64;
    }
    let mut at = 0;
    while at < end {
        let mut head = [0; HEAD_BYTES as usize];
        read_at(copy, &mut head, at)?;
        let (len, priority) = parse_head(head);
        let text = buffer.get_mut(..len).ok_or(Errno::IO)?;
        read_at(copy, text, at + HEAD_BYTES)?;
        if let Err(errno) = again(|| mqueue::send(queue, text, priority)) {
            result = Err(errno);
        }
        at += HEAD_BYTES + len as u64;
    }
    result
}

fn again<T>(
    mut call: impl FnMut() -> std::result::Result<T, Errno>,
) -> std::result::Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

fn write_at(file: &File, bytes: &[u8], at: u64) -> std::result::Result<(), Errno> {
    match rustix::io::pwrite(file, bytes, at)? {
        written if written == bytes.len() => Ok(()),
        _ => Err(Errno::NOSPC),
    }
}

fn read_at(file: &File, bytes: &mut [u8], at: u64) -> std::result::Result<(), Errno> {
    let wanted = bytes.len();
    match rustix::io::pread(file, bytes, at)? {
        read if read == wanted => Ok(()),
        _ => Err(Errno::IO),
    }
}

/// Takes all messages out of a queue.
pub fn clear(queue: &OwnedFd) -> std::result::Result<(), Errno> {
    let attributes = mqueue::attributes(queue.as_fd())?;
    let mut buffer = vec![0; attributes.message_size_bytes.min(LONGEST_BYTES) as usize];
    loop {
        match again(|| mqueue::receive(queue.as_fd(), &mut buffer)) {
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use proptest::prelude::*;

    use super::*;
    use crate::tests::alone::alone;

    fn queue(name: &str, max_messages: u64) -> Option<OwnedFd> {
        let name = CString::new(format!("cryopod-{name}-{}", std::process::id())).unwrap();
        let attributes = Attributes {
            max_messages,
            message_size_bytes: 32,
            messages: 0,
        };
        let queue = mqueue::make(&name, &attributes).ok()?;
        mqueue::unlink(&name).unwrap();
        Some(queue)
    }

    fn drain(queue: &OwnedFd) -> Vec<(u32, Vec<u8>)> {
        let mut buffer = [0; 32];
        std::iter::from_fn(|| {
            let (len, priority) = mqueue::receive(queue.as_fd(), &mut buffer).ok()?;
            Some((priority, buffer[..len].to_vec()))
        })
        .collect()
    }

    #[test]
    fn a_copy_leaves_a_full_queue_as_it_was() {
        alone(|| {
            let Some(queue) = queue("copied", 10) else {
                return;
            };
            for number in 0..10_u8 {
                let text = vec![number; usize::from(number)];
                mqueue::send(queue.as_fd(), &text, u32::from(number % 3)).unwrap();
            }
            let copied = copy_messages(queue.as_fd()).unwrap().read().unwrap();
            let order: Vec<usize> = copied.iter().map(|(_, text)| text.len()).collect();
            assert_eq!(order, [2, 5, 8, 1, 4, 7, 0, 3, 6, 9]);
            assert_eq!(drain(&queue), copied);
            assert_eq!(copy_messages(queue.as_fd()).unwrap().read(), Ok(Vec::new()));
        });
    }

    #[test]
    fn what_a_queue_says_of_itself_is_read() {
        let parse = |text| Status::parse(text).unwrap();
        let quiet = parse("QSIZE:3          NOTIFY:0     SIGNO:0     NOTIFY_PID:0     \n");
        assert_eq!((quiet.bytes, quiet.notify), (3, None));
        let waiting = parse("QSIZE:0 NOTIFY:0 SIGNO:10 NOTIFY_PID:4711\n");
        let expected = CryopodMqueueNotify {
            pid: 4711,
            kind: 0,
            signal: 10,
        };
        assert_eq!(waiting.notify, Some(expected));
        assert_eq!(Status::parse("QSIZE:0 NOTIFY:0"), None);
    }

    proptest! {
        #[test]
        fn any_status_is_read_or_refused(text in "\\PC*") {
            let _ = Status::parse(&text);
        }

        #[test]
        fn heads_lead_back(len in 0..LONGEST_BYTES as usize, priority: u32) {
            prop_assert_eq!(parse_head(make_head(len, priority)), (len, priority));
        }
    }
}
