//! Signal dispositions, see `sigaction(2)`.

/// How one signal is handled. Entry 0 is signal 1; SIGKILL and SIGSTOP are left out.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct SaEntry {
    /// Address of the handler, 0 default, 1 ignore.
    #[prost(uint64, required, tag = "1")]
    pub sigaction: u64,
    /// `SA_*` flags.
    #[prost(uint64, required, tag = "2")]
    pub flags: u64,
    /// Address of the trampoline (`SA_RESTORER`).
    #[prost(uint64, required, tag = "3")]
    pub restorer: u64,
    /// Signals blocked in the handler, bit 0 is signal 1.
    #[prost(uint64, required, tag = "4")]
    pub mask: u64,
    /// Set by a 32-bit system call.
    #[prost(bool, optional, tag = "5")]
    pub compat_sigaction: Option<bool>,
    /// Signals 65 to 128, on MIPS only.
    #[prost(uint64, optional, tag = "6")]
    pub mask_extended: Option<u64>,
}
