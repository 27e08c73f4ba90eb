//! Open ends of named pipes, see `fifo(7)`.

/// One open end of a named pipe; its path is the [`RegFileEntry`](super::RegFileEntry) with the same `id`.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct FifoEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// The same for all ends of one fifo.
    #[prost(uint32, required, tag = "2")]
    pub pipe_id: u32,
    /// Id of the [`RegFileEntry`](super::RegFileEntry) when it differs from `id`.
    #[prost(uint32, optional, tag = "3")]
    pub regf_id: Option<u32>,
}
