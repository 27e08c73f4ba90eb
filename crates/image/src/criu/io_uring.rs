//! Instances of io_uring, see `io_uring(7)`. Not of criu, which has no such entry.

/// An instance without requests under way.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CryopodIoUringEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Open flags.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(message, required, tag = "3")]
    pub fown: super::FownEntry,
    /// Entries of the submission queue.
    #[prost(uint32, required, tag = "4")]
    pub submissions: u32,
    /// Entries of the completion queue.
    #[prost(uint32, required, tag = "5")]
    pub completions: u32,
    /// Requests it has taken so far, and completed.
    #[prost(uint32, required, tag = "6")]
    pub requests: u32,
    /// Completions that the program has seen so far.
    #[prost(uint32, required, tag = "7")]
    pub seen: u32,
    /// The memory of both rings.
    #[prost(bytes = "vec", required, tag = "8")]
    pub rings: Vec<u8>,
    /// The entries of the submission queue.
    #[prost(bytes = "vec", required, tag = "9")]
    pub entries: Vec<u8>,
}
