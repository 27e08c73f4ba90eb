//! The 64-bit RISC-V part of core-PID.img.

/// General registers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserRiscv64RegsEntry {
    #[prost(uint64, required, tag = "1")]
    pub pc: u64,
    #[prost(uint64, required, tag = "2")]
    pub ra: u64,
    #[prost(uint64, required, tag = "3")]
    pub sp: u64,
    #[prost(uint64, required, tag = "4")]
    pub gp: u64,
    #[prost(uint64, required, tag = "5")]
    pub tp: u64,
    #[prost(uint64, required, tag = "6")]
    pub t0: u64,
    #[prost(uint64, required, tag = "7")]
    pub t1: u64,
    #[prost(uint64, required, tag = "8")]
    pub t2: u64,
    #[prost(uint64, required, tag = "9")]
    pub s0: u64,
    #[prost(uint64, required, tag = "10")]
    pub s1: u64,
    #[prost(uint64, required, tag = "11")]
    pub a0: u64,
    #[prost(uint64, required, tag = "12")]
    pub a1: u64,
    #[prost(uint64, required, tag = "13")]
    pub a2: u64,
    #[prost(uint64, required, tag = "14")]
    pub a3: u64,
    #[prost(uint64, required, tag = "15")]
    pub a4: u64,
    #[prost(uint64, required, tag = "16")]
    pub a5: u64,
    #[prost(uint64, required, tag = "17")]
    pub a6: u64,
    #[prost(uint64, required, tag = "18")]
    pub a7: u64,
    #[prost(uint64, required, tag = "19")]
    pub s2: u64,
    #[prost(uint64, required, tag = "20")]
    pub s3: u64,
    #[prost(uint64, required, tag = "21")]
    pub s4: u64,
    #[prost(uint64, required, tag = "22")]
    pub s5: u64,
    #[prost(uint64, required, tag = "23")]
    pub s6: u64,
    #[prost(uint64, required, tag = "24")]
    pub s7: u64,
    #[prost(uint64, required, tag = "25")]
    pub s8: u64,
    #[prost(uint64, required, tag = "26")]
    pub s9: u64,
    #[prost(uint64, required, tag = "27")]
    pub s10: u64,
    #[prost(uint64, required, tag = "28")]
    pub s11: u64,
    #[prost(uint64, required, tag = "29")]
    pub t3: u64,
    #[prost(uint64, required, tag = "30")]
    pub t4: u64,
    #[prost(uint64, required, tag = "31")]
    pub t5: u64,
    #[prost(uint64, required, tag = "32")]
    pub t6: u64,
}

/// Floating point registers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserRiscv64DExtEntry {
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub f: Vec<u64>,
    #[prost(uint32, required, tag = "2")]
    pub fcsr: u32,
}

/// Processor state of a thread on 64-bit RISC-V.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct ThreadInfoRiscv64 {
    #[prost(uint64, required, tag = "1")]
    pub clear_tid_addr: u64,
    #[prost(uint64, required, tag = "2")]
    pub tls: u64,
    #[prost(message, required, tag = "3")]
    pub gpregs: UserRiscv64RegsEntry,
    #[prost(message, required, tag = "4")]
    pub fpsimd: UserRiscv64DExtEntry,
}
