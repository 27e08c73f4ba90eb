//! Instances of inotify(7) and groups of fanotify(7): made early, set to watch at the very end.
//!
//! A restore opens, makes, removes and closes files, which watches would report. So nothing is watched before
//! everything else is done and cryopod has closed what it had open. What is to be watched is opened early, with O_PATH,
//! which no watch reports.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cryopod_image::criu::{
    FanotifyFileEntry, FanotifyMarkEntry, FhEntry, FileEntry, InotifyFileEntry, InotifyWdEntry,
    MarkType,
};
use cryopod_image::{Kind as Image, SetReader};
use cryopod_sys::notify;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;

use super::{Files, corrupt, ghosts, paths, raise, set_status};
use crate::dump::files::handles;
use crate::error::{Context, Error, Result};

/// Makes an inotify instance that watches nothing yet.
pub fn open_inotify(entry: &InotifyFileEntry) -> Result<OwnedFd> {
    let mut flags = CreateFlags::CLOEXEC;
    if entry.flags & libc::O_NONBLOCK as u32 != 0 {
        flags |= CreateFlags::NONBLOCK;
    }
    inotify::init(flags).host("make an inotify instance")
}

/// Makes a fanotify group that has no marks yet.
pub fn open_fanotify(entry: &FanotifyFileEntry) -> Result<OwnedFd> {
    let group =
        notify::fanotify_init(entry.faflags, entry.evflags).host("make a fanotify group")?;
    rustix::io::fcntl_setfd(&group, FdFlags::CLOEXEC).host("set the flags of a descriptor")?;
    set_status(group.as_fd(), entry.flags)?;
    Ok(group)
}

/// What is to be watched.
#[derive(Debug, Default)]
pub struct Watches {
    targets: Vec<Target>,
}

/// One watch to be set.
#[derive(Debug)]
struct Target {
    /// The instance's file entry.
    instance: u32,
    file: OwnedFd,
    watch: Watch,
}

#[derive(Debug)]
enum Watch {
    Inotify { number: i32, mask: u32 },
    Fanotify(FanotifyMarkEntry),
}

impl Files {
    /// Opens what is to be watched. After everything else is open.
    pub(super) fn prepare_watches(&mut self, set: &SetReader) -> Result<()> {
        for image in [Image::InotifyWd, Image::FanotifyMark] {
            if set.exists(image, None) {
                let what = format!(
                    "watches in an image of their own ({image}), as old versions of criu wrote them"
                );
                return Err(Error::NotRestorable { what });
            }
        }
        let watched = |entry: &FileEntry| entry.ify.is_some() || entry.ffy.is_some();
        if !self.entries.values().any(watched) {
            return Ok(());
        }
        let gone = ghosts::inodes(set, &self.remaps)?;
        let mut targets = Vec::new();
        for (&instance, entry) in &self.entries {
            let mut add = |file: OwnedFd, watch: Watch| {
                let file = raise(file, self.base)?;
                targets.push(Target {
                    instance,
                    file,
                    watch,
                });
                Ok::<(), Error>(())
            };
            // In ascending order, as the kernel gives the numbers out.
            let mut watches: Vec<&InotifyWdEntry> =
                entry.ify.iter().flat_map(|ify| &ify.wd).collect();
            watches.sort_by_key(|watch| watch.wd);
            for watch in watches {
                let inode = (watch.s_dev, watch.i_ino);
                let file = self.open_watched(inode, &watch.f_handle, &gone)?;
                let number = i32::try_from(watch.wd)
                    .map_err(|_| corrupt(instance, "a watch of an impossible number"))?;
                add(
                    file,
                    Watch::Inotify {
                        number,
                        mask: watch.mask,
                    },
                )?;
            }
            // The kernel shows the latest first.
            for mark in entry.ffy.iter().flat_map(|ffy| ffy.mark.iter().rev()) {
                add(
                    self.open_marked(instance, mark, &gone)?,
                    Watch::Fanotify(mark.clone()),
                )?;
            }
        }
        self.watches.targets = targets;
        Ok(())
    }

    fn open_marked(
        &self,
        instance: u32,
        mark: &FanotifyMarkEntry,
        gone: &HashMap<(u32, u64), u32>,
    ) -> Result<OwnedFd> {
        let missing = || corrupt(instance, "a mark on nothing");
        match MarkType::try_from(mark.r#type) {
            Ok(MarkType::Inode) => {
                let target = mark.ie.as_ref().ok_or_else(missing)?;
                self.open_watched((mark.s_dev, target.i_ino), &target.f_handle, gone)
            }
            Ok(MarkType::Mount | MarkType::Filesystem) => {
                let path = mark.me.as_ref().and_then(|mount| mount.path.as_deref());
                open_path(path.ok_or_else(missing)?)
            }
            Err(_) => Err(corrupt(instance, "a mark of unknown kind")),
        }
    }

    /// Opens a watched file with O_PATH: by its path, as one of the deleted files, or by its handle.
    fn open_watched(
        &self,
        inode: (u32, u64),
        handle: &FhEntry,
        gone: &HashMap<(u32, u64), u32>,
    ) -> Result<OwnedFd> {
        if let Some(&ghost) = gone.get(&inode) {
            return paths::reopen(self.borrow(ghost)?, libc::O_PATH as u32);
        }
        if let Some(path) = &handle.path {
            return open_path(path);
        }
        handles::open(inode, handle)?.ok_or_else(|| Error::NotRestorable {
            what: format!(
                "a watch on inode {} of device {}:{}: no path of it was known, and it is not there any more",
                inode.1,
                inode.0 >> 20,
                inode.0 & 0xf_ffff
            ),
        })
    }

    /// Has the instances watch again. Last of all: every other file that cryopod has open is closed by it.
    pub fn watch(mut self) -> Result<()> {
        let targets = std::mem::take(&mut self.watches.targets);
        let instances: HashMap<u32, OwnedFd> = {
            let wanted = |id: &u32| targets.iter().any(|target| target.instance == *id);
            self.opened.extract_if(.., |id, _| wanted(id)).collect()
        };
        drop(self);
        for target in &targets {
            let instance = instances
                .get(&target.instance)
                .ok_or_else(|| corrupt(target.instance, "it is not there"))?;
            target.set(instance.as_fd())?;
        }
        Ok(())
    }
}

fn open_path(path: &[u8]) -> Result<OwnedFd> {
    // criu's paths may lack the first slash.
    let slash: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
    let path = [slash, path].concat();
    let path = Path::new(OsStr::from_bytes(&path));
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| paths::failed("watch", path, errno))
}

impl Target {
    fn set(&self, instance: BorrowedFd<'_>) -> Result<()> {
        // To follow this link is to come to the file itself, whatever its name is.
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        match &self.watch {
            Watch::Inotify { number, mask } => {
                let known = WatchFlags::ALL_EVENTS | WatchFlags::EXCL_UNLINK | WatchFlags::ONESHOT;
                let mask = WatchFlags::from_bits_truncate(*mask) & known;
                notify::set_next_watch(instance, *number).host("choose the number of a watch")?;
                let made =
                    inotify::add_watch(instance, path, mask).host("watch a file (inotify)")?;
                if made != *number {
                    return Err(corrupt(self.instance, "two watches on one file"));
                }
                Ok(())
            }
            Watch::Fanotify(mark) => self.mark(instance, mark, path),
        }
    }

    fn mark(&self, group: BorrowedFd<'_>, mark: &FanotifyMarkEntry, path: String) -> Result<()> {
        /// FAN_MARK_IGNORE of linux/fanotify.h: another way to ignore, shown among the flags.
        const FAN_MARK_IGNORE: u32 = 0x400;
        let path = CString::new(path).map_err(|_| corrupt(self.instance, "a bad path"))?;
        let place = match MarkType::try_from(mark.r#type) {
            Ok(MarkType::Mount) => libc::FAN_MARK_MOUNT,
            Ok(MarkType::Filesystem) => libc::FAN_MARK_FILESYSTEM,
            _ => 0,
        };
        let of_ignored = FAN_MARK_IGNORE | libc::FAN_MARK_IGNORED_SURV_MODIFY;
        let flags = libc::FAN_MARK_ADD | place;
        if mark.mask != 0 {
            let flags = flags | mark.mflags & !of_ignored;
            notify::fanotify_mark(group, flags, mark.mask.into(), &path)
                .host("watch a file (fanotify)")?;
        }
        if mark.ignored_mask != 0 {
            let how = if mark.mflags & FAN_MARK_IGNORE != 0 {
                0
            } else {
                libc::FAN_MARK_IGNORED_MASK
            };
            let flags = flags | mark.mflags | how;
            notify::fanotify_mark(group, flags, mark.ignored_mask.into(), &path)
                .host("ignore a file (fanotify)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(number: i32, path: &Path) -> Target {
        Target {
            instance: 1,
            file: open_path(path.as_os_str().as_bytes()).unwrap(),
            watch: Watch::Inotify {
                number,
                mask: libc::IN_CREATE,
            },
        }
    }

    #[test]
    fn watches_keep_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let instance = open_inotify(&InotifyFileEntry {
            flags: libc::O_NONBLOCK as u32,
            ..InotifyFileEntry::default()
        })
        .unwrap();
        watch(7, dir.path()).set(instance.as_fd()).unwrap();
        watch(900, &dir.path().join("sub"))
            .set(instance.as_fd())
            .unwrap();
        let again = watch(901, dir.path()).set(instance.as_fd());
        assert!(matches!(again, Err(Error::Inconsistent { .. })));
        std::fs::write(dir.path().join("sub/x"), "").unwrap();
        let mut event = [0; 256];
        assert!(rustix::io::read(&instance, &mut event).unwrap() > 16);
        assert_eq!(event[..4], 900i32.to_ne_bytes());
    }
}
