//! Connections that wait to be accepted, and freezing a tree while there are none.
//!
//! A connection in the queue of a listening socket belongs to no descriptor: nobody can be asked about it, and it is reset
//! when the listener is closed. A server accepts it in a moment, so the tree is let go again for that moment, and so on
//! for a while; if some stay there, it is refused. What comes after the last look at the queues is later than the dump.
//!
//! Where new connections keep coming, and where the tree is to end (so that whoever connects from now on would be reset),
//! the listening sockets are shut as well (see [`crate::net::lock`]), if connections are taken along.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use cryopod_sys::socket::{self, SocketKind};
use cryopod_sys::tcp::{self, state};
use cryopod_sys::{Errno, Result as SysResult};

use super::files::sockets::{self, inet};
use super::{Connections, NetworkLock, TcpOptions};
use crate::error::{Context, Error, Result, Unsupported};
use crate::freeze::Frozen;
use crate::net::address;
use crate::net::lock::{self, Lock};
use crate::net::nftables::Door;
use crate::progress::Cancel;

/// For how long a tree is let go again and again.
const LIMIT: Duration = Duration::from_secs(3);
/// How often it is before its listening sockets are shut.
const OPEN_TRIES: u32 = 6;
/// How long it runs in between, the first and any time.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Freezes the process `root` and all its descendants, if possible while no connection waits to be accepted.
///
/// # Errors
///
/// Those of [`Frozen::freeze`], and of shutting listening sockets; [`Error::Unsupported`] with the sockets at which
/// connections go on waiting.
pub fn freeze_for_dump(root: i32, options: &TcpOptions, cancel: &Cancel) -> Result<Frozen> {
    let deadline = Instant::now() + LIMIT;
    let can_shut =
        options.connections == Connections::Keep && options.lock == NetworkLock::Nftables;
    let mut doors = Doors::default();
    let mut pause = PAUSE;
    let mut attempt = 0;
    loop {
        let frozen = Frozen::freeze(root, cancel)?;
        let listeners = Listeners::of(&frozen.pids())?;
        if can_shut && (options.ends || attempt >= OPEN_TRIES) {
            doors.shut(&listeners)?;
        }
        let waiting = listeners.waiting(options);
        if waiting.is_empty() {
            frozen.keep_shut(doors.lock);
            return Ok(frozen);
        }
        if Instant::now() > deadline {
            return Err(Error::Unsupported(waiting));
        }
        tracing::debug!(
            root,
            attempt,
            "a connection waits to be accepted; trying again"
        );
        drop((listeners, frozen));
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
        attempt += 1;
    }
}

/// The listening sockets that are shut.
#[derive(Default)]
struct Doors {
    doors: Vec<Door>,
    lock: Option<Lock>,
}

impl Doors {
    /// Shuts these, and no others.
    fn shut(&mut self, listeners: &Listeners) -> Result<()> {
        let doors = listeners.doors();
        if doors != self.doors {
            // The old lock goes when the new one is there.
            self.lock = match doors.is_empty() {
                false => {
                    let name = format!("cryopod-doors-{}", lock::new_run_id()?);
                    Some(Lock::shut(&name, &doors)?)
                }
                true => None,
            };
            self.doors = doors;
        }
        Ok(())
    }
}

/// A listening socket, and where it was found.
struct Listener {
    file: OwnedFd,
    kind: SocketKind,
    door: Door,
    pid: i32,
    fd: i32,
}

/// The listening TCP sockets of a frozen tree.
struct Listeners(Vec<Listener>);

impl Listeners {
    fn of(pids: &[i32]) -> Result<Self> {
        let mut found = Vec::new();
        for &pid in pids {
            sockets::each(pid, |fd, file| {
                let listener = listener(file, pid, fd).fd("ask where it listens", pid, fd)?;
                found.extend(listener);
                Ok(())
            })?;
        }
        Ok(Self(found))
    }

    /// Where they listen, each place once.
    fn doors(&self) -> Vec<Door> {
        let mut doors: Vec<Door> = self.0.iter().map(|one| one.door).collect();
        doors.sort_unstable();
        doors.dedup();
        doors
    }

    /// Those at which somebody waits, as a reason to refuse.
    fn waiting(&self, options: &TcpOptions) -> Vec<Unsupported> {
        let problem = |one: &Listener| {
            Some(Unsupported {
                pid: one.pid,
                fd: Some(one.fd),
                what: inet::problem(one.file.as_fd(), &one.kind, options)?,
            })
        };
        self.0.iter().filter_map(problem).collect()
    }
}

fn listener(file: OwnedFd, pid: i32, fd: i32) -> SysResult<Option<Listener>> {
    let kind = socket::kind(file.as_fd())?;
    Ok(door(&file, &kind)?.map(|door| Listener {
        file,
        kind,
        door,
        pid,
        fd,
    }))
}

/// Where a socket listens for TCP connections, if it does.
fn door(file: &OwnedFd, kind: &SocketKind) -> SysResult<Option<Door>> {
    let fd = file.as_fd();
    if !inet::is_stream(kind) || tcp::info(fd)?.state != state::LISTEN {
        return Ok(None);
    }
    let local = address::local(fd)?;
    let both_families = local.is_ipv6()
        && local.ip().is_unspecified()
        && match rustix::net::sockopt::ipv6_v6only(fd) {
            Ok(v6only) => !v6only,
            Err(Errno::NOPROTOOPT | Errno::OPNOTSUPP) => true,
            Err(errno) => return Err(errno),
        };
    Ok(Some(Door {
        address: address::on_the_wire(local),
        both_families,
    }))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn found(socket: impl Into<OwnedFd>) -> Option<Listener> {
        listener(socket.into(), 1, 3).unwrap()
    }

    #[test]
    fn doors_are_found_where_somebody_listens() {
        let is_wide = |address: &str| {
            let listener = TcpListener::bind(address).unwrap();
            let address = listener.local_addr().unwrap();
            let found = found(listener).unwrap();
            assert_eq!(found.door.address, address);
            found.door.both_families
        };
        assert!(!is_wide("127.0.0.1:0"));
        assert!(!is_wide("[::1]:0"));
        assert!(is_wide("[::]:0"));
        assert!(found(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).is_none());
    }

    #[test]
    fn somebody_waits_until_he_is_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners = Listeners(found(listener.try_clone().unwrap()).into_iter().collect());
        let options = TcpOptions::default();
        assert_eq!(listeners.waiting(&options), []);
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let waiting = listeners.waiting(&options);
        assert_eq!((waiting.len(), waiting[0].fd), (1, Some(3)));
        let who = client.local_addr().unwrap().to_string();
        assert!(waiting[0].what.contains(&who), "{}", waiting[0].what);
        let skipping = TcpOptions {
            skip_in_flight: true,
            ..options
        };
        assert_eq!(listeners.waiting(&skipping), []);
        listener.accept().unwrap();
        assert_eq!(listeners.waiting(&options), []);
    }
}
