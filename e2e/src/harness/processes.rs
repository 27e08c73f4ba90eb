//! Looking for, waiting for and ending processes: only ever those that a test has started.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::poll;

/// One line of /proc/PID/stat, without the name: `fields[0]` is the state, field 3 in proc_pid_stat(5).
pub struct Stat {
    fields: Vec<String>,
}

impl Stat {
    /// Reads /proc/PATH/stat.
    pub fn read(path: &str) -> Result<Self> {
        let path = format!("/proc/{path}/stat");
        let text = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
        let text = String::from_utf8_lossy(&text);
        let (_, rest) = text
            .rsplit_once(')')
            .with_context(|| format!("{path} has no name"))?;
        Ok(Self {
            fields: rest.split_whitespace().map(str::to_owned).collect(),
        })
    }

    /// A field by its number in proc_pid_stat(5).
    pub fn field(&self, number: usize) -> &str {
        number
            .checked_sub(3)
            .and_then(|index| self.fields.get(index))
            .map_or("", String::as_str)
    }

    /// The state's letter.
    pub fn state(&self) -> &str {
        self.field(3)
    }

    fn number(&self, number: usize) -> i32 {
        self.field(number).parse().unwrap_or(0)
    }
}

/// The pid for a system call.
pub fn pid(pid: i32) -> Result<Pid> {
    Pid::from_raw(pid).with_context(|| format!("{pid} is no pid"))
}

/// The names in a directory that are numbers, in order.
pub fn numbers_in(directory: &str) -> Result<Vec<i32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {directory}"))? {
        if let Some(number) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The direct children of a process, zombies included.
pub fn children(pid: i32) -> Vec<i32> {
    let mut children = Vec::new();
    for task in numbers_in(&format!("/proc/{pid}/task")).unwrap_or_default() {
        let list =
            fs::read_to_string(format!("/proc/{pid}/task/{task}/children")).unwrap_or_default();
        children.extend(
            list.split_whitespace()
                .filter_map(|child| child.parse::<i32>().ok()),
        );
    }
    children.sort_unstable();
    children
}

/// A process and everything below it, in order of pid.
pub fn tree(root: i32) -> Vec<i32> {
    let mut found = BTreeSet::from([root]);
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        for child in children(pid) {
            if found.insert(child) {
                open.push(child);
            }
        }
    }
    found.into_iter().collect()
}

/// Whether a process is what is left of a copy that cryopod made for a live checkpoint.
pub fn is_ended_copy(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Stat::read(&pid.to_string()).is_ok_and(|stat| {
        let ended_alone = stat.field(52) == (197 << 8).to_string();
        stat.state() == "Z"
            && stat.field(38) == "0"
            && (name.trim_end() == "cryopod-copy" || ended_alone)
    })
}

/// Whether there is such a process, be it a zombie.
pub fn exists(pid: i32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap_or(false)
}

/// Whether there is such a process and it has not ended. One whose first thread has ended lives on in the others.
pub fn is_alive(pid: i32) -> bool {
    let tasks = numbers_in(&format!("/proc/{pid}/task")).unwrap_or_default();
    tasks.iter().any(|task| {
        Stat::read(&format!("{pid}/task/{task}"))
            .is_ok_and(|stat| !matches!(stat.state(), "Z" | "X"))
    })
}

/// How a child ended, if it has.
pub fn reap(child: i32) -> Result<Option<WaitStatus>> {
    match rustix::process::waitpid(Some(pid(child)?), WaitOptions::NOHANG) {
        Ok(ended) => Ok(ended.map(|(_, status)| status)),
        Err(error) => Err(error).with_context(|| format!("cannot wait for pid {child}")),
    }
}

/// Waits for the end of a child and says how it ended: an exit code, or 1000 and the signal's number.
pub fn wait_for_end(child: i32) -> Result<i32> {
    let status = poll::until(&format!("the end of pid {child}"), || reap(child))?;
    Ok(status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 1000 + signal))
        .unwrap_or(-1))
}

/// Sends a signal.
pub fn signal(target: i32, signal: Signal) -> Result<()> {
    rustix::process::kill_process(pid(target)?, signal)
        .with_context(|| format!("cannot send {signal:?} to pid {target}"))
}

/// Every process below this one that is in one of the sets, by pid or by the session it is in.
fn ours(pids: &BTreeSet<i32>) -> BTreeSet<i32> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut known = BTreeMap::new();
    for pid in numbers_in("/proc").unwrap_or_default() {
        if let Ok(stat) = Stat::read(&pid.to_string()) {
            known.insert(pid, (stat.number(4), stat.number(6)));
        }
    }
    let below = |mut pid: i32| {
        for _ in 0..known.len() {
            match known.get(&pid) {
                Some((parent, _)) if *parent == own => return true,
                Some((parent, _)) => pid = *parent,
                None => return false,
            }
        }
        false
    };
    known
        .iter()
        .filter(|(pid, (_, session))| pids.contains(pid) || pids.contains(session))
        .filter(|(pid, _)| below(**pid))
        .map(|(pid, _)| *pid)
        .collect()
}

/// Takes in those of the processes that have ended and came to us.
pub fn reap_all(pids: &BTreeSet<i32>) {
    for pid in ours(pids) {
        // Those that are not our children are somebody else's to wait for.
        let _ = reap(pid);
    }
}

/// Ends what is left of the processes. `pids` holds every pid, and with it every session, that belongs to the test.
pub fn end_all(pids: &BTreeSet<i32>) {
    let ended = poll::until_true("processes to end", || {
        let left = ours(pids);
        for pid in &left {
            if is_alive(*pid) {
                let _ = signal(*pid, Signal::KILL);
            }
            let _ = reap(*pid);
        }
        left.is_empty()
    });
    if let Err(error) = ended {
        eprintln!("warning: {error:#}");
    }
}
