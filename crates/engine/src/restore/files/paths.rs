//! Files that are opened again by their path.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cryopod_image::criu::RegFileEntry;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::elf::{self, FileValidation};
use crate::error::{Error, Result};

/// The bit that makes O_TMPFILE of O_DIRECTORY (asm-generic/fcntl.h).
const TMPFILE_BIT: u32 = 0o20_000_000;

/// A path from an image.
pub fn path_of(reg: &RegFileEntry) -> &Path {
    Path::new(OsStr::from_bytes(&reg.name))
}

/// A failure about a path.
pub fn failed(operation: &'static str, path: &Path, errno: Errno) -> Error {
    Error::Path {
        operation,
        path: path.to_owned(),
        source: errno.into(),
    }
}

/// The flags to open an existing file with, so that the description has `flags` as far as open(2) can do it.
///
/// O_ASYNC does nothing there and is set at the end; an unnamed temporary file is an ordinary one when it comes back.
pub fn open_flags(flags: u32) -> OFlags {
    let creating = (libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_ASYNC) as u32;
    let mut flags = flags & !creating;
    if flags & TMPFILE_BIT != 0 {
        flags &= !(TMPFILE_BIT | libc::O_DIRECTORY as u32);
    }
    OFlags::from_bits_retain(flags) | OFlags::CLOEXEC | OFlags::NOCTTY
}

/// How a file is compared with what it was at the checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Comparison {
    /// Whether one that differs is opened all the same.
    pub force: bool,
    /// What of programs and libraries is compared besides size and mode.
    pub validation: FileValidation,
}

/// Opens `path`, which is the file of `reg` under its own or another name, with `flags`, and checks that it is what it
/// was. The position is left alone.
///
/// # Errors
///
/// [`Error::FileChanged`] when it is another kind of file, or its mode, size or build differ; the latter not with `force`.
pub fn open(reg: &RegFileEntry, path: &Path, flags: u32, compared: Comparison) -> Result<OwnedFd> {
    let flags = open_flags(flags);
    // Looked at before it is opened: to open what is a fifo or a device by now may wait or do things.
    let follow = if flags.contains(OFlags::NOFOLLOW) {
        AtFlags::SYMLINK_NOFOLLOW
    } else {
        AtFlags::empty()
    };
    let before =
        rustix::fs::statat(CWD, path, follow).map_err(|errno| failed("open", path, errno))?;
    check_type(reg, path, before.st_mode)?;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| failed("open", path, errno))?;
    match check(reg, path, file.as_fd(), compared.validation) {
        Err(Error::FileChanged { path, difference }) if compared.force => {
            tracing::warn!(path = %path.display(), difference, "a file is not what it was");
            Ok(file)
        }
        checked => checked.map(|()| file),
    }
}

/// Opens the file behind a descriptor once more, with other flags.
pub fn reopen(file: BorrowedFd<'_>, flags: u32) -> Result<OwnedFd> {
    let path = own_path(file);
    rustix::fs::open(&path, open_flags(flags), Mode::empty())
        .map_err(|errno| failed("open again", &path, errno))
}

/// The path of one of our own descriptors.
pub fn own_path(file: BorrowedFd<'_>) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Gives a description the position it had.
pub fn seek(file: BorrowedFd<'_>, path: &Path, flags: u32, position: u64) -> Result<()> {
    // All ones stands for a file that has no position.
    if flags & libc::O_PATH as u32 != 0 || position == 0 || position == u64::MAX {
        return Ok(());
    }
    rustix::fs::seek(file, SeekFrom::Start(position))
        .map(drop)
        .map_err(|errno| failed("set the position in", path, errno))
}

fn check(
    reg: &RegFileEntry,
    path: &Path,
    file: BorrowedFd<'_>,
    validation: FileValidation,
) -> Result<()> {
    let stat = rustix::fs::fstat(file).map_err(|errno| failed("look at", path, errno))?;
    check_type(reg, path, stat.st_mode)?;
    let size_bytes = stat.st_size as u64;
    if let Some(wanted) = reg.size.filter(|&wanted| wanted != size_bytes) {
        return changed(
            path,
            format!("it has {size_bytes} bytes and had {wanted} at the checkpoint"),
        );
    }
    if validation == FileValidation::BuildId && !reg.build_id.is_empty() {
        check_build(reg, path, file)?;
    }
    match reg.mode {
        Some(wanted) if wanted != stat.st_mode => changed(
            path,
            format!(
                "its mode is {:o} and was {wanted:o} at the checkpoint",
                stat.st_mode
            ),
        ),
        _ => Ok(()),
    }
}

/// Whether it is the same build of a program or library.
fn check_build(reg: &RegFileEntry, path: &Path, file: BorrowedFd<'_>) -> Result<()> {
    // A description that cannot be read from shows nothing.
    let again = reopen(file, libc::O_RDONLY as u32)?;
    let id = elf::build_id(&again.into()).map(|id| elf::words(&id));
    if id.as_ref() == Some(&reg.build_id) {
        return Ok(());
    }
    let wanted = elf::shown(&reg.build_id);
    let difference = match id {
        Some(id) => format!(
            "its build id is {} and was {wanted} at the checkpoint",
            elf::shown(&id)
        ),
        None => format!("it has no build id and had {wanted} at the checkpoint"),
    };
    changed(path, difference)
}

fn check_type(reg: &RegFileEntry, path: &Path, mode: u32) -> Result<()> {
    let of = |mode| FileType::from_raw_mode(mode);
    match reg.mode {
        Some(wanted) if of(wanted) != of(mode) => changed(
            path,
            format!("it is a {:?} and was a {:?}", of(mode), of(wanted)),
        ),
        None if of(mode) == FileType::Fifo => changed(path, "it is a fifo by now".to_owned()),
        _ => Ok(()),
    }
}

fn changed(path: &Path, difference: String) -> Result<()> {
    Err(Error::FileChanged {
        path: path.to_owned(),
        difference,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Comparison = Comparison {
        force: false,
        validation: FileValidation::BuildId,
    };
    const FORCED: Comparison = Comparison {
        force: true,
        ..STRICT
    };

    #[test]
    fn another_build_is_told() {
        let path = std::env::current_exe().unwrap();
        let stat = rustix::fs::stat(&path).unwrap();
        let mut entry = reg(stat.st_size as u64, stat.st_mode);
        assert!(open(&entry, &path, 0, STRICT).is_ok());
        entry.build_id = vec![1, 2];
        let error = open(&entry, &path, 0, STRICT).unwrap_err();
        assert!(error.to_string().contains("0100000002000000"), "{error}");
        let by_size = Comparison {
            validation: FileValidation::Size,
            ..STRICT
        };
        assert!(open(&entry, &path, 0, by_size).is_ok());
        assert!(open(&entry, &path, 0, FORCED).is_ok());
    }

    fn reg(size: u64, mode: u32) -> RegFileEntry {
        RegFileEntry {
            size: Some(size),
            mode: Some(mode),
            ..RegFileEntry::default()
        }
    }

    #[test]
    fn a_file_that_changed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one");
        std::fs::write(&path, "12345").unwrap();
        let mode = rustix::fs::stat(&path).unwrap().st_mode;
        assert!(open(&reg(5, mode), &path, 0, STRICT).is_ok());
        assert!(open(&reg(4, mode), &path, 0, FORCED).is_ok());
        assert!(open(&reg(5, 0o040_755), &path, 0, FORCED).is_err());
        for wrong in [reg(4, mode), reg(5, mode ^ 0o100), reg(5, 0o040_755)] {
            let error = open(&wrong, &path, 0, STRICT).unwrap_err();
            assert!(matches!(error, Error::FileChanged { .. }), "{error}");
        }
    }

    #[test]
    fn a_fifo_in_the_place_of_a_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        for entry in [reg(0, 0o100_600), RegFileEntry::default()] {
            assert!(matches!(
                open(&entry, &path, 0, FORCED),
                Err(Error::FileChanged { .. })
            ));
        }
    }

    #[test]
    fn nothing_is_created_or_cut() {
        let flags =
            open_flags((libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_EXCL) as u32);
        assert_eq!(flags, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY);
        let unnamed = open_flags((libc::O_RDWR | libc::O_TMPFILE) as u32);
        assert_eq!(unnamed, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY);
    }
}
