//! What can go wrong in a store, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::meta::FORMAT_VERSION;
use crate::name::{MAX_NAME_BYTES, Ref};

/// What sort of failure an [`Error`] is; decides the exit code of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// What was asked for does not exist.
    NotFound,
    /// The request itself cannot be carried out as stated.
    InvalidInput,
    /// Valid, but not something this version (or this file system) can do.
    Unsupported,
    /// The caller may not do this.
    Permission,
    /// Something else has hold of it; trying again may help.
    Busy,
    /// What is on disk is not what was written.
    Corrupt,
    /// The world outside failed: the disk is full, an input/output error.
    External,
    /// The caller of this crate made a mistake.
    Internal,
}

/// What is wrong with a label or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameProblem {
    /// It is empty.
    Empty,
    /// It has a single character.
    TooShort,
    /// It has more than [`MAX_NAME_BYTES`] bytes.
    TooLong,
    /// It starts with something other than a letter or a digit.
    Start(char),
    /// It has something other than letters, digits, `_`, `.` and `-`.
    Character(char),
}

impl fmt::Display for NameProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(out, "it is empty"),
            Self::TooShort => write!(out, "it has a single character"),
            Self::TooLong => write!(out, "it is longer than {MAX_NAME_BYTES} bytes"),
            Self::Start(found) => write!(out, "it starts with {found:?}"),
            Self::Character(found) => write!(out, "{found:?} is not allowed in it"),
        }
    }
}

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A label or a name does not follow the rule for names.
    #[error("{what} {value:?}: {problem}")]
    BadName {
        /// `label` or `name`.
        what: &'static str,
        /// What was given (the beginning of it, when it is long).
        value: String,
        /// What is wrong with it.
        problem: NameProblem,
    },
    /// A digest is not 64 hexadecimal digits.
    #[error("{value:?} is not a BLAKE3 digest: {problem}")]
    BadDigest {
        /// What was given (the beginning of it, when it is long).
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No such checkpoint.
    #[error("no checkpoint {reference} in {}", .store.display())]
    NotFound {
        /// What was asked for.
        reference: Ref,
        /// Where it was looked for.
        store: PathBuf,
    },
    /// The name is taken.
    #[error("checkpoint {reference} exists already in {}", .store.display())]
    Exists {
        /// The name.
        reference: Ref,
        /// The store that has it.
        store: PathBuf,
    },
    /// Others have pages in it.
    #[error("checkpoint {reference} is needed by {}", names(.by))]
    Needed {
        /// What was to go.
        reference: Ref,
        /// Those that build on it.
        by: Vec<Ref>,
    },
    /// Too many checkpoints build on one another, or some of them in a circle.
    #[error("checkpoint {reference} builds on more than {limit} others")]
    LongLine {
        /// The first of them.
        reference: Ref,
        /// How many there may be.
        limit: usize,
    },
    /// Another command builds on it, or reads it.
    #[error("checkpoint {reference} is in use by another command")]
    InUse {
        /// What was to go.
        reference: Ref,
    },
    /// The path given for the store is not a directory.
    #[error("the store {} is not a directory", .path.display())]
    StoreNotADirectory {
        /// The path that was given.
        path: PathBuf,
    },
    /// The directory given for the store belongs to something else: its `tmp/` was not made by a store.
    #[error("{} is in use for something else and cannot be a store", .path.display())]
    NotAStore {
        /// The path that was given.
        path: PathBuf,
    },
    /// Something that is not a directory is where the store keeps a directory.
    #[error("{} is in the way: not a directory", .path.display())]
    InTheWay {
        /// What is in the way.
        path: PathBuf,
    },
    /// Something in the store has a name that the store gives to nothing.
    #[error("{} was not made by the store", .path.display())]
    Foreign {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with its name.
        source: Box<Error>,
    },
    /// A checkpoint directory has no `checkpoint.json`.
    #[error("{} has no checkpoint.json", .path.display())]
    MissingMeta {
        /// The checkpoint's directory.
        path: PathBuf,
    },
    /// A `checkpoint.json` is a directory, a link or a device.
    #[error("{} is not a regular file", .path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// A `checkpoint.json` could be read but not understood; the source says why and decides the kind.
    #[error("cannot use {}", .path.display())]
    Unreadable {
        /// The `checkpoint.json`.
        path: PathBuf,
        /// [`Error::MetaSyntax`], [`Error::MetaField`], [`Error::MetaTooLarge`] or [`Error::MetaVersion`].
        source: Box<Error>,
    },
    /// A checkpoint's description is not JSON, or lacks something, or has something of the wrong type.
    #[error("the checkpoint's description is broken")]
    MetaSyntax {
        /// Where and why.
        source: serde_json::Error,
    },
    /// A checkpoint's description has a field with an impossible value.
    #[error("the checkpoint's description is broken: {field}: {problem}")]
    MetaField {
        /// Which field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A checkpoint's description is larger than anything this crate would write.
    #[error("the checkpoint's description is too large: {actual} {unit}, at most {limit} allowed")]
    MetaTooLarge {
        /// How large.
        actual: u64,
        /// How large it may be.
        limit: u64,
        /// Of what: `bytes`, `values` or `files`.
        unit: &'static str,
    },
    /// A checkpoint was written in a later format.
    #[error("the checkpoint has format version {found}; this version knows up to {supported}", supported = FORMAT_VERSION)]
    MetaVersion {
        /// Its format version.
        found: u64,
    },
    /// A checkpoint's description cannot be turned into JSON.
    #[error("cannot write the checkpoint's description as JSON")]
    MetaEncode {
        /// Why.
        source: serde_json::Error,
    },
    /// A file that the description names was not staged, or not with that size.
    #[error("staged file {}: {problem}", .path.display())]
    FileMismatch {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The staging directory vanished while it was in use.
    #[error("staging directory {} vanished while the checkpoint was made", .path.display())]
    StagingLost {
        /// Where it was.
        path: PathBuf,
    },
    /// Other commands kept changing the same checkpoint.
    #[error("{} kept changing while it was being used", .path.display())]
    Contended {
        /// The checkpoint's directory.
        path: PathBuf,
    },
    /// The disk (or a quota on it) is full.
    #[error("cannot {operation} {}: no space left", .path.display())]
    NoSpace {
        /// What was being done.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// `ENOSPC` or `EDQUOT`.
        source: io::Error,
    },
    /// The file system cannot rename without replacing, or cannot exchange two directories.
    #[error("the file system of {} cannot rename in one step", .path.display())]
    RenameUnsupported {
        /// The rename's target.
        path: PathBuf,
        /// The kernel's answer to `renameat2(2)`.
        source: io::Error,
    },
    /// The checkpoint is whole and in place, but the directory that names it could not be flushed to disk.
    #[error("{} is in place, but may not survive a power failure", .path.display())]
    NotDurable {
        /// The checkpoint's directory.
        path: PathBuf,
        /// The failure to flush.
        source: Box<Error>,
    },
    /// A checkpoint is out of the store, but its files could not all be deleted.
    #[error("checkpoint {reference} is removed, but its files could not be deleted")]
    NotDeleted {
        /// The checkpoint.
        reference: Ref,
        /// What failed.
        source: Box<Error>,
    },
    /// Any other failed system call.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was being done, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// Turns a failed system call into the variant for it.
    pub(crate) fn io(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let path = path.to_owned();
        if is_errno(&source, &[Errno::NOSPC, Errno::DQUOT]) {
            return Self::NoSpace {
                operation,
                path,
                source,
            };
        }
        Self::Io {
            operation,
            path,
            source,
        }
    }

    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BadName { .. } | Self::BadDigest { .. } => ErrorKind::InvalidInput,
            Self::Exists { .. } | Self::StoreNotADirectory { .. } | Self::NotAStore { .. } => {
                ErrorKind::InvalidInput
            }
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::InTheWay { .. }
            | Self::LongLine { .. }
            | Self::Foreign { .. }
            | Self::MissingMeta { .. }
            | Self::NotAFile { .. } => ErrorKind::Corrupt,
            Self::MetaSyntax { .. } | Self::MetaField { .. } | Self::MetaTooLarge { .. } => {
                ErrorKind::Corrupt
            }
            Self::MetaVersion { .. } | Self::RenameUnsupported { .. } => ErrorKind::Unsupported,
            Self::MetaEncode { .. } | Self::FileMismatch { .. } => ErrorKind::Internal,
            Self::Contended { .. } | Self::Needed { .. } | Self::InUse { .. } => ErrorKind::Busy,
            Self::NoSpace { .. } | Self::StagingLost { .. } => ErrorKind::External,
            Self::Unreadable { source, .. }
            | Self::NotDurable { source, .. }
            | Self::NotDeleted { source, .. } => source.kind(),
            Self::Io { source, .. } => kind_of_io(source),
        }
    }

    /// What to do about it, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::BadName { .. } => format!(
                "use 2 to {MAX_NAME_BYTES} letters, digits, '_', '.' and '-', starting with a letter or a digit; \
                 a checkpoint is LABEL or LABEL:NAME"
            ),
            Self::BadDigest { .. } => {
                "a BLAKE3 digest is written as 64 hexadecimal digits".to_owned()
            }
            Self::NotFound { reference, .. } if reference.name.is_some() => {
                format!(
                    "list the checkpoints under the label {}, or check the store's directory",
                    reference.label
                )
            }
            Self::NotFound { .. } => {
                "list the checkpoints, or check the store's directory".to_owned()
            }
            Self::Exists { .. } => {
                "choose another name, remove that checkpoint first, or ask to replace it".to_owned()
            }
            Self::Needed { .. } => {
                "remove those first, or with it, or fold it into them: `cryopod rm --merge`"
                    .to_owned()
            }
            Self::InUse { .. } => "try again when that is done".to_owned(),
            Self::StoreNotADirectory { .. } => "choose a directory for the store".to_owned(),
            Self::NotAStore { .. } => {
                "choose an empty directory, or one that does not exist yet".to_owned()
            }
            Self::InTheWay { path } | Self::Foreign { path, .. } => {
                format!("move {} out of the store", path.display())
            }
            Self::MissingMeta { .. }
            | Self::LongLine { .. }
            | Self::NotAFile { .. }
            | Self::MetaSyntax { .. }
            | Self::MetaField { .. }
            | Self::MetaTooLarge { .. } => {
                "the checkpoint cannot be used; remove it and make it again".to_owned()
            }
            Self::MetaVersion { .. } => {
                "use the version of cryopod that made it, or a later one".to_owned()
            }
            Self::NoSpace { .. } => {
                "free some space, or remove checkpoints that are no longer needed".to_owned()
            }
            Self::RenameUnsupported { .. } => {
                "keep the store on a local file system such as ext4, xfs, btrfs or tmpfs".to_owned()
            }
            Self::Contended { .. } => "try again when the other commands are done".to_owned(),
            Self::StagingLost { .. } => {
                "let nothing but cryopod delete files in the store's tmp directory".to_owned()
            }
            Self::NotDurable { .. } => {
                "check the disk; make the checkpoint again once it is well".to_owned()
            }
            Self::Unreadable { source, .. } => return source.hint(),
            Self::NotDeleted { .. } => "the next command on this store will try again".to_owned(),
            Self::Io { source, .. } => return hint_of_io(source).map(str::to_owned),
            Self::MetaEncode { .. } | Self::FileMismatch { .. } => return None,
        };
        Some(hint)
    }
}

/// Whether `error` is one of `wanted`.
fn is_errno(error: &io::Error, wanted: &[Errno]) -> bool {
    error
        .raw_os_error()
        .is_some_and(|raw| wanted.iter().any(|errno| errno.raw_os_error() == raw))
}

/// The kind of a plain system call failure.
fn kind_of_io(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::Permission
        }
        io::ErrorKind::ResourceBusy | io::ErrorKind::WouldBlock => ErrorKind::Busy,
        _ => ErrorKind::External,
    }
}

/// References, as a sentence has them; many are not told one by one.
fn names(references: &[Ref]) -> String {
    const SHOWN: usize = 8;
    let mut shown: Vec<String> = references.iter().take(SHOWN).map(Ref::to_string).collect();
    if references.len() > SHOWN {
        shown.push(format!("{} more", references.len() - SHOWN));
    }
    shown.join(", ")
}

/// What to do about a plain system call failure.
fn hint_of_io(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Some("run as the user that owns the store, or choose another store")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            Some("choose a store on a file system that can be written to")
        }
        io::ErrorKind::CrossesDevices => {
            Some("keep tmp and checkpoints of the store on one file system")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks what becomes of a system call's failure.
    #[track_caller]
    fn check(errno: Errno, kind: ErrorKind, hint: &str) {
        let error = Error::io("create", Path::new("/store/tmp"), errno);
        assert_eq!(error.kind(), kind, "{error:?}");
        let given = error.hint();
        assert!(
            given.as_deref().unwrap_or_default().contains(hint),
            "{given:?}"
        );
        assert!(
            error.to_string().starts_with("cannot create /store/tmp"),
            "{error}"
        );
    }

    #[test]
    fn system_calls_fail_in_several_ways() {
        check(Errno::NOSPC, ErrorKind::External, "free some space");
        check(Errno::DQUOT, ErrorKind::External, "free some space");
        check(Errno::ACCESS, ErrorKind::Permission, "run as the user");
        check(Errno::ROFS, ErrorKind::Permission, "can be written to");
        check(Errno::XDEV, ErrorKind::External, "one file system");
        check(Errno::NOENT, ErrorKind::NotFound, "");
        check(Errno::BUSY, ErrorKind::Busy, "");
        check(Errno::IO, ErrorKind::External, "");
    }

    #[test]
    fn rare_failures_explain_themselves_too() {
        let path = || PathBuf::from("/store/checkpoints/web/v1");
        let failure = || Box::new(Error::io("flush", &path(), Errno::IO));
        let rare = [
            (
                Error::RenameUnsupported {
                    path: path(),
                    source: Errno::INVAL.into(),
                },
                ErrorKind::Unsupported,
            ),
            (Error::Contended { path: path() }, ErrorKind::Busy),
            (
                Error::NotDurable {
                    path: path(),
                    source: failure(),
                },
                ErrorKind::External,
            ),
        ];
        for (error, kind) in rare {
            assert_eq!(error.kind(), kind, "{error:?}");
            assert!(error.hint().is_some(), "{error:?}");
            assert!(
                error.to_string().contains("/store/checkpoints/web/v1"),
                "{error}"
            );
        }
    }
}
