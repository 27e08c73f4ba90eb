//! Ends of pipes, see `pipe(7)`.

/// One end of a pipe.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct PipeEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// The same for both ends.
    #[prost(uint32, required, tag = "2")]
    pub pipe_id: u32,
    /// Open flags (`O_*`).
    #[prost(uint32, required, tag = "3")]
    pub flags: u32,
    #[prost(message, required, tag = "4")]
    pub fown: super::FownEntry,
}
