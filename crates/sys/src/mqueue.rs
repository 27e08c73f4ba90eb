//! POSIX message queues; mq_overview(7).
//!
//! Names are those of the kernel: without the slash that the library takes off. Descriptors are close-on-exec by themselves;
//! O_CLOEXEC is not given, because it would stay with the description, where /proc shows it.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Result, check};

/// What a queue can hold; mq_getattr(3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Most messages in it.
    pub max_messages: u64,
    /// The longest message.
    pub message_size_bytes: u64,
    /// Messages in it now.
    pub messages: u64,
}

/// `struct mq_attr`.
#[repr(C)]
#[derive(Default)]
struct Attr {
    flags: libc::c_long,
    max_messages: libc::c_long,
    message_size: libc::c_long,
    messages: libc::c_long,
    reserved: [libc::c_long; 4],
}

/// mq_open(2) of a queue that exists, with O_RDONLY, O_WRONLY or O_RDWR and perhaps O_NONBLOCK.
pub fn open(name: &CStr, flags: i32) -> Result<OwnedFd> {
    let flags = flags & (libc::O_ACCMODE | libc::O_NONBLOCK);
    // SAFETY: the name ends in a zero byte; a fresh descriptor comes out.
    let fd = check(unsafe { libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags, 0, 0usize) })?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// mq_open(2) of a new queue; EEXIST when there is one of that name.
pub fn make(name: &CStr, attributes: &Attributes) -> Result<OwnedFd> {
    let attr = Attr {
        max_messages: attributes.max_messages as libc::c_long,
        message_size: attributes.message_size_bytes as libc::c_long,
        ..Attr::default()
    };
    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CREAT | libc::O_EXCL;
    // SAFETY: the name ends in a zero byte, `attr` is live and only read; a fresh descriptor comes out.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_mq_open,
            name.as_ptr(),
            flags,
            0o600,
            &raw const attr,
        )
    })?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// mq_unlink(2).
pub fn unlink(name: &CStr) -> Result<()> {
    // SAFETY: the name ends in a zero byte.
    check(unsafe { libc::syscall(libc::SYS_mq_unlink, name.as_ptr()) }).map(drop)
}

/// mq_getsetattr(2), which only asks.
pub fn attributes(queue: BorrowedFd<'_>) -> Result<Attributes> {
    let mut attr = Attr::default();
    // SAFETY: the null pointer means that nothing is set; `attr` is live and as long as the kernel expects.
    check(unsafe {
        libc::syscall(
            libc::SYS_mq_getsetattr,
            queue.as_raw_fd(),
            0usize,
            &raw mut attr,
        )
    })?;
    Ok(Attributes {
        max_messages: attr.max_messages as u64,
        message_size_bytes: attr.message_size as u64,
        messages: attr.messages as u64,
    })
}

/// mq_timedreceive(2) without a time: the first of the highest priority. Gives its length and priority. The buffer must
/// have room for the longest message of the queue. Waits for none if the description is O_NONBLOCK (EAGAIN).
pub fn receive(queue: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, u32)> {
    let mut priority = 0u32;
    // SAFETY: the buffer is as long as said and `priority` is live; both are only written.
    let len = check(unsafe {
        libc::syscall(
            libc::SYS_mq_timedreceive,
            queue.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut priority,
            0usize,
        )
    })?;
    Ok((len as usize, priority))
}

/// mq_timedsend(2) without a time. Does not wait for room if the description is O_NONBLOCK (EAGAIN).
pub fn send(queue: BorrowedFd<'_>, message: &[u8], priority: u32) -> Result<()> {
    // SAFETY: the message is as long as said and only read.
    check(unsafe {
        libc::syscall(
            libc::SYS_mq_timedsend,
            queue.as_raw_fd(),
            message.as_ptr(),
            message.len(),
            priority,
            0usize,
        )
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::fd::AsFd;

    use super::*;
    use crate::Errno;

    #[test]
    fn messages_come_by_priority() {
        let name = CString::new(format!("cryopod-sys-{}", std::process::id())).unwrap();
        let wanted = Attributes {
            max_messages: 3,
            message_size_bytes: 16,
            messages: 0,
        };
        let Ok(queue) = make(&name, &wanted) else {
            return;
        };
        assert_eq!(make(&name, &wanted).unwrap_err(), Errno::EXIST);
        let other = open(&name, libc::O_RDWR | libc::O_NONBLOCK).unwrap();
        unlink(&name).unwrap();
        assert_eq!(unlink(&name), Err(Errno::NOENT));
        assert_eq!(attributes(other.as_fd()).unwrap(), wanted);
        for (message, priority) in [(&b"one"[..], 1), (b"two", 7), (b"", 1)] {
            send(queue.as_fd(), message, priority).unwrap();
        }
        assert_eq!(send(queue.as_fd(), b"four", 1), Err(Errno::AGAIN));
        assert_eq!(attributes(other.as_fd()).unwrap().messages, 3);
        let mut buffer = [0; 16];
        let mut next = || receive(other.as_fd(), &mut buffer);
        assert_eq!(next(), Ok((3, 7)));
        assert_eq!(next(), Ok((3, 1)));
        assert_eq!(next(), Ok((0, 1)));
        assert_eq!(next(), Err(Errno::AGAIN));
        assert_eq!(receive(other.as_fd(), &mut []), Err(Errno::MSGSIZE));
    }
}
