//! timens-ID.img: clock offsets of a time namespace, see `time_namespaces(7)`.

/// Seconds and nanoseconds.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct Timespec {
    #[prost(uint64, required, tag = "1")]
    pub tv_sec: u64,
    #[prost(uint64, required, tag = "2")]
    pub tv_nsec: u64,
}

/// The one entry of timens-ID.img: what the namespace adds to each clock.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TimensEntry {
    #[prost(message, required, tag = "1")]
    pub monotonic: Timespec,
    #[prost(message, required, tag = "2")]
    pub boottime: Timespec,
}
