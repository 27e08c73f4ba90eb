//! What can go wrong between a process and an image set.

use std::fmt;
use std::path::PathBuf;

use cryopod_sys::Errno;

/// What every function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// The broad classes of failure; exit codes follow from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The process or file is not there.
    NotFound,
    /// The caller asked for something that makes no sense.
    InvalidInput,
    /// The process uses something that cannot be checkpointed or restored.
    Unsupported,
    /// A privilege is missing.
    Permission,
    /// Something is in the way for now: a pid that is taken, a debugger, a task that does not stop.
    Busy,
    /// An image contradicts itself or its checksum.
    Corrupt,
    /// The kernel or a file system refused.
    External,
    /// A bug in cryopod.
    Internal,
}

/// One thing that stands in the way of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The process that holds it.
    pub pid: i32,
    /// The descriptor, where it is one.
    pub fd: Option<i32>,
    /// What it is, and why not.
    pub what: String,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fd {
            Some(fd) => write!(f, "pid {} fd {fd}: {}", self.pid, self.what),
            None => write!(f, "pid {}: {}", self.pid, self.what),
        }
    }
}

/// A failure of dump or restore: the operation, the object, the cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such process.
    #[error("pid {pid}: no such process")]
    NoProcess {
        /// The pid asked for.
        pid: i32,
    },
    /// A request about a task failed.
    #[error("pid {pid}: cannot {operation}")]
    Task {
        /// What was attempted.
        operation: &'static str,
        /// The task.
        pid: i32,
        /// The kernel's answer.
        source: Errno,
    },
    /// A system call that a stopped task was made to do failed.
    #[error("pid {pid}: the remote call {call} failed")]
    Remote {
        /// Name and purpose of the call.
        call: &'static str,
        /// The task.
        pid: i32,
        /// The kernel's answer.
        source: Errno,
    },
    /// The process that follows what a tree writes to cannot be used.
    #[error("the tracker: {what}")]
    Tracker {
        /// Why.
        what: &'static str,
    },
    /// A task ended while it was worked on.
    #[error("pid {pid}: ended while it was {during}")]
    Ended {
        /// The task.
        pid: i32,
        /// What was going on.
        during: &'static str,
    },
    /// A task got a signal that it cannot survive while it was worked on.
    #[error("pid {pid}: unexpected stop by signal {signal} while making a remote call")]
    UnexpectedStop {
        /// The task.
        pid: i32,
        /// The signal.
        signal: i32,
    },
    /// A request about a descriptor of a task failed.
    #[error("pid {pid} fd {fd}: cannot {operation}")]
    Descriptor {
        /// What was attempted.
        operation: &'static str,
        /// The process.
        pid: i32,
        /// The descriptor.
        fd: i32,
        /// The kernel's answer.
        source: Errno,
    },
    /// A request about a path failed.
    #[error("cannot {operation} {path}")]
    Path {
        /// What was attempted.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A request of cryopod for itself failed.
    #[error("cannot {operation}")]
    Host {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's answer.
        source: Errno,
    },
    /// A socket could not be given the address that it had.
    #[error("cannot bind a socket to {name}")]
    Bind {
        /// The address.
        name: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// An object of System V IPC cannot come back, because another has its number or its key, or somebody uses it.
    #[error("{what} {id} (key {key:#x}) is in use")]
    IpcTaken {
        /// Its kind.
        what: &'static str,
        /// Its number.
        id: i32,
        /// Its key.
        key: i32,
    },
    /// A POSIX message queue cannot come back, because there is another of its name, or somebody uses it.
    #[error("the message queue /{name} is {how}")]
    MqueueTaken {
        /// Its name.
        name: String,
        /// In use by somebody, or another one.
        how: String,
    },
    /// A POSIX message queue could not be made.
    #[error("cannot {operation} the message queue /{name}")]
    Mqueue {
        /// What was attempted.
        operation: &'static str,
        /// Its name.
        name: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// A control group could not be looked at, made or joined.
    #[error("cannot {operation} the control group {group}")]
    Cgroup {
        /// What was attempted.
        operation: &'static str,
        /// Its hierarchy and path.
        group: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// A socket could not be given an option that it had.
    #[error("cannot set the socket option {name} to {value}")]
    SocketOption {
        /// SO_*.
        name: &'static str,
        /// What it was.
        value: i32,
        /// The kernel's answer.
        source: Errno,
    },
    /// An internet socket could not be given an option that it had.
    #[error("cannot set option {name} at level {level} of an internet socket")]
    InetOption {
        /// `SOL_*` or `IPPROTO_*`.
        level: i32,
        /// Its number there.
        name: i32,
        /// The kernel's answer.
        source: Errno,
    },
    /// A request about an address of the network failed.
    #[error("cannot {operation} {address}")]
    Address {
        /// What was attempted.
        operation: &'static str,
        /// The address.
        address: std::net::SocketAddr,
        /// The kernel's answer.
        source: Errno,
    },
    /// A checkpoint has a TCP connection, and nothing was said about what becomes of it.
    #[error("a TCP connection from {local} to {peer} is in the checkpoint")]
    Connection {
        /// The restored end.
        local: std::net::SocketAddr,
        /// The other.
        peer: std::net::SocketAddr,
    },
    /// Connections cannot be locked, because the kernel lacks what it takes.
    #[error("cannot {operation}: the kernel lacks CONFIG_NF_TABLES or CONFIG_NF_TABLES_INET")]
    NoNetworkLock {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's answer.
        source: Errno,
    },
    /// A line of /proc is not as proc(5) describes it.
    #[error("{path}: not understood: {line:?}")]
    Proc {
        /// The file.
        path: PathBuf,
        /// What was read.
        line: String,
    },
    /// The tree uses things that cannot be checkpointed; nothing was changed.
    #[error("{} thing(s) that cannot be checkpointed:{}", .0.len(), list(.0))]
    Unsupported(Vec<Unsupported>),
    /// An image asks for something this engine does not restore.
    #[error("cannot restore: {what}")]
    NotRestorable {
        /// What it is, and where.
        what: String,
    },
    /// Another tracer holds the task.
    #[error("pid {pid}: already traced by pid {tracer}")]
    Traced {
        /// The task.
        pid: i32,
        /// Its tracer.
        tracer: i32,
    },
    /// A task did not stop in time.
    #[error("pid {pid}: did not stop within {seconds} s (state {state})")]
    DoesNotStop {
        /// The task.
        pid: i32,
        /// Its state as in /proc/PID/stat.
        state: char,
        /// How long was waited.
        seconds: u64,
    },
    /// A pid that the tree needs belongs to somebody else.
    #[error("pid {pid} is taken by {holder}")]
    PidTaken {
        /// The pid.
        pid: i32,
        /// Command name of its holder.
        holder: String,
    },
    /// The number of a pseudo-terminal that the tree needs belongs to somebody else.
    #[error("terminal /dev/pts/{index} is in use")]
    TerminalTaken {
        /// The number.
        index: u32,
    },
    /// A file is not what it was at the checkpoint.
    #[error("{path}: {difference}")]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// A lock that the tree held is somebody else's by now.
    #[error("{path}: the lock on it is taken by {holder}")]
    LockTaken {
        /// The file.
        path: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// An image contradicts another or itself.
    #[error("{image}: {what}")]
    Inconsistent {
        /// The image.
        image: String,
        /// The contradiction.
        what: String,
    },
    /// Reading or writing an image failed.
    #[error(transparent)]
    Image(#[from] cryopod_image::Error),
    /// A live dump was asked for, and the kernel does not make copies of the tree's processes.
    #[error("cannot copy a process of the tree, so it would have to stand still for longer")]
    NoCopy {
        /// The kernel's answer to clone(2).
        source: Errno,
    },
    /// Memory that was left for later could not be filled.
    #[error("the programs were ended, because their memory could not be filled: {what}")]
    Filling {
        /// The class of what was in the way.
        kind: ErrorKind,
        /// What it was.
        what: String,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
}

fn list(found: &[Unsupported]) -> String {
    found.iter().map(|one| format!("\n  {one}")).collect()
}

impl Error {
    /// The class of this failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoProcess { .. } => ErrorKind::NotFound,
            Self::Task { source, .. }
            | Self::Remote { source, .. }
            | Self::Descriptor { source, .. }
            | Self::SocketOption { source, .. }
            | Self::Bind { source, .. }
            | Self::Cgroup { source, .. }
            | Self::Mqueue { source, .. }
            | Self::InetOption { source, .. }
            | Self::Host { source, .. } => errno_kind(*source),
            Self::Address { source, .. } => match *source {
                Errno::ADDRINUSE => ErrorKind::Busy,
                source => errno_kind(source),
            },
            Self::Path { source, .. } => {
                Errno::from_io_error(source).map_or(ErrorKind::External, errno_kind)
            }
            Self::Tracker { .. } | Self::Ended { .. } | Self::UnexpectedStop { .. } => {
                ErrorKind::External
            }
            Self::Proc { .. } => ErrorKind::Internal,
            Self::Unsupported(_)
            | Self::NotRestorable { .. }
            | Self::NoNetworkLock { .. }
            | Self::Connection { .. } => ErrorKind::Unsupported,
            Self::Traced { .. }
            | Self::DoesNotStop { .. }
            | Self::PidTaken { .. }
            | Self::TerminalTaken { .. }
            | Self::IpcTaken { .. }
            | Self::MqueueTaken { .. }
            | Self::LockTaken { .. } => ErrorKind::Busy,
            Self::FileChanged { .. } => ErrorKind::External,
            Self::Inconsistent { .. } => ErrorKind::Corrupt,
            Self::Image(source) => match source.kind() {
                cryopod_image::ErrorKind::NotFound => ErrorKind::NotFound,
                cryopod_image::ErrorKind::Corrupt => ErrorKind::Corrupt,
                cryopod_image::ErrorKind::Unsupported => ErrorKind::Unsupported,
                cryopod_image::ErrorKind::Permission => ErrorKind::Permission,
                cryopod_image::ErrorKind::Internal => ErrorKind::Internal,
                _ => ErrorKind::External,
            },
            Self::Filling { kind, .. } => *kind,
            Self::NoCopy { .. } | Self::Cancelled => ErrorKind::External,
        }
    }

    /// What the user can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unsupported(_) => {
                Some("end or close what is listed, then try again; nothing was changed".into())
            }
            Self::Address {
                source: Errno::ADDRINUSE,
                ..
            } => Some("end whoever has this address now, then try again".into()),
            Self::Address {
                source: Errno::ADDRNOTAVAIL,
                ..
            } => Some("give this machine the address first".into()),
            Self::Connection { .. } => Some(
                "give --tcp-established if it was taken along and its peer still waits, or --tcp-close to restore \
                 the socket without it"
                    .into(),
            ),
            Self::NoNetworkLock { .. } => Some(
                "load the module nf_tables, or see to it yourself that no packet of these connections passes and give \
                 --network-lock skip"
                    .into(),
            ),
            Self::Traced { tracer, .. } => Some(format!(
                "detach the debugger or strace (pid {tracer}) first"
            )),
            Self::DoesNotStop { state: 'D', .. } => Some(
                "it waits inside the kernel (vfork, or a hung file system); try again later".into(),
            ),
            Self::PidTaken { .. } => {
                Some("end that process first; a checkpoint is restored under its own pids".into())
            }
            Self::LockTaken { .. } => Some("whoever has it must let it go first".into()),
            Self::TerminalTaken { index } => Some(format!(
                "close that terminal (`fuser /dev/pts/{index}` tells whose it is), or wait until it is closed; programs \
                 remember the names of their terminals, so another one will not do"
            )),
            Self::FileChanged { .. } => Some(
                "bring back the file as it was at the checkpoint, or restore with --force-files"
                    .into(),
            ),
            Self::NoCopy { .. } => Some(
                "ask for `--freeze auto` or `--freeze stop`, or give it more pids and memory"
                    .into(),
            ),
            Self::MqueueTaken { .. } => {
                Some("end whoever uses it, or remove it (mq_unlink(3), or its file in a mounted mqueue)".into())
            }
            Self::Mqueue {
                source: Errno::INVAL,
                ..
            } => Some("raise /proc/sys/fs/mqueue/msg_max and msgsize_max to what it had".into()),
            Self::Mqueue {
                source: Errno::MFILE,
                ..
            } => Some("allow this user more bytes of message queues (ulimit -q, RLIMIT_MSGQUEUE)".into()),
            Self::IpcTaken { .. } => Some("`ipcs` tells whose it is, `ipcrm` removes it".into()),
            Self::Cgroup { .. } => Some(
                "--manage-cgroups=ignore leaves the program in the control groups of whoever restores it".into(),
            ),
            _ if self.kind() == ErrorKind::Permission => {
                Some("run as root; `cryopod doctor` lists what is missing".into())
            }
            _ => None,
        }
    }

    pub(crate) fn inconsistent(image: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Inconsistent {
            image: image.into(),
            what: what.into(),
        }
    }
}

fn errno_kind(errno: Errno) -> ErrorKind {
    match errno {
        Errno::PERM | Errno::ACCESS => ErrorKind::Permission,
        Errno::SRCH | Errno::NOENT => ErrorKind::NotFound,
        Errno::BUSY | Errno::EXIST | Errno::ADDRINUSE => ErrorKind::Busy,
        _ => ErrorKind::External,
    }
}

/// Attaches the operation and the task to an [`Errno`].
pub(crate) trait Context<T> {
    fn task(self, operation: &'static str, pid: i32) -> Result<T>;
    fn fd(self, operation: &'static str, pid: i32, fd: i32) -> Result<T>;
    fn host(self, operation: &'static str) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn task(self, operation: &'static str, pid: i32) -> Result<T> {
        self.map_err(|source| match source {
            Errno::SRCH => Error::Ended {
                pid,
                during: operation,
            },
            source => Error::Task {
                operation,
                pid,
                source,
            },
        })
    }

    fn fd(self, operation: &'static str, pid: i32, fd: i32) -> Result<T> {
        self.map_err(|source| Error::Descriptor {
            operation,
            pid,
            fd,
            source,
        })
    }

    fn host(self, operation: &'static str) -> Result<T> {
        self.map_err(|source| Error::Host { operation, source })
    }
}
