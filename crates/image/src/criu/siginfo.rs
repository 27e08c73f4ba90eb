//! Pending signals, as `PTRACE_PEEKSIGINFO` returns them (`ptrace(2)`).

/// One pending signal.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct SiginfoEntry {
    /// A `siginfo_t` of the kernel, 128 bytes.
    #[prost(bytes = "vec", required, tag = "1")]
    pub siginfo: Vec<u8>,
}

/// A queue of pending signals, oldest first.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct SignalQueueEntry {
    #[prost(message, repeated, tag = "1")]
    pub signals: Vec<SiginfoEntry>,
}
