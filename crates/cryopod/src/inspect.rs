//! What is in a checkpoint: its description, and the open files that its images tell of.

use std::collections::{BTreeMap, HashMap};

use cryopod_image::criu::{FdTypes, FdinfoEntry, FileEntry, TaskKobjIdsEntry};
use cryopod_image::{Kind, SetReader};
use cryopod_store::Stored;
use serde::Serialize;

use crate::error::Result;
use crate::meta;

/// One open descriptor of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Descriptor {
    /// Its number.
    pub fd: u32,
    /// What kind of file it is.
    pub kind: &'static str,
    /// Its path, where it has one. Not necessarily what it was in bytes, and chosen by the program: escape before
    /// printing.
    pub path: Option<String>,
    /// The position in it, in bytes, where there is one.
    pub position_bytes: Option<u64>,
    /// Whether it is closed when the process becomes another program.
    pub close_on_exec: bool,
}

/// The open descriptors of every process that has any, by pid.
///
/// # Errors
///
/// [`crate::Error::Image`] when an image is missing or damaged.
pub fn descriptors(stored: &Stored) -> Result<BTreeMap<i32, Vec<Descriptor>>> {
    let set = SetReader::open(&stored.images(), Some(meta::digests(&stored.meta)))?;
    let files: HashMap<u32, FileEntry> = set
        .read_all::<FileEntry>(Kind::Files, None)?
        .into_iter()
        .map(|file| (file.id, file))
        .collect();
    let mut found = BTreeMap::new();
    for process in &stored.meta.processes {
        let Ok(pid) = u64::try_from(process.pid) else {
            continue;
        };
        // What has ended has no table.
        if !set.exists(Kind::Ids, Some(pid)) {
            continue;
        }
        let ids: TaskKobjIdsEntry = set.read_one(Kind::Ids, Some(pid))?;
        let table = Some(u64::from(ids.files_id));
        if !set.exists(Kind::Fdinfo, table) {
            continue;
        }
        let entries: Vec<FdinfoEntry> = set.read_all(Kind::Fdinfo, table)?;
        let list = entries
            .iter()
            .map(|entry| describe(entry, files.get(&entry.id)))
            .collect();
        found.insert(process.pid, list);
    }
    Ok(found)
}

fn describe(entry: &FdinfoEntry, file: Option<&FileEntry>) -> Descriptor {
    /// FD_CLOEXEC, fcntl(2).
    const CLOSE_ON_EXEC: u32 = 1;
    let regular = file.and_then(|file| file.reg.as_ref());
    Descriptor {
        fd: entry.fd,
        kind: kind(FdTypes::try_from(entry.r#type).unwrap_or(FdTypes::Und)),
        path: regular.map(|regular| String::from_utf8_lossy(&regular.name).into_owned()),
        // All ones where there is none.
        position_bytes: regular
            .map(|regular| regular.pos)
            .filter(|position| *position != u64::MAX),
        close_on_exec: entry.flags & CLOSE_ON_EXEC != 0,
    }
}

fn kind(kind: FdTypes) -> &'static str {
    match kind {
        FdTypes::Und => "unknown",
        FdTypes::Reg => "file",
        FdTypes::Pipe => "pipe",
        FdTypes::Fifo => "fifo",
        FdTypes::InetSk => "internet socket",
        FdTypes::UnixSk => "unix socket",
        FdTypes::EventFd => "eventfd",
        FdTypes::EventPoll => "epoll",
        FdTypes::Inotify => "inotify",
        FdTypes::SignalFd => "signalfd",
        FdTypes::PacketSk => "packet socket",
        FdTypes::Tty | FdTypes::CtlTty => "terminal",
        FdTypes::Fanotify => "fanotify",
        FdTypes::NetlinkSk => "netlink socket",
        FdTypes::Ns => "namespace",
        FdTypes::TunF => "tun",
        FdTypes::Ext => "from outside",
        FdTypes::TimerFd => "timerfd",
        FdTypes::MemFd => "memfd",
        FdTypes::BpfMap => "bpf map",
        FdTypes::PidFd => "pidfd",
        FdTypes::CryopodIoUring => "io_uring",
        FdTypes::CryopodMqueue => "message queue",
        FdTypes::AutofsPipe => "autofs pipe",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryopod_image::criu::RegFileEntry;

    #[test]
    fn a_file_has_a_path_and_a_position() {
        let entry = FdinfoEntry {
            id: 1,
            flags: 1,
            r#type: FdTypes::Reg.into(),
            fd: 3,
            ..Default::default()
        };
        let regular = RegFileEntry {
            id: 1,
            pos: 77,
            name: b"/tmp/log".to_vec(),
            ..Default::default()
        };
        let file = FileEntry {
            r#type: FdTypes::Reg.into(),
            id: 1,
            reg: Some(Box::new(regular)),
            ..Default::default()
        };
        let described = describe(&entry, Some(&file));
        assert_eq!(
            (described.fd, described.kind, described.position_bytes),
            (3, "file", Some(77))
        );
        assert_eq!(described.path.as_deref(), Some("/tmp/log"));
        assert!(described.close_on_exec);
        let unknown = FdinfoEntry {
            r#type: 4711,
            ..entry
        };
        assert_eq!(describe(&unknown, None).kind, "unknown");
    }
}
