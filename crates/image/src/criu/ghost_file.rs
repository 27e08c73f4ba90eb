//! ghost-file-ID.img: a file that was open but had no name any more. Its contents follow the entry.

/// First entry of a ghost file: metadata. Contents follow, raw to the end of the file or as chunks.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct GhostFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    #[prost(uint32, required, tag = "2")]
    pub gid: u32,
    #[prost(uint32, required, tag = "3")]
    pub mode: u32,
    /// Device it was on.
    #[prost(uint32, optional, tag = "4")]
    pub dev: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    pub ino: Option<u64>,
    /// Device it is, for device nodes.
    #[prost(uint32, optional, tag = "6")]
    pub rdev: Option<u32>,
    #[prost(message, optional, tag = "7")]
    pub atim: Option<super::Timeval>,
    #[prost(message, optional, tag = "8")]
    pub mtim: Option<super::Timeval>,
    /// Contents follow as [`GhostChunkEntry`] pieces.
    #[prost(bool, optional, tag = "9")]
    pub chunks: Option<bool>,
    /// Size of the file, with `chunks`.
    #[prost(uint64, optional, tag = "10")]
    pub size: Option<u64>,
    /// Target of a symbolic link.
    #[prost(bytes = "vec", optional, tag = "11")]
    pub symlnk_target: Option<Vec<u8>>,
}

/// A piece of a sparse ghost file; `len` raw bytes follow.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct GhostChunkEntry {
    #[prost(uint64, required, tag = "1")]
    pub len: u64,
    /// Offset in the file.
    #[prost(uint64, required, tag = "2")]
    pub off: u64,
}
