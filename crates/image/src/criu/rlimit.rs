//! Resource limits, see `getrlimit(2)`.

/// One limit; `u64::MAX` is no limit.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct RlimitEntry {
    /// Soft limit.
    #[prost(uint64, required, tag = "1")]
    pub cur: u64,
    /// Hard limit.
    #[prost(uint64, required, tag = "2")]
    pub max: u64,
}
