//! Signal descriptors, see `signalfd(2)`.

/// A signal descriptor.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct SignalfdEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(message, required, tag = "3")]
    pub fown: super::FownEntry,
    /// Accepted signals, bit 0 is signal 1.
    #[prost(uint64, required, tag = "4")]
    pub sigmask: u64,
}
