//! TCP connections under repair: reading and building them without a packet on the wire.
//!
//! The kernel's interface is `TCP_REPAIR` and its companions (linux/tcp.h; `Documentation/networking` has nothing about
//! them, the patch series of 2012 and net/ipv4/tcp.c have). All but [`info`] and the queue sizes need CAP_NET_ADMIN and a
//! socket that is under repair.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::socket;
use crate::{Errno, Result, check};

/// States of a connection (include/net/tcp_states.h), as `tcpi_state` and images have them.
pub mod state {
    /// Open in both directions.
    pub const ESTABLISHED: u8 = 1;
    /// Our SYN is on its way.
    pub const SYN_SENT: u8 = 2;
    /// Both SYNs were seen, the last acknowledgement was not.
    pub const SYN_RECV: u8 = 3;
    /// We closed; the peer has not acknowledged that.
    pub const FIN_WAIT1: u8 = 4;
    /// We closed and the peer acknowledged.
    pub const FIN_WAIT2: u8 = 5;
    /// Both closed; old packets may be around.
    pub const TIME_WAIT: u8 = 6;
    /// No connection.
    pub const CLOSE: u8 = 7;
    /// The peer closed.
    pub const CLOSE_WAIT: u8 = 8;
    /// The peer closed, then we did; it has not acknowledged that.
    pub const LAST_ACK: u8 = 9;
    /// Waits for connections.
    pub const LISTEN: u8 = 10;
    /// Both closed at the same time; ours is not acknowledged.
    pub const CLOSING: u8 = 11;
}

/// Bits of [`Info::options`] (`TCPI_OPT_*`).
pub mod option {
    /// Timestamps are in use.
    pub const TIMESTAMPS: u8 = 1;
    /// Selective acknowledgements are in use.
    pub const SACK: u8 = 2;
    /// Windows are scaled.
    pub const WSCALE: u8 = 4;
}

/// What TCP_INFO says, as far as it is needed (tcp(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// One of [`state`].
    pub state: u8,
    /// Bits of [`option`].
    pub options: u8,
    /// The peer's window scale.
    pub snd_wscale: u8,
    /// Our window scale.
    pub rcv_wscale: u8,
    /// For a listener: connections that wait to be accepted. Otherwise packets in flight.
    pub unacked: u32,
    /// For a listener: how many may wait. Otherwise packets that were acknowledged selectively.
    pub sacked: u32,
}

/// getsockopt(TCP_INFO).
pub fn info(fd: BorrowedFd<'_>) -> Result<Info> {
    let raw = exactly::<36>(fd, libc::TCP_INFO)?;
    let word = |at: usize| u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
    Ok(Info {
        state: raw[0],
        options: raw[5],
        snd_wscale: raw[6] & 0xf,
        rcv_wscale: raw[6] >> 4,
        unacked: word(24),
        sacked: word(28),
    })
}

/// What TCP_REPAIR is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Repair {
    /// Under repair: reads and writes go to the queue that was chosen, closing is silent.
    On = 1,
    /// An ordinary connection again, which tells its peer so with a window probe.
    Off = 0,
    /// An ordinary connection again, and nobody is told.
    OffSilently = -1,
}

/// setsockopt(TCP_REPAIR). It sets SO_REUSEADDR to something, which has to be put back.
pub fn set_repair(fd: BorrowedFd<'_>, repair: Repair) -> Result<()> {
    socket::set_option_int(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, repair as i32)
}

/// A queue of a connection under repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Queue {
    /// None: a FIN goes out as it does elsewhere.
    None = 0,
    /// What was received and not read.
    Receive = 1,
    /// What was written and not acknowledged.
    Send = 2,
}

/// setsockopt(TCP_REPAIR_QUEUE): which queue the following calls are about.
pub fn choose_queue(fd: BorrowedFd<'_>, queue: Queue) -> Result<()> {
    socket::set_option_int(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, queue as i32)
}

/// getsockopt(TCP_QUEUE_SEQ): the sequence number behind the end of the chosen queue.
pub fn queue_sequence(fd: BorrowedFd<'_>) -> Result<u32> {
    socket::option_int(fd, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ).map(|value| value as u32)
}

/// setsockopt(TCP_QUEUE_SEQ), while the socket is not connected.
pub fn set_queue_sequence(fd: BorrowedFd<'_>, sequence: u32) -> Result<()> {
    socket::set_option_int(fd, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, sequence as i32)
}

/// `struct tcp_repair_window`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Sequence number of the segment that updated the send window last.
    pub snd_wl1: u32,
    /// The window that the peer grants.
    pub snd_wnd: u32,
    /// The largest window that it ever granted.
    pub max_window: u32,
    /// The window that we grant.
    pub rcv_wnd: u32,
    /// What had been received when we told the peer.
    pub rcv_wup: u32,
}

const TCP_REPAIR_WINDOW: i32 = 29;

/// getsockopt(TCP_REPAIR_WINDOW).
pub fn window(fd: BorrowedFd<'_>) -> Result<Window> {
    let raw = exactly::<20>(fd, TCP_REPAIR_WINDOW)?;
    let word = |at: usize| u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
    Ok(Window {
        snd_wl1: word(0),
        snd_wnd: word(4),
        max_window: word(8),
        rcv_wnd: word(12),
        rcv_wup: word(16),
    })
}

/// setsockopt(TCP_REPAIR_WINDOW).
pub fn set_window(fd: BorrowedFd<'_>, window: Window) -> Result<()> {
    let words = [
        window.snd_wl1,
        window.snd_wnd,
        window.max_window,
        window.rcv_wnd,
        window.rcv_wup,
    ];
    let raw: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    socket::set_option_bytes(fd, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &raw)
}

/// What both ends agreed on when they connected, `struct tcp_repair_opt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negotiated {
    /// The largest segment.
    MaxSegment(u32),
    /// The scales of the peer's and of our windows.
    WindowScale {
        /// The peer's.
        snd: u8,
        /// Ours.
        rcv: u8,
    },
    /// Selective acknowledgements.
    Sack,
    /// Timestamps.
    Timestamps,
}

/// setsockopt(TCP_REPAIR_OPTIONS), once connected under repair.
pub fn set_negotiated(fd: BorrowedFd<'_>, options: &[Negotiated]) -> Result<()> {
    // The numbers of the options in TCP headers (RFC 9293, 7323, 2018).
    let raw: Vec<u8> = options
        .iter()
        .map(|option| match *option {
            Negotiated::MaxSegment(bytes) => [2, bytes],
            Negotiated::WindowScale { snd, rcv } => [3, u32::from(snd) | u32::from(rcv) << 16],
            Negotiated::Sack => [4, 0],
            Negotiated::Timestamps => [8, 0],
        })
        .flat_map(|[code, value]| [code.to_ne_bytes(), value.to_ne_bytes()].concat())
        .collect();
    socket::set_option_bytes(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR_OPTIONS, &raw)
}

/// getsockopt(TCP_TIMESTAMP): the clock that the connection's timestamps are made of.
pub fn timestamp(fd: BorrowedFd<'_>) -> Result<u32> {
    socket::option_int(fd, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP).map(|value| value as u32)
}

/// setsockopt(TCP_TIMESTAMP).
pub fn set_timestamp(fd: BorrowedFd<'_>, timestamp: u32) -> Result<()> {
    socket::set_option_int(fd, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP, timestamp as i32)
}

/// ioctl(SIOCOUTQ): sequence numbers that were written and not acknowledged, a FIN counted as one.
pub fn unacknowledged(fd: BorrowedFd<'_>) -> Result<u32> {
    count(fd, 0x5411)
}

/// ioctl(SIOCOUTQNSD): sequence numbers that were written and never sent, a FIN counted as one.
pub fn unsent(fd: BorrowedFd<'_>) -> Result<u32> {
    count(fd, 0x894b)
}

fn exactly<const BYTES: usize>(fd: BorrowedFd<'_>, name: i32) -> Result<[u8; BYTES]> {
    let raw = socket::option_bytes(fd, libc::IPPROTO_TCP, name, BYTES)?;
    raw.try_into().map_err(|_| Errno::INVAL)
}

fn count(fd: BorrowedFd<'_>, request: libc::c_ulong) -> Result<u32> {
    let mut value = 0i32;
    // SAFETY: both requests write one int.
    check(i64::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), request, &raw mut value)
    }))?;
    Ok(value.max(0) as u32)
}
