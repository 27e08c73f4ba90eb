//! Shared memory: what mappings and memfds of several processes see, stored once.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

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
