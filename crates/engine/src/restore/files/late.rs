//! Files in /proc of the tree's own processes: they can be opened only when these exist, by the tasks that have them.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd};

use cryopod_image::criu::{FdinfoEntry, RegFileEntry};

use super::{FD_CLOEXEC, paths, tables};
use crate::dump::files::paths::owner_in_proc;
use crate::error::Result;
use crate::proc;
use crate::proc::mem::Mem;
use crate::remote::puppet::Puppet;

/// Whether a file is one of a process in /proc that does not exist yet.
pub fn is_late(reg: &RegFileEntry) -> bool {
    owner_in_proc(&reg.name).is_some_and(|pid| !proc::path(pid, "").exists())
}

/// Has a task open such files, from `root`, which is the real root directory whatever the task's own is. A description
/// that several tables share becomes one per table.
pub fn open(
    puppet: &Puppet,
    mem: &Mem,
    root: BorrowedFd<'_>,
    files: &[(&FdinfoEntry, &RegFileEntry)],
) -> Result<()> {
    let mut opened: HashMap<u32, u32> = HashMap::new();
    for (one, reg) in files {
        let close_on_exec = one.flags & FD_CLOEXEC != 0;
        if let Some(&first) = opened.get(&one.id) {
            tables::place(puppet, first as i32, one.fd, close_on_exec)?;
            continue;
        }
        opened.insert(one.id, one.fd);
        open_one(puppet, mem, root, one.fd, close_on_exec, reg)?;
    }
    Ok(())
}

fn open_one(
    puppet: &Puppet,
    mem: &Mem,
    root: BorrowedFd<'_>,
    fd: u32,
    close_on_exec: bool,
    reg: &RegFileEntry,
) -> Result<()> {
    let mut path = reg.name.strip_prefix(b"/").unwrap_or(&reg.name).to_vec();
    path.push(0);
    let at = puppet.put(mem, &path)?;
    let flags = paths::open_flags(reg.flags).bits();
    let args = [root.as_raw_fd() as u64, at, u64::from(flags), 0, 0, 0];
    let file = puppet.must("openat (a file in /proc)", libc::SYS_openat, args)?;
    if file != u64::from(fd) {
        tables::place(puppet, file as i32, fd, close_on_exec)?;
        puppet.must("close", libc::SYS_close, [file, 0, 0, 0, 0, 0])?;
    } else if !close_on_exec {
        puppet.must(
            "fcntl (F_SETFD)",
            libc::SYS_fcntl,
            [file, libc::F_SETFD as u64, 0, 0, 0, 0],
        )?;
    }
    if reg.pos != 0 && reg.pos != u64::MAX && reg.flags & libc::O_PATH as u32 == 0 {
        puppet.must(
            "lseek",
            libc::SYS_lseek,
            [u64::from(fd), reg.pos, libc::SEEK_SET as u64, 0, 0, 0],
        )?;
    }
    Ok(())
}
