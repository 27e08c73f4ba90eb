//! TCP connections, read under repair.
//!
//! A connection under repair (TCP_REPAIR) tells its sequence numbers, its window and both its queues. While it is, the
//! program could not use it, and it would stay so if cryopod died; so each is under repair only for the moment in which it
//! is read, a few system calls long, and is an ordinary connection again when the next one's turn comes. What must not
//! change in between is kept by the lock ([`crate::net::lock`]).

use std::os::fd::{AsFd, BorrowedFd};

use cryopod_image::criu::{InetSkEntry, TcpStreamEntry};
use cryopod_image::{Kind, SetWriter};
use cryopod_sys::tcp::{self, Queue, Repair, option, state};
use cryopod_sys::{Errno, Result as SysResult, fd as descriptor, socket};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;

use super::super::{Description, refuse};
use super::shown;
use crate::error::Result;

/// A connection as it was read.
struct Stream {
    state: u8,
    entry: TcpStreamEntry,
    received: Vec<u8>,
    sent: Vec<u8>,
}

/// Reads the connection of a socket into tcp-stream-INO.img, and its state into the socket's entry.
pub fn dump(one: &Description<'_>, entry: &mut InetSkEntry, set: &SetWriter) -> Result<()> {
    let fd = one.file.as_fd();
    if one.check("ask for urgent data (poll)", has_urgent_data(fd))? {
        let kind = one.check("ask what it is", socket::kind(fd))?;
        let what = format!(
            "{}: urgent data (MSG_OOB) waits to be read: not supported",
            shown(&kind)
        );
        return Err(refuse(one.seen, what));
    }
    let stream = UnderRepair::new(fd).and_then(|repaired| read(repaired.fd));
    let stream = one.check("read its connection (TCP_REPAIR)", stream)?;
    entry.state = u32::from(stream.state);
    let mut image = set.entries(Kind::TcpStream, Some(u64::from(entry.ino)))?;
    image.push(&stream.entry)?;
    image.payload(&stream.received)?;
    image.payload(&stream.sent)?;
    Ok(image.finish()?)
}

/// A socket under repair; an ordinary one again when this is dropped.
struct UnderRepair<'f> {
    fd: BorrowedFd<'f>,
    reuse: i32,
    peek_offset: Option<i32>,
}

impl<'f> UnderRepair<'f> {
    fn new(fd: BorrowedFd<'f>) -> SysResult<Self> {
        let option = |name| socket::option_int(fd, libc::SOL_SOCKET, name);
        let reuse = option(libc::SO_REUSEADDR)?;
        // Where peeking begins, and that it moves on.
        let peek_offset = option(libc::SO_PEEK_OFF).ok().filter(|&offset| offset >= 0);
        if peek_offset.is_some() {
            socket::set_option_int(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, -1)?;
        }
        let guard = Self {
            fd,
            reuse,
            peek_offset,
        };
        tcp::set_repair(fd, Repair::On)?;
        Ok(guard)
    }
}

impl Drop for UnderRepair<'_> {
    fn drop(&mut self) {
        let set = |name, value| socket::set_option_int(self.fd, libc::SOL_SOCKET, name, value);
        let done = tcp::set_repair(self.fd, Repair::OffSilently)
            // The end of a repair clears it.
            .and_then(|()| set(libc::SO_REUSEADDR, self.reuse))
            .and_then(|()| {
                self.peek_offset
                    .map_or(Ok(()), |offset| set(libc::SO_PEEK_OFF, offset))
            });
        if let Err(error) = done {
            tracing::error!(%error, "a connection could not be put back into service");
        }
    }
}

/// Reads everything of a connection under repair.
fn read(fd: BorrowedFd<'_>) -> SysResult<Stream> {
    let info = tcp::info(fd)?;
    let window = tcp::window(fd)?;
    let (pending, unsent) = send_queue_lengths(fd, info.state)?;
    let inq_len = descriptor::readable_bytes(fd)?;
    let (inq_seq, received) = queue(fd, Queue::Receive, inq_len)?;
    let (outq_seq, sent) = queue(fd, Queue::Send, pending)?;
    let mut entry = TcpStreamEntry {
        inq_len,
        inq_seq,
        outq_len: pending,
        outq_seq,
        opt_mask: u32::from(info.options),
        mss_clamp: socket::option_int(fd, libc::IPPROTO_TCP, libc::TCP_MAXSEG)? as u32,
        unsq_len: Some(unsent),
        snd_wl1: Some(window.snd_wl1),
        snd_wnd: Some(window.snd_wnd),
        max_window: Some(window.max_window),
        rcv_wnd: Some(window.rcv_wnd),
        rcv_wup: Some(window.rcv_wup),
        ..TcpStreamEntry::default()
    };
    if info.options & option::WSCALE != 0 {
        entry.snd_wscale = info.snd_wscale.into();
        entry.rcv_wscale = Some(info.rcv_wscale.into());
    }
    if info.options & option::TIMESTAMPS != 0 {
        entry.timestamp = Some(tcp::timestamp(fd)?);
    }
    Ok(Stream {
        state: info.state,
        entry,
        received,
        sent,
    })
}

/// Bytes that were written and not acknowledged, and those of them that were never sent. The kernel counts our FIN like a
/// byte, where there is one.
fn send_queue_lengths(fd: BorrowedFd<'_>, in_state: u8) -> SysResult<(u32, u32)> {
    let fin = match in_state {
        // Nobody will ever ask for it again.
        state::CLOSE => return Ok((0, 0)),
        state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSING | state::LAST_ACK => 1,
        _ => 0,
    };
    let pending = tcp::unacknowledged(fd)?.saturating_sub(fin);
    let unsent = tcp::unsent(fd)?.saturating_sub(fin);
    Ok((pending, unsent.min(pending)))
}

/// The sequence number behind a queue, and the `len` bytes in it.
fn queue(fd: BorrowedFd<'_>, queue: Queue, len: u32) -> SysResult<(u32, Vec<u8>)> {
    tcp::choose_queue(fd, queue)?;
    let sequence = tcp::queue_sequence(fd)?;
    if len == 0 {
        return Ok((sequence, Vec::new()));
    }
    // With room for one more byte, which must not be there.
    let mut bytes = vec![0; len as usize + 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (read, _) = rustix::net::recv(fd, bytes.as_mut_slice(), flags)?;
    if read != len as usize {
        return Err(Errno::AGAIN);
    }
    bytes.truncate(read);
    Ok((sequence, bytes))
}

fn has_urgent_data(fd: BorrowedFd<'_>) -> SysResult<bool> {
    let mut asked = [PollFd::new(&fd, PollFlags::PRI)];
    rustix::event::poll(&mut asked, Some(&Timespec::default()))?;
    Ok(asked[0].revents().contains(PollFlags::PRI))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    /// Without CAP_NET_ADMIN nothing can be repaired.
    fn read_or_skip(socket: &TcpStream) -> Option<Stream> {
        match UnderRepair::new(socket.as_fd()).and_then(|repaired| read(repaired.fd)) {
            Err(Errno::PERM) => None,
            read => Some(read.unwrap()),
        }
    }

    #[test]
    fn a_connection_is_read_and_goes_on() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (mut one, mut other) = pair(address);
            one.write_all(b"hello").unwrap();
            other.peek(&mut [0]).unwrap();
            let Some(stream) = read_or_skip(&other) else {
                return;
            };
            assert_eq!(stream.received, b"hello");
            assert_eq!(
                (stream.state, stream.entry.unsq_len),
                (state::ESTABLISHED, Some(0))
            );
            let mut text = [0; 5];
            other.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"hello");
            other.write_all(b"world").unwrap();
            one.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"world");
        }
    }

    #[test]
    fn a_fin_is_no_byte() {
        let (one, mut other) = pair("127.0.0.1:0");
        one.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(other.read(&mut [0]).unwrap(), 0);
        let Some(stream) = read_or_skip(&other) else {
            return;
        };
        assert_eq!(stream.state, state::CLOSE_WAIT);
        assert_eq!((stream.entry.inq_len, stream.entry.outq_len), (0, 0));
    }
}
