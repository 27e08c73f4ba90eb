//! recvmsg(2) and sendmsg(2) with what unix(7) can put beside the bytes, descriptors and credentials, and udp(7): where a
//! datagram was sent to.

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::socket::Credentials;
use crate::{Errno, Result, check};

/// Room for control messages: 253 descriptors (SCM_MAX_FD), credentials, a pidfd, a time stamp and a security label.
const CONTROL_BYTES: usize = 8192;
/// Longest address of any family (`struct sockaddr_storage`).
const ADDRESS_BYTES: usize = size_of::<libc::sockaddr_storage>();

/// A message, or a piece of a stream.
#[derive(Debug, Default)]
pub struct Message {
    /// How long it is: with MSG_TRUNC among the flags that were asked for, also where the buffer was shorter.
    pub bytes: usize,
    /// MSG_* flags that came back.
    pub flags: i32,
    /// Address of the sender as the kernel lays it out; empty when it has none or it is not told.
    pub address: Vec<u8>,
    /// Descriptors that came along, now ours and close-on-exec (SCM_RIGHTS).
    pub rights: Vec<OwnedFd>,
    /// The sender, where the socket asks for that (SCM_CREDENTIALS).
    pub credentials: Option<Credentials>,
    /// Where it was sent to, as a `sockaddr`, where the socket asks for that (IP_RECVORIGDSTADDR, IPV6_RECVORIGDSTADDR).
    pub destination: Vec<u8>,
    /// How long each of the datagrams is (the last may be shorter) that the kernel has put together (UDP_GRO).
    pub segment_bytes: Option<usize>,
}

/// recvmsg(2) into `buffer`. MSG_CMSG_CLOEXEC is added to `flags`. Control messages of other types than those of
/// [`Message`] are dropped.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: i32) -> Result<Message> {
    let mut address = [0u64; ADDRESS_BYTES / 8];
    // As words, because the kernel's headers in it are aligned to words.
    let mut control = [0u64; CONTROL_BYTES / 8];
    let mut io = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = address.as_mut_ptr().cast();
    header.msg_namelen = ADDRESS_BYTES as libc::socklen_t;
    header.msg_iov = &raw mut io;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES;
    // SAFETY: every pointer in `header` is live and as long as said.
    let bytes = check(unsafe {
        libc::recvmsg(
            fd.as_raw_fd(),
            &raw mut header,
            flags | libc::MSG_CMSG_CLOEXEC,
        ) as i64
    })?;
    let address_len = (header.msg_namelen as usize).min(ADDRESS_BYTES);
    let mut message = Message {
        bytes: bytes as usize,
        flags: header.msg_flags,
        address: flat(&address, address_len),
        ..Message::default()
    };
    let control_len = header.msg_controllen.min(CONTROL_BYTES);
    take_control(&flat(&control, control_len), &mut message);
    Ok(message)
}

/// How many of the next `limit` bytes of a stream are whole pieces, each as it was sent; with MSG_PEEK among `flags`
/// nothing is taken out.
///
/// The kernel copies piece by piece, and one that does not fit into memory not at all: behind the `limit` bytes is a page
/// that nobody may write.
pub fn whole_pieces(fd: BorrowedFd<'_>, limit: usize, flags: i32) -> Result<usize> {
    const PAGE_BYTES: usize = 4096;
    let mut buffer = vec![0u8; limit];
    // SAFETY: a new mapping of nothing, at a place of the kernel's choice.
    let wall = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGE_BYTES,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if wall == libc::MAP_FAILED {
        return Err(Errno::NOMEM);
    }
    let mut io = [
        libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: limit,
        },
        libc::iovec {
            iov_base: wall,
            iov_len: PAGE_BYTES,
        },
    ];
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = io.as_mut_ptr();
    header.msg_iovlen = io.len();
    // SAFETY: the first part of `io` is live memory of ours; the second is an inaccessible page, which the kernel finds
    // out without harm.
    let got = check(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) as i64 });
    // SAFETY: the mapping made above, which nothing refers to.
    unsafe { libc::munmap(wall, PAGE_BYTES) };
    match got {
        Err(Errno::FAULT) => Ok(0),
        got => got.map(|bytes| bytes as usize),
    }
}

fn flat(words: &[u64], len: usize) -> Vec<u8> {
    let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
    bytes.take(len).collect()
}

/// Takes the control messages that recvmsg(2) has just written apart: `struct cmsghdr`, each aligned to words.
fn take_control(control: &[u8], message: &mut Message) {
    const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
    const SCM_PIDFD: i32 = 4;
    const SOL_UDP: i32 = 17;
    const UDP_GRO: i32 = 104;
    const IPV6_ORIGDSTADDR: i32 = 74;
    let mut rest = control;
    while rest.len() >= HEADER_BYTES {
        let int =
            |at: usize| i32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
        let mut len = [0; 8];
        len.copy_from_slice(&rest[..8]);
        let len = usize::from_ne_bytes(len);
        if len < HEADER_BYTES || len > rest.len() {
            return;
        }
        let data = &rest[HEADER_BYTES..len];
        match (int(8), int(12)) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => message.rights.extend(owned(data)),
            // The kernel has made one for us; nobody has asked for it here.
            (libc::SOL_SOCKET, SCM_PIDFD) => drop(owned(data)),
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                message.credentials = Credentials::from_bytes(data);
            }
            (libc::IPPROTO_IP, libc::IP_ORIGDSTADDR) | (libc::IPPROTO_IPV6, IPV6_ORIGDSTADDR) => {
                message.destination = data.to_vec();
            }
            (SOL_UDP, UDP_GRO) => {
                let size = data.first_chunk().map(|word| i32::from_ne_bytes(*word));
                message.segment_bytes = size.and_then(|size| usize::try_from(size).ok());
            }
            _ => {}
        }
        rest = &rest[len.next_multiple_of(8).min(rest.len())..];
    }
}

/// Descriptors that the kernel has just installed; -1 or less where it could not.
fn owned(data: &[u8]) -> Vec<OwnedFd> {
    data.chunks_exact(4)
        .map(|word| i32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
        .filter(|&fd| fd >= 0)
        // SAFETY: the caller hands over control messages as recvmsg(2) has written them, once: the kernel made these
        // descriptors for us, and nobody else owns them.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect()
}

/// sendmsg(2), without SIGPIPE. `address` is as the kernel lays it out, or empty for the peer. Returns how many bytes
/// went.
///
/// Foreign credentials need CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID, and the process must exist (ESRCH).
pub fn send(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    address: &[u8],
    rights: &[BorrowedFd<'_>],
    credentials: Option<Credentials>,
) -> Result<usize> {
    let mut control = Vec::new();
    if !rights.is_empty() {
        let data: Vec<u8> = rights
            .iter()
            .flat_map(|fd| fd.as_raw_fd().to_ne_bytes())
            .collect();
        add_control(&mut control, libc::SCM_RIGHTS, &data);
    }
    if let Some(who) = credentials {
        let mut data = who.pid.to_ne_bytes().to_vec();
        data.extend(who.uid.to_ne_bytes());
        data.extend(who.gid.to_ne_bytes());
        add_control(&mut control, libc::SCM_CREDENTIALS, &data);
    }
    let mut io = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if !address.is_empty() {
        header.msg_name = address.as_ptr().cast_mut().cast();
        header.msg_namelen = libc::socklen_t::try_from(address.len()).map_err(|_| Errno::INVAL)?;
    }
    header.msg_iov = &raw mut io;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control.len() * 8;
    }
    // SAFETY: every pointer in `header` is live and as long as said, and all are only read.
    let sent = check(unsafe {
        libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) as i64
    })?;
    Ok(sent as usize)
}

/// Appends a control message: `struct cmsghdr` and its data, in words.
fn add_control(control: &mut Vec<u64>, kind: i32, data: &[u8]) {
    let len = size_of::<libc::cmsghdr>() + data.len();
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend(libc::SOL_SOCKET.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    control.extend(bytes.chunks_exact(8).map(|word| {
        let mut array = [0; 8];
        array.copy_from_slice(word);
        u64::from_ne_bytes(array)
    }));
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;
    use crate::socket::set_option_int;

    #[test]
    fn descriptors_and_credentials_travel() {
        let (one, other) = UnixStream::pair().unwrap();
        set_option_int(other.as_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, 1).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let me = Credentials {
            pid: std::process::id() as i32,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        };
        let rights = [null.as_fd(), one.as_fd(), null.as_fd()];
        assert_eq!(send(one.as_fd(), b"hello", &[], &rights, Some(me)), Ok(5));
        let mut buffer = [0; 16];
        for flags in [libc::MSG_PEEK, 0] {
            let message = receive(other.as_fd(), &mut buffer, flags).unwrap();
            assert_eq!((message.bytes, message.rights.len()), (5, 3));
            assert_eq!(message.credentials, Some(me));
            assert_eq!(message.flags & libc::MSG_CTRUNC, 0);
        }
        assert_eq!(&buffer[..5], b"hello");
    }

    #[test]
    fn the_address_of_the_sender_is_told() {
        let mut name = 1u16.to_ne_bytes().to_vec();
        name.extend(format!("\0cryopod-test-{}", std::process::id()).bytes());
        let (one, other) = (
            UnixDatagram::unbound().unwrap(),
            UnixDatagram::unbound().unwrap(),
        );
        crate::socket::bind(one.as_fd(), &name).unwrap();
        send(other.as_fd(), b"", &name, &[], None).unwrap();
        let mut buffer = [0; 16];
        let message = receive(one.as_fd(), &mut buffer, libc::MSG_DONTWAIT).unwrap();
        assert_eq!((message.bytes, message.address.as_slice()), (0, &[][..]));
        crate::socket::connect(other.as_fd(), &name).unwrap();
        send(one.as_fd(), b"no", &name, &[], None).unwrap();
        let message = receive(one.as_fd(), &mut buffer, libc::MSG_DONTWAIT).unwrap();
        assert_eq!(message.address, name);
    }

    #[test]
    fn the_destination_of_a_datagram_is_told_on_request() {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        socket.send_to(b"x", ("127.0.0.9", port)).unwrap();
        let mut buffer = [0; 16];
        let peek = libc::MSG_PEEK;
        let message = receive(socket.as_fd(), &mut buffer, peek).unwrap();
        assert_eq!(message.destination, []);
        set_option_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_ORIGDSTADDR, 1).unwrap();
        let message = receive(socket.as_fd(), &mut buffer, peek).unwrap();
        assert_eq!(message.destination[4..8], [127, 0, 0, 9]);
        assert_eq!(message.destination[2..4], port.to_be_bytes());
    }

    #[test]
    fn pieces_of_a_stream_are_told_apart() {
        let (one, other) = UnixStream::pair().unwrap();
        for piece in ["four", "", "seven", "x"] {
            send(one.as_fd(), piece.as_bytes(), &[], &[], None).unwrap();
        }
        let whole = |limit| whole_pieces(other.as_fd(), limit, libc::MSG_PEEK).unwrap();
        assert_eq!([3, 4, 5, 8, 9, 10].map(whole), [0, 4, 4, 4, 9, 10]);
    }

    #[test]
    fn control_messages_that_make_no_sense_end_the_list() {
        let mut message = Message::default();
        for len in [0usize, 5, 17, 4096] {
            let mut bytes = len.to_ne_bytes().to_vec();
            bytes.extend([0; 8]);
            take_control(&bytes, &mut message);
        }
        assert!(message.rights.is_empty() && message.credentials.is_none());
    }
}
