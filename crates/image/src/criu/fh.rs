//! File handles, see `name_to_handle_at(2)`, and the cache that maps inodes to paths.

/// A file handle.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct FhEntry {
    /// Number of meaningful bytes in `handle`.
    #[prost(uint32, required, tag = "1")]
    pub bytes: u32,
    /// Handle type.
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    /// The handle in 64-bit words, at least [`FH_ENTRY_MIN_WORDS`].
    #[prost(uint64, repeated, packed = "false", tag = "3")]
    pub handle: Vec<u64>,
    /// A path that leads to the file, for file systems without handles.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub path: Option<Vec<u8>>,
    #[prost(uint32, optional, tag = "5")]
    pub mnt_id: Option<u32>,
}

/// One entry of irmap-cache: an inode and a path that leads to it.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct IrmapCacheEntry {
    #[prost(uint32, required, tag = "1")]
    pub dev: u32,
    #[prost(uint64, required, tag = "2")]
    pub inode: u64,
    #[prost(bytes = "vec", required, tag = "3")]
    pub path: Vec<u8>,
}

/// Fewest words criu accepts in [`FhEntry::handle`].
pub const FH_ENTRY_MIN_WORDS: usize = 16;
