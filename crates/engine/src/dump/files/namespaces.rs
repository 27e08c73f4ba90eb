//! Open namespace files (/proc/PID/ns/NAME, namespaces(7)) of the namespaces that the tree lives in, which are our own.

use std::os::unix::fs::MetadataExt;

use cryopod_image::criu::{FdTypes, FileEntry, NsFileEntry};

use super::Description;
use super::seen::Seen;
use crate::dump::ids;
use crate::error::Result;

/// The kinds of namespaces: name in /proc/PID/ns, and `CLONE_NEW*` flag.
pub const KINDS: [(&str, i32); 8] = [
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("ipc", libc::CLONE_NEWIPC),
    ("mnt", libc::CLONE_NEWNS),
    ("net", libc::CLONE_NEWNET),
    ("pid", libc::CLONE_NEWPID),
    ("time", CLONE_NEWTIME),
    ("user", libc::CLONE_NEWUSER),
    ("uts", libc::CLONE_NEWUTS),
];

/// linux/sched.h.
const CLONE_NEWTIME: i32 = 0x80;

/// The kind that a link such as `net:[4026531840]` names.
fn kind(link: &[u8]) -> Option<(&'static str, i32)> {
    let end = link.iter().position(|&byte| byte == b':')?;
    let name = std::str::from_utf8(&link[..end]).ok()?;
    KINDS.into_iter().find(|(known, _)| *known == name)
}

/// Why an open namespace file cannot be checkpointed, in words, if it cannot.
pub fn problem(seen: &Seen) -> Option<String> {
    let shown = seen.shown();
    let Some((name, _)) = kind(&seen.link) else {
        return Some(format!(
            "namespace {shown} of an unknown kind: not supported"
        ));
    };
    let own = std::fs::metadata(format!("/proc/self/ns/{name}"));
    let is_own = own.is_ok_and(|own| own.ino() == seen.stat.st_ino);
    (!is_own).then(|| {
        format!("namespace {shown}, which is not the one that cryopod is in: not supported")
    })
}

/// The entry of an open namespace file.
pub(super) fn dump(one: &Description<'_>) -> Result<FileEntry> {
    let (_, flag) = one.line(kind(&one.seen.link))?;
    let nsf = NsFileEntry {
        id: one.id,
        ns_id: ids::namespace(flag),
        ns_cflag: flag as u32,
        flags: one.seen.flags(),
    };
    Ok(FileEntry {
        r#type: FdTypes::Ns.into(),
        id: one.id,
        nsf: Some(Box::new(nsf)),
        ..FileEntry::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_namespaces_can_be_open() {
        let link = std::fs::read_link("/proc/self/ns/net").unwrap();
        let mut seen = Seen::sample(link.to_str().unwrap(), 0o100_444);
        seen.stat.st_ino = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_eq!(problem(&seen), None);
        seen.stat.st_ino += 1;
        assert!(problem(&seen).unwrap().contains("net:["));
        assert!(problem(&Seen::sample("new:[1]", 0)).is_some());
        assert!(problem(&Seen::sample("", 0)).is_some());
    }
}
