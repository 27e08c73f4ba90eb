//! What /proc tells about a process: proc(5), parsed into values.
//!
//! Reading these files disturbs nobody, so this module serves the survey of a running tree as well as the dump of a
//! frozen one.

pub mod fdinfo;
pub mod locks;
pub mod maps;
pub mod mem;
pub mod mountinfo;
pub mod stat;
pub mod status;
pub mod sysvipc;

use std::fs;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// The path of a file below /proc/PID.
pub fn path(pid: i32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{file}"))
}

/// Reads a file below /proc/PID whole; a process that is gone is [`Error::NoProcess`].
pub fn read(pid: i32, file: &str) -> Result<Vec<u8>> {
    let path = path(pid, file);
    fs::read(&path).map_err(|source| gone_or(pid, path, source))
}

/// Like [`read`], as text; bytes that are no UTF-8 are replaced (only paths and names can hold such).
pub fn read_text(pid: i32, file: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&read(pid, file)?).into_owned())
}

/// The target of a link below /proc/PID.
pub fn read_link(pid: i32, file: &str) -> Result<PathBuf> {
    let path = path(pid, file);
    fs::read_link(&path).map_err(|source| gone_or(pid, path, source))
}

fn gone_or(pid: i32, path: PathBuf, source: std::io::Error) -> Error {
    let gone = source.raw_os_error() == Some(cryopod_sys::Errno::SRCH.raw_os_error())
        || (source.kind() == std::io::ErrorKind::NotFound
            && !PathBuf::from(format!("/proc/{pid}")).exists());
    if gone {
        Error::NoProcess { pid }
    } else {
        Error::Path {
            operation: "read",
            path,
            source,
        }
    }
}

/// The numeric names in a directory below /proc/PID (`task`, `fd`), ascending.
pub fn numbers(pid: i32, directory: &str) -> Result<Vec<i32>> {
    let path = path(pid, directory);
    let entries = fs::read_dir(&path).map_err(|source| gone_or(pid, path.clone(), source))?;
    let mut numbers = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| gone_or(pid, path.clone(), source))?;
        numbers.extend(
            entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok()),
        );
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The children of all threads of a process (/proc/PID/task/TID/children), ascending.
pub fn children(pid: i32) -> Result<Vec<i32>> {
    let mut children = Vec::new();
    for tid in numbers(pid, "task")? {
        match read_text(pid, &format!("task/{tid}/children")) {
            Ok(text) => children.extend(
                text.split_ascii_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            ),
            Err(Error::Path { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(Error::NoProcess { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    children.sort_unstable();
    Ok(children)
}

/// The thread by whose files in /proc a process is read: its first, unless that has ended while others live on. What has
/// ended has no memory and no descriptors any more.
pub fn reader(pid: i32) -> Result<i32> {
    let stat = stat::read(pid)?;
    if !matches!(stat.state, 'Z' | 'X') {
        return Ok(pid);
    }
    let threads = numbers(pid, "task")?;
    Ok(threads.into_iter().find(|&tid| tid != pid).unwrap_or(pid))
}

/// The command line; empty for a zombie.
pub fn command_line(pid: i32) -> Result<Vec<String>> {
    let raw = read(pid, "cmdline")?;
    let raw = raw.strip_suffix(b"\0").unwrap_or(&raw);
    Ok(if raw.is_empty() {
        Vec::new()
    } else {
        raw.split(|&byte| byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect()
    })
}

pub(crate) fn misread(pid: i32, file: &str, line: &str) -> Error {
    Error::Proc {
        path: path(pid, file),
        line: line.chars().take(200).collect(),
    }
}
