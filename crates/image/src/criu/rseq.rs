//! Restartable sequences of a thread, see `PTRACE_GET_RSEQ_CONFIGURATION` in `ptrace(2)`.

/// Registration of a restartable sequence area.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct RseqEntry {
    /// Address of the `struct rseq`.
    #[prost(uint64, required, tag = "1")]
    pub rseq_abi_pointer: u64,
    /// Size it was registered with.
    #[prost(uint32, required, tag = "2")]
    pub rseq_abi_size: u32,
    /// Signature it was registered with.
    #[prost(uint32, required, tag = "3")]
    pub signature: u32,
    /// Critical section the thread was stopped in.
    #[prost(uint64, optional, tag = "4")]
    pub rseq_cs_pointer: Option<u64>,
}
