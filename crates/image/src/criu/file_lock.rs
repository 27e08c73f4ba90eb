//! filelocks.img: advisory locks, see `flock(2)` and `fcntl_locking(2)`.

/// One lock.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct FileLockEntry {
    /// 1 POSIX, 2 flock, 4 open file description, 8 lease.
    #[prost(uint32, required, tag = "1")]
    pub flag: u32,
    /// `F_RDLCK`, `F_WRLCK`, ... or `LOCK_*`.
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
