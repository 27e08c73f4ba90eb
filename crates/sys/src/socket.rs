//! What getsockopt(2) and setsockopt(2) know of a socket that `rustix` does not ask.

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Errno, Result, check};

/// What a socket was made as, see socket(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SocketKind {
    /// AF_*.
    pub family: i32,
    /// SOCK_*.
    pub kind: i32,
    /// IPPROTO_* and the like; 0 where the family has one only.
    pub protocol: i32,
}

/// Asks what a socket was made as (SO_DOMAIN, SO_TYPE, SO_PROTOCOL of socket(7)).
pub fn kind(fd: BorrowedFd<'_>) -> Result<SocketKind> {
    let ask = |name| option_int(fd, libc::SOL_SOCKET, name);
    Ok(SocketKind {
        family: ask(libc::SO_DOMAIN)?,
        kind: ask(libc::SO_TYPE)?,
        protocol: ask(libc::SO_PROTOCOL)?,
    })
}

/// Somebody as the kernel names him in unix(7): `struct ucred`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// Process, as seen from our pid namespace; 0 when it is not in there.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

impl Credentials {
    /// From `struct ucred`.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok();
        Some(Self {
            pid: i32::from_ne_bytes(word(0)?),
            uid: u32::from_ne_bytes(word(4)?),
            gid: u32::from_ne_bytes(word(8)?),
        })
    }
}

/// Who made the other end of a unix socket (SO_PEERCRED of unix(7)); of a listening one, who listens.
pub fn peer_credentials(fd: BorrowedFd<'_>) -> Result<Credentials> {
    let bytes = option_bytes(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, CREDENTIALS_BYTES)?;
    Credentials::from_bytes(&bytes).ok_or(Errno::INVAL)
}

/// The further groups of whoever made the other end of a unix socket (SO_PEERGROUPS of socket(7)).
pub fn peer_groups(fd: BorrowedFd<'_>) -> Result<Vec<u32>> {
    /// No process has more (NGROUPS_MAX of linux/limits.h).
    const MAX_GROUPS: usize = 65536;
    let bytes = option_bytes(fd, libc::SOL_SOCKET, libc::SO_PEERGROUPS, MAX_GROUPS * 4)?;
    let words = bytes.chunks_exact(4);
    Ok(words
        .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
        .collect())
}

/// bind(2) to an address as the kernel lays it out, `struct sockaddr` with as many bytes as are meant.
pub fn bind(fd: BorrowedFd<'_>, address: &[u8]) -> Result<()> {
    // SAFETY: `address` is live, as long as said, and only read.
    check(i64::from(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            address.as_ptr().cast(),
            socklen(address.len())?,
        )
    }))
    .map(drop)
}

/// connect(2) to an address as the kernel lays it out.
pub fn connect(fd: BorrowedFd<'_>, address: &[u8]) -> Result<()> {
    // SAFETY: `address` is live, as long as said, and only read.
    check(i64::from(unsafe {
        libc::connect(
            fd.as_raw_fd(),
            address.as_ptr().cast(),
            socklen(address.len())?,
        )
    }))
    .map(drop)
}

/// ioctl(SIOCUNIXFILE) of linux/un.h: the file that a unix socket is bound to, as if opened with O_PATH. ENOENT when it
/// is bound to none; needs CAP_NET_ADMIN.
pub fn unix_file(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    /// `SIOCPROTOPRIVATE + 0`.
    const SIOCUNIXFILE: libc::c_ulong = 0x89e0;
    // SAFETY: the request takes no argument.
    let file = check(i64::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), SIOCUNIXFILE, 0)
    }))?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(file as i32) })
}

const CREDENTIALS_BYTES: usize = size_of::<libc::ucred>();

/// getsockopt(2) for an option that is an integer.
pub fn option_int(fd: BorrowedFd<'_>, level: i32, name: i32) -> Result<i32> {
    let bytes = option_bytes(fd, level, name, size_of::<i32>())?;
    let bytes = bytes.try_into().map_err(|_| Errno::INVAL)?;
    Ok(i32::from_ne_bytes(bytes))
}

/// setsockopt(2) for an option that is an integer.
pub fn set_option_int(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> Result<()> {
    set_option_bytes(fd, level, name, &value.to_ne_bytes())
}

/// getsockopt(2) for an option that is plain data without pointers, of at most `limit` bytes.
pub fn option_bytes(fd: BorrowedFd<'_>, level: i32, name: i32, limit: usize) -> Result<Vec<u8>> {
    let mut value = vec![0; limit];
    let mut len = socklen(limit)?;
    // SAFETY: both out-pointers are live, and `len` says how long `value` is.
    check(i64::from(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    }))?;
    value.truncate(len as usize);
    Ok(value)
}

/// getsockopt(2) for an option whose question is in the place of its answer: `value` goes in and comes out. Returns how
/// many bytes were written.
pub fn ask_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &mut [u8]) -> Result<usize> {
    let mut len = socklen(value.len())?;
    // SAFETY: both out-pointers are live, and `len` says how long `value` is.
    check(i64::from(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    }))?;
    Ok(value.len().min(len as usize))
}

/// setsockopt(2) for an option that is plain data without pointers.
pub fn set_option_bytes(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<()> {
    // SAFETY: `value` is live, as long as said, and only read.
    check(i64::from(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            socklen(value.len())?,
        )
    }))
    .map(drop)
}

/// An option that is a span of time (SO_RCVTIMEO, SO_SNDTIMEO): seconds and microseconds.
pub fn option_time(fd: BorrowedFd<'_>, name: i32) -> Result<(i64, i64)> {
    let bytes = option_bytes(fd, libc::SOL_SOCKET, name, size_of::<libc::timeval>())?;
    let word = |at: usize| bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    match (word(0), word(8)) {
        (Some(seconds), Some(microseconds)) => Ok((
            i64::from_ne_bytes(seconds),
            i64::from_ne_bytes(microseconds),
        )),
        _ => Err(Errno::INVAL),
    }
}

/// Sets an option that is a span of time.
pub fn set_option_time(
    fd: BorrowedFd<'_>,
    name: i32,
    (seconds, microseconds): (i64, i64),
) -> Result<()> {
    let mut bytes = seconds.to_ne_bytes().to_vec();
    bytes.extend(microseconds.to_ne_bytes());
    set_option_bytes(fd, libc::SOL_SOCKET, name, &bytes)
}

/// One instruction of a socket's filter: `struct sock_filter` of linux/filter.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterInstruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if true.
    pub jump_true: u8,
    /// Instructions to skip if false.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// The filter attached to a socket (SO_GET_FILTER of socket(7)); empty when there is none.
///
/// EACCES when it is an eBPF program, which cannot be read back.
pub fn filter(fd: BorrowedFd<'_>) -> Result<Vec<FilterInstruction>> {
    let get = |instructions: *mut FilterInstruction, mut count: libc::socklen_t| {
        // SAFETY: `instructions` has room for `count` of them, or both are zero; the call counts instructions, not
        // bytes, writes no more than `count` and updates the live `count`.
        check(i64::from(unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_GET_FILTER,
                instructions.cast(),
                &raw mut count,
            )
        }))?;
        Ok(count)
    };
    let count = get(std::ptr::null_mut(), 0)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut filter = vec![FilterInstruction::default(); count as usize];
    let count = get(filter.as_mut_ptr(), count)?;
    filter.truncate(count as usize);
    Ok(filter)
}

/// Attaches a filter to a socket (SO_ATTACH_FILTER of socket(7)).
pub fn attach_filter(fd: BorrowedFd<'_>, filter: &[FilterInstruction]) -> Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `program` is live and of the length said; `FilterInstruction` has the layout of sock_filter, and the
    // kernel only reads the `len` of them that are there.
    check(i64::from(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    }))
    .map(drop)
}

fn socklen(bytes: usize) -> Result<libc::socklen_t> {
    libc::socklen_t::try_from(bytes).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_socket_tells_what_it_is_and_who_made_it() {
        let (one, _other) = UnixDatagram::pair().unwrap();
        let kind = kind(one.as_fd()).unwrap();
        assert_eq!((kind.family, kind.kind), (libc::AF_UNIX, libc::SOCK_DGRAM));
        let peer = peer_credentials(one.as_fd()).unwrap();
        assert_eq!(peer.pid, std::process::id() as i32);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(super::kind(file.as_fd()), Err(Errno::NOTSOCK));
    }

    #[test]
    fn options_are_set_and_read() {
        let (one, _other) = UnixDatagram::pair().unwrap();
        let fd = one.as_fd();
        set_option_int(fd, libc::SOL_SOCKET, libc::SO_PASSCRED, 1).unwrap();
        assert_eq!(option_int(fd, libc::SOL_SOCKET, libc::SO_PASSCRED), Ok(1));
        assert_eq!(option_time(fd, libc::SO_RCVTIMEO), Ok((0, 0)));
        set_option_time(fd, libc::SO_RCVTIMEO, (3, 500_000)).unwrap();
        assert_eq!(option_time(fd, libc::SO_RCVTIMEO), Ok((3, 500_000)));
    }

    #[test]
    fn a_filter_is_attached_and_read() {
        let (one, _other) = UnixDatagram::pair().unwrap();
        assert_eq!(filter(one.as_fd()), Ok(Vec::new()));
        // BPF_RET | BPF_K: let everything through.
        let program = [FilterInstruction {
            code: 6,
            operand: u32::MAX,
            ..FilterInstruction::default()
        }];
        attach_filter(one.as_fd(), &program).unwrap();
        assert_eq!(filter(one.as_fd()).unwrap(), program);
    }
}
