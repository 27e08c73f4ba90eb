//! Locks connections: from now on no packet of them passes, in or out.
//!
//! While a connection is read or put together, its peer must not notice: a packet that found no socket would be answered
//! with a reset, and one that came between two reads would be lost. The lock is a table of nf_tables (`nftables`) whose
//! name criu would look for as well, so that each can unlock what the other has locked.
//!
//! Listening sockets can be shut: who wants to connect is not heard, and tries again after a second.

use cryopod_sys::Errno;
use rustix::net::netlink as protocols;

use super::address::on_the_wire;
use super::netlink::Netlink;
use super::nftables::{self, Direction, Door, Life};
use crate::error::{Error, Result};

/// A connection: its two ends.
pub type Connection = Direction;

/// How the table is called that belongs to a dump with this run id. criu's buffer has room for so many characters.
pub fn table_name(run_id: &str) -> String {
    const ROOM: usize = 21;
    format!("CRIU-{}", run_id.chars().take(ROOM).collect::<String>())
}

/// The name for a dump without a run id, as older versions of criu made them.
pub fn old_table_name(root: i32) -> String {
    format!("CRIU-{root}")
}

/// A new run id.
pub fn new_run_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    let id = std::fs::read_to_string(path).map_err(|source| Error::Path {
        operation: "read",
        path: path.into(),
        source,
    })?;
    Ok(id.trim_end().to_owned())
}

/// A lock that ends when this is dropped, and also when this process ends.
#[derive(Debug)]
pub struct Lock {
    // Closing it deletes the table.
    _owner: Netlink,
}

impl Lock {
    /// Locks connections.
    pub fn take(name: &str, connections: &[Connection]) -> Result<Self> {
        Ok(Self {
            _owner: make(name, Life::WithOwner, connections)?,
        })
    }

    /// Shuts listening sockets.
    pub fn shut(name: &str, doors: &[Door]) -> Result<Self> {
        let mut owner = open()?;
        let messages = nftables::shut(name, Life::WithOwner, doors, || owner.next_sequence());
        owner
            .batch(&messages)
            .map_err(|source| failed("shut listening sockets (nf_tables)", source))?;
        Ok(Self { _owner: owner })
    }
}

/// Locks connections until [`remove`].
pub fn leave(name: &str, connections: &[Connection]) -> Result<()> {
    make(name, Life::UntilDeleted, connections).map(drop)
}

/// Ends a lock. Returns whether there was one.
pub fn remove(name: &str) -> Result<bool> {
    let mut netlink = open()?;
    let messages = nftables::delete(name, || netlink.next_sequence());
    match netlink.batch(&messages) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(source) => Err(failed("unlock connections (nf_tables)", source)),
    }
}

/// Finds out whether connections can be locked here.
///
/// # Errors
///
/// [`Error::NoNetworkLock`] when the kernel lacks what it takes; a missing privilege.
pub fn check() -> Result<()> {
    Lock::take(&format!("cryopod-check-{}", std::process::id()), &[]).map(drop)
}

fn make(name: &str, life: Life, connections: &[Connection]) -> Result<Netlink> {
    let directions: Vec<Direction> = connections
        .iter()
        .map(|&(one, other)| (on_the_wire(one), on_the_wire(other)))
        .flat_map(|(one, other)| [(one, other), (other, one)])
        .collect();
    let mut netlink = open()?;
    let messages = nftables::create(name, life, &directions, || netlink.next_sequence());
    netlink
        .batch(&messages)
        .map_err(|source| failed("lock connections (nf_tables)", source))?;
    Ok(netlink)
}

fn open() -> Result<Netlink> {
    Netlink::open(protocols::NETFILTER)
        .map_err(|source| failed("speak with netfilter (NETLINK_NETFILTER)", source))
}

fn failed(operation: &'static str, source: Errno) -> Error {
    match source {
        // No netfilter, no nf_tables, or none for the family inet.
        Errno::PROTONOSUPPORT | Errno::INVAL | Errno::OPNOTSUPP | Errno::AFNOSUPPORT => {
            Error::NoNetworkLock { operation, source }
        }
        source => Error::Host { operation, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_criu() {
        let name = table_name("01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(name, "CRIU-01234567-89ab-cdef-01");
        assert_eq!(old_table_name(41), "CRIU-41");
    }

    #[test]
    fn run_ids_are_new() {
        assert_ne!(new_run_id().unwrap(), new_run_id().unwrap());
    }
}
