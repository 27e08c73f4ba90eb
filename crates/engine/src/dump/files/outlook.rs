//! Whether open files can be dumped: one answer for the survey of a running tree and the dump of a frozen one.

use std::cell::OnceCell;
use std::collections::HashMap;

use super::handles::{Inode, kernel_device};
use super::kind::Kind;
use super::paths::Name;
use super::seen::{Seen, is_gone};
use super::sockets::{self, View};
use super::streams::Streams;
use super::terminals::Terminals;
use super::{bpf_maps, fsnotify, io_urings, locks, mqueues, namespaces, paths, pidfds, timerfds};
use crate::dump::DumpOptions;
use crate::error::Result;
use crate::proc;

/// What has to be known of a whole tree to answer for one of its files.
#[derive(Debug)]
pub struct Outlook {
    /// What was asked for.
    pub options: DumpOptions,
    pids: Vec<i32>,
    streams: Streams,
    /// The sockets of the tree.
    pub sockets: View,
    /// Message queues that others have open; looked for when the first queue is met.
    queues_outside: OnceCell<HashMap<(u64, u64), i32>>,
}

impl Outlook {
    /// Looks at the tree whose processes are `pids`.
    pub fn scan(pids: &[i32], options: &DumpOptions) -> Result<Self> {
        let sockets = View::scan(pids, options)?;
        Ok(Self {
            options: options.clone(),
            pids: pids.to_vec(),
            streams: Streams::scan(pids, options, &sockets)?,
            sockets,
            queues_outside: OnceCell::new(),
        })
    }

    /// Whether an open file is a standard stream that leads outside the tree.
    pub fn leads_outside(&self, seen: &Seen, kind: &Kind) -> bool {
        self.streams.lead_outside(seen, kind)
    }

    /// The terminals of the tree.
    pub fn terminals(&self) -> Result<&Terminals> {
        self.streams.terminals()
    }

    fn terminal(&self, seen: &Seen, kind: &Kind) -> Option<String> {
        let terminals = self.terminals();
        match terminals.and_then(|all| all.problem(seen, kind, self.options.outside_terminal)) {
            Ok(problem) => problem,
            // It went away meanwhile, or the dump will say what is wrong.
            Err(error) if is_gone(&error) => None,
            Err(error) => Some(format!("terminal {}: {error}", seen.shown())),
        }
    }

    /// How a file with a path can be found again, or why it cannot, in words.
    pub fn name(&self, seen: &Seen) -> std::result::Result<Name, String> {
        let name = paths::check(seen, self.options.ghost_limit_bytes)?;
        match name {
            Name::Linked(_) if !self.options.link_remap => Err(format!(
                "file {}: this name is gone, {} other(s) are left: the file is given another name for the restore only \
                 when that is asked for (--link-remap)",
                seen.shown(),
                seen.stat.st_nlink
            )),
            name => Ok(name),
        }
    }

    /// Whether some process of the tree has a file open, or has it as working directory, root or program.
    pub fn has_open(&self, inode: Inode) -> bool {
        let is_it = |pid: i32, place: String| {
            let stat = rustix::fs::stat(proc::path(pid, &place));
            stat.is_ok_and(|stat| (kernel_device(stat.st_dev), stat.st_ino) == inode)
        };
        self.pids.iter().any(|&pid| {
            let numbers = proc::numbers(pid, "fd").unwrap_or_default();
            let descriptors = numbers.into_iter().map(|fd| format!("fd/{fd}"));
            let places = ["cwd", "root", "exe"].map(str::to_owned);
            descriptors.chain(places).any(|place| is_it(pid, place))
        })
    }

    /// Why an open file cannot be checkpointed, in words, if it cannot.
    pub fn problem(&self, seen: &Seen, kind: &Kind) -> Option<String> {
        let outside = self.leads_outside(seen, kind);
        if let Some(what) = locks::problem(seen, outside, self.options.file_locks) {
            return Some(what);
        }
        if outside {
            return None;
        }
        match kind {
            Kind::Path | Kind::Fifo => self.name(seen).err(),
            Kind::Timerfd => {
                timerfds::problem(&seen.info).map(|what| format!("{what}: not supported"))
            }
            Kind::Inotify | Kind::Fanotify => fsnotify::problem(seen, self),
            Kind::Mqueue => {
                let outside = || mqueues::outside(&self.pids);
                mqueues::problem(seen, &self.pids, self.queues_outside.get_or_init(outside))
            }
            Kind::BpfMap => bpf_maps::problem(seen, &self.pids),
            Kind::Namespace => namespaces::problem(seen),
            Kind::Pidfd => pidfds::problem(seen, &self.pids),
            Kind::IoUring => {
                io_urings::problem(&seen.info).map(|what| format!("{what}: not supported"))
            }
            Kind::Socket(socket) => self.sockets.problem(seen, socket),
            Kind::Terminal | Kind::Master => self.terminal(seen, kind),
            Kind::Other(_) => Some(describe(seen, kind)),
            Kind::Pipe | Kind::Memfd | Kind::Eventfd | Kind::Signalfd | Kind::Epoll => None,
        }
    }
}

/// Says that a kind is not supported.
pub(super) fn describe(seen: &Seen, kind: &Kind) -> String {
    match kind {
        Kind::Socket(socket) => format!("{}: not supported", sockets::shown(socket)),
        Kind::Other(what) => format!("{what}: not supported"),
        _ => format!("{}: not supported here", seen.shown()),
    }
}
