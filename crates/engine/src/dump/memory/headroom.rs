//! Whether there is room for copies: a page that the program writes to while its copy holds it is there twice.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::proc::{self, status::Status};

/// Says why there may be too little memory, or too few pids, for copies of `pids`; nothing when there is enough.
///
/// It counts as if every page of private memory were written to before it is read: less is likely, but what happens
/// when memory runs out is worse than standing still for longer.
pub fn shortage(pids: &[i32]) -> Result<Option<String>> {
    let mut needed_bytes = 0;
    for &pid in pids {
        needed_bytes += private_bytes(pid)?;
    }
    if let Some(free) = available_bytes()
        && free < needed_bytes
    {
        return Ok(Some(format!(
            "the host has {} of memory left, and copies may take {}",
            mib(free),
            mib(needed_bytes)
        )));
    }
    // Processes of a tree are mostly in the same groups.
    let mut seen: Vec<PathBuf> = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
    for &pid in pids {
        for directory in group_directories(pid, &mounts)? {
            if seen.contains(&directory) {
                continue;
            }
            if let Some(why) = limit(&directory, needed_bytes, pids.len() as u64) {
                return Ok(Some(why));
            }
            seen.push(directory);
        }
    }
    Ok(None)
}

/// Private memory of a process that is its own (RssAnon in proc_pid_status(5)).
fn private_bytes(pid: i32) -> Result<u64> {
    let kib = Status::read(pid, pid)?.number("RssAnon").unwrap_or(0);
    Ok(u64::try_from(kib).unwrap_or(0) << 10)
}

/// MemAvailable of proc_meminfo(5).
fn available_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

/// The files of a group that limit it: limit, what is in use, and what is counted.
const LIMITS: [(&str, &str, Counts); 3] = [
    ("memory.max", "memory.current", Counts::Bytes),
    (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        Counts::Bytes,
    ),
    ("pids.max", "pids.current", Counts::Pids),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    Bytes,
    Pids,
}

/// Why a group has no room, if it has none.
fn limit(directory: &Path, needed_bytes: u64, needed_pids: u64) -> Option<String> {
    let number = |file: &str| -> Option<u64> {
        let text = fs::read_to_string(directory.join(file)).ok()?;
        text.trim().parse().ok()
    };
    for (max, current, counts) in LIMITS {
        let (Some(max_value), Some(used)) = (number(max), number(current)) else {
            continue;
        };
        let free = max_value.saturating_sub(used);
        let file = directory.join(max);
        let (file, short) = (file.display(), free);
        match counts {
            Counts::Bytes if free < needed_bytes => {
                return Some(format!(
                    "{file} leaves {}, and copies may take {}",
                    mib(short),
                    mib(needed_bytes)
                ));
            }
            Counts::Pids if free < needed_pids => {
                return Some(format!(
                    "{file} leaves {short} pids, and copies take {needed_pids}"
                ));
            }
            _ => {}
        }
    }
    None
}

/// The directories of the groups that a process is in, and of those around them, as far as they are mounted here.
fn group_directories(pid: i32, mounts: &[Mount]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in proc::read_text(pid, "cgroup")?.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let wanted = |mount: &&Mount| match controllers {
            "" => mount.controllers.is_none(),
            names => mount.controllers.as_ref().is_some_and(|has| {
                let relevant = |name: &str| matches!(name, "memory" | "pids");
                names
                    .split(',')
                    .any(|name| relevant(name) && has.iter().any(|one| one == name))
            }),
        };
        let Some(mount) = mounts.iter().find(wanted) else {
            continue;
        };
        let Ok(below) = Path::new(path).strip_prefix(&mount.root) else {
            continue;
        };
        let directory = mount.point.join(below);
        let groups = directory
            .ancestors()
            .take_while(|one| one.starts_with(&mount.point));
        found.extend(groups.map(Path::to_owned));
    }
    Ok(found)
}

/// A mounted hierarchy: proc_pid_mountinfo(5).
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    root: PathBuf,
    point: PathBuf,
    /// Those of a version 1 hierarchy; `None` for version 2.
    controllers: Option<Vec<String>>,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let controllers = match right.next()? {
            "cgroup2" => None,
            "cgroup" => Some(right.nth(1)?.split(',').map(str::to_owned).collect()),
            _ => return None,
        };
        Some(Self {
            root: root.into(),
            point: point.into(),
            controllers,
        })
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_mounts_are_read() {
        let two = Mount::parse("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate");
        assert_eq!(two.unwrap().controllers, None);
        let one = Mount::parse(
            "33 30 0:29 /a /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory",
        );
        let one = one.unwrap();
        assert_eq!(one.root, Path::new("/a"));
        assert!(one.controllers.unwrap().contains(&"memory".to_owned()));
        assert_eq!(Mount::parse("22 1 8:1 / / rw - ext4 /dev/sda1 rw"), None);
        assert_eq!(Mount::parse("nonsense"), None);
    }

    #[test]
    fn a_group_without_room_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        put("memory.max", "1000000\n");
        put("memory.current", "400000\n");
        put("pids.max", "max\n");
        put("pids.current", "7\n");
        assert_eq!(limit(dir.path(), 600_000, 5), None);
        let why = limit(dir.path(), 600_001, 5).unwrap();
        assert!(why.contains("memory.max leaves 0.6 MiB"), "{why}");
        put("pids.max", "10\n");
        let why = limit(dir.path(), 1, 5).unwrap();
        assert!(why.contains("pids.max leaves 3 pids"), "{why}");
    }

    #[test]
    fn this_process_can_be_judged() {
        let own = std::process::id() as i32;
        assert!(shortage(&[own]).is_ok());
        assert!(private_bytes(own).unwrap() > 0);
    }
}
