//! Options of sockets of every family.

use std::os::fd::BorrowedFd;

use cryopod_image::criu::SkOptsEntry;
use cryopod_sys::Errno;
use cryopod_sys::socket::{self, FilterInstruction};
use libc::SOL_SOCKET;

use crate::dump::files::sockets::options::{BUF_LOCK, LOCK_FILTER, OTHERS};
use crate::error::{Context, Error, Result};

/// More than the kernel takes for a filter (BPF_MAXINSNS of linux/bpf_common.h).
const MAX_FILTER: usize = 4096;

/// Gives a socket the options it had, apart from SO_REUSEADDR and SO_REUSEPORT ([`restore_reuse`]). When everything
/// that these can hinder is done: queues filled, addresses bound.
pub fn restore(socket: BorrowedFd<'_>, entry: &SkOptsEntry) -> Result<()> {
    restore_buffers(socket, entry)?;
    let flag = |value: Option<bool>| value.map(i32::from);
    let number = |value: Option<u32>| value.map(|value| value as i32);
    let options = [
        (libc::SO_PRIORITY, "SO_PRIORITY", number(entry.so_priority)),
        (libc::SO_RCVLOWAT, "SO_RCVLOWAT", number(entry.so_rcvlowat)),
        (BUF_LOCK, "SO_BUF_LOCK", number(entry.so_buf_lock)),
        (libc::SO_MARK, "SO_MARK", number(entry.so_mark)),
        (libc::SO_PASSCRED, "SO_PASSCRED", flag(entry.so_passcred)),
        (libc::SO_PASSSEC, "SO_PASSSEC", flag(entry.so_passsec)),
        (libc::SO_DONTROUTE, "SO_DONTROUTE", flag(entry.so_dontroute)),
        (libc::SO_NO_CHECK, "SO_NO_CHECK", flag(entry.so_no_check)),
        (libc::SO_BROADCAST, "SO_BROADCAST", flag(entry.so_broadcast)),
        (libc::SO_KEEPALIVE, "SO_KEEPALIVE", flag(entry.so_keepalive)),
        (
            libc::SO_OOBINLINE,
            "SO_OOBINLINE",
            number(entry.so_oobinline),
        ),
    ];
    for (name, shown, value) in options {
        if let Some(value) = value {
            set_if_other(socket, name, shown, value)?;
        }
    }
    if let Some(seconds) = entry.so_linger {
        let mut linger = 1i32.to_ne_bytes().to_vec();
        linger.extend(seconds.to_ne_bytes());
        socket::set_option_bytes(socket, SOL_SOCKET, libc::SO_LINGER, &linger)
            .host("set the socket option SO_LINGER")?;
    }
    let time = |seconds: u64, microseconds: u64| (seconds as i64, microseconds as i64);
    let send = time(entry.so_snd_tmo_sec, entry.so_snd_tmo_usec);
    socket::set_option_time(socket, libc::SO_SNDTIMEO, send)
        .host("set the socket option SO_SNDTIMEO")?;
    let receive = time(entry.so_rcv_tmo_sec, entry.so_rcv_tmo_usec);
    socket::set_option_time(socket, libc::SO_RCVTIMEO, receive)
        .host("set the socket option SO_RCVTIMEO")?;
    if let Some(device) = &entry.so_bound_dev {
        socket::set_option_bytes(socket, SOL_SOCKET, libc::SO_BINDTODEVICE, device)
            .host("bind a socket to its network interface (SO_BINDTODEVICE)")?;
    }
    restore_filter(socket, entry)?;
    restore_others(socket, entry)
}

/// SO_REUSEADDR and SO_REUSEPORT: which sockets share an address with others. Families differ in when.
pub fn restore_reuse(socket: BorrowedFd<'_>, entry: &SkOptsEntry) -> Result<()> {
    let options = [
        (libc::SO_REUSEADDR, "SO_REUSEADDR", entry.reuseaddr),
        (libc::SO_REUSEPORT, "SO_REUSEPORT", entry.so_reuseport),
    ];
    for (name, shown, value) in options {
        if let Some(value) = value {
            set_if_other(socket, name, shown, i32::from(value))?;
        }
    }
    Ok(())
}

/// Makes the buffers of a socket as large as the kernel allows, and has nothing wait, so that queues can be filled.
/// [`restore`] gives it the sizes it had; its status flags are set again by whoever knows them.
pub fn prepare(socket: BorrowedFd<'_>) -> Result<()> {
    for (force, plain) in [
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
    ] {
        set_buffer(socket, force, plain, i32::MAX / 2).host("enlarge the buffers of a socket")?;
    }
    super::super::set_status(socket, libc::O_NONBLOCK as u32)
}

/// The kernel doubles what it is given, for its own bookkeeping (socket(7)).
fn restore_buffers(socket: BorrowedFd<'_>, entry: &SkOptsEntry) -> Result<()> {
    for (force, plain, size) in [
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, entry.so_sndbuf),
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, entry.so_rcvbuf),
    ] {
        if socket::option_int(socket, SOL_SOCKET, plain) != Ok(size as i32) {
            set_buffer(socket, force, plain, (size / 2) as i32)
                .host("set the size of a buffer of a socket (SO_SNDBUF, SO_RCVBUF)")?;
        }
    }
    Ok(())
}

/// Without CAP_NET_ADMIN only sizes up to a limit of the system can be set.
fn set_buffer(
    socket: BorrowedFd<'_>,
    force: i32,
    plain: i32,
    size: i32,
) -> std::result::Result<(), Errno> {
    match socket::set_option_int(socket, SOL_SOCKET, force, size) {
        Err(Errno::PERM) => socket::set_option_int(socket, SOL_SOCKET, plain, size),
        set => set,
    }
}

fn restore_filter(socket: BorrowedFd<'_>, entry: &SkOptsEntry) -> Result<()> {
    if entry.so_filter.is_empty() {
        return Ok(());
    }
    if entry.so_filter.len() > MAX_FILTER {
        let what = format!("a filter of {} instructions", entry.so_filter.len());
        return Err(Error::inconsistent("files", what));
    }
    let filter: Vec<FilterInstruction> = entry.so_filter.iter().map(|&word| decode(word)).collect();
    socket::attach_filter(socket, &filter).host("attach the filter of a socket (SO_ATTACH_FILTER)")
}

fn restore_others(socket: BorrowedFd<'_>, entry: &SkOptsEntry) -> Result<()> {
    // Only what we know how to set, whatever the image names.
    for option in OTHERS.iter().chain([&LOCK_FILTER]) {
        let mut wanted = entry.cryopod_others.iter();
        if let Some(one) = wanted.find(|one| one.name == option.number as u32) {
            set_if_other(socket, option.number, option.name, one.value)?;
        }
    }
    Ok(())
}

/// Sets an option unless it is so already, because some take a capability.
fn set_if_other(socket: BorrowedFd<'_>, name: i32, shown: &'static str, value: i32) -> Result<()> {
    match socket::option_int(socket, SOL_SOCKET, name) {
        Ok(now) if now == value => return Ok(()),
        // Not of this family, or of a newer kernel: it was off where it was not there either.
        Err(Errno::OPNOTSUPP | Errno::NOPROTOOPT) if value == 0 => return Ok(()),
        _ => {}
    }
    match socket::set_option_int(socket, SOL_SOCKET, name, value) {
        // MPTCP cannot take that back.
        Err(Errno::OPNOTSUPP) if name == BUF_LOCK => Ok(()),
        set => set.map_err(|source| Error::SocketOption {
            name: shown,
            value,
            source,
        }),
    }
}

/// An instruction from a word of the image.
fn decode(word: u64) -> FilterInstruction {
    FilterInstruction {
        code: (word >> 48) as u16,
        jump_true: (word >> 40) as u8,
        jump_false: (word >> 32) as u8,
        operand: word as u32,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::dump::files::sockets::options;

    #[test]
    fn options_come_back() {
        let (one, other) = UnixDatagram::pair().unwrap();
        let set = |name, value| {
            socket::set_option_int(one.as_fd(), SOL_SOCKET, name, value).unwrap();
        };
        set(libc::SO_SNDBUF, 30_000);
        set(libc::SO_PASSCRED, 1);
        set(libc::SO_PRIORITY, 3);
        set(libc::SO_KEEPALIVE, 1);
        set(libc::SO_PEEK_OFF, 7);
        set(libc::SO_TIMESTAMPNS, 1);
        socket::set_option_time(one.as_fd(), libc::SO_SNDTIMEO, (9, 0)).unwrap();
        let filter = [FilterInstruction {
            code: 6,
            operand: 100,
            ..FilterInstruction::default()
        }];
        socket::attach_filter(one.as_fd(), &filter).unwrap();
        set(libc::SO_LOCK_FILTER, 1);
        let entry = options::dump(one.as_fd()).unwrap();
        prepare(other.as_fd()).unwrap();
        restore(other.as_fd(), &entry).unwrap();
        restore_reuse(other.as_fd(), &entry).unwrap();
        assert_eq!(options::dump(other.as_fd()).unwrap(), entry);
    }

    #[test]
    fn a_filter_that_cannot_be_is_refused() {
        let (one, _other) = UnixDatagram::pair().unwrap();
        let entry = SkOptsEntry {
            so_filter: vec![0; MAX_FILTER + 1],
            ..SkOptsEntry::default()
        };
        assert!(restore_filter(one.as_fd(), &entry).is_err());
    }
}
