//! A process tree as /proc shows it, flattened to names and values, so that two of them can be compared.
//!
//! A name is like `41/thread 43/comm` or `41/fd 3`. What is bound to differ, such as inode numbers of pipes and the
//! time that is left of a timer, is replaced by something that must not: the pipe's number in order of appearance,
//! whether the timer is armed. Times and counters of use are left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::Result;

use super::processes::{self, Stat};

/// Keys of /proc/PID/status that are about use, not about state; the state's letter is treated apart.
const STATUS_OF_USE: &[&str] = &[
    "State",
    "FDSize",
    "Ngid",
    "PPid",
    "SigQ",
    "VmPeak",
    "VmSize",
    "VmHWM",
    "VmRSS",
    "RssAnon",
    "RssFile",
    "RssShmem",
    "VmData",
    "VmStk",
    "VmExe",
    "VmLib",
    "VmPTE",
    "VmSwap",
    "HugetlbPages",
    "voluntary_ctxt_switches",
    "nonvoluntary_ctxt_switches",
];

/// Fields of /proc/PID/stat that are state, by their numbers in proc_pid_stat(5).
const STAT_OF_PROCESS: &[(usize, &str)] = &[
    (5, "process group"),
    (6, "session"),
    (7, "terminal"),
    (20, "threads"),
    (26, "start of code"),
    (27, "end of code"),
    (28, "start of stack"),
    (38, "exit signal"),
    (45, "start of data"),
    (46, "end of data"),
    (47, "start of break"),
    (48, "start of arguments"),
    (49, "end of arguments"),
    (50, "start of environment"),
    (51, "end of environment"),
];

const STAT_OF_THREAD: &[(usize, &str)] = &[
    (18, "priority"),
    (19, "nice"),
    (40, "real-time priority"),
    (41, "policy"),
];

/// Files that are compared as they are.
const FILES: &[&str] = &[
    "cmdline",
    "environ",
    "auxv",
    "limits",
    "oom_score_adj",
    "personality",
    "coredump_filter",
    "timers",
];

const LINKS: &[&str] = &["exe", "cwd", "root"];

/// A process tree at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    values: BTreeMap<String, String>,
    /// The processes, zombies included.
    pub pids: Vec<i32>,
}

impl Snapshot {
    /// Looks at a process and everything below it.
    pub fn take(root: i32) -> Result<Self> {
        let mut pids = processes::tree(root);
        // What a cryopod that was killed leaves behind; the next checkpoint has it collected.
        pids.retain(|pid| !processes::is_ended_copy(*pid));
        let mut taker = Taker {
            root,
            values: BTreeMap::new(),
            numbers: BTreeMap::new(),
        };
        for pid in &pids {
            taker.process(*pid)?;
        }
        Ok(Self {
            values: taker.values,
            pids,
        })
    }

    /// What differs, one line each; names that contain one of `ignoring` are passed over.
    pub fn differences(&self, after: &Self, ignoring: &[&str]) -> Vec<String> {
        let mut lines = Vec::new();
        let names: std::collections::BTreeSet<_> =
            self.values.keys().chain(after.values.keys()).collect();
        for name in names {
            if ignoring.iter().any(|part| name.contains(part)) {
                continue;
            }
            match (self.values.get(name), after.values.get(name)) {
                (Some(old), Some(new)) if old != new => {
                    lines.push(format!(
                        "{name}:\n    was {}\n    is  {}",
                        shown(old),
                        shown(new)
                    ));
                }
                (Some(old), None) => lines.push(format!("{name}: is gone, was {}", shown(old))),
                (None, Some(new)) => lines.push(format!("{name}: is new: {}", shown(new))),
                _ => {}
            }
        }
        lines
    }

    /// All processes that somebody traces or that a tracer has stopped.
    pub fn traced(&self) -> Vec<&str> {
        let traced = |(name, value): &(&String, &String)| {
            (name.ends_with("/TracerPid") && *value != "0")
                || (name.ends_with("/state") && value.starts_with('t'))
        };
        self.values
            .iter()
            .filter(traced)
            .map(|(name, _)| name.as_str())
            .collect()
    }
}

/// A value for people: bytes that cannot be printed are escaped, long ones are cut.
fn shown(value: &str) -> String {
    let mut shown: String = value.escape_debug().take(400).collect();
    if value.len() > 400 {
        shown.push_str("...");
    }
    shown
}

struct Taker {
    root: i32,
    values: BTreeMap<String, String>,
    /// For each sort of thing whose identity is all that matters, the numbers given to the ones seen.
    numbers: BTreeMap<(&'static str, String), usize>,
}

impl Taker {
    fn put(&mut self, name: String, value: impl Into<String>) {
        self.values.insert(name, value.into());
    }

    /// The number of a thing in order of appearance.
    fn number(&mut self, sort: &'static str, identity: &str) -> usize {
        let next = self
            .numbers
            .keys()
            .filter(|(other, _)| *other == sort)
            .count()
            + 1;
        *self
            .numbers
            .entry((sort, identity.to_owned()))
            .or_insert(next)
    }

    fn process(&mut self, pid: i32) -> Result<()> {
        let stat = Stat::read(&pid.to_string())?;
        let name = |what: &str| format!("{pid}/{what}");
        if pid != self.root {
            self.put(name("parent"), stat.field(4));
        }
        for (number, what) in STAT_OF_PROCESS {
            self.put(name(what), stat.field(*number));
        }
        // One whose first thread has ended, but not all of them, is no zombie yet.
        let is_zombie = stat.state() == "Z" && !processes::is_alive(pid);
        if is_zombie {
            self.put(name("exit code"), stat.field(52));
            self.put(name("comm"), read(&format!("/proc/{pid}/comm")));
            let status = read(&format!("/proc/{pid}/status"));
            let user = status.lines().find_map(|line| line.strip_prefix("Uid:"));
            self.put(name("user"), user.unwrap_or_default().trim());
            return Ok(());
        }
        for task in processes::numbers_in(&format!("/proc/{pid}/task"))? {
            self.thread(pid, task)?;
        }
        for file in FILES {
            let text = read(&format!("/proc/{pid}/{file}"));
            // Hierarchies that other tests mount show up in everybody's list.
            let is_own = |line: &&str| file != &"cgroup" || !line.contains("name=cryopod-");
            let lines: Vec<&str> = text.split_inclusive('\n').filter(is_own).collect();
            self.put(name(file), lines.concat());
        }
        self.put(name("cgroup"), groups(pid));
        for link in LINKS {
            self.put(name(link), read_link(&format!("/proc/{pid}/{link}")));
        }
        for namespace in fs::read_dir(format!("/proc/{pid}/ns"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let link = namespace.file_name().to_string_lossy().into_owned();
            self.put(
                name(&format!("ns/{link}")),
                read_link(&format!("/proc/{pid}/ns/{link}")),
            );
        }
        self.mappings(pid);
        self.descriptors(pid);
        Ok(())
    }

    fn thread(&mut self, pid: i32, tid: i32) -> Result<()> {
        let stat = Stat::read(&format!("{pid}/task/{tid}"))?;
        let name = |what: &str| format!("{pid}/thread {tid}/{what}");
        for (number, what) in STAT_OF_THREAD {
            self.put(name(what), stat.field(*number));
        }
        let state = match stat.state() {
            "R" | "S" | "D" => "alive",
            state => state,
        };
        self.put(name("state"), state);
        self.put(name("comm"), read(&format!("/proc/{pid}/task/{tid}/comm")));
        self.put(
            name("timer slack"),
            read(&format!("/proc/{tid}/timerslack_ns")),
        );
        for line in read(&format!("/proc/{pid}/task/{tid}/status")).lines() {
            if let Some((key, value)) = line.split_once(':')
                && !STATUS_OF_USE.contains(&key)
            {
                self.put(name(key), value.trim());
            }
        }
        Ok(())
    }

    /// Every mapping with its flags. Shared memory without a file is a file of a hidden file system: of its
    /// inode only the identity counts.
    fn mappings(&mut self, pid: i32) {
        let mut current: Option<(String, String)> = None;
        for line in read(&format!("/proc/{pid}/smaps")).lines() {
            let fields: Vec<&str> = line.splitn(6, ' ').collect();
            match (
                fields.first().and_then(|range| range.split_once('-')),
                fields.get(1..),
            ) {
                (Some((start, end)), Some([protection, offset, device, inode, rest @ ..])) => {
                    let path = rest.first().map_or("", |path| path.trim_start()).to_owned();
                    let nameless = path.ends_with(" (deleted)")
                        || path.starts_with("/SYSV")
                        || path.starts_with("anon_inode:");
                    let inode = if nameless {
                        format!("#{}", self.number("mapped", &format!("{device} {inode}")))
                    } else {
                        (*inode).to_owned()
                    };
                    let value = format!("-{end} {protection} {offset} {device} {inode} {path}");
                    current = Some((format!("{pid}/map {start}"), value));
                }
                _ => {
                    if let (Some(flags), Some((name, mut value))) =
                        (line.strip_prefix("VmFlags:"), current.clone())
                    {
                        // Soft-dirty is about use, accounting about what the mapping has been.
                        let flags: Vec<&str> = flags
                            .split_whitespace()
                            .filter(|flag| !matches!(*flag, "sd" | "ac"))
                            .collect();
                        let _ = write!(value, " [{}]", flags.join(" "));
                        self.put(name, value);
                        current = None;
                    }
                }
            }
        }
    }

    fn descriptors(&mut self, pid: i32) {
        for fd in processes::numbers_in(&format!("/proc/{pid}/fd")).unwrap_or_default() {
            let link = read_link(&format!("/proc/{pid}/fd/{fd}"));
            let info = read(&format!("/proc/{pid}/fdinfo/{fd}"));
            let value = self.descriptor(&link, &info);
            self.put(format!("{pid}/fd {fd}"), value);
        }
    }

    fn descriptor(&mut self, link: &str, info: &str) -> String {
        let path = link.starts_with('/') && !link.starts_with("/memfd:");
        let mut value = match link.split_once(":[") {
            // pipe:[123] and socket:[123]
            Some((kind, inode)) if !path => format!(
                "{kind}:#{}",
                self.number("inode", inode.trim_end_matches(']'))
            ),
            _ => link.to_owned(),
        };
        let mut set = Vec::new();
        for line in info.lines() {
            let Some((key, text)) = line.split_once(':') else {
                continue;
            };
            let text = text.trim();
            match key {
                "ino" if path => _ = write!(value, " ino={text}"),
                "ino" if link.starts_with("/memfd:") => {
                    _ = write!(value, " ino=#{}", self.number("inode", text));
                }
                "ino" | "eventfd-id" | "lock" => {}
                "it_value" => {
                    let armed = text.chars().any(|digit| ('1'..='9').contains(&digit));
                    _ = write!(value, " armed={armed}");
                }
                "ticks" => _ = write!(value, " expired={}", text != "0"),
                "tfd" => set.push(epoll_entry(line)),
                _ => _ = write!(value, " {key}={text}"),
            }
        }
        // The kernel lists a set in the order of addresses.
        set.sort();
        for entry in set {
            _ = write!(value, " [{entry}]");
        }
        value
    }
}

/// `tfd: 5 events: 19 data: 7 pos:0 ino:2 sdev:9` without what says where the file is, and without the events that
/// nobody has to ask for: the kernel adds them to whatever is asked for, and takes them from what has fired for once.
fn epoll_entry(line: &str) -> String {
    const UNASKED: u32 = 0x18;
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, fd, _, events, _, data, ..] = fields[..] else {
        return line.to_owned();
    };
    let events = u32::from_str_radix(events, 16).unwrap_or(0) & !UNASKED;
    format!("tfd: {fd} events: {events:x} data: {data}")
}

/// The control groups of a process. A named hierarchy (of version 1) shows in every process as soon as anybody on the
/// machine mounts it: it counts where the process is not in its root.
fn groups(pid: i32) -> String {
    read(&format!("/proc/{pid}/cgroup"))
        .lines()
        .filter(|line| !(line.contains(":name=") && line.ends_with(":/")))
        .collect::<Vec<_>>()
        .join("\n")
}

/// What a file holds; bytes that are no text are escaped.
fn read(path: &str) -> String {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => return format!("({error})"),
    };
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    text
}

fn read_link(path: &str) -> String {
    match fs::read_link(path) {
        Ok(target) => target.to_string_lossy().into_owned(),
        Err(error) => format!("({error})"),
    }
}
