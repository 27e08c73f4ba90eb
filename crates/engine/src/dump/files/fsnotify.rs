//! Instances of inotify(7) and groups of fanotify(7) with what they watch.
//!
//! Everything is in fdinfo (proc_pid_fdinfo(5)). Events that nobody has read yet cannot be looked at without taking
//! them away, and cannot be put back: they are lost at a restore, which is logged.

use std::os::fd::AsFd;

use cryopod_image::criu::{
    FanotifyFileEntry, FanotifyInodeMarkEntry, FanotifyMarkEntry, FanotifyMountMarkEntry, FdTypes,
    FhEntry, FileEntry, InotifyFileEntry, InotifyWdEntry, MarkType,
};

use super::Description;
use super::handles::{self, Found, Inode};
use super::outlook::Outlook;
use super::seen::Seen;
use crate::error::{Error, Result, Unsupported};
use crate::proc::mountinfo;

/// Why an instance cannot be checkpointed, in words, if it cannot.
pub fn problem(seen: &Seen, outlook: &Outlook) -> Option<String> {
    let lines = || {
        seen.info
            .lines
            .iter()
            .filter(|line| line.starts_with(NOTIFIERS[0]) || line.starts_with(NOTIFIERS[1]))
    };
    for line in lines() {
        let words = Words::of(line);
        if words.value("flags").is_some() {
            let flags = words.hex("flags").unwrap_or(0) as u32;
            if flags & (libc::FAN_CLASS_CONTENT | libc::FAN_CLASS_PRE_CONTENT) != 0 {
                return Some("fanotify group that is asked for permission, so that others would wait for it: not supported".into());
            }
            continue;
        }
        if let Some(what) = lost(&words, outlook) {
            return Some(what);
        }
    }
    None
}

const NOTIFIERS: [&str; 2] = ["inotify ", "fanotify "];

/// Why the target of a watch cannot be found again, in words, if it cannot.
fn lost(words: &Words<'_>, outlook: &Outlook) -> Option<String> {
    if words.value("mnt_id").is_some()
        || (words.value("ino").is_none() && words.value("sdev").is_some())
    {
        return place(words)
            .is_none()
            .then(|| "fanotify mark on a mount that is not there: not supported".into());
    }
    let unknown = || Some("watch of an unknown kind: not supported".to_owned());
    let Some((inode, handle)) = target(words) else {
        return unknown();
    };
    match handles::find(inode, handle.as_ref(), &outlook.options) {
        Ok(Found::Path(_) | Found::Handle) => None,
        Ok(Found::Deleted) if outlook.has_open(inode) => None,
        Ok(Found::Deleted) => Some(format!(
            "watch on a deleted file (inode {} of device {}) that no process of the tree has open: not supported",
            inode.1,
            device(inode)
        )),
        Ok(Found::Lost) => Some(format!(
            "watch on inode {} of device {}, whose path is not known: name a directory to search (--irmap-scan-path)",
            inode.1,
            device(inode)
        )),
        Err(_) => unknown(),
    }
}

fn device(inode: Inode) -> String {
    format!("{}:{}", inode.0 >> 20, inode.0 & 0xf_ffff)
}

/// A line of `key:value` words.
struct Words<'l>(Vec<(&'l str, &'l str)>);

impl<'l> Words<'l> {
    fn of(line: &'l str) -> Self {
        Self(
            line.split_ascii_whitespace()
                .filter_map(|word| word.split_once(':'))
                .collect(),
        )
    }

    fn value(&self, key: &str) -> Option<&'l str> {
        self.0
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| *value)
    }

    fn hex(&self, key: &str) -> Option<u64> {
        u64::from_str_radix(self.value(key)?, 16).ok()
    }

    fn word(&self, key: &str) -> Option<u32> {
        u32::try_from(self.hex(key)?).ok()
    }
}

/// What a watch of an inode is on.
fn target(words: &Words<'_>) -> Option<(Inode, Option<FhEntry>)> {
    let inode = (words.word("sdev")?, words.hex("ino")?);
    let handle = match words.value("f_handle") {
        Some(_) => Some(handles::parse(|key| words.value(key))?),
        None => None,
    };
    Some((inode, handle))
}

/// The handle for an image, with a path where there is one.
fn recorded(one: &Description<'_>, words: &Words<'_>, outlook: &Outlook) -> Result<FhEntry> {
    let (inode, handle) = one.line(target(words))?;
    let found = handles::find(inode, handle.as_ref(), &outlook.options)?;
    let mut handle = handle.unwrap_or_else(|| FhEntry {
        handle: vec![0; cryopod_image::criu::FH_ENTRY_MIN_WORDS],
        ..FhEntry::default()
    });
    match found {
        Found::Path(path) => handle.path = Some(path),
        Found::Handle | Found::Deleted => {}
        // It was found a moment ago, or the survey would have said so.
        Found::Lost => return Err(refuse(one, words, outlook)),
    }
    Ok(handle)
}

fn refuse(one: &Description<'_>, words: &Words<'_>, outlook: &Outlook) -> Error {
    Error::Unsupported(vec![Unsupported {
        pid: one.seen.pid,
        fd: one.seen.fd,
        what: lost(words, outlook)
            .unwrap_or_else(|| "watch on a file that was lost: not supported".into()),
    }])
}

/// Says which events get lost.
fn warn_of_events(one: &Description<'_>) {
    let bytes = cryopod_sys::fd::readable_bytes(one.file.as_fd()).unwrap_or(0);
    if bytes != 0 {
        tracing::warn!(
            pid = one.seen.pid,
            fd = one.seen.fd,
            bytes,
            "events of watched files that nobody has read yet are lost at a restore"
        );
    }
}

/// The entry of an inotify instance.
pub fn inotify(one: &Description<'_>, outlook: &Outlook) -> Result<FileEntry> {
    warn_of_events(one);
    let lines = one
        .seen
        .info
        .lines
        .iter()
        .filter(|line| line.starts_with("inotify "));
    let wd = lines
        .map(|line| watch(one, &Words::of(line), outlook))
        .collect::<Result<_>>()?;
    let ify = InotifyFileEntry {
        id: one.id,
        flags: one.seen.flags(),
        fown: one.owner.clone(),
        wd,
    };
    Ok(FileEntry {
        r#type: FdTypes::Inotify.into(),
        id: one.id,
        ify: Some(Box::new(ify)),
        ..FileEntry::default()
    })
}

fn watch(one: &Description<'_>, words: &Words<'_>, outlook: &Outlook) -> Result<InotifyWdEntry> {
    Ok(InotifyWdEntry {
        id: one.id,
        i_ino: one.line(words.hex("ino"))?,
        mask: one.line(words.word("mask"))?,
        ignored_mask: words.word("ignored_mask").unwrap_or(0),
        s_dev: one.line(words.word("sdev"))?,
        // In hexadecimal, like everything on this line.
        wd: one.line(words.word("wd"))?,
        f_handle: recorded(one, words, outlook)?,
    })
}

/// The entry of a fanotify group.
pub fn fanotify(one: &Description<'_>, outlook: &Outlook) -> Result<FileEntry> {
    warn_of_events(one);
    let mut ffy = FanotifyFileEntry {
        id: one.id,
        flags: one.seen.flags(),
        fown: one.owner.clone(),
        ..FanotifyFileEntry::default()
    };
    for line in one
        .seen
        .info
        .lines
        .iter()
        .filter(|line| line.starts_with("fanotify "))
    {
        let words = Words::of(line);
        if words.value("flags").is_some() {
            ffy.faflags = one.line(words.word("flags"))?;
            ffy.evflags = one.line(words.word("event-flags"))?;
        } else {
            ffy.mark.push(mark(one, &words, outlook)?);
        }
    }
    Ok(FileEntry {
        r#type: FdTypes::Fanotify.into(),
        id: one.id,
        ffy: Some(Box::new(ffy)),
        ..FileEntry::default()
    })
}

fn mark(one: &Description<'_>, words: &Words<'_>, outlook: &Outlook) -> Result<FanotifyMarkEntry> {
    let mut entry = FanotifyMarkEntry {
        id: one.id,
        mflags: one.line(words.word("mflags"))?,
        mask: one.line(words.word("mask"))?,
        ignored_mask: one.line(words.word("ignored_mask"))?,
        ..FanotifyMarkEntry::default()
    };
    if words.value("ino").is_some() {
        entry.r#type = MarkType::Inode.into();
        entry.s_dev = one.line(words.word("sdev"))?;
        entry.ie = Some(FanotifyInodeMarkEntry {
            i_ino: one.line(words.hex("ino"))?,
            f_handle: recorded(one, words, outlook)?,
        });
    } else {
        let mount = one.line(place(words))?;
        let of_mount = words.value("mnt_id").is_some();
        entry.r#type = if of_mount {
            MarkType::Mount
        } else {
            MarkType::Filesystem
        }
        .into();
        entry.s_dev = mount.device.0 << 20 | mount.device.1;
        entry.me = Some(FanotifyMountMarkEntry {
            mnt_id: mount.id,
            path: Some(mount.point.into_os_string().into_encoded_bytes()),
        });
    }
    Ok(entry)
}

/// The mount that a mark is on, or one of the file system that it is on.
fn place(words: &Words<'_>) -> Option<mountinfo::Mount> {
    let mounts = mountinfo::read_all(std::process::id() as i32).ok()?;
    match words.word("mnt_id") {
        Some(id) => mounts.into_iter().find(|mount| mount.id == id),
        None => {
            let device = words.word("sdev")?;
            let device = (device >> 20, device & 0xf_ffff);
            mounts.into_iter().find(|mount| mount.device == device)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "inotify wd:1f ino:9b8001 sdev:fe00002 mask:4000fff ignored_mask:0 fhandle-bytes:8 \
                        fhandle-type:1 f_handle:01809b00f9a3a0ca";

    #[test]
    fn a_watch_is_read() {
        let words = Words::of(LINE);
        let (inode, handle) = target(&words).unwrap();
        assert_eq!(inode, (0x0fe0_0002, 0x9b_8001));
        assert_eq!(handle.unwrap().handle[0], 0xcaa0_a3f9_009b_8001);
        assert_eq!(
            (words.word("wd"), words.word("mask")),
            (Some(0x1f), Some(0x400_0fff))
        );
        assert_eq!(device(inode), "254:2");
    }

    #[test]
    fn odd_lines_are_nothing() {
        for line in [
            "inotify wd:1",
            "inotify ino:x sdev:1",
            "inotify ino:1 sdev:1 f_handle:0",
        ] {
            assert_eq!(target(&Words::of(line)), None, "{line}");
        }
        // A file system that has no handles.
        assert_eq!(
            target(&Words::of("inotify ino:1 sdev:2")),
            Some(((2, 1), None))
        );
    }
}
