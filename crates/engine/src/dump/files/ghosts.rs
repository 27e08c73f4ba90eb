//! Deleted files that are still open: their contents go into ghost-file-ID.img, and remap-fpath.img says which entries
//! need them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use cryopod_image::criu::{
    GhostChunkEntry, GhostFileEntry, RemapFilePathEntry, RemapType, Timeval,
};
use cryopod_image::set::EntryWriter;
use cryopod_image::{Kind as Image, SetWriter};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::handles::kernel_device;
use super::lazy::Lazy;
use super::seen::Seen;
use crate::error::{Error, Result};

/// From this size on only the parts between holes are stored. CRIU does the same.
const CHUNKS_FROM_BYTES: u64 = 3 * 4096;

/// Deleted files taken along so far.
pub struct Ghosts<'a> {
    set: &'a SetWriter,
    remaps: Lazy<'a>,
    /// By device and inode.
    known: HashMap<(u64, u64), u32>,
}

impl<'a> Ghosts<'a> {
    /// None yet.
    pub fn new(set: &'a SetWriter) -> Self {
        Self {
            set,
            remaps: Lazy::new(set, Image::RemapFpath),
            known: HashMap::new(),
        }
    }

    /// Notes that the file entry `id` is this deleted file, and stores its contents unless that was done.
    pub fn add(&mut self, id: u32, seen: &Seen) -> Result<()> {
        let next = self.known.len() as u32 + 1;
        let ghost = *self.known.entry(seen.inode()).or_insert(next);
        if ghost == next {
            self.store(ghost, seen)?;
        }
        self.remaps.writer()?.push(&RemapFilePathEntry {
            orig_id: id,
            remap_id: ghost,
            remap_type: Some(RemapType::Ghost.into()),
        })?;
        Ok(())
    }

    /// Notes that the file entry `id` is opened by way of the entry `link`, which names a hard link to it.
    pub fn link(&mut self, id: u32, link: u32) -> Result<()> {
        let remap = RemapFilePathEntry {
            orig_id: id,
            remap_id: link,
            remap_type: Some(RemapType::Linked.into()),
        };
        Ok(self.remaps.writer()?.push(&remap)?)
    }

    /// Notes that the file entry `id` is one in /proc of a process that has ended.
    pub fn of_dead(&mut self, id: u32, pid: i32) -> Result<()> {
        let remap = RemapFilePathEntry {
            orig_id: id,
            remap_id: pid as u32,
            remap_type: Some(RemapType::Procfs.into()),
        };
        Ok(self.remaps.writer()?.push(&remap)?)
    }

    /// Completes remap-fpath.img.
    pub fn finish(self) -> Result<()> {
        self.remaps.finish()
    }

    fn store(&self, ghost: u32, seen: &Seen) -> Result<()> {
        let stat = &seen.stat;
        let is_file = seen.file_type() == FileType::RegularFile;
        let is_device = seen.file_type() == FileType::CharacterDevice;
        let size_bytes = stat.st_size as u64;
        let chunks = is_file && size_bytes >= CHUNKS_FROM_BYTES;
        let time = |seconds: i64, nanoseconds: u64| Timeval {
            tv_sec: seconds as u64,
            tv_usec: nanoseconds / 1000,
        };
        let entry = GhostFileEntry {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode,
            dev: Some(kernel_device(stat.st_dev)),
            ino: Some(stat.st_ino),
            rdev: is_device.then_some(stat.st_rdev as u32),
            atim: Some(time(stat.st_atime, stat.st_atime_nsec)),
            mtim: Some(time(stat.st_mtime, stat.st_mtime_nsec)),
            chunks: chunks.then_some(true),
            size: chunks.then_some(size_bytes),
            symlnk_target: link_target(seen)?,
        };
        let mut image = self.set.entries(Image::GhostFile, Some(u64::from(ghost)))?;
        image.push(&entry)?;
        if is_file {
            // Opened anew: the position of the target's own description must not move, and it may be write-only.
            let path = seen.proc_path();
            // Without waiting: somebody may have a lease on it.
            let options = File::options()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .clone();
            let mut file = options.open(&path).map_err(|source| Error::Path {
                operation: "open",
                path,
                source,
            })?;
            if chunks {
                store_chunks(&mut image, &mut file, seen, size_bytes)?;
            } else {
                image.payload_from(&mut file, size_bytes)?;
            }
        }
        Ok(image.finish()?)
    }
}

/// Where a symbolic link leads; `None` for other files.
fn link_target(seen: &Seen) -> Result<Option<Vec<u8>>> {
    if seen.file_type() != FileType::Symlink {
        return Ok(None);
    }
    let path = seen.proc_path();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let target = rustix::fs::open(&path, flags, Mode::empty())
        .and_then(|link| rustix::fs::readlinkat(link, "", Vec::new()))
        .map_err(|errno| Error::Path {
            operation: "read the link behind",
            path,
            source: errno.into(),
        })?;
    Ok(Some(target.into_bytes()))
}

/// Stores the parts that are no holes.
fn store_chunks(
    image: &mut EntryWriter<'_>,
    file: &mut File,
    seen: &Seen,
    size_bytes: u64,
) -> Result<()> {
    let failed = |source: std::io::Error| Error::Path {
        operation: "read the deleted file behind",
        path: seen.proc_path(),
        source,
    };
    let mut at = 0;
    while at < size_bytes {
        let (start, end) = match data_range(file, at) {
            Ok(Some((start, end))) => (start, end.min(size_bytes)),
            Ok(None) => break,
            // A file system that knows no holes.
            Err(Errno::INVAL) => (at, size_bytes),
            Err(errno) => return Err(failed(errno.into())),
        };
        if start >= end {
            break;
        }
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        image.push(&GhostChunkEntry {
            len: end - start,
            off: start,
        })?;
        image.payload_from(file, end - start)?;
        at = end;
    }
    Ok(())
}

/// The next range of data from `at` on; `None` when only a hole is left (lseek(2), SEEK_DATA and SEEK_HOLE).
fn data_range(file: &File, at: u64) -> std::result::Result<Option<(u64, u64)>, Errno> {
    let start = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    Ok(Some((
        start,
        rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start))?,
    )))
}
