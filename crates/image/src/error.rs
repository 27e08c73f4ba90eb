//! What can go wrong with an image set.

use std::io;
use std::path::PathBuf;

use crate::kind::Kind;
use crate::pagemap::PagemapFault;

/// A failed operation on an image set: which one, on which file, where in it, why.
///
/// Offsets are bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory of the set cannot be opened.
    #[error("cannot open the image directory {}", path.display())]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// Pages are marked as the parent's, and there is no parent.
    #[error("{} has pages that are in a parent image set, and has no parent", path.display())]
    NoParent {
        /// The page map.
        path: PathBuf,
    },

    /// A page that is marked as the parent's is not there.
    #[error("{} lacks the page at {address:#x}, which a set that builds on it refers to", path.display())]
    NotInParent {
        /// The parent's page map.
        path: PathBuf,
        /// Address of the page.
        address: u64,
    },

    /// Pages are where only another program has them.
    #[error("{}: the pages at {address:#x} are in no image set", path.display())]
    PagesElsewhere {
        /// The page map.
        path: PathBuf,
        /// Address of the first.
        address: u64,
    },

    /// Image sets refer to each other as parents in a chain that is too long, or in a circle.
    #[error("{}: more than {limit} parent image sets", path.display())]
    TooManyParents {
        /// The directory whose parent was not opened.
        path: PathBuf,
        /// Parents allowed.
        limit: u32,
    },

    /// A file cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A directory, device, pipe or socket is where an image file should be.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
    },

    /// The list of digests the set was opened with has the file, the directory has not.
    #[error("{} is missing from this image set", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },

    /// The list of digests the set was opened with does not have the file.
    #[error("{} is not one of the files this image set was made with", path.display())]
    NotListed {
        /// The file.
        path: PathBuf,
    },

    /// The list of digests is at odds with itself.
    #[error("the digests of {} contradict each other: {what}", path.display())]
    BadDigestList {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },

    /// A file cannot be read.
    #[error("cannot read {} at offset {offset}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },

    /// The file ends too early.
    #[error("{} is truncated: {wanted_bytes} bytes wanted at offset {offset}, {available_bytes} left", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Bytes there should be.
        wanted_bytes: u64,
        /// Bytes there are.
        available_bytes: u64,
    },

    /// The file goes on after what should have been its end.
    #[error("{} goes on for {extra_bytes} bytes at offset {offset}, where it should end", path.display())]
    TrailingData {
        /// The file.
        path: PathBuf,
        /// Where it should end.
        offset: u64,
        /// Bytes too many.
        extra_bytes: u64,
    },

    /// The file is of another kind, or none of criu's at all.
    #[error("{} does not begin like a {kind} image: {found:#010x} at offset {offset}, expected {expected:#010x}", path.display())]
    BadMagic {
        /// The file.
        path: PathBuf,
        /// What the file should be.
        kind: Kind,
        /// Where.
        offset: u64,
        /// The number there.
        found: u32,
        /// The number that should be there.
        expected: u32,
    },

    /// The file begins with its own magic at once: version 1 of the format, older than criu 2.0.
    #[error("{} is in version 1 of the image format, which is not supported", path.display())]
    OldFormat {
        /// The file.
        path: PathBuf,
    },

    /// An entry claims to be larger than any entry is.
    #[error("{}: the entry at offset {offset} is {size_bytes} bytes long, more than the limit of {limit_bytes}", path.display())]
    EntryTooLarge {
        /// The file.
        path: PathBuf,
        /// Where the entry's length is.
        offset: u64,
        /// Claimed size.
        size_bytes: u64,
        /// Allowed size.
        limit_bytes: u64,
    },

    /// An entry is not a message of the type that belongs here.
    #[error("{}: the entry at offset {offset} cannot be decoded", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Where the message begins.
        offset: u64,
        /// Why.
        source: prost::DecodeError,
    },

    /// A file has no entry where one was expected.
    #[error("{}: there is no entry at offset {offset}", path.display())]
    NoEntry {
        /// The file.
        path: PathBuf,
        /// Where the file ends.
        offset: u64,
    },

    /// A file has more entries than are read into memory at once.
    #[error("{}: too many entries at offset {offset}, the limit is {limit}", path.display())]
    TooManyEntries {
        /// The file.
        path: PathBuf,
        /// Where the first entry too many is.
        offset: u64,
        /// Entries allowed.
        limit: u64,
    },

    /// Raw bytes behind an entry are too many to be read into memory at once.
    #[error("{}: {size_bytes} raw bytes at offset {offset} exceed the limit of {limit_bytes}", path.display())]
    PayloadTooLarge {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Claimed size.
        size_bytes: u64,
        /// Allowed size.
        limit_bytes: u64,
    },

    /// The place raw bytes are copied to cannot be written.
    #[error("cannot copy out of {} at offset {offset}", path.display())]
    CopyOut {
        /// The image file.
        path: PathBuf,
        /// How far it was read.
        offset: u64,
        /// Why.
        source: io::Error,
    },

    /// A file is not the one that was written.
    #[error("{} is damaged: its digest differs", path.display())]
    FileDigest {
        /// The file.
        path: PathBuf,
    },

    /// A block of a pages file is not the one that was written.
    #[error("{} is damaged: the digest of block {block} (offset {offset}) differs", path.display())]
    BlockDigest {
        /// The file.
        path: PathBuf,
        /// Number of the block.
        block: u64,
        /// Where the block begins.
        offset: u64,
    },

    /// A file has another size than when it was written.
    #[error("{} is damaged: {found_bytes} bytes long, should be {expected_bytes}", path.display())]
    FileSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        found_bytes: u64,
        /// Its size when it was written.
        expected_bytes: u64,
    },

    /// More was asked for than a pages file has.
    #[error("{}: {size_bytes} bytes at offset {offset} are outside the file of {file_bytes} bytes", path.display())]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Bytes asked for.
        size_bytes: u64,
        /// Size of the file.
        file_bytes: u64,
    },

    /// A pagemap makes no sense.
    #[error("{}: entry {entry} (offset {offset}) of the pagemap: {fault}", path.display())]
    Pagemap {
        /// The file.
        path: PathBuf,
        /// Number of the entry, the head is 0.
        entry: u64,
        /// Where the entry begins.
        offset: u64,
        /// What is wrong with it.
        fault: PagemapFault,
    },

    /// A pages file is shorter than its pagemap says.
    #[error("{} has {found_bytes} bytes, its pagemap needs {expected_bytes}", path.display())]
    PagesTooShort {
        /// The pages file.
        path: PathBuf,
        /// Its size.
        found_bytes: u64,
        /// Size the pagemap needs.
        expected_bytes: u64,
    },

    /// A kind of file was named with an id it does not take, or without one it needs.
    #[error("{kind} images {}", if *.needs_id { "are numbered: an id is needed" } else { "are not numbered: there can be no id" })]
    Id {
        /// The kind.
        kind: Kind,
        /// Whether it takes an id.
        needs_id: bool,
    },

    /// An operation is not for this kind of file, as entries of a pages file.
    #[error("{kind} images {what}")]
    WrongKind {
        /// The kind.
        kind: Kind,
        /// What they have or lack.
        what: &'static str,
    },

    /// A file cannot be created.
    #[error("cannot create {}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A file cannot be written.
    #[error("cannot write {} at offset {offset}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },

    /// The source of raw bytes that are to follow an entry cannot be read.
    #[error("cannot copy into {} at offset {offset}", path.display())]
    CopyIn {
        /// The image file.
        path: PathBuf,
        /// How far it was written.
        offset: u64,
        /// Why.
        source: io::Error,
    },

    /// An entry to be written is larger than readers accept.
    #[error("an entry of {size_bytes} bytes for {} exceeds the limit of {limit_bytes}", path.display())]
    WriteTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
        /// Allowed size.
        limit_bytes: u64,
    },

    /// Raw bytes to be written are not as many as their entry says.
    #[error("{}: {found_bytes} raw bytes for an entry that says {expected_bytes}", path.display())]
    PayloadSize {
        /// The file.
        path: PathBuf,
        /// Bytes given.
        found_bytes: u64,
        /// Bytes the entry says.
        expected_bytes: u64,
    },

    /// A file was begun and never finished when the set was.
    #[error("{} was not finished", path.display())]
    Unfinished {
        /// The file.
        path: PathBuf,
    },
}

/// What sort of failure an [`Error`] is, for exit codes and for deciding what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file or directory is not there.
    NotFound,
    /// The caller asked for something impossible.
    InvalidInput,
    /// Valid, but not handled by this version.
    Unsupported,
    /// Not allowed to.
    Permission,
    /// In use, or there already.
    Busy,
    /// What was read is damaged or malicious.
    Corrupt,
    /// The system or the disk failed.
    External,
    /// A mistake in this program.
    Internal,
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::OpenDirectory { source, .. }
            | Self::Open { source, .. }
            | Self::Read { source, .. }
            | Self::CopyOut { source, .. }
            | Self::Create { source, .. }
            | Self::Write { source, .. }
            | Self::CopyIn { source, .. } => kind_of_io(source),
            Self::NotListed { .. } => ErrorKind::NotFound,
            Self::OldFormat { .. } | Self::WriteTooLarge { .. } => ErrorKind::Unsupported,
            Self::Id { .. } | Self::WrongKind { .. } | Self::OutOfRange { .. } => {
                ErrorKind::InvalidInput
            }
            Self::PayloadSize { .. } | Self::Unfinished { .. } => ErrorKind::Internal,
            Self::TooManyParents { .. }
            | Self::NoParent { .. }
            | Self::NotInParent { .. }
            | Self::PagesElsewhere { .. }
            | Self::NotRegular { .. }
            | Self::BadDigestList { .. }
            | Self::Truncated { .. }
            | Self::TrailingData { .. }
            | Self::BadMagic { .. }
            | Self::EntryTooLarge { .. }
            | Self::Decode { .. }
            | Self::NoEntry { .. }
            | Self::TooManyEntries { .. }
            | Self::PayloadTooLarge { .. }
            | Self::FileDigest { .. }
            | Self::BlockDigest { .. }
            | Self::FileSize { .. }
            | Self::Pagemap { .. }
            | Self::PagesTooShort { .. }
            | Self::Missing { .. } => ErrorKind::Corrupt,
        }
    }
}

/// `ELOOP` is how `O_NOFOLLOW` reports a symbolic link, see `open(2)`.
fn kind_of_io(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::Permission
        }
        io::ErrorKind::AlreadyExists | io::ErrorKind::ResourceBusy => ErrorKind::Busy,
        io::ErrorKind::NotADirectory => ErrorKind::InvalidInput,
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            ErrorKind::Corrupt
        }
        _ => ErrorKind::External,
    }
}
