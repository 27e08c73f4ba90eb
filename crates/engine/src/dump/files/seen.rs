//! What /proc says about one open file, without touching it.
//!
//! Everything here follows the magic links of proc_pid_fd(5) with stat(2), readlink(2) and statfs(2), which open
//! nothing, so that the survey of a running tree and the dump of a frozen one see the same. Only a socket is duplicated
//! for a moment, to ask what it is.

use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use cryopod_sys::socket::SocketKind;
use rustix::fs::{FileType, Stat};

use super::sockets;
use crate::error::{Error, Result};
use crate::proc::{self, fdinfo::FdInfo};

/// What readlink(2) adds to the name of a file that has none any more.
const DELETED: &[u8] = b" (deleted)";

/// One open file, or a file that a link of /proc/PID leads to.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The process.
    pub pid: i32,
    /// The descriptor, where it is one.
    pub fd: Option<i32>,
    /// Below /proc/PID: "fd/3", "exe", "map_files/...".
    pub place: String,
    /// The text of that link.
    pub link: Vec<u8>,
    /// The file itself.
    pub stat: Stat,
    /// Magic number of its file system (statfs(2)).
    pub file_system: u64,
    /// Position, flags and the lines of its kind; empty where it is no descriptor.
    pub info: FdInfo,
    /// What it is, where it is a socket.
    pub socket: Option<SocketKind>,
}

impl Seen {
    /// Looks at a descriptor.
    pub fn descriptor(pid: i32, fd: i32) -> Result<Self> {
        let mut seen = Self::place(pid, format!("fd/{fd}"))?;
        seen.info = FdInfo::read(pid, fd)?;
        seen.fd = Some(fd);
        if seen.file_type() == FileType::Socket && !seen.is_path_only() {
            seen.socket = sockets::ask(pid, fd);
        }
        Ok(seen)
    }

    /// Looks at where a link below /proc/PID leads.
    pub fn place(pid: i32, place: String) -> Result<Self> {
        let path = proc::path(pid, &place);
        let link = proc::read_link(pid, &place)?.into_os_string().into_vec();
        let failed = |operation, errno: rustix::io::Errno| Error::Path {
            operation,
            path: path.clone(),
            source: errno.into(),
        };
        let stat = rustix::fs::stat(&path).map_err(|errno| failed("look at", errno))?;
        let statfs = rustix::fs::statfs(&path).map_err(|errno| failed("look at", errno))?;
        Ok(Self {
            pid,
            fd: None,
            place,
            link,
            stat,
            file_system: statfs.f_type as u64,
            info: FdInfo::default(),
            socket: None,
        })
    }

    /// Device and inode: the same for all open files of one inode.
    pub fn inode(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// What the mode says it is.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Open flags without O_CLOEXEC, which belongs to the descriptor.
    pub fn flags(&self) -> u32 {
        self.info.flags & !(libc::O_CLOEXEC as u32)
    }

    /// Whether it was opened with O_PATH.
    pub fn is_path_only(&self) -> bool {
        self.info.flags & libc::O_PATH as u32 != 0
    }

    /// Whether reading is allowed by the flags.
    pub fn is_readable(&self) -> bool {
        self.info.flags & libc::O_ACCMODE as u32 != libc::O_WRONLY as u32
    }

    /// FD_CLOEXEC, as images have it.
    pub fn descriptor_flags(&self) -> u32 {
        u32::from(self.info.flags & libc::O_CLOEXEC as u32 != 0)
    }

    /// The path in /proc that leads to the file itself, whatever became of its name.
    pub fn proc_path(&self) -> PathBuf {
        proc::path(self.pid, &self.place)
    }

    /// The name without the kernel's " (deleted)".
    pub fn undeleted_name(&self) -> &[u8] {
        self.link.strip_suffix(DELETED).unwrap_or(&self.link)
    }

    /// The name for messages.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.link).into_owned()
    }
}

/// Whether an error means that the process or the descriptor went away while it was looked at.
pub fn is_gone(error: &Error) -> bool {
    match error {
        Error::NoProcess { .. } => true,
        Error::Path { source, .. } => {
            source.kind() == std::io::ErrorKind::NotFound
                || matches!(source.raw_os_error(), Some(libc::ESRCH | libc::EBADF))
        }
        Error::Task { source, .. } | Error::Descriptor { source, .. } => {
            matches!(*source, cryopod_sys::Errno::SRCH | cryopod_sys::Errno::BADF)
        }
        Error::Ended { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
impl Seen {
    /// A made-up one, for tests of what is derived from it.
    pub fn sample(link: &str, mode: u32) -> Self {
        // A real one, because `Stat` cannot be made from nothing in all its fields.
        let mut stat = rustix::fs::stat("/").unwrap();
        stat.st_mode = mode;
        stat.st_nlink = 1;
        Self {
            pid: 1,
            fd: Some(3),
            place: "fd/3".into(),
            link: link.into(),
            stat,
            file_system: 0,
            info: FdInfo::default(),
            socket: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_sees_its_own_descriptors() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        let seen = Seen::descriptor(std::process::id() as i32, fd).unwrap();
        assert_eq!(seen.link, b"/dev/null");
        assert_eq!(seen.file_type(), FileType::CharacterDevice);
        assert_eq!(seen.descriptor_flags(), 1);
        assert_eq!(seen.flags() & libc::O_CLOEXEC as u32, 0);
    }

    #[test]
    fn a_closed_descriptor_is_gone() {
        let error = Seen::descriptor(std::process::id() as i32, 1_000_000).unwrap_err();
        assert!(is_gone(&error), "{error}");
        assert!(is_gone(&Seen::place(i32::MAX, "exe".into()).unwrap_err()));
    }

    #[test]
    fn only_the_kernels_suffix_is_taken_off() {
        assert_eq!(Seen::sample("/a (deleted)", 0).undeleted_name(), b"/a");
        assert_eq!(Seen::sample("/a", 0).undeleted_name(), b"/a");
    }
}
