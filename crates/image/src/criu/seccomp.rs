//! seccomp.img: the system-call filters of all threads, see `seccomp(2)`.

/// One filter of a chain.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct SeccompFilter {
    /// Instructions, an array of `struct sock_filter`.
    #[prost(bytes = "vec", required, tag = "1")]
    pub filter: Vec<u8>,
    /// Place of the filter installed before it; none for the first of a chain.
    #[prost(uint32, optional, tag = "2")]
    pub prev: Option<u32>,
    /// `SECCOMP_FILTER_FLAG_*` bits.
    #[prost(uint32, optional, tag = "3")]
    pub flags: Option<u32>,
}

/// The one entry of seccomp.img; threads name a filter by its place in the list.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct SeccompEntry {
    #[prost(message, repeated, tag = "1")]
    pub seccomp_filters: Vec<SeccompFilter>,
}
