//! Files whose name is gone while other names of them live: a hard link is made beside the lost name, which the restore
//! can open (link(2)).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cryopod_image::criu::{FdTypes, FileEntry, RegFileEntry};
use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use super::seen::Seen;
use crate::error::{Error, Result};

/// How the names of the links begin. CRIU's do the same, and its restore removes what is called so.
pub const PREFIX: &str = "link_remap.";

/// Hard links that a dump has made. They are removed when this goes, unless they are to be kept for a restore.
#[derive(Debug, Default)]
pub struct TemporaryLinks {
    paths: Vec<PathBuf>,
}

impl TemporaryLinks {
    /// Leaves the links where they are. Gives their names.
    pub fn keep(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.paths)
    }
}

impl Drop for TemporaryLinks {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "could not remove a link made for a dump");
            }
        }
    }
}

/// The links made so far.
#[derive(Debug, Default)]
pub struct Links {
    /// By device and inode: the file entry of the link.
    known: HashMap<(u64, u64), u32>,
    made: TemporaryLinks,
}

impl Links {
    /// The file entry of the link to a file, where there is one.
    pub fn known(&self, seen: &Seen) -> Option<u32> {
        self.known.get(&seen.inode()).copied()
    }

    /// Makes a link to a file that was last called `path`, and its file entry, `id`. `None` where the file cannot be
    /// linked because it has no name after all, as overlayfs finds out only now.
    pub fn make(&mut self, seen: &Seen, path: &[u8], id: u32) -> Result<Option<FileEntry>> {
        let Some(link) = make(seen, Path::new(OsStr::from_bytes(path)), id)? else {
            return Ok(None);
        };
        self.known.insert(seen.inode(), id);
        let reg = RegFileEntry {
            id,
            name: link.as_os_str().as_bytes().to_vec(),
            mode: Some(seen.stat.st_mode),
            ..RegFileEntry::default()
        };
        self.made.paths.push(link);
        Ok(Some(FileEntry {
            r#type: FdTypes::Reg.into(),
            id,
            reg: Some(Box::new(reg)),
            ..FileEntry::default()
        }))
    }

    /// Hands the links over: whoever has them decides whether they stay.
    pub fn finish(self) -> TemporaryLinks {
        self.made
    }
}

/// Makes a link in the directory that the file was in, or in the nearest above that is left.
fn make(seen: &Seen, lost: &Path, id: u32) -> Result<Option<PathBuf>> {
    /// How many names are tried.
    const ATTEMPTS: u32 = 1000;
    let source = seen.proc_path();
    for directory in lost.ancestors().skip(1) {
        for attempt in 0..ATTEMPTS {
            let number = id.wrapping_add(attempt.wrapping_mul(10_007));
            let link = directory.join(format!("{PREFIX}{number}"));
            match rustix::fs::linkat(CWD, &source, CWD, &link, AtFlags::SYMLINK_FOLLOW) {
                Ok(()) => return Ok(Some(link)),
                Err(Errno::EXIST) => continue,
                // The directory is gone, or the file has no name that could be linked.
                Err(Errno::NOENT | Errno::NOTDIR) => break,
                Err(errno) => {
                    return Err(Error::Path {
                        operation: "link a file that lost its name to",
                        path: link,
                        source: errno.into(),
                    });
                }
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_lost_name_gets_a_link_beside_it_until_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let lost = dir.path().join("sub/lost");
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(&lost, "contents").unwrap();
        let file = File::open(&lost).unwrap();
        fs::hard_link(&lost, dir.path().join("other")).unwrap();
        fs::remove_dir_all(dir.path().join("sub")).unwrap();
        let seen = Seen::descriptor(std::process::id() as i32, file.as_raw_fd()).unwrap();
        let link = dir.path().join("link_remap.7");

        let mut links = Links::default();
        let name = lost.as_os_str().as_bytes();
        let entry = links.make(&seen, name, 7).unwrap().unwrap();
        assert_eq!(entry.reg.unwrap().name, link.as_os_str().as_bytes());
        assert_eq!(links.known(&seen), Some(7));
        assert_eq!(fs::read(&link).unwrap(), b"contents");
        drop(links.finish());
        assert!(!link.exists());

        let mut links = Links::default();
        links.make(&seen, name, 7).unwrap();
        assert_eq!(links.finish().keep(), std::slice::from_ref(&link));
        assert!(link.exists());
    }

    #[test]
    fn a_file_without_any_name_cannot_be_linked() {
        let dir = tempfile::tempdir().unwrap();
        let lost = dir.path().join("lost");
        let file = File::create(&lost).unwrap();
        fs::remove_file(&lost).unwrap();
        let seen = Seen::descriptor(std::process::id() as i32, file.as_raw_fd()).unwrap();
        let made = Links::default().make(&seen, lost.as_os_str().as_bytes(), 1);
        assert!(made.unwrap().is_none());
    }
}
