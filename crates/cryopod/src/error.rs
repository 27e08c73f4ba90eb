//! What can go wrong, in the words of whoever asked for a checkpoint or a restore.
//!
//! Most failures come from a crate below and speak for themselves; they are passed on as they are. Added here is what
//! only the workflows know.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// What every function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure an [`Error`] is; exit codes follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// What was asked for does not exist.
    NotFound,
    /// The request makes no sense as stated.
    InvalidInput,
    /// Valid, but not something this version, this kernel or this processor can do.
    Unsupported,
    /// A privilege is missing.
    Permission,
    /// Something else has hold of it; trying again may help.
    Busy,
    /// What is on disk is not what was written.
    Corrupt,
    /// The world outside failed: the disk is full, a program ended.
    External,
    /// A mistake in cryopod.
    Internal,
}

impl ErrorKind {
    /// The name of it, as it is in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::InvalidInput => "invalid_input",
            Self::Unsupported => "unsupported",
            Self::Permission => "permission",
            Self::Busy => "busy",
            Self::Corrupt => "corrupt",
            Self::External => "external",
            Self::Internal => "internal",
        }
    }
}

/// One thing that stands in the way of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unsupported {
    /// The process that has it.
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

/// A failure of a workflow.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A target is written in a way that means nothing.
    #[error("target {value:?}: {problem}")]
    BadTarget {
        /// What was given.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A target names a place where cryopod does not look for programs.
    #[error("target {value:?}: there is no scheme {scheme:?}")]
    UnknownScheme {
        /// What was given.
        value: String,
        /// The part before the colon.
        scheme: String,
    },
    /// The pid of a target belongs to a thread.
    #[error("pid {pid} is a thread of the process {process}")]
    NotAProcess {
        /// What was given.
        pid: i32,
        /// The process it is part of.
        process: i32,
    },
    /// The tree that was asked for has cryopod in it.
    #[error("cryopod itself is part of the tree of pid {root}")]
    SelfInTree {
        /// The root that was asked for.
        root: i32,
    },
    /// The tree has things that cannot be checkpointed. Nothing was changed.
    #[error("{} that cannot be checkpointed:{}", count(.0.len()), list(.0))]
    Unsupported(Vec<Unsupported>),
    /// The checkpoint was made on another architecture.
    #[error("the checkpoint was made on {found}, this is {own}")]
    OtherArchitecture {
        /// Its architecture.
        found: String,
        /// That of this machine.
        own: &'static str,
    },
    /// The processor lacks what the one had that the checkpoint was made on.
    #[error("this processor lacks what the processes may be using: {}", .missing.join(", "))]
    MissingCpuFeatures {
        /// The features, as in /proc/cpuinfo.
        missing: Vec<String>,
    },
    /// The target was to end after its checkpoint, which is safely stored, and did not.
    #[error("{reference} is stored, but its processes could not be ended")]
    StoredNotStopped {
        /// The checkpoint.
        reference: String,
        /// Why.
        source: cryopod_engine::Error,
    },
    /// A file or directory outside of the store cannot be used.
    #[error("cannot {operation} {}", .path.display())]
    Path {
        /// What was attempted.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A request about this process or one of its children failed.
    #[error("cannot {operation} pid {pid}")]
    Child {
        /// What was attempted.
        operation: &'static str,
        /// The process.
        pid: i32,
        /// Why.
        source: std::io::Error,
    },
    /// Something that the caller does at a certain point of a workflow failed.
    #[error("{stage} failed")]
    Hook {
        /// At which point.
        stage: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The caller asked to stop; everything is as it was before.
    #[error("interrupted; everything is as it was before")]
    Interrupted,
    /// The engine failed.
    #[error(transparent)]
    Engine(cryopod_engine::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] cryopod_store::Error),
    /// Reading or writing an image failed.
    #[error(transparent)]
    Image(#[from] cryopod_image::Error),
}

impl From<cryopod_engine::Error> for Error {
    fn from(error: cryopod_engine::Error) -> Self {
        match error {
            cryopod_engine::Error::Unsupported(found) => Self::Unsupported(
                found
                    .into_iter()
                    .map(|one| Unsupported {
                        pid: one.pid,
                        fd: one.fd,
                        what: one.what,
                    })
                    .collect(),
            ),
            cryopod_engine::Error::Cancelled => Self::Interrupted,
            cryopod_engine::Error::Image(error) => Self::Image(error),
            error => Self::Engine(error),
        }
    }
}

fn count(number: usize) -> String {
    match number {
        1 => "one thing".to_owned(),
        number => format!("{number} things"),
    }
}

fn list(found: &[Unsupported]) -> String {
    found.iter().map(|one| format!("\n  {one}")).collect()
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BadTarget { .. } | Self::NotAProcess { .. } | Self::SelfInTree { .. } => {
                ErrorKind::InvalidInput
            }
            Self::UnknownScheme { .. }
            | Self::Unsupported(_)
            | Self::OtherArchitecture { .. }
            | Self::MissingCpuFeatures { .. } => ErrorKind::Unsupported,
            Self::StoredNotStopped { source, .. } => engine_kind(source.kind()),
            Self::Path { source, .. } | Self::Child { source, .. } => io_kind(source),
            Self::Hook { .. } | Self::Interrupted => ErrorKind::External,
            Self::Engine(error) => engine_kind(error.kind()),
            Self::Store(error) => store_kind(error.kind()),
            Self::Image(error) => image_kind(error),
        }
    }

    /// What to do about it, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::BadTarget { .. } => "give a process id: 1234 or pid:1234",
            Self::UnknownScheme { .. } => {
                "the one scheme there is so far is pid, as in pid:1234; for a container, give the pid of its first process"
            }
            Self::NotAProcess { process, .. } => {
                return Some(format!("checkpoint the process: {process}"));
            }
            Self::SelfInTree { .. } => {
                "run cryopod from outside of that tree, for example from another terminal"
            }
            Self::Unsupported(_) => {
                "end or close what is listed, then try again; nothing was changed"
            }
            Self::OtherArchitecture { .. } => "restore it on a machine of that architecture",
            Self::MissingCpuFeatures { .. } => {
                "restore on a machine whose processor has them (compare with `flags` in /proc/cpuinfo)"
            }
            Self::StoredNotStopped { .. } => {
                "end the processes by hand, or go on with them running"
            }
            Self::Engine(error) => return error.hint(),
            Self::Store(error) => return error.hint(),
            Self::Image(_) if self.kind() == ErrorKind::Corrupt => {
                "the images were changed or damaged after they were written; use another checkpoint"
            }
            Self::Image(error) if is_no_space(error) => {
                "free some space, or remove checkpoints that are no longer needed"
            }
            Self::Path { .. } | Self::Child { .. } | Self::Image(_)
                if self.kind() == ErrorKind::Permission =>
            {
                "run as root; `cryopod doctor` lists what is missing"
            }
            Self::Path { .. }
            | Self::Child { .. }
            | Self::Image(_)
            | Self::Hook { .. }
            | Self::Interrupted => {
                return None;
            }
        };
        Some(hint.to_owned())
    }

    /// What stands in the way of a checkpoint, where that is the failure.
    #[must_use]
    pub fn unsupported(&self) -> &[Unsupported] {
        match self {
            Self::Unsupported(found) => found,
            _ => &[],
        }
    }

    /// Attaches an operation and a path to a failure.
    pub(crate) fn path(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Path {
            operation,
            path,
            source,
        }
    }
}

fn engine_kind(kind: cryopod_engine::ErrorKind) -> ErrorKind {
    use cryopod_engine::ErrorKind as Theirs;
    match kind {
        Theirs::NotFound => ErrorKind::NotFound,
        Theirs::InvalidInput => ErrorKind::InvalidInput,
        Theirs::Unsupported => ErrorKind::Unsupported,
        Theirs::Permission => ErrorKind::Permission,
        Theirs::Busy => ErrorKind::Busy,
        Theirs::Corrupt => ErrorKind::Corrupt,
        Theirs::External => ErrorKind::External,
        _ => ErrorKind::Internal,
    }
}

fn store_kind(kind: cryopod_store::ErrorKind) -> ErrorKind {
    use cryopod_store::ErrorKind as Theirs;
    match kind {
        Theirs::NotFound => ErrorKind::NotFound,
        Theirs::InvalidInput => ErrorKind::InvalidInput,
        Theirs::Unsupported => ErrorKind::Unsupported,
        Theirs::Permission => ErrorKind::Permission,
        Theirs::Busy => ErrorKind::Busy,
        Theirs::Corrupt => ErrorKind::Corrupt,
        Theirs::External => ErrorKind::External,
        _ => ErrorKind::Internal,
    }
}

fn image_kind(error: &cryopod_image::Error) -> ErrorKind {
    use cryopod_image::ErrorKind as Theirs;
    match error.kind() {
        Theirs::NotFound => ErrorKind::NotFound,
        Theirs::InvalidInput => ErrorKind::InvalidInput,
        Theirs::Unsupported => ErrorKind::Unsupported,
        Theirs::Permission => ErrorKind::Permission,
        Theirs::Busy => ErrorKind::Busy,
        Theirs::Corrupt => ErrorKind::Corrupt,
        Theirs::External => ErrorKind::External,
        _ => ErrorKind::Internal,
    }
}

pub(crate) fn io_kind(error: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Theirs;
    match error.kind() {
        Theirs::NotFound => ErrorKind::NotFound,
        Theirs::PermissionDenied | Theirs::ReadOnlyFilesystem => ErrorKind::Permission,
        Theirs::AlreadyExists | Theirs::ResourceBusy => ErrorKind::Busy,
        Theirs::NotADirectory | Theirs::InvalidInput => ErrorKind::InvalidInput,
        _ => ErrorKind::External,
    }
}

fn is_no_space(error: &cryopod_image::Error) -> bool {
    use cryopod_image::Error as Theirs;
    match error {
        Theirs::Create { source, .. } | Theirs::Write { source, .. } => {
            matches!(
                source.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            )
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unsupported_is_listed_once_and_machine_readable() {
        let engine = cryopod_engine::Error::Unsupported(vec![
            cryopod_engine::Unsupported {
                pid: 41,
                fd: Some(7),
                what: "io_uring instance: not supported".into(),
            },
            cryopod_engine::Unsupported {
                pid: 42,
                fd: None,
                what: "its own mount namespace".into(),
            },
        ]);
        let error = Error::from(engine);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(
            error.to_string(),
            "2 things that cannot be checkpointed:\n  pid 41 fd 7: io_uring instance: not supported\n  pid 42: its own mount namespace"
        );
        assert_eq!(error.unsupported().len(), 2);
        assert!(error.hint().is_some());
    }

    #[test]
    fn a_full_disk_says_what_to_do() {
        let source = rustix::io::Errno::NOSPC.into();
        let error = Error::from(cryopod_image::Error::Write {
            path: "pages-1.img".into(),
            offset: 0,
            source,
        });
        assert_eq!(error.kind(), ErrorKind::External);
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("free some space"))
        );
    }

    #[test]
    fn kinds_are_named_alike_in_json() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::InvalidInput,
            ErrorKind::Busy,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
