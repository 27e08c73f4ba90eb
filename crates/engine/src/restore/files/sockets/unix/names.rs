//! Addresses of unix sockets, and the files that come with them.
//!
//! The address is the text that bind(2) is given, so that a file made under another name would show. Therefore each
//! file is made below a directory of our own, which is the root directory of the stand-in that calls bind: the text is
//! as it was, nothing that exists is touched, and directories that are gone do no harm. At the end the file is renamed
//! to where it was, or removed if it was deleted.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use cryopod_image::criu::UnixSkEntry;
use cryopod_sys::stand_in::{self, Role};
use cryopod_sys::{Errno, socket};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};

use super::super::super::paths::failed;
use crate::error::{Context, Error, Result};

/// The files of sockets, until they are where they belong.
#[derive(Debug, Default)]
pub struct Names {
    /// Made aside, and where each is to be.
    aside: Vec<(PathBuf, PathBuf)>,
    /// Directories that exist for the time being, outer ones first.
    directories: Vec<PathBuf>,
    /// In place, to be removed again unless the restore succeeds.
    placed: Vec<PathBuf>,
    count: usize,
}

impl Names {
    /// Binds a socket to the address it had, if it had one.
    pub fn bind(&mut self, socket: BorrowedFd<'_>, entry: &UnixSkEntry) -> Result<()> {
        let Some(name) = path(&entry.name) else {
            if entry.name.is_empty() {
                return Ok(());
            }
            return socket::bind(socket, &address(&entry.name)).map_err(|source| Error::Bind {
                name: shown(&entry.name),
                source,
            });
        };
        let target = target(entry, &name)?;
        let deleted = entry.deleted == Some(true);
        let root = self.make_root(&target, deleted)?;
        let inside = inside(&name);
        self.make_parents(&root, &inside)?;
        let file = root.join(&inside);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&root, flags, Mode::empty())
            .map_err(|errno| failed("open", &root, errno))?;
        let role = Role {
            root: Some(directory.as_fd()),
            ..Role::default()
        };
        stand_in::bind_as(&role, socket, &address(&entry.name)).map_err(|source| Error::Bind {
            name: shown(&entry.name),
            source,
        })?;
        self.aside.push((file.clone(), target));
        set_perms(entry, &file)?;
        if deleted {
            self.aside.pop();
            rustix::fs::unlinkat(CWD, &file, AtFlags::empty())
                .map_err(|errno| failed("remove", &file, errno))?;
        }
        Ok(())
    }

    /// Puts the files where they were. Stale files of sockets are replaced, others are not.
    pub fn put_in_place(&mut self) -> Result<()> {
        for (from, to) in &self.aside {
            match rustix::fs::lstat(to) {
                Err(Errno::NOENT) => {}
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {}
                Ok(_) => {
                    return Err(Error::FileChanged {
                        path: to.clone(),
                        difference: "another file has taken the place of a socket".to_owned(),
                    });
                }
                Err(errno) => return Err(failed("look at", to, errno)),
            }
            rustix::fs::renameat(CWD, from, CWD, to)
                .map_err(|errno| failed("put a socket in place at", to, errno))?;
            self.placed.push(to.clone());
        }
        self.aside.clear();
        self.remove_directories();
        Ok(())
    }

    /// The restore has succeeded: the files stay.
    pub fn keep(mut self) {
        self.placed.clear();
    }

    /// A new directory beside the file, or as near to it as there is one where it was deleted.
    fn make_root(&mut self, target: &Path, deleted: bool) -> Result<PathBuf> {
        let mut parent = target.parent().unwrap_or(Path::new("/"));
        if deleted {
            let exists = |path: &&Path| path.is_dir();
            parent = target
                .ancestors()
                .skip(1)
                .find(exists)
                .unwrap_or(Path::new("/"));
        }
        loop {
            self.count += 1;
            let root = parent.join(format!(".cryopod-{}-{}", std::process::id(), self.count));
            // One that was killed may have left its own behind, and its pid is used again.
            match self.make_directory(root.clone()) {
                Err(Error::Path { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {}
                made => return made.map(|()| root),
            }
        }
    }

    fn make_parents(&mut self, root: &Path, inside: &Path) -> Result<()> {
        let mut directory = root.to_owned();
        for part in inside.parent().unwrap_or(Path::new("")).components() {
            directory.push(part);
            self.make_directory(directory.clone())?;
        }
        Ok(())
    }

    fn make_directory(&mut self, path: PathBuf) -> Result<()> {
        rustix::fs::mkdir(&path, Mode::RWXU)
            .map_err(|errno| failed("make a directory for a socket at", &path, errno))?;
        self.directories.push(path);
        Ok(())
    }

    fn remove_directories(&mut self) {
        for directory in self.directories.drain(..).rev() {
            remove(&directory, AtFlags::REMOVEDIR);
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let files = self.aside.drain(..).map(|(from, _)| from);
        for file in files.chain(self.placed.drain(..)) {
            remove(&file, AtFlags::empty());
        }
        self.remove_directories();
    }
}

fn remove(path: &Path, flags: AtFlags) {
    if let Err(error) = rustix::fs::unlinkat(CWD, path, flags) {
        tracing::warn!(path = %path.display(), %error, "could not remove what was made for a socket");
    }
}

/// `struct sockaddr_un` with a name: a path, or what follows the zero byte of an abstract one.
pub fn address(name: &[u8]) -> Vec<u8> {
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.extend(name);
    address
}

/// An address that leads to a bound socket, wherever its file is and whatever it is called by now. `keep` is the open
/// file that a path leads through.
pub fn address_of(socket: BorrowedFd<'_>, entry: &UnixSkEntry) -> Result<Address> {
    if path(&entry.name).is_none() {
        return Ok(Address {
            bytes: address(&entry.name),
            _file: None,
        });
    }
    let file = socket::unix_file(socket).host("ask for the file of a socket (SIOCUNIXFILE)")?;
    let name = super::super::super::paths::own_path(file.as_fd());
    Ok(Address {
        bytes: address(name.as_os_str().as_bytes()),
        _file: Some(file),
    })
}

/// An address, and what keeps it good.
#[derive(Debug)]
pub struct Address {
    /// As the kernel lays it out.
    pub bytes: Vec<u8>,
    _file: Option<std::os::fd::OwnedFd>,
}

/// The path in an address: what comes before the first zero byte.
fn path(name: &[u8]) -> Option<PathBuf> {
    let text = name.split(|&byte| byte == 0).next()?;
    (!text.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(text)))
}

/// Where the file was.
fn target(entry: &UnixSkEntry, name: &Path) -> Result<PathBuf> {
    let text = match (&entry.cryopod_path, &entry.name_dir) {
        (Some(path), _) => path.clone(),
        (None, Some(directory)) => {
            let path = |bytes| Path::new(OsStr::from_bytes(bytes));
            path(directory)
                .join(name)
                .into_os_string()
                .into_encoded_bytes()
        }
        (None, None) => name.as_os_str().as_bytes().to_vec(),
    };
    let path = PathBuf::from(OsStr::from_bytes(&text));
    if text.contains(&0) || !path.is_absolute() || path.file_name().is_none() {
        let what = format!("socket {}: no path leads to it", entry.id);
        return Err(Error::inconsistent("files", what));
    }
    Ok(path)
}

/// Where bind(2) makes the file of a name, below the root directory that is the working directory as well.
fn inside(name: &Path) -> PathBuf {
    let mut inside = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => inside.push(part),
            Component::ParentDir => {
                inside.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    inside
}

/// An address for messages.
fn shown(name: &[u8]) -> String {
    match name.split_first() {
        Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest)),
        _ => {
            let end = name
                .iter()
                .position(|&byte| byte == 0)
                .unwrap_or(name.len());
            String::from_utf8_lossy(&name[..end]).into_owned()
        }
    }
}

/// Owner, then mode: a change of owner may clear bits of the mode.
fn set_perms(entry: &UnixSkEntry, file: &Path) -> Result<()> {
    let Some(perms) = &entry.file_perms else {
        return Ok(());
    };
    let (uid, gid) = (Uid::from_raw(perms.uid), Gid::from_raw(perms.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(CWD, file, Some(uid), Some(gid), flags)
        .map_err(|errno| failed("set the owner of", file, errno))?;
    let mode = Mode::from_raw_mode(perms.mode & 0o7777);
    rustix::fs::chmodat(CWD, file, mode, AtFlags::empty())
        .map_err(|errno| failed("set the mode of", file, errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_root() {
        let inside = |name: &str| inside(Path::new(name));
        assert_eq!(inside("/run/x/sock"), Path::new("run/x/sock"));
        assert_eq!(inside("sock"), Path::new("sock"));
        assert_eq!(inside("./a/../../b/sock"), Path::new("b/sock"));
    }

    #[test]
    fn files_are_where_the_image_says() {
        let entry = |name: &[u8], directory: Option<&[u8]>| UnixSkEntry {
            name: name.to_vec(),
            name_dir: directory.map(<[u8]>::to_vec),
            ..UnixSkEntry::default()
        };
        let target = |entry: UnixSkEntry| target(&entry, &path(&entry.name).unwrap());
        assert_eq!(target(entry(b"/a/b\0", None)).unwrap(), Path::new("/a/b"));
        assert_eq!(
            target(entry(b"b\0", Some(b"/a"))).unwrap(),
            Path::new("/a/b")
        );
        assert!(target(entry(b"b\0", None)).is_err());
        assert!(target(entry(b"..", Some(b"/a"))).is_err());
    }

    #[test]
    fn addresses_are_shown() {
        assert_eq!(shown(b"\0abc"), "@abc");
        assert_eq!(shown(b"/a/b\0"), "/a/b");
    }
}
