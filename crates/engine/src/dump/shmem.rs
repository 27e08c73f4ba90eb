//! Shared memory: what mappings and memfds of several processes see, stored once.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use cryopod_sys::Errno;

use crate::error::{Context, Result};

/// A file of memory whose contents belong into the set.
#[derive(Debug)]
pub struct SharedFile {
    /// Its number in the images.
    pub shmid: u64,
    /// A readable descriptor of it.
    pub file: OwnedFd,
    /// Its size, or as much of it as anybody maps, in bytes.
    pub size_bytes: u64,
}

impl SharedFile {
    /// Fills a buffer; behind the file's end there are zeroes.
    pub fn read(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pread(&self.file, &mut buffer[done..], at + done as u64) {
                Ok(0) => {
                    buffer[done..].fill(0);
                    return Ok(());
                }
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).host("read shared memory"),
            }
        }
        Ok(())
    }
}

/// All shared memory of a tree, by number.
#[derive(Debug, Default)]
pub struct Shmem {
    files: BTreeMap<u64, SharedFile>,
}

impl Shmem {
    /// Adds a file, or the knowledge that more of it is used.
    pub fn add(&mut self, shared: SharedFile) {
        let size_bytes = shared.size_bytes;
        let known = self.files.entry(shared.shmid).or_insert(shared);
        known.size_bytes = known.size_bytes.max(size_bytes);
    }

    /// Adds several.
    pub fn extend(&mut self, more: Vec<SharedFile>) {
        more.into_iter().for_each(|one| self.add(one));
    }

    /// All files, by number.
    pub fn into_files(self) -> impl Iterator<Item = SharedFile> {
        self.files.into_values()
    }
}
