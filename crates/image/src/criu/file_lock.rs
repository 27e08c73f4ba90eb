//! filelocks.img: advisory locks, see `flock(2)` and `fcntl_locking(2)`.

/// One lock.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct FileLockEntry {
    /// See [`lock_kind`].
    #[prost(uint32, required, tag = "1")]
    pub flag: u32,
    /// See [`lock_type`].
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    #[prost(int32, required, tag = "3")]
    pub pid: i32,
    #[prost(int32, required, tag = "4")]
    pub fd: i32,
    #[prost(int64, required, tag = "5")]
    pub start: i64,
    /// Bytes, 0 to the end of the file.
    #[prost(int64, required, tag = "6")]
    pub len: i64,
}

/// Values of [`FileLockEntry::flag`].
pub mod lock_kind {
    /// `F_SETLK`.
    pub const POSIX: u32 = 1;
    /// `flock(2)`.
    pub const FLOCK: u32 = 2;
    /// `F_OFD_SETLK`.
    pub const OFD: u32 = 4;
    /// `F_SETLEASE`.
    pub const LEASE: u32 = 8;
}

/// Values of [`FileLockEntry::type`](FileLockEntry).
pub mod lock_type {
    /// `F_RDLCK`.
    pub const READ: u32 = 0;
    /// `F_WRLCK`.
    pub const WRITE: u32 = 1;
    /// `F_UNLCK`: a lease that is to be given up.
    pub const NONE: u32 = 2;
    /// With the others: the lease is being broken, and they say what will be left of it.
    pub const BREAKING: u32 = 4;
}
