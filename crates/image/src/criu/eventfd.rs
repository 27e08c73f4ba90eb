//! Event counters, see `eventfd(2)`.

/// An event counter.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct EventfdFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Open flags and `EFD_SEMAPHORE`.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(message, required, tag = "3")]
    pub fown: super::FownEntry,
    #[prost(uint64, required, tag = "4")]
    pub counter: u64,
}
