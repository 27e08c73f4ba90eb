//! Process descriptors (pidfd_open(2)): of processes of the tree, or of processes that have ended.

use cryopod_image::criu::{FdTypes, FileEntry, PidfdEntry};

use super::Description;
use super::seen::Seen;
use crate::error::Result;
use crate::proc::fdinfo::FdInfo;
use crate::proc::{self, stat, status::Status};

/// In the image, of a process that has ended and was collected.
const GONE: i32 = -1;

/// The process, or thread, that a descriptor stands for; [`GONE`] when it is no more.
fn pid(info: &FdInfo) -> Option<i32> {
    let pid = i32::try_from(info.number("Pid")?).ok()?;
    (pid == GONE || pid > 0).then_some(pid)
}

/// Why a process descriptor cannot be checkpointed, in words, if it cannot. `pids` are the processes of the tree.
pub fn problem(seen: &Seen, pids: &[i32]) -> Option<String> {
    match pid(&seen.info) {
        None => Some("pidfd of a process in another pid namespace: not supported".into()),
        Some(GONE) => None,
        Some(pid) if is_inside(pid, pids) => None,
        Some(pid) => {
            let name = proc::read_text(pid, "comm").unwrap_or_default();
            Some(format!(
                "pidfd of process {pid} ({}), which is not part of the tree: not supported",
                name.trim_end()
            ))
        }
    }
}

/// Whether a process, one of its threads, or a zombie belongs to the tree.
fn is_inside(pid: i32, pids: &[i32]) -> bool {
    let leader = Status::read(pid, pid).and_then(|status| status.number("Tgid"));
    let leader = leader.map_or(pid, |leader| leader as i32);
    if pids.contains(&leader) {
        return true;
    }
    stat::read(leader).is_ok_and(|stat| stat.state == 'Z' && pids.contains(&stat.ppid))
}

/// The entry of a process descriptor.
pub fn dump(one: &Description<'_>) -> Result<FileEntry> {
    let info = &one.seen.info;
    let pidfd = PidfdEntry {
        id: one.id,
        ino: one.seen.stat.st_ino as u32,
        flags: one.seen.flags() & !(libc::O_ACCMODE as u32),
        nspid: one.line(pid(info))?,
        fown: one.owner.clone(),
    };
    Ok(FileEntry {
        r#type: FdTypes::PidFd.into(),
        id: one.id,
        pidfd: Some(Box::new(pidfd)),
        ..FileEntry::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(lines: &[&str]) -> FdInfo {
        FdInfo {
            lines: lines.iter().map(|&line| line.to_owned()).collect(),
            ..FdInfo::default()
        }
    }

    #[test]
    fn the_pid_is_in_the_lines() {
        assert_eq!(pid(&info(&["Pid:\t12", "NSpid:\t12"])), Some(12));
        assert_eq!(pid(&info(&["Pid:\t-1", "NSpid:\t-1"])), Some(-1));
        // Zero stands for another namespace.
        assert_eq!(pid(&info(&["Pid:\t0"])), None);
        assert_eq!(pid(&info(&["Pid:\tx"])), None);
        assert_eq!(pid(&info(&[])), None);
    }

    #[test]
    fn strangers_are_named() {
        let mut seen = Seen::sample("anon_inode:[pidfd]", 0o600);
        let own = std::process::id() as i32;
        seen.info = info(&[&format!("Pid:\t{own}")]);
        assert_eq!(problem(&seen, &[own]), None);
        assert!(problem(&seen, &[1]).unwrap().contains(&own.to_string()));
    }
}
