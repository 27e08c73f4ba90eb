//! What an open file is, and whether it can be checkpointed: the one answer that the survey and the dump share.

use std::os::fd::AsFd;
use std::sync::OnceLock;

use cryopod_image::criu::FdTypes;
use cryopod_sys::socket::SocketKind;
use rustix::fs::{FileType, MemfdFlags};

use super::seen::Seen;
use super::sockets;

/// Kinds of open files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Has a path and is opened by it: a regular file, a directory, a harmless device, anything opened with O_PATH.
    Path,
    /// An end of a pipe.
    Pipe,
    /// An end of a named pipe.
    Fifo,
    /// Memory that is a file: memfd_create(2), or what is behind a shared anonymous mapping.
    Memfd,
    /// eventfd(2).
    Eventfd,
    /// io_uring_setup(2).
    IoUring,
    /// signalfd(2).
    Signalfd,
    /// timerfd_create(2).
    Timerfd,
    /// epoll(7).
    Epoll,
    /// inotify(7).
    Inotify,
    /// fanotify(7).
    Fanotify,
    /// pidfd_open(2).
    Pidfd,
    /// mq_overview(7).
    Mqueue,
    /// A map of bpf(2).
    BpfMap,
    /// namespaces(7).
    Namespace,
    /// A terminal, unless it is a master.
    Terminal,
    /// The master of a pseudo-terminal.
    Master,
    /// A socket; what sort of one is all zero where it could not be asked.
    Socket(SocketKind),
    /// Anything else, in words.
    Other(String),
}

impl Kind {
    /// The number of the kind in images; what leads outside is recorded like a file with a path.
    pub fn fd_type(&self) -> FdTypes {
        match self {
            Self::Path | Self::Other(_) => FdTypes::Reg,
            Self::Terminal | Self::Master => FdTypes::Tty,
            Self::Socket(kind) => sockets::fd_type(kind),
            Self::Pipe => FdTypes::Pipe,
            Self::Fifo => FdTypes::Fifo,
            Self::Memfd => FdTypes::MemFd,
            Self::Eventfd => FdTypes::EventFd,
            Self::IoUring => FdTypes::CryopodIoUring,
            Self::Signalfd => FdTypes::SignalFd,
            Self::Timerfd => FdTypes::TimerFd,
            Self::Epoll => FdTypes::EventPoll,
            Self::Inotify => FdTypes::Inotify,
            Self::Fanotify => FdTypes::Fanotify,
            Self::Pidfd => FdTypes::PidFd,
            Self::Mqueue => FdTypes::CryopodMqueue,
            Self::BpfMap => FdTypes::BpfMap,
            Self::Namespace => FdTypes::Ns,
        }
    }
}

/// File systems whose files need another look (statfs(2), linux/magic.h).
pub mod magic {
    /// Huge pages.
    pub const HUGETLBFS: u64 = 0x9584_58f6;
    /// Namespaces.
    pub const NSFS: u64 = 0x6e73_6673;
    /// POSIX message queues.
    pub const MQUEUE: u64 = 0x1980_0202;
    /// Pidfds.
    pub const PIDFS: u64 = 0x5049_4446;
    /// memfd_secret(2).
    pub const SECRETMEM: u64 = 0x5345_434d;
    /// Buffers of devices.
    pub const DMABUF: u64 = 0x444d_4142;
}

/// Says what an open file is. Whether a file with a path can really be found there is for
/// [`paths::check`](super::paths::check).
pub fn classify(seen: &Seen) -> Kind {
    if let Some(name) = seen.link.strip_prefix(b"anon_inode:") {
        return anonymous(name);
    }
    match seen.file_system {
        magic::HUGETLBFS => return huge_pages(seen),
        magic::NSFS => return Kind::Namespace,
        // A directory, or a name only, of a mounted instance is a path like others.
        magic::MQUEUE if seen.file_type() == FileType::RegularFile && !seen.is_path_only() => {
            return Kind::Mqueue;
        }
        magic::PIDFS => return Kind::Pidfd,
        magic::SECRETMEM => return other("secret memory"),
        magic::DMABUF => return other("buffer shared with a device (dma-buf)"),
        _ => {}
    }
    if Some(seen.stat.st_dev) == shared_memory_device() {
        return shared_memory(seen);
    }
    if seen.is_path_only() {
        return if seen.link.starts_with(b"/") {
            Kind::Path
        } else {
            other("O_PATH descriptor of a file without a path")
        };
    }
    match seen.file_type() {
        FileType::RegularFile | FileType::Directory | FileType::Symlink => Kind::Path,
        FileType::CharacterDevice => device(seen),
        FileType::BlockDevice => other(format!("block device {}", seen.shown())),
        FileType::Fifo if seen.link.starts_with(b"pipe:[") => Kind::Pipe,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket(seen.socket.unwrap_or_default()),
        _ => other(format!("unknown file {}", seen.shown())),
    }
}

fn other(what: impl Into<String>) -> Kind {
    Kind::Other(what.into())
}

fn anonymous(name: &[u8]) -> Kind {
    match name {
        b"[eventfd]" => Kind::Eventfd,
        b"[signalfd]" => Kind::Signalfd,
        b"[timerfd]" => Kind::Timerfd,
        b"[eventpoll]" => Kind::Epoll,
        b"[io_uring]" => Kind::IoUring,
        b"inotify" => Kind::Inotify,
        b"[fanotify]" => Kind::Fanotify,
        b"[perf_event]" => other("perf event"),
        b"[userfaultfd]" => other("userfaultfd"),
        b"[pidfd]" => Kind::Pidfd,
        b"bpf-map" => Kind::BpfMap,
        b"bpf-prog" => other("BPF program"),
        b"bpf_link" => other("BPF link"),
        b"seccomp notify" => other("seccomp listener"),
        name if name.starts_with(b"kvm-") => other("KVM virtual machine"),
        name => other(format!(
            "anonymous file {}",
            String::from_utf8_lossy(name).trim_matches(['[', ']'])
        )),
    }
}

/// Memory of the kernel's own instance of tmpfs: nobody can open it by path.
fn shared_memory(seen: &Seen) -> Kind {
    let name = seen.undeleted_name();
    if name.starts_with(b"/memfd:") || name == b"/dev/zero" {
        Kind::Memfd
    } else if name.starts_with(b"/SYSV") {
        other("System V shared memory")
    } else {
        other(format!("memory of a driver ({})", seen.shown()))
    }
}

/// hugetlbfs: a mounted instance has names, the kernel's own have memfds and anonymous memory.
fn huge_pages(seen: &Seen) -> Kind {
    let name = seen.undeleted_name();
    if name.starts_with(b"/memfd:") || name == b"/anon_hugepage" {
        Kind::Memfd
    } else if name.starts_with(b"/SYSV") {
        other("System V shared memory of huge pages")
    } else if name.len() < seen.link.len() {
        // Its contents could not be written into another: hugetlbfs has no write(2).
        other(format!("deleted file of huge pages {}", seen.shown()))
    } else {
        Kind::Path
    }
}

fn device(seen: &Seen) -> Kind {
    /// Major number of the memory devices.
    const MEMORY: u32 = 1;
    let (major, minor) = (
        rustix::fs::major(seen.stat.st_rdev),
        rustix::fs::minor(seen.stat.st_rdev),
    );
    match (major, minor) {
        // null, zero, full, random, urandom: no state of their own.
        (MEMORY, 3 | 5 | 7 | 8 | 9) => Kind::Path,
        (5, 2) => Kind::Master,
        // Which two of them are a pair, nobody tells.
        (2 | 3, _) => other("pseudo-terminal of the BSD kind"),
        // Consoles, serial lines, /dev/tty, pseudo-terminals, and the consoles of virtual machines.
        (4 | 5 | 136..=143 | 166 | 188 | 204 | 229, _) => Kind::Terminal,
        _ => other(format!("device {} ({major}:{minor})", seen.shown())),
    }
}

/// The device number of memfds.
fn shared_memory_device() -> Option<u64> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let memfd = rustix::fs::memfd_create("cryopod", MemfdFlags::CLOEXEC).ok()?;
        Some(rustix::fs::fstat(memfd.as_fd()).ok()?.st_dev)
    })
}

/// Whether it is /dev/tty: the controlling terminal of whoever opens it.
pub fn is_controlling_terminal(seen: &Seen) -> bool {
    seen.stat.st_rdev == rustix::fs::makedev(5, 0)
}

/// Whether it is the master of a pseudo-terminal: what /dev/ptmx gives.
pub fn is_master(seen: &Seen) -> bool {
    seen.stat.st_rdev == rustix::fs::makedev(5, 2) && seen.file_type() == FileType::CharacterDevice
}

/// The number of a pseudo-terminal by the device number of its slave.
pub fn slave_index(device: u64) -> Option<u32> {
    const SLAVES: u32 = 136;
    (rustix::fs::major(device) == SLAVES).then(|| rustix::fs::minor(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGULAR: u32 = 0o100_644;
    const FIFO: u32 = 0o010_600;
    const DEVICE: u32 = 0o020_666;

    fn check(link: &str, mode: u32, expected: Kind) {
        assert_eq!(classify(&Seen::sample(link, mode)), expected, "{link}");
    }

    #[test]
    fn names_tell_anonymous_files_apart() {
        check("anon_inode:[eventfd]", 0o600, Kind::Eventfd);
        check("anon_inode:[eventpoll]", 0o600, Kind::Epoll);
        check("anon_inode:[timerfd]", 0o600, Kind::Timerfd);
        check("anon_inode:[signalfd]", 0o600, Kind::Signalfd);
        check("anon_inode:[io_uring]", 0o600, Kind::IoUring);
        check("anon_inode:inotify", 0o600, Kind::Inotify);
        check("anon_inode:[new]", 0o600, other("anonymous file new"));
    }

    #[test]
    fn the_mode_tells_the_rest() {
        check("/etc/passwd", REGULAR, Kind::Path);
        check("/etc", 0o040_755, Kind::Path);
        check("pipe:[17]", FIFO, Kind::Pipe);
        check("/tmp/fifo", FIFO, Kind::Fifo);
        check(
            "socket:[17]",
            0o140_777,
            Kind::Socket(SocketKind::default()),
        );
        check("/dev/vda", 0o060_600, other("block device /dev/vda"));
        check("pipe:[weird]/name", REGULAR, Kind::Path);
    }

    #[test]
    fn only_devices_without_state_are_opened_again() {
        let device = |major, minor| {
            let mut seen = Seen::sample("/dev/x", DEVICE);
            seen.stat.st_rdev = rustix::fs::makedev(major, minor);
            classify(&seen)
        };
        assert_eq!(device(1, 3), Kind::Path);
        assert_eq!(device(1, 9), Kind::Path);
        assert_eq!(device(136, 2), Kind::Terminal);
        assert_eq!(device(5, 0), Kind::Terminal);
        assert_eq!(device(5, 2), Kind::Master);
        assert_eq!(device(3, 2), other("pseudo-terminal of the BSD kind"));
        assert_eq!(device(1, 1), other("device /dev/x (1:1)"));
    }

    #[test]
    fn a_memfd_is_known_by_its_device() {
        let memfd = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&memfd);
        let seen = Seen::descriptor(std::process::id() as i32, fd).unwrap();
        assert_eq!(classify(&seen), Kind::Memfd);
        check("/memfd:x (deleted)", REGULAR, Kind::Path);
    }

    #[test]
    fn files_of_huge_pages_have_paths_or_are_memory() {
        let huge = |link| {
            let mut seen = Seen::sample(link, REGULAR);
            seen.file_system = magic::HUGETLBFS;
            classify(&seen)
        };
        assert_eq!(huge("/memfd:x (deleted)"), Kind::Memfd);
        assert_eq!(huge("/anon_hugepage (deleted)"), Kind::Memfd);
        assert_eq!(huge("/mnt/huge/x"), Kind::Path);
        assert!(matches!(huge("/mnt/huge/x (deleted)"), Kind::Other(_)));
    }

    #[test]
    fn queues_are_files_of_their_own_file_system() {
        let of = |link, mode| {
            let mut seen = Seen::sample(link, mode);
            seen.file_system = magic::MQUEUE;
            classify(&seen)
        };
        assert_eq!(of("/name", REGULAR), Kind::Mqueue);
        assert_eq!(of("/dev/mqueue", 0o041_777), Kind::Path);
    }

    #[test]
    fn a_socket_opened_for_its_path_only_is_a_path() {
        let mut seen = Seen::sample("/run/x.sock", 0o140_777);
        seen.info.flags = libc::O_PATH as u32;
        assert_eq!(classify(&seen), Kind::Path);
    }
}
