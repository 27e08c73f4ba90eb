//! Descriptor tables: fdinfo-N.img, and making one in a task.

use std::collections::BTreeMap;

use cryopod_image::criu::{FdinfoEntry, FileEntry};
use cryopod_image::{Kind as Image, SetReader};

use crate::error::{Error, Result};
use crate::remote::puppet::Puppet;

/// No kernel allows larger numbers (fs.nr_open, proc_sys_fs(5)).
pub const HIGHEST_FD: u32 = 1 << 30;

/// Reads a table, in the order of numbers, and checks that it fits the file entries.
pub fn load(
    set: &SetReader,
    files_id: u32,
    entries: &BTreeMap<u32, FileEntry>,
) -> Result<Vec<FdinfoEntry>> {
    // criu makes no file for a table without descriptors.
    if !set.exists(Image::Fdinfo, Some(u64::from(files_id))) {
        return Ok(Vec::new());
    }
    let mut table = set.read_all::<FdinfoEntry>(Image::Fdinfo, Some(u64::from(files_id)))?;
    table.sort_by_key(|one| one.fd);
    let corrupt = |fd: u32, what: &str| {
        Err(Error::inconsistent(
            format!("fdinfo-{files_id}"),
            format!("descriptor {fd}: {what}"),
        ))
    };
    for (index, one) in table.iter().enumerate() {
        if one.fd >= HIGHEST_FD {
            return corrupt(one.fd, "impossible number");
        }
        if index > 0 && table[index - 1].fd == one.fd {
            return corrupt(one.fd, "there are two of it");
        }
        match entries.get(&one.id) {
            None => return corrupt(one.fd, "its file is not in files.img"),
            Some(entry) if entry.r#type != one.r#type => {
                return corrupt(one.fd, "its file is of another kind");
            }
            Some(_) => {}
        }
    }
    Ok(table)
}

/// Whether a descriptor of a table is closed on exec.
pub fn closes_on_exec(table: &[FdinfoEntry], fd: u32) -> bool {
    let at = table.binary_search_by_key(&fd, |one| one.fd);
    at.is_ok_and(|at| table[at].flags & super::FD_CLOEXEC != 0)
}

/// Where a descriptor comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its number.
    pub fd: u32,
    /// The number that the task has inherited it under; `None` leaves the number free for later.
    pub from: Option<i32>,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
}

/// Makes the table in a task: `slots` are in the order of numbers, and every other number below `base` is closed.
pub fn install(puppet: &Puppet, slots: &[Slot], base: i32) -> Result<()> {
    let mut next = 0;
    for slot in slots {
        let Some(from) = slot.from else { continue };
        close_range(puppet, next, slot.fd)?;
        place(puppet, from, slot.fd, slot.close_on_exec)?;
        next = slot.fd + 1;
    }
    close_range(puppet, next, base as u32)
}

/// dup3(2) in a task.
pub fn place(puppet: &Puppet, from: i32, fd: u32, close_on_exec: bool) -> Result<()> {
    let flags = if close_on_exec {
        libc::O_CLOEXEC as u64
    } else {
        0
    };
    let args = [from as u64, u64::from(fd), flags, 0, 0, 0];
    puppet.must("dup3", libc::SYS_dup3, args).map(drop)
}

/// Closes all descriptors from `start` on that are below `end`, in a task.
pub fn close_range(puppet: &Puppet, start: u32, end: u32) -> Result<()> {
    if start < end {
        let args = [u64::from(start), u64::from(end - 1), 0, 0, 0, 0];
        puppet.must("close_range", libc::SYS_close_range, args)?;
    }
    Ok(())
}
