//! From a file handle (name_to_handle_at(2)) to a path: what watches are recorded by.
//!
//! The kernel knows watched files by inode. A handle opens one again (open_by_handle_at(2)), and its name can then be
//! read in /proc; that needs CAP_DAC_READ_SEARCH and a file system that knows handles. Where that leads to no path,
//! directories are searched for the inode: those that the user names, then some where watches usually are.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cryopod_image::criu::{FH_ENTRY_MIN_WORDS, FhEntry};
use cryopod_sys::notify::{LONGEST_HANDLE_BYTES, open_by_handle};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};

use crate::dump::DumpOptions;
use crate::error::Result;
use crate::proc::mountinfo::{self, Mount};

/// Device and inode as the kernel prints them; the device in its own numbering, see [`kernel_device`].
pub type Inode = (u32, u64);

/// What became of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A path that leads to the file.
    Path(Vec<u8>),
    /// The handle opens it, but no name of it was found.
    Handle,
    /// The file has no name any more.
    Deleted,
    /// Nothing.
    Lost,
}

/// A device number as the kernel has it inside (linux/kdev_t.h), and as CRIU's images and fdinfo have it.
pub fn kernel_device(device: u64) -> u32 {
    rustix::fs::major(device) << 20 | rustix::fs::minor(device)
}

/// Looks for the file of a handle.
pub fn find(inode: Inode, handle: Option<&FhEntry>, options: &DumpOptions) -> Result<Found> {
    let opened = match handle {
        Some(handle) => by_handle(inode, handle)?,
        None => Found::Lost,
    };
    match opened {
        Found::Handle if !options.force_irmap => return Ok(Found::Handle),
        Found::Path(_) | Found::Deleted => return Ok(opened),
        Found::Handle | Found::Lost => {}
    }
    let named = options.irmap_scan_paths.iter().map(PathBuf::as_path);
    let searched = named.chain(USUAL.iter().map(Path::new));
    let found = searched.into_iter().find_map(|place| search(place, inode));
    Ok(found.map_or(opened, Found::Path))
}

/// Where watches usually are.
const USUAL: [&str; 8] = [
    "/etc",
    "/var/spool",
    "/var/log",
    "/usr/share/dbus-1",
    "/usr/share/polkit-1",
    "/var/lib/polkit-1",
    "/lib/udev",
    "/run",
];

/// The mounts of a device.
fn mounts(device: u32) -> Result<Vec<Mount>> {
    let device = (device >> 20, device & 0xf_ffff);
    let mut mounts = mountinfo::read_all(std::process::id() as i32)?;
    mounts.retain(|mount| mount.device == device);
    Ok(mounts)
}

fn by_handle(inode: Inode, handle: &FhEntry) -> Result<Found> {
    let mut found = Found::Lost;
    for mount in mounts(inode.0)? {
        match open_below(&mount, inode, handle).map_or(Found::Lost, |file| named(file.as_fd())) {
            Found::Lost => {}
            Found::Handle => found = Found::Handle,
            other => return Ok(other),
        }
    }
    Ok(found)
}

/// Opens the file of a handle with O_PATH; `None` where that cannot be done.
pub fn open(inode: Inode, handle: &FhEntry) -> Result<Option<OwnedFd>> {
    let mut mounts = mounts(inode.0)?.into_iter();
    Ok(mounts.find_map(|mount| open_below(&mount, inode, handle)))
}

/// Opens the file of a handle by way of one mount.
fn open_below(mount: &Mount, inode: Inode, handle: &FhEntry) -> Option<OwnedFd> {
    let bytes: Vec<u8> = handle
        .handle
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let bytes = bytes.get(..handle.bytes as usize)?;
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let root = rustix::fs::open(&mount.point, flags, Mode::empty()).ok()?;
    let file = open_by_handle(root.as_fd(), handle.r#type as i32, bytes).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    (stat.st_ino == inode.1).then_some(file)
}

/// What the file behind a descriptor is called.
fn named(file: BorrowedFd<'_>) -> Found {
    let Ok(stat) = rustix::fs::fstat(file) else {
        return Found::Lost;
    };
    if stat.st_nlink == 0 {
        return Found::Deleted;
    }
    match name(file) {
        Some(name) if leads_to(&name, &stat) => Found::Path(name),
        _ => Found::Handle,
    }
}

fn name(file: BorrowedFd<'_>) -> Option<Vec<u8>> {
    use std::os::fd::AsRawFd;
    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    Some(link.into_os_string().into_vec())
}

fn leads_to(name: &[u8], wanted: &Stat) -> bool {
    rustix::fs::statat(CWD, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (wanted.st_dev, wanted.st_ino))
}

/// How many names are looked at in one search, so that a search of everything ends.
const MOST_NAMES: usize = 1 << 20;

/// Looks for an inode at and below a path.
fn search(place: &Path, inode: Inode) -> Option<Vec<u8>> {
    let mut queue = vec![place.to_owned()];
    let mut looked_at = 0;
    while let Some(path) = queue.pop() {
        looked_at += 1;
        if looked_at > MOST_NAMES {
            tracing::warn!(place = %place.display(), "too large to be searched for a watched file");
            return None;
        }
        let Ok(status) = fs::symlink_metadata(&path) else {
            continue;
        };
        if (kernel_device(status.dev()), status.ino()) == inode {
            return Some(path.as_os_str().as_bytes().to_vec());
        }
        if FileType::from_raw_mode(status.mode()) != FileType::Directory {
            continue;
        }
        let entries = fs::read_dir(&path).into_iter().flatten().flatten();
        queue.extend(entries.map(|entry| entry.path()));
    }
    None
}

/// Reads the last three words of a line about a watch: `fhandle-bytes:8 fhandle-type:1 f_handle:4f261900a82ff2a9`.
pub fn parse<'w>(mut value: impl FnMut(&str) -> Option<&'w str>) -> Option<FhEntry> {
    let bytes = u32::from_str_radix(value("fhandle-bytes")?, 16).ok()?;
    let kind = u32::from_str_radix(value("fhandle-type")?, 16).ok()?;
    let digits = value("f_handle")?;
    if bytes as usize > LONGEST_HANDLE_BYTES || digits.len() != 2 * bytes as usize {
        return None;
    }
    let mut handle = vec![0u64; FH_ENTRY_MIN_WORDS];
    for (index, pair) in digits.as_bytes().chunks(2).enumerate() {
        let byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        handle[index / 8] |= u64::from(byte) << (index % 8 * 8);
    }
    Some(FhEntry {
        bytes,
        r#type: kind,
        handle,
        path: None,
        mnt_id: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_below_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("c"), "").unwrap();
        let status = fs::metadata(path.join("c")).unwrap();
        let inode = (kernel_device(status.dev()), status.ino());
        let found = search(dir.path(), inode).unwrap();
        assert_eq!(found, path.join("c").as_os_str().as_bytes());
        assert_eq!(search(dir.path(), (inode.0, u64::MAX)), None);
        let options = DumpOptions {
            irmap_scan_paths: vec![dir.path().to_owned()],
            ..DumpOptions::default()
        };
        assert_eq!(find(inode, None, &options).unwrap(), Found::Path(found));
    }

    #[test]
    fn a_handle_is_little_endian_words() {
        let words = [
            ("fhandle-bytes", "9"),
            ("fhandle-type", "81"),
            ("f_handle", "0102030405060708ff"),
        ];
        let value = |key: &str| {
            words
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| *value)
        };
        let handle = parse(value).unwrap();
        assert_eq!((handle.bytes, handle.r#type), (9, 0x81));
        assert_eq!(handle.handle[..2], [0x0807_0605_0403_0201, 0xff]);
        assert_eq!(handle.handle.len(), FH_ENTRY_MIN_WORDS);
        let short = |key: &str| {
            if key == "f_handle" {
                Some("01")
            } else {
                value(key)
            }
        };
        assert_eq!(parse(short), None);
    }
}
