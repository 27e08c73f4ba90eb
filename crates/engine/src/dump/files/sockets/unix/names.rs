//! Files that unix sockets are bound to.
//!
//! An address is the text that bind(2) was given; where that is a path, the socket also knows the file it made
//! (SIOCUNIXFILE), whatever became of its name.

use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use cryopod_image::criu::FilePermsEntry;
use cryopod_sys::socket;
use rustix::fs::{AtFlags, CWD, Stat};

use super::super::super::Description;
use super::perms;
use crate::error::{Context, Error, Result};
use crate::proc;

/// What readlink(2) adds to the name of a file that has none any more.
const DELETED: &[u8] = b" (deleted)";

/// What an image says of the file of a socket.
#[derive(Debug, Default)]
pub struct File {
    /// Mode and owner.
    pub perms: Option<FilePermsEntry>,
    /// The directory that a relative address starts from.
    pub directory: Option<Vec<u8>>,
    /// It has no name any more.
    pub deleted: bool,
    /// Its path, where the address leads elsewhere.
    pub path: Option<Vec<u8>>,
}

/// Finds the file of a socket with an address; nothing where that is none, or abstract.
pub fn find(one: &Description<'_>, address: &[u8]) -> Result<File> {
    let Some(name) = path(address) else {
        return Ok(File::default());
    };
    let file = one.check(
        "ask for the file it is bound to (SIOCUNIXFILE)",
        socket::unix_file(one.file.as_fd()),
    )?;
    let stat = rustix::fs::fstat(&file).host("look at the file of a socket")?;
    let own = std::process::id() as i32;
    let place = format!("fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let link = proc::read_link(own, &place)?.into_os_string().into_vec();
    let deleted = link.ends_with(DELETED);
    let link = PathBuf::from(std::ffi::OsString::from_vec(
        link.strip_suffix(DELETED).unwrap_or(&link).to_vec(),
    ));
    let mut found = File {
        perms: Some(perms(&stat)),
        deleted,
        ..File::default()
    };
    if name.is_absolute() {
        if !deleted && !leads_to(&name, &stat) {
            found.path = Some(link.into_os_string().into_vec());
        }
        return Ok(found);
    }
    let directory = directory(one, &name, &link, (!deleted).then_some(&stat))?;
    match directory {
        Some(directory) => found.directory = Some(directory.into_os_string().into_vec()),
        None => {
            // Moved since: any directory gives back the address, and the path the file.
            let parent = link.parent().unwrap_or(Path::new("/"));
            found.directory = Some(parent.as_os_str().as_bytes().to_vec());
            found.path = Some(link.into_os_string().into_vec());
        }
    }
    Ok(found)
}

/// The path in an address: what comes before the first zero byte.
fn path(address: &[u8]) -> Option<PathBuf> {
    let text = address.split(|&byte| byte == 0).next()?;
    (!text.is_empty()).then(|| PathBuf::from(std::ffi::OsStr::from_bytes(text)))
}

fn leads_to(path: &Path, stat: &Stat) -> bool {
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino))
}

/// The directory that `name` was bound in, so that it led to `link`. Where the file is still there, one from which it
/// does.
fn directory(
    one: &Description<'_>,
    name: &Path,
    link: &Path,
    there: Option<&Stat>,
) -> Result<Option<PathBuf>> {
    let cut = cut(link, name);
    let Some(stat) = there else {
        return match cut {
            Some(cut) => Ok(Some(cut)),
            None => proc::read_link(one.seen.pid, "cwd").map(Some),
        };
    };
    let cwd = proc::read_link(one.seen.pid, "cwd").or_else(|error| match error {
        Error::Path { .. } => Ok(PathBuf::from("/")),
        error => Err(error),
    })?;
    let above = link.ancestors().skip(1).map(Path::to_owned);
    let mut candidates = cut.into_iter().chain([cwd]).chain(above);
    Ok(candidates.find(|directory| leads_to(&directory.join(name), stat)))
}

/// `link` without `name` at its end, where that is how it ends.
fn cut(link: &Path, name: &Path) -> Option<PathBuf> {
    let plain: PathBuf = name
        .components()
        .filter(|part| !matches!(part, Component::CurDir))
        .collect();
    let count = plain.components().count();
    link.ends_with(&plain)
        .then(|| link.ancestors().nth(count).map(Path::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_off_links() {
        let cut = |link: &str, name: &str| cut(Path::new(link), Path::new(name));
        assert_eq!(cut("/tmp/a/sock", "sock"), Some("/tmp/a".into()));
        assert_eq!(cut("/tmp/a/sock", "./a/sock"), Some("/tmp".into()));
        assert_eq!(cut("/sock", "sock"), Some("/".into()));
        assert_eq!(cut("/tmp/a/sock", "../a/sock"), None);
        assert_eq!(cut("/tmp/ab/sock", "b/sock"), None);
    }

    #[test]
    fn addresses_are_paths_or_not() {
        assert_eq!(path(b"/a/b\0"), Some("/a/b".into()));
        assert_eq!(path(b"a"), Some("a".into()));
        assert_eq!(path(b"\0abstract"), None);
        assert_eq!(path(b""), None);
    }
}
