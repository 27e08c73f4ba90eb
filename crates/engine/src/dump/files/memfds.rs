//! Memory that is a file: memfd.img has one entry per inode, file entries refer to it, and the contents are stored with
//! other shared memory.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsFd;

use cryopod_image::criu::{FdTypes, FileEntry, FownEntry, MemfdFileEntry, MemfdInodeEntry};
use cryopod_image::{Kind as Image, SetWriter};
use cryopod_sys::memory::huge_size_flags;

use super::kind::magic::HUGETLBFS;
use super::lazy::Lazy;
use super::seen::Seen;
use crate::dump::shmem::SharedFile;
use crate::error::{Error, Result};

/// The memfds seen so far.
pub struct Memfds<'a> {
    image: Lazy<'a>,
    /// By device and inode.
    known: HashMap<(u64, u64), u32>,
    numbers: HashSet<u32>,
    shared: Vec<SharedFile>,
}

impl<'a> Memfds<'a> {
    /// None yet.
    pub fn new(set: &'a SetWriter) -> Self {
        Self {
            image: Lazy::new(set, Image::Memfd),
            known: HashMap::new(),
            numbers: HashSet::new(),
            shared: Vec::new(),
        }
    }

    /// Gives no memfd one of these numbers.
    pub fn reserve(&mut self, numbers: impl Iterator<Item = u32>) {
        self.numbers.extend(numbers);
    }

    /// The entry of an open memfd.
    pub fn dump(
        &mut self,
        id: u32,
        seen: &Seen,
        flags: u32,
        owner: FownEntry,
    ) -> Result<FileEntry> {
        let memfd = MemfdFileEntry {
            id,
            flags,
            pos: seen.info.pos,
            fown: owner,
            inode_id: self.inode(seen)?,
        };
        Ok(FileEntry {
            r#type: FdTypes::MemFd.into(),
            id,
            memfd: Some(Box::new(memfd)),
            ..FileEntry::default()
        })
    }

    /// Completes memfd.img and hands over what holds contents.
    pub fn finish(self) -> Result<Vec<SharedFile>> {
        self.image.finish()?;
        Ok(self.shared)
    }

    fn inode(&mut self, seen: &Seen) -> Result<u32> {
        if let Some(&inode_id) = self.known.get(&seen.inode()) {
            return Ok(inode_id);
        }
        let inode_id = self.known.len() as u32 + 1;
        let path = seen.proc_path();
        let failed = |operation, source| Error::Path {
            operation,
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(|source| failed("open", source))?;
        let seals = rustix::fs::fcntl_get_seals(file.as_fd())
            .map_err(|errno| failed("ask for the seals of", errno.into()))?;
        let name = seen.undeleted_name();
        let size_bytes = seen.stat.st_size as u64;
        let shmid = self.number(seen.stat.st_ino);
        self.image.writer()?.push(&MemfdInodeEntry {
            name: name.strip_prefix(b"/memfd:").unwrap_or(name).to_vec(),
            uid: seen.stat.st_uid,
            gid: seen.stat.st_gid,
            size: size_bytes,
            shmid,
            seals: seals.bits(),
            inode_id: u64::from(inode_id),
            hugetlb_flag: huge_flags(seen)?,
            mode: Some(seen.stat.st_mode),
        })?;
        self.shared.push(SharedFile {
            shmid: u64::from(shmid),
            file: file.into(),
            size_bytes,
        });
        self.known.insert(seen.inode(), inode_id);
        Ok(inode_id)
    }

    /// The inode number, as CRIU does it; huge pages are on other devices, whose numbers may be the same.
    fn number(&mut self, inode: u64) -> u32 {
        let mut number = inode as u32;
        while !self.numbers.insert(number) {
            number = number.wrapping_add(1);
        }
        number
    }
}

/// The flags for memfd_create(2) that make such pages.
fn huge_flags(seen: &Seen) -> Result<Option<u32>> {
    if seen.file_system != HUGETLBFS {
        return Ok(None);
    }
    let path = seen.proc_path();
    let statfs = rustix::fs::statfs(&path).map_err(|errno| Error::Path {
        operation: "look at",
        path,
        source: errno.into(),
    })?;
    Ok(Some(
        libc::MFD_HUGETLB | huge_size_flags(statfs.f_bsize as u64),
    ))
}
