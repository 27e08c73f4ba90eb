//! Points in time.

/// Seconds and microseconds.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct Timeval {
    #[prost(uint64, required, tag = "1")]
    pub tv_sec: u64,
    #[prost(uint64, required, tag = "2")]
    pub tv_usec: u64,
}
