//! System V shared memory, semaphores and message queues; sysvipc(7).

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::memory::PAGE;
use crate::{Errno, Result, check};

/// Permissions: what IPC_SET of the three kinds sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The lower nine bits are used.
    pub mode: u32,
}

impl Owner {
    fn give(self, perm: &mut libc::ipc_perm) {
        perm.uid = self.uid;
        perm.gid = self.gid;
        perm.mode = (self.mode & 0o777) as _;
    }
}

const NEW: i32 = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;

/// shmget(2): a new segment, with flags for huge pages or 0.
pub fn make_segment(key: i32, size_bytes: u64, huge: i32) -> Result<i32> {
    let size = usize::try_from(size_bytes).map_err(|_| Errno::INVAL)?;
    // SAFETY: plain integers only.
    check(i64::from(unsafe { libc::shmget(key, size, NEW | huge) })).map(|id| id as i32)
}

/// The file behind a segment, by attaching it for a moment (shmat(2)).
pub fn segment_file(id: i32, size_bytes: u64) -> Result<OwnedFd> {
    // SAFETY: no address is given, so nothing that exists is replaced; nobody makes references into it.
    let address = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    if address as isize == -1 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::NOMEM));
    }
    let start = address as u64;
    let end = start + size_bytes.next_multiple_of(PAGE);
    let path = format!("/proc/self/map_files/{start:x}-{end:x}");
    let file = File::options().read(true).write(true).open(path);
    // SAFETY: attached above; no reference into it exists.
    unsafe { libc::shmdt(address) };
    file.map(OwnedFd::from)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// shmctl(IPC_SET).
pub fn set_segment(id: i32, owner: Owner) -> Result<()> {
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut buffer: libc::shmid_ds = unsafe { std::mem::zeroed() };
    owner.give(&mut buffer.shm_perm);
    // SAFETY: `buffer` is live and only read.
    check(i64::from(unsafe {
        libc::shmctl(id, libc::IPC_SET, &raw mut buffer)
    }))
    .map(drop)
}

/// shmctl(IPC_RMID): it goes when nobody has it attached any more.
pub fn remove_segment(id: i32) -> Result<()> {
    // SAFETY: the command takes no buffer.
    check(i64::from(unsafe {
        libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut())
    }))
    .map(drop)
}

/// semget(2): a new set of semaphores.
pub fn make_semaphores(key: i32, count: u32) -> Result<i32> {
    // SAFETY: plain integers only.
    check(i64::from(unsafe { libc::semget(key, count as i32, NEW) })).map(|id| id as i32)
}

/// semctl(GETALL): the values of a set of `count` semaphores.
pub fn semaphore_values(id: i32, count: u32) -> Result<Vec<u16>> {
    let mut values = vec![0u16; count as usize];
    // SAFETY: the kernel writes as many values as the set has, which its maker fixed at `count`.
    check(i64::from(unsafe {
        libc::semctl(id, 0, libc::GETALL, values.as_mut_ptr())
    }))?;
    Ok(values)
}

/// semctl(SETALL). The set must have as many semaphores as there are values.
pub fn set_semaphore_values(id: i32, values: &[u16]) -> Result<()> {
    // SAFETY: the kernel reads as many values as the set has, which the caller knows.
    check(i64::from(unsafe {
        libc::semctl(id, 0, libc::SETALL, values.as_ptr())
    }))
    .map(drop)
}

/// semctl(GETPID): who did the last operation on one semaphore.
pub fn semaphore_pid(id: i32, index: u32) -> Result<i32> {
    // SAFETY: plain integers only.
    check(i64::from(unsafe {
        libc::semctl(id, index as i32, libc::GETPID)
    }))
    .map(|pid| pid as i32)
}

/// semctl(IPC_SET).
pub fn set_semaphores(id: i32, owner: Owner) -> Result<()> {
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut buffer: libc::semid_ds = unsafe { std::mem::zeroed() };
    owner.give(&mut buffer.sem_perm);
    // SAFETY: `buffer` is live and only read.
    check(i64::from(unsafe {
        libc::semctl(id, 0, libc::IPC_SET, &raw mut buffer)
    }))
    .map(drop)
}

/// semctl(IPC_RMID).
pub fn remove_semaphores(id: i32) -> Result<()> {
    // SAFETY: the command takes no buffer.
    check(i64::from(unsafe { libc::semctl(id, 0, libc::IPC_RMID) })).map(drop)
}

/// msgget(2): a new message queue.
pub fn make_queue(key: i32) -> Result<i32> {
    // SAFETY: plain integers only.
    check(i64::from(unsafe { libc::msgget(key, NEW) })).map(|id| id as i32)
}

/// msgctl(IPC_STAT): most bytes a queue may hold.
pub fn queue_limit(id: i32) -> Result<u64> {
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut buffer: libc::msqid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: `buffer` is live and as long as the kernel expects.
    check(i64::from(unsafe {
        libc::msgctl(id, libc::IPC_STAT, &raw mut buffer)
    }))?;
    Ok(buffer.msg_qbytes)
}

/// msgctl(IPC_SET).
pub fn set_queue(id: i32, owner: Owner, limit_bytes: u64) -> Result<()> {
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut buffer: libc::msqid_ds = unsafe { std::mem::zeroed() };
    owner.give(&mut buffer.msg_perm);
    buffer.msg_qbytes = limit_bytes;
    // SAFETY: `buffer` is live and only read.
    check(i64::from(unsafe {
        libc::msgctl(id, libc::IPC_SET, &raw mut buffer)
    }))
    .map(drop)
}

/// msgctl(IPC_RMID).
pub fn remove_queue(id: i32) -> Result<()> {
    // SAFETY: the command takes no buffer.
    check(i64::from(unsafe {
        libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut())
    }))
    .map(drop)
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Type, more than 0.
    pub kind: i64,
    /// Text.
    pub text: Vec<u8>,
}

/// msgrcv(2) of a message by its place, which stays in the queue (`peek`, MSG_COPY), or of the first, which does not.
/// `None` when there is none.
pub fn receive(id: i32, peek: Option<usize>, most_bytes: usize) -> Result<Option<Message>> {
    const MSG_COPY: i32 = 0o40000;
    const TYPE: usize = 8;
    let mut buffer = vec![0u8; TYPE + most_bytes];
    let (place, flags) = match peek {
        Some(place) => (place as i64, MSG_COPY | libc::IPC_NOWAIT),
        None => (0, libc::IPC_NOWAIT),
    };
    // SAFETY: the buffer has room for the type and for `most_bytes` of text.
    let got =
        check(
            unsafe { libc::msgrcv(id, buffer.as_mut_ptr().cast(), most_bytes, place, flags) }
                as i64,
        );
    let len = match got {
        Ok(len) => len as usize,
        Err(Errno::NOMSG) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let kind = i64::from_ne_bytes(std::array::from_fn(|index| buffer[index]));
    let text = buffer[TYPE..TYPE + len].to_vec();
    Ok(Some(Message { kind, text }))
}

/// msgsnd(2), without waiting for room.
pub fn send(id: i32, message: &Message) -> Result<()> {
    let bytes = [&message.kind.to_ne_bytes(), message.text.as_slice()].concat();
    // SAFETY: the buffer holds the type and as much text as said, and is only read.
    check(i64::from(unsafe {
        libc::msgsnd(
            id,
            bytes.as_ptr().cast(),
            message.text.len(),
            libc::IPC_NOWAIT,
        )
    }))
    .map(drop)
}
