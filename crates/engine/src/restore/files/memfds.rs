//! Memory that is a file.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use cryopod_image::criu::{MemfdFileEntry, MemfdInodeEntry};
use cryopod_image::{Kind as Image, SetReader};
use cryopod_sys::memory::{self, HUGE_MASK};
use rustix::fs::{Gid, MemfdFlags, Mode, SealFlags, Uid};

use super::{paths, set_status};
use crate::error::{Context, Error, Result};

/// Longest name memfd_create(2) takes.
const LONGEST_NAME: usize = 249;
/// Larger than the memory of any machine.
const LARGEST_BYTES: u64 = 1 << 46;

/// One memfd.
#[derive(Debug)]
struct Inode {
    entry: MemfdInodeEntry,
    file: Option<OwnedFd>,
    /// The description that memfd_create(2) made belongs to a file entry by now.
    taken: bool,
}

/// All memfds of an image set, by number.
#[derive(Debug, Default)]
pub struct Memfds {
    inodes: BTreeMap<u64, Inode>,
}

impl Memfds {
    /// Reads memfd.img.
    pub fn load(set: &SetReader) -> Result<Self> {
        let mut inodes = BTreeMap::new();
        if !set.exists(Image::Memfd, None) {
            return Ok(Self { inodes });
        }
        for entry in set.read_all::<MemfdInodeEntry>(Image::Memfd, None)? {
            let id = entry.inode_id;
            let corrupt = |what: &str| Error::inconsistent("memfd", format!("inode {id}: {what}"));
            if entry.name.len() > LONGEST_NAME || entry.name.contains(&0) {
                return Err(corrupt("bad name"));
            }
            if entry.size > LARGEST_BYTES {
                return Err(corrupt("too large"));
            }
            if entry.hugetlb_flag.unwrap_or(0) & !(libc::MFD_HUGETLB | HUGE_MASK) != 0 {
                return Err(corrupt("unknown flags for huge pages"));
            }
            let inode = Inode {
                entry,
                file: None,
                taken: false,
            };
            if inodes.insert(id, inode).is_some() {
                return Err(corrupt("there are two of it"));
            }
        }
        Ok(Self { inodes })
    }

    /// Makes all of them, empty.
    pub fn make(&mut self) -> Result<()> {
        for inode in self.inodes.values_mut() {
            inode.file = Some(make(&inode.entry)?);
        }
        Ok(())
    }

    /// Opens one as a file entry has it.
    pub fn open(&mut self, entry: &MemfdFileEntry) -> Result<OwnedFd> {
        let inode = self.inodes.get_mut(&u64::from(entry.inode_id));
        let (inode, file) = match inode.map(|inode| (inode.file.as_ref(), &mut inode.taken)) {
            Some((Some(file), taken)) => (taken, file),
            _ => return Err(missing(entry)),
        };
        let access = entry.flags & libc::O_ACCMODE as u32;
        let plain = entry.flags & libc::O_PATH as u32 == 0;
        // execveat(2) works with the description that memfd_create(2) made, and with no other open for writing.
        let opened = if access == libc::O_RDWR as u32 && plain && !*inode {
            *inode = true;
            set_status(file.as_fd(), entry.flags)?;
            rustix::io::fcntl_dupfd_cloexec(file, 0).host("duplicate a memfd")?
        } else {
            paths::reopen(file.as_fd(), entry.flags)?
        };
        paths::seek(opened.as_fd(), Path::new("memfd"), entry.flags, entry.pos)?;
        Ok(opened)
    }

    /// Opens one for a mapping.
    pub fn open_for_mapping(&self, entry: &MemfdFileEntry, flags: u32) -> Result<OwnedFd> {
        let inode = self.inodes.get(&u64::from(entry.inode_id));
        let file = inode
            .and_then(|inode| inode.file.as_ref())
            .ok_or_else(|| missing(entry))?;
        paths::reopen(file.as_fd(), flags)
    }

    /// Number of the contents (pagemap-shmem), a descriptor to write them to, and the size in bytes, of each.
    pub fn contents(&self) -> Vec<(u64, BorrowedFd<'_>, u64)> {
        self.inodes
            .values()
            .filter_map(|inode| {
                let file = inode.file.as_ref()?.as_fd();
                Some((u64::from(inode.entry.shmid), file, inode.entry.size))
            })
            .collect()
    }

    /// Adds the seals.
    pub fn seal(&self) -> Result<()> {
        for inode in self.inodes.values() {
            let seals = SealFlags::from_bits_retain(inode.entry.seals);
            let Some(file) = &inode.file else { continue };
            if seals.is_empty() || cannot_be_sealed(&inode.entry) {
                continue;
            }
            rustix::fs::fcntl_add_seals(file, seals).host("seal a memfd (F_ADD_SEALS)")?;
        }
        Ok(())
    }
}

fn missing(entry: &MemfdFileEntry) -> Error {
    let what = format!(
        "file {} is memfd {}, which is not there",
        entry.id, entry.inode_id
    );
    Error::inconsistent("files", what)
}

/// Made without MFD_ALLOW_SEALING: then F_SEAL_SEAL is there from the beginning.
fn cannot_be_sealed(entry: &MemfdInodeEntry) -> bool {
    entry.seals == SealFlags::SEAL.bits()
}

fn make(entry: &MemfdInodeEntry) -> Result<OwnedFd> {
    let size = entry.size;
    let huge = entry.hugetlb_flag.unwrap_or(0);
    if matches!(entry.name.as_slice(), b"/dev/zero" | b"/anon_hugepage") {
        // Not a memfd, but what is behind a shared anonymous mapping.
        let huge = match huge {
            0 => 0,
            huge => libc::MAP_HUGETLB as u32 | huge & HUGE_MASK,
        };
        return memory::shared_anonymous(size, huge)
            .host("make shared memory (/proc/self/map_files)");
    }
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::from_bits_retain(huge);
    if !cannot_be_sealed(entry) {
        flags |= MemfdFlags::ALLOW_SEALING;
    }
    let file = rustix::fs::memfd_create(entry.name.as_slice(), flags).host("make a memfd")?;
    rustix::fs::ftruncate(&file, size).host("set the size of a memfd")?;
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::fchown(&file, Some(uid), Some(gid)).host("set the owner of a memfd")?;
    if let Some(mode) = entry.mode {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::fchmod(&file, mode).host("set the mode of a memfd")?;
    }
    Ok(file)
}
