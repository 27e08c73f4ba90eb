//! The LoongArch part of core-PID.img.

/// General registers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserLoongarch64GpregsEntry {
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub regs: Vec<u64>,
    #[prost(uint64, required, tag = "2")]
    pub pc: u64,
}

/// Floating point registers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserLoongarch64FpregsEntry {
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub regs: Vec<u64>,
    #[prost(uint64, required, tag = "2")]
    pub fcc: u64,
    #[prost(uint32, required, tag = "3")]
    pub fcsr: u32,
}

/// Processor state of a thread on LoongArch.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct ThreadInfoLoongarch64 {
    #[prost(uint64, required, tag = "1")]
    pub clear_tid_addr: u64,
    #[prost(uint64, required, tag = "2")]
    pub tls: u64,
    #[prost(message, required, tag = "3")]
    pub gpregs: UserLoongarch64GpregsEntry,
    #[prost(message, required, tag = "4")]
    pub fpregs: UserLoongarch64FpregsEntry,
}
