//! pipes-data.img and fifo-data.img: what was in a pipe. The bytes follow the entry.

/// What one pipe held; `bytes` raw bytes follow.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct PipeDataEntry {
    /// The pipe.
    #[prost(uint32, required, tag = "1")]
    pub pipe_id: u32,
    /// Number of bytes that follow the entry.
    #[prost(uint32, required, tag = "2")]
    pub bytes: u32,
    /// Capacity, see `F_SETPIPE_SZ` in `fcntl(2)`.
    #[prost(uint32, optional, tag = "3")]
    pub size: Option<u32>,
    /// Lengths of packets (`O_DIRECT` in `pipe(2)`), in order; bytes beyond their sum are no packet.
    #[prost(uint32, repeated, packed = "false", tag = "20001")]
    pub cryopod_packets: Vec<u32>,
}
