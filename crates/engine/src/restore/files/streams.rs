//! Standard streams that led outside the tree: joined to what the restorer has, or to nothing.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::paths;
use crate::error::{Context, Error, Result};
use crate::restore::Stdio;

/// Opens what takes the place of a stream called `name` with open flags `flags`. `number` is which standard stream it
/// was, where it was one itself.
pub fn open(stdio: Stdio, name: &[u8], flags: u32, number: Option<u32>) -> Result<OwnedFd> {
    match stdio {
        Stdio::Auto | Stdio::Inherit => own(number.unwrap_or_else(|| by_access(flags))),
        Stdio::Null => null(),
        Stdio::Keep => keep(name, flags),
    }
}

fn by_access(flags: u32) -> u32 {
    if flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32 {
        0
    } else {
        1
    }
}

/// A duplicate of our own standard stream; where that is closed, /dev/null.
pub fn own(number: u32) -> Result<OwnedFd> {
    let duplicate = |file: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(file, 0);
    let duplicated = match number {
        0 => duplicate(rustix::stdio::stdin()),
        1 => duplicate(rustix::stdio::stdout()),
        _ => duplicate(rustix::stdio::stderr()),
    };
    match duplicated {
        Err(Errno::BADF) => null(),
        duplicated => duplicated.host("duplicate a standard stream"),
    }
}

fn null() -> Result<OwnedFd> {
    let path = Path::new("/dev/null");
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| paths::failed("open", path, errno))
}

fn keep(name: &[u8], flags: u32) -> Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    if !name.starts_with(b"/") {
        let what = format!(
            "the standard stream {}, which cannot be opened again",
            String::from_utf8_lossy(name)
        );
        return Err(Error::NotRestorable { what });
    }
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    rustix::fs::open(path, paths::open_flags(flags), Mode::empty())
        .map_err(|errno| paths::failed("open", path, errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_can_be_kept() {
        assert!(open(Stdio::Keep, b"/dev/zero", 0, Some(0)).is_ok());
        let error = open(Stdio::Keep, b"pipe:[12]", 0, Some(0)).unwrap_err();
        assert!(error.to_string().contains("pipe:[12]"), "{error}");
    }

    #[test]
    fn a_stream_that_was_none_of_the_three_goes_by_its_direction() {
        assert_eq!(by_access(libc::O_RDONLY as u32), 0);
        assert_eq!(by_access(libc::O_WRONLY as u32), 1);
        assert_eq!(by_access(libc::O_RDWR as u32), 1);
    }
}
