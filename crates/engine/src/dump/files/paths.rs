//! Files that are opened again by their path: regular files, directories, devices, what O_PATH leads to.

use cryopod_image::criu::{FdTypes, FileEntry, FownEntry, RegFileEntry};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::seen::Seen;
use crate::elf;
use crate::proc;

/// How a file can be found again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// Under its path.
    There(Vec<u8>),
    /// It has no name any more; this was its last one. Its contents must be taken along.
    Deleted(Vec<u8>),
    /// This name is gone, but others are left. It must be given one for the restore.
    Linked(Vec<u8>),
    /// It is one in /proc of this process, which has ended: another process must lend its pid when it is opened.
    OfDead(Vec<u8>, i32),
}

impl Name {
    /// The path, present or past.
    pub fn path(&self) -> &[u8] {
        let (Self::There(path) | Self::Deleted(path) | Self::Linked(path) | Self::OfDead(path, _)) =
            self;
        path
    }
}

const PROC: u64 = 0x9fa0;
const NFS: u64 = 0x6969;
/// Unit of `st_blocks`, see stat(3type).
const BLOCK_BYTES: u64 = 512;

/// Finds out whether the file can be opened again by its path, or taken along because it is deleted and has at most
/// `ghost_limit_bytes` of contents. Otherwise says in words why not.
pub fn check(seen: &Seen, ghost_limit_bytes: u64) -> std::result::Result<Name, String> {
    let shown = seen.shown();
    if !seen.link.starts_with(b"/") {
        return Err(format!(
            "file {shown}: its path is outside of what cryopod can reach"
        ));
    }
    if seen.file_system == PROC {
        return check_proc(seen);
    }
    if seen.stat.st_nlink == 0 {
        return check_deleted(seen, ghost_limit_bytes);
    }
    if seen.file_system == NFS && is_silly_name(&seen.link) {
        return Err(format!("file {shown}: deleted on NFS"));
    }
    let follow = match seen.file_type() {
        FileType::Symlink => AtFlags::SYMLINK_NOFOLLOW,
        _ => AtFlags::empty(),
    };
    match rustix::fs::statat(rustix::fs::CWD, seen.link.as_slice(), follow) {
        Ok(stat) if (stat.st_dev, stat.st_ino) == seen.inode() => {
            Ok(Name::There(seen.link.clone()))
        }
        Ok(_) => Err(format!("file {shown}: another file has taken its path")),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
            check_renamed(seen, ghost_limit_bytes)
        }
        Err(errno) => Err(format!(
            "file {shown}: its path cannot be looked at: {errno}"
        )),
    }
}

/// A file whose name is gone while its inode counts some.
fn check_renamed(seen: &Seen, ghost_limit_bytes: u64) -> std::result::Result<Name, String> {
    let name = seen.undeleted_name();
    // Some file systems count a name for directories that have none.
    if seen.file_type() == FileType::Directory {
        return check_deleted(seen, ghost_limit_bytes);
    }
    // The same file under the same name once more.
    let again = rustix::fs::statat(rustix::fs::CWD, name, AtFlags::SYMLINK_NOFOLLOW);
    if again.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == seen.inode()) {
        return Ok(Name::There(name.to_vec()));
    }
    Ok(Name::Linked(name.to_vec()))
}

/// Files of a process in /proc come and go with it.
fn check_proc(seen: &Seen) -> std::result::Result<Name, String> {
    let path = seen.undeleted_name();
    let pid = owner_in_proc(path);
    match pid {
        // Whoever has the pid now is not the one that had it then.
        Some(pid) if path != seen.link.as_slice() || !is_there(seen) => {
            if path.starts_with(format!("/proc/{pid}/task/").as_bytes())
                && proc::path(pid, "").exists()
            {
                return Err(format!("file {}: of a thread that has ended", seen.shown()));
            }
            Ok(Name::OfDead(path.to_vec(), pid))
        }
        _ => Ok(Name::There(path.to_vec())),
    }
}

/// Whether the path of a file leads to it.
fn is_there(seen: &Seen) -> bool {
    rustix::fs::statat(
        rustix::fs::CWD,
        seen.link.as_slice(),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == seen.inode())
}

/// The process a path below /proc belongs to.
pub fn owner_in_proc(path: &[u8]) -> Option<i32> {
    let rest = path.strip_prefix(b"/proc/")?;
    let word = rest.split(|&byte| byte == b'/').next()?;
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn check_deleted(seen: &Seen, ghost_limit_bytes: u64) -> std::result::Result<Name, String> {
    let shown = seen.shown();
    let size_bytes = seen.stat.st_blocks as u64 * BLOCK_BYTES;
    match seen.file_type() {
        FileType::RegularFile if size_bytes > ghost_limit_bytes => Err(format!(
            "file {shown}: its {size_bytes} bytes are more than the {ghost_limit_bytes} that are taken along"
        )),
        FileType::RegularFile
        | FileType::Directory
        | FileType::Symlink
        | FileType::Fifo
        | FileType::CharacterDevice => Ok(Name::Deleted(seen.undeleted_name().to_vec())),
        _ => Err(format!("file {shown}: deleted")),
    }
}

/// What the NFS client makes of the name of a file that is deleted while open.
fn is_silly_name(path: &[u8]) -> bool {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    name.strip_prefix(b".nfs")
        .is_some_and(|rest| rest.len() >= 16 && rest.iter().all(u8::is_ascii_hexdigit))
}

/// The entry of a file with a path. `flags` are those to open it with.
pub fn entry(id: u32, seen: &Seen, flags: u32, owner: FownEntry, name: &[u8]) -> FileEntry {
    // A log that is only appended to may have grown until the restore.
    let appended = flags & libc::O_ACCMODE as u32 == libc::O_WRONLY as u32
        && flags & libc::O_APPEND as u32 != 0;
    let has_size = seen.file_type() == FileType::RegularFile && !appended;
    let reg = RegFileEntry {
        id,
        flags,
        pos: seen.info.pos,
        fown: owner,
        name: name.to_vec(),
        size: has_size.then_some(seen.stat.st_size as u64),
        mode: Some(seen.stat.st_mode),
        ..RegFileEntry::default()
    };
    FileEntry {
        r#type: FdTypes::Reg.into(),
        id,
        reg: Some(Box::new(reg)),
        ..FileEntry::default()
    }
}

/// Records which build of a program or library it is. Only for what is executed or mapped: to open anything else may break
/// a lease (fcntl(2)) on it.
pub fn add_build_id(entry: &mut FileEntry, seen: &Seen) {
    if seen.file_type() != FileType::RegularFile {
        return;
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(seen.proc_path(), flags, Mode::empty());
    let id = file.ok().and_then(|file| elf::build_id(&file.into()));
    if let (Some(reg), Some(id)) = (&mut entry.reg, id) {
        reg.build_id = elf::words(&id);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsRawFd;

    use super::*;

    fn seen(file: &File) -> Seen {
        Seen::descriptor(std::process::id() as i32, file.as_raw_fd()).unwrap()
    }

    #[test]
    fn names_that_lead_to_the_file_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one");
        fs::write(&path, "contents").unwrap();
        let file = File::open(&path).unwrap();
        let bytes = path.as_os_str().as_encoded_bytes().to_vec();
        assert_eq!(check(&seen(&file), 0), Ok(Name::There(bytes.clone())));

        fs::hard_link(&path, dir.path().join("two")).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(check(&seen(&file), 0), Ok(Name::Linked(bytes.clone())));
        fs::hard_link(dir.path().join("two"), &path).unwrap();
        assert_eq!(check(&seen(&file), 0), Ok(Name::There(bytes.clone())));
        fs::remove_file(&path).unwrap();

        fs::remove_file(dir.path().join("two")).unwrap();
        assert!(check(&seen(&file), 0).unwrap_err().contains("more than"));
        assert_eq!(check(&seen(&file), 1 << 20), Ok(Name::Deleted(bytes)));
    }

    #[test]
    fn a_file_replaced_by_another_has_lost_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one");
        fs::write(&path, "old").unwrap();
        let file = File::open(&path).unwrap();
        fs::hard_link(&path, dir.path().join("kept")).unwrap();
        fs::write(dir.path().join("new"), "new").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        // The kernel calls it deleted, and a file of that name does not exist.
        assert!(matches!(check(&seen(&file), 0), Ok(Name::Linked(_))));
    }

    #[test]
    fn files_of_a_dead_process_need_its_pid() {
        let mut seen = Seen::sample("/proc/4194000/maps (deleted)", 0o100_444);
        seen.file_system = PROC;
        let name = b"/proc/4194000/maps".to_vec();
        assert_eq!(check(&seen, 0), Ok(Name::OfDead(name, 4_194_000)));
        let own = std::process::id();
        let mut seen = Seen::sample(&format!("/proc/{own}/task/1/maps (deleted)"), 0o100_444);
        seen.file_system = PROC;
        assert!(check(&seen, 0).unwrap_err().contains("thread"));
        let own_file = File::open("/proc/self/maps").unwrap();
        let seen = Seen::descriptor(own as i32, own_file.as_raw_fd()).unwrap();
        assert!(matches!(check(&seen, 0), Ok(Name::There(_))));
    }

    #[test]
    fn proc_paths_tell_their_process() {
        assert_eq!(owner_in_proc(b"/proc/12/maps"), Some(12));
        assert_eq!(owner_in_proc(b"/proc/12"), Some(12));
        assert_eq!(owner_in_proc(b"/proc/meminfo"), None);
        assert_eq!(owner_in_proc(b"/tmp/12"), None);
    }

    #[test]
    fn silly_names_are_known() {
        assert!(is_silly_name(b"/mnt/.nfs0000000000a1b2c3"));
        assert!(!is_silly_name(b"/mnt/.nfs"));
        assert!(!is_silly_name(b"/mnt/file"));
    }

    #[test]
    fn the_size_of_a_growing_log_is_not_recorded() {
        let seen = Seen::sample("/var/log/x", 0o100_644);
        let size = |flags: i32| {
            let entry = entry(1, &seen, flags as u32, FownEntry::default(), b"/var/log/x");
            entry.reg.unwrap().size
        };
        assert_eq!(size(libc::O_WRONLY | libc::O_APPEND), None);
        assert!(size(libc::O_RDWR | libc::O_APPEND).is_some());
    }
}
