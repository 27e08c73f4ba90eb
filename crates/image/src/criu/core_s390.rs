//! The s390x part of core-PID.img.

/// General and access registers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserS390RegsEntry {
    #[prost(uint64, required, tag = "1")]
    pub psw_mask: u64,
    #[prost(uint64, required, tag = "2")]
    pub psw_addr: u64,
    #[prost(uint64, repeated, packed = "false", tag = "3")]
    pub gprs: Vec<u64>,
    #[prost(uint32, repeated, packed = "false", tag = "4")]
    pub acrs: Vec<u32>,
    #[prost(uint64, required, tag = "5")]
    pub orig_gpr2: u64,
    #[prost(uint32, required, tag = "6")]
    pub system_call: u32,
}

/// Low halves of the first sixteen vector registers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserS390VxrsLowEntry {
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub regs: Vec<u64>,
}

/// The upper sixteen vector registers, two words each, high one first.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserS390VxrsHighEntry {
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub regs: Vec<u64>,
}

/// Floating point registers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserS390FpregsEntry {
    #[prost(uint32, required, tag = "1")]
    pub fpc: u32,
    #[prost(uint64, repeated, packed = "false", tag = "2")]
    pub fprs: Vec<u64>,
}

/// Guarded storage control block.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserS390GsCbEntry {
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub regs: Vec<u64>,
}

/// Runtime instrumentation control block.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserS390RiEntry {
    #[prost(uint32, required, tag = "1")]
    pub ri_on: u32,
    #[prost(uint64, repeated, packed = "false", tag = "2")]
    pub regs: Vec<u64>,
}

/// Processor state of a thread on s390x.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct ThreadInfoS390 {
    #[prost(uint64, required, tag = "1")]
    pub clear_tid_addr: u64,
    #[prost(message, required, tag = "2")]
    pub gpregs: UserS390RegsEntry,
    #[prost(message, required, tag = "3")]
    pub fpregs: UserS390FpregsEntry,
    #[prost(message, optional, tag = "4")]
    pub vxrs_low: Option<UserS390VxrsLowEntry>,
    #[prost(message, optional, tag = "5")]
    pub vxrs_high: Option<UserS390VxrsHighEntry>,
    #[prost(message, optional, tag = "6")]
    pub gs_cb: Option<UserS390GsCbEntry>,
    #[prost(message, optional, tag = "7")]
    pub gs_bc: Option<UserS390GsCbEntry>,
    #[prost(message, optional, tag = "8")]
    pub ri_cb: Option<UserS390RiEntry>,
}
