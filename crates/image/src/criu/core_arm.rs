//! The 32-bit ARM part of core-PID.img.

/// General registers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserArmRegsEntry {
    #[prost(uint32, required, tag = "1")]
    pub r0: u32,
    #[prost(uint32, required, tag = "2")]
    pub r1: u32,
    #[prost(uint32, required, tag = "3")]
    pub r2: u32,
    #[prost(uint32, required, tag = "4")]
    pub r3: u32,
    #[prost(uint32, required, tag = "5")]
    pub r4: u32,
    #[prost(uint32, required, tag = "6")]
    pub r5: u32,
    #[prost(uint32, required, tag = "7")]
    pub r6: u32,
    #[prost(uint32, required, tag = "8")]
    pub r7: u32,
    #[prost(uint32, required, tag = "9")]
    pub r8: u32,
    #[prost(uint32, required, tag = "10")]
    pub r9: u32,
    #[prost(uint32, required, tag = "11")]
    pub r10: u32,
    #[prost(uint32, required, tag = "12")]
    pub fp: u32,
    #[prost(uint32, required, tag = "13")]
    pub ip: u32,
    #[prost(uint32, required, tag = "14")]
    pub sp: u32,
    #[prost(uint32, required, tag = "15")]
    pub lr: u32,
    #[prost(uint32, required, tag = "16")]
    pub pc: u32,
    #[prost(uint32, required, tag = "17")]
    pub cpsr: u32,
    #[prost(uint32, required, tag = "18")]
    pub orig_r0: u32,
}

/// Floating point registers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserArmVfpstateEntry {
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub vfp_regs: Vec<u64>,
    #[prost(uint32, required, tag = "2")]
    pub fpscr: u32,
    #[prost(uint32, required, tag = "3")]
    pub fpexc: u32,
    #[prost(uint32, required, tag = "4")]
    pub fpinst: u32,
    #[prost(uint32, required, tag = "5")]
    pub fpinst2: u32,
}

/// Processor state of a thread on 32-bit ARM.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct ThreadInfoArm {
    #[prost(uint64, required, tag = "1")]
    pub clear_tid_addr: u64,
    #[prost(uint32, required, tag = "2")]
    pub tls: u32,
    #[prost(message, required, tag = "3")]
    pub gpregs: UserArmRegsEntry,
    #[prost(message, required, tag = "4")]
    pub fpstate: UserArmVfpstateEntry,
}
