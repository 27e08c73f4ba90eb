//! Deleted files that were open: made again under a name that nobody has, opened by the name they had, and deleted.
//!
//! The kernel shows the last name of a deleted file (/proc/PID/fd), so each description is opened through a hard link
//! with that name. Directories that are gone as well are made for the time being.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cryopod_image::criu::{
    FileEntry, GhostChunkEntry, GhostFileEntry, RemapFilePathEntry, RemapType,
};
use cryopod_image::{Kind as Image, SetReader};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::paths::failed;
use crate::dump::files::links::PREFIX;
use crate::error::{Error, Result};

/// What stands in for a file that has no name any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remap {
    /// ghost-file-ID.img.
    Ghost(u32),
    /// Another file entry, which names a hard link made at the dump.
    Linked(u32),
    /// A process that has ended, in whose /proc directory the file was.
    OfDead(i32),
}

/// Reads remap-fpath.img: which file entries need a stand-in.
pub fn load(set: &SetReader) -> Result<HashMap<u32, Remap>> {
    /// In old images the type was a bit of the number.
    const GHOST_BIT: u32 = 1 << 31;
    let mut remaps = HashMap::new();
    if !set.exists(Image::RemapFpath, None) {
        return Ok(remaps);
    }
    for entry in set.read_all::<RemapFilePathEntry>(Image::RemapFpath, None)? {
        let (kind, id) = match entry.remap_type {
            Some(kind) => (RemapType::try_from(kind), entry.remap_id),
            None if entry.remap_id & GHOST_BIT != 0 => {
                (Ok(RemapType::Ghost), entry.remap_id & !GHOST_BIT)
            }
            None => (Ok(RemapType::Linked), entry.remap_id),
        };
        let remap = match kind {
            Ok(RemapType::Ghost) => Remap::Ghost(id),
            Ok(RemapType::Linked) => Remap::Linked(id),
            Ok(RemapType::Procfs) => Remap::OfDead(id as i32),
            Err(_) => {
                let what = format!("file {}: remap of unknown type", entry.orig_id);
                return Err(Error::inconsistent("remap-fpath", what));
            }
        };
        if remaps.insert(entry.orig_id, remap).is_some() {
            let what = format!("file {} is remapped twice", entry.orig_id);
            return Err(Error::inconsistent("remap-fpath", what));
        }
    }
    Ok(remaps)
}

/// The deleted files by device and inode of before, as watches know them, and the file entry of each.
pub fn inodes(set: &SetReader, remaps: &HashMap<u32, Remap>) -> Result<HashMap<(u32, u64), u32>> {
    let mut inodes = HashMap::new();
    for (&entry_id, remap) in remaps {
        let Remap::Ghost(id) = *remap else { continue };
        let mut image = set.entries(Image::GhostFile, Some(u64::from(id)))?;
        let ghost = image.next_entry::<GhostFileEntry>()?;
        if let Some((device, inode)) = ghost.and_then(|ghost| ghost.dev.zip(ghost.ino)) {
            inodes.insert((device, inode), entry_id);
        }
    }
    Ok(inodes)
}

/// The hard links that a dump made for the restore.
pub fn temporary_links(
    entries: &BTreeMap<u32, FileEntry>,
    remaps: &HashMap<u32, Remap>,
) -> BTreeSet<PathBuf> {
    let linked = remaps.values().filter_map(|remap| match remap {
        Remap::Linked(id) => entries.get(id)?.reg.as_deref(),
        Remap::Ghost(_) | Remap::OfDead(_) => None,
    });
    // Only what is called so: an image could name anything.
    let is_temporary = |path: &&Path| {
        let name = path.file_name().map(OsStr::as_bytes);
        name.is_some_and(|name| name.starts_with(PREFIX.as_bytes()))
    };
    linked
        .map(super::paths::path_of)
        .filter(is_temporary)
        .map(Path::to_owned)
        .collect()
}

/// Names made for the time being; they are removed when this is dropped.
#[derive(Debug, Default)]
pub struct Ghosts {
    /// By number: the stand-in's own name.
    made: HashMap<u32, PathBuf>,
    /// What to remove at the end, in order of creation.
    names: Vec<(PathBuf, AtFlags)>,
}

impl Ghosts {
    /// Opens ghost `id` as `path` by way of `open`, which gets the name to open.
    pub fn open(
        &mut self,
        set: &SetReader,
        id: u32,
        path: &Path,
        open: impl FnOnce(&Path) -> Result<OwnedFd>,
    ) -> Result<OwnedFd> {
        let stand_in = match self.made.get(&id) {
            Some(stand_in) => stand_in.clone(),
            None => self.make(set, id, path)?,
        };
        if stand_in == path || is_directory(&stand_in) {
            return open(&stand_in);
        }
        self.open_linked(&stand_in, path, open)
    }

    /// Opens an existing file as `path` by way of `open`, which gets the name to open.
    pub fn open_linked(
        &mut self,
        existing: &Path,
        path: &Path,
        open: impl FnOnce(&Path) -> Result<OwnedFd>,
    ) -> Result<OwnedFd> {
        self.make_parents(path)?;
        let link = |name: &Path| rustix::fs::linkat(CWD, existing, CWD, name, AtFlags::empty());
        let name = match link(path) {
            Ok(()) => path.to_owned(),
            // Somebody has the name by now: the file is known by another one until the end.
            Err(Errno::EXIST) => {
                let other = beside(path, "link");
                link(&other).map_err(|errno| failed("link a deleted file to", &other, errno))?;
                other
            }
            Err(errno) => return Err(failed("link a deleted file to", path, errno)),
        };
        let opened = open(&name);
        remove(&name, AtFlags::empty());
        opened
    }

    /// Makes a ghost, under a name in the directory it was in.
    fn make(&mut self, set: &SetReader, id: u32, path: &Path) -> Result<PathBuf> {
        let mut image = set.entries(Image::GhostFile, Some(u64::from(id)))?;
        let entry: GhostFileEntry = image.expect_entry()?;
        self.make_parents(path)?;
        let kind = FileType::from_raw_mode(entry.mode);
        let mode = Mode::from_raw_mode(entry.mode);
        let mut name = beside(path, &format!("ghost-{id:x}"));
        let made = match kind {
            FileType::RegularFile => {
                make_file(&name, mode).map_err(|errno| failed("make", &name, errno))?;
                self.names.push((name.clone(), AtFlags::empty()));
                fill(&mut image, &entry, &name)
            }
            FileType::Directory => {
                // It cannot be linked, so it gets its own name unless somebody has it.
                if rustix::fs::mkdir(path, mode).is_ok() {
                    name = path.to_owned();
                } else {
                    rustix::fs::mkdir(&name, mode).map_err(|errno| failed("make", &name, errno))?;
                }
                self.names.push((name.clone(), AtFlags::REMOVEDIR));
                Ok(())
            }
            FileType::Symlink => {
                let target = entry.symlnk_target.as_deref().unwrap_or_default();
                rustix::fs::symlinkat(target, CWD, &name)
                    .map_err(|errno| failed("make", &name, errno))?;
                self.names.push((name.clone(), AtFlags::empty()));
                Ok(())
            }
            FileType::Fifo | FileType::CharacterDevice => {
                let device = u64::from(entry.rdev.unwrap_or(0));
                rustix::fs::mknodat(CWD, &name, kind, mode, device)
                    .map_err(|errno| failed("make", &name, errno))?;
                self.names.push((name.clone(), AtFlags::empty()));
                Ok(())
            }
            _ => {
                let what = format!("deleted file {} of mode {:o}", path.display(), entry.mode);
                return Err(Error::NotRestorable { what });
            }
        };
        made.and_then(|()| set_metadata(&name, &entry))?;
        self.made.insert(id, name.clone());
        Ok(name)
    }

    /// Makes the directories above a path that are gone.
    fn make_parents(&mut self, path: &Path) -> Result<()> {
        let missing: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .take_while(|parent| matches!(rustix::fs::stat(*parent), Err(Errno::NOENT)))
            .collect();
        for parent in missing.into_iter().rev() {
            rustix::fs::mkdir(parent, Mode::RWXU)
                .map_err(|errno| failed("make the directory", parent, errno))?;
            self.names.push((parent.to_owned(), AtFlags::REMOVEDIR));
        }
        Ok(())
    }
}

impl Drop for Ghosts {
    fn drop(&mut self) {
        for (name, flags) in self.names.iter().rev() {
            remove(name, *flags);
        }
    }
}

fn remove(name: &Path, flags: AtFlags) {
    if let Err(error) = rustix::fs::unlinkat(CWD, name, flags) {
        tracing::warn!(name = %name.display(), %error, "could not remove a name made for a deleted file");
    }
}

fn is_directory(path: &Path) -> bool {
    rustix::fs::lstat(path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// A short name in the same directory that nobody else uses.
fn beside(path: &Path, what: &str) -> PathBuf {
    path.with_file_name(format!(".cryopod-{}-{what}", std::process::id()))
}

fn make_file(name: &Path, mode: Mode) -> std::result::Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::open(name, flags, mode).map(drop)
}

/// Writes the contents of a ghost.
fn fill(
    image: &mut cryopod_image::set::EntryReader<'_>,
    entry: &GhostFileEntry,
    name: &Path,
) -> Result<()> {
    let io_failed = |source| Error::Path {
        operation: "write",
        path: name.to_owned(),
        source,
    };
    let mut file = File::options().write(true).open(name).map_err(io_failed)?;
    if entry.chunks != Some(true) {
        return Ok(image.copy_payload(image.remaining_bytes(), &mut file)?);
    }
    let corrupt = |what: &str| Error::inconsistent("ghost-file", what);
    let size = entry.size.ok_or_else(|| corrupt("pieces without a size"))?;
    file.set_len(size).map_err(io_failed)?;
    while let Some(chunk) = image.next_entry::<GhostChunkEntry>()? {
        let end = chunk.off.checked_add(chunk.len);
        if end.is_none_or(|end| end > size) {
            return Err(corrupt("a piece beyond the end of the file"));
        }
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(chunk.off)).map_err(io_failed)?;
        image.copy_payload(chunk.len, &mut file)?;
    }
    Ok(())
}

/// Owner, mode and times, in this order: a change of owner clears the set-uid bit.
fn set_metadata(name: &Path, entry: &GhostFileEntry) -> Result<()> {
    let errno_failed = |errno| failed("set owner and mode of", name, errno);
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(CWD, name, Some(uid), Some(gid), flags).map_err(errno_failed)?;
    if FileType::from_raw_mode(entry.mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(entry.mode & 0o7777);
        rustix::fs::chmodat(CWD, name, mode, AtFlags::empty()).map_err(errno_failed)?;
    }
    let (Some(accessed), Some(modified)) = (&entry.atim, &entry.mtim) else {
        return Ok(());
    };
    let time = |seconds: u64, microseconds: u64| Timespec {
        tv_sec: seconds as i64,
        tv_nsec: (microseconds % 1_000_000 * 1000) as _,
    };
    let times = Timestamps {
        last_access: time(accessed.tv_sec, accessed.tv_usec),
        last_modification: time(modified.tv_sec, modified.tv_usec),
    };
    rustix::fs::utimensat(CWD, name, &times, flags)
        .map_err(|errno| failed("set the times of", name, errno))
}
