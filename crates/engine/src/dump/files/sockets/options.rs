//! Options of sockets of every family (socket(7)).
//!
//! CRIU's entry has most of them; the rest go into fields of our own when they are not what a new socket has.

use std::os::fd::BorrowedFd;

use cryopod_image::criu::{CryopodSkOption, SkOptsEntry};
use cryopod_sys::socket::{self, FilterInstruction};
use cryopod_sys::{Errno, Result};
use libc::SOL_SOCKET;

/// An option that CRIU's entry has no field for: its number at SOL_SOCKET, its name, and what a new socket has.
pub struct Other {
    /// SO_*.
    pub number: i32,
    /// For messages.
    pub name: &'static str,
    default: i32,
}

const fn other(number: i32, name: &'static str, default: i32) -> Other {
    Other {
        number,
        name,
        default,
    }
}

/// The options without a field in CRIU's entry, in the order in which they are set. Those at numbers that `libc` does not
/// name are of asm-generic/socket.h.
pub const OTHERS: &[Other] = &[
    other(libc::SO_DEBUG, "SO_DEBUG", 0),
    other(libc::SO_TIMESTAMP, "SO_TIMESTAMP", 0),
    other(libc::SO_TIMESTAMPNS, "SO_TIMESTAMPNS", 0),
    other(63, "SO_TIMESTAMP_NEW", 0),
    other(64, "SO_TIMESTAMPNS_NEW", 0),
    other(libc::SO_TIMESTAMPING, "SO_TIMESTAMPING", 0),
    other(libc::SO_RXQ_OVFL, "SO_RXQ_OVFL", 0),
    other(libc::SO_SELECT_ERR_QUEUE, "SO_SELECT_ERR_QUEUE", 0),
    other(libc::SO_BUSY_POLL, "SO_BUSY_POLL", 0),
    other(69, "SO_PREFER_BUSY_POLL", 0),
    other(60, "SO_ZEROCOPY", 0),
    other(76, "SO_PASSPIDFD", 0),
    other(82, "SO_RCVPRIORITY", 0),
    other(83, "SO_PASSRIGHTS", 1),
    other(libc::SO_PEEK_OFF, "SO_PEEK_OFF", -1),
];

/// Keeps a filter from being changed (SO_LOCK_FILTER); set when everything else is done.
pub const LOCK_FILTER: Other = other(libc::SO_LOCK_FILTER, "SO_LOCK_FILTER", 0);

/// Why the options of a socket cannot be taken along, if they cannot.
pub fn problem(socket: BorrowedFd<'_>) -> Option<&'static str> {
    (socket::filter(socket) == Err(Errno::ACCESS))
        .then_some("an eBPF program filters it (SO_ATTACH_BPF)")
}

/// Reads the options of a socket.
pub fn dump(socket: BorrowedFd<'_>) -> Result<SkOptsEntry> {
    let int = |name| socket::option_int(socket, SOL_SOCKET, name);
    let flag = |name| Ok(Some(int(name)? != 0));
    let (send_seconds, send_microseconds) = socket::option_time(socket, libc::SO_SNDTIMEO)?;
    let (receive_seconds, receive_microseconds) = socket::option_time(socket, libc::SO_RCVTIMEO)?;
    Ok(SkOptsEntry {
        so_sndbuf: int(libc::SO_SNDBUF)? as u32,
        so_rcvbuf: int(libc::SO_RCVBUF)? as u32,
        so_snd_tmo_sec: send_seconds as u64,
        so_snd_tmo_usec: send_microseconds as u64,
        so_rcv_tmo_sec: receive_seconds as u64,
        so_rcv_tmo_usec: receive_microseconds as u64,
        reuseaddr: flag(libc::SO_REUSEADDR)?,
        so_priority: Some(int(libc::SO_PRIORITY)? as u32),
        so_rcvlowat: Some(int(libc::SO_RCVLOWAT)? as u32),
        // A mark that is set takes a capability to bring back.
        so_mark: Some(int(libc::SO_MARK)? as u32).filter(|&mark| mark != 0),
        // Not of every family since Linux 6.16.
        so_passcred: where_known(flag(libc::SO_PASSCRED))?,
        so_passsec: where_known(flag(libc::SO_PASSSEC))?,
        so_dontroute: flag(libc::SO_DONTROUTE)?,
        so_no_check: flag(libc::SO_NO_CHECK)?,
        so_bound_dev: device(socket)?,
        so_filter: socket::filter(socket)?.iter().map(encode).collect(),
        so_reuseport: flag(libc::SO_REUSEPORT)?,
        so_broadcast: flag(libc::SO_BROADCAST)?,
        so_keepalive: flag(libc::SO_KEEPALIVE)?,
        so_oobinline: Some(int(libc::SO_OOBINLINE)? as u32),
        so_linger: linger(socket)?,
        so_buf_lock: where_known(int(BUF_LOCK).map(|bits| Some(bits as u32)))?,
        cryopod_others: others(socket)?,
        ..SkOptsEntry::default()
    })
}

/// `SO_BUF_LOCK` of asm-generic/socket.h: which buffer sizes were set by hand.
pub const BUF_LOCK: i32 = 72;

/// Takes an option that this family or this kernel does not know for one that is not set.
fn where_known<T>(asked: Result<Option<T>>) -> Result<Option<T>> {
    match asked {
        Err(Errno::OPNOTSUPP | Errno::NOPROTOOPT | Errno::INVAL) => Ok(None),
        asked => asked,
    }
}

/// The interface that the socket is bound to.
fn device(socket: BorrowedFd<'_>) -> Result<Option<Vec<u8>>> {
    let name = socket::option_bytes(socket, SOL_SOCKET, libc::SO_BINDTODEVICE, libc::IFNAMSIZ)?;
    let name: Vec<u8> = name.into_iter().take_while(|&byte| byte != 0).collect();
    Ok(Some(name).filter(|name| !name.is_empty()))
}

/// Seconds to linger, where that is on (`struct linger`).
fn linger(socket: BorrowedFd<'_>) -> Result<Option<u32>> {
    let bytes = socket::option_bytes(socket, SOL_SOCKET, libc::SO_LINGER, 8)?;
    let word = |at: usize| {
        let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map(u32::from_ne_bytes).ok_or(Errno::INVAL)
    };
    let is_on = word(0)? != 0;
    Ok(if is_on { Some(word(4)?) } else { None })
}

fn others(socket: BorrowedFd<'_>) -> Result<Vec<CryopodSkOption>> {
    let mut found = Vec::new();
    for option in OTHERS.iter().chain([&LOCK_FILTER]) {
        let asked = socket::option_int(socket, SOL_SOCKET, option.number).map(Some);
        let Some(value) = where_known(asked)? else {
            continue;
        };
        if value != option.default {
            found.push(CryopodSkOption {
                name: option.number as u32,
                value,
            });
        }
    }
    Ok(found)
}

/// An instruction as a word of the image.
fn encode(one: &FilterInstruction) -> u64 {
    u64::from(one.code) << 48
        | u64::from(one.jump_true) << 40
        | u64::from(one.jump_false) << 32
        | u64::from(one.operand)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_new_socket_has_nothing_beyond_criu() {
        let (one, _other) = UnixDatagram::pair().unwrap();
        let entry = dump(one.as_fd()).unwrap();
        assert_eq!(entry.cryopod_others, []);
        assert_eq!((entry.so_mark, entry.so_linger), (None, None));
        assert_eq!(entry.so_passcred, Some(false));
        assert_eq!(entry.so_bound_dev, None);
    }

    #[test]
    fn instructions_are_words() {
        let one = FilterInstruction {
            code: 0x15,
            jump_true: 1,
            jump_false: 2,
            operand: 0x8899_aabb,
        };
        assert_eq!(encode(&one), 0x0015_0102_8899_aabb);
    }
}
