//! The 64-bit MIPS part of core-PID.img.

/// General registers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserMipsRegsEntry {
    #[prost(uint64, required, tag = "1")]
    pub r0: u64,
    #[prost(uint64, required, tag = "2")]
    pub r1: u64,
    #[prost(uint64, required, tag = "3")]
    pub r2: u64,
    #[prost(uint64, required, tag = "4")]
    pub r3: u64,
    #[prost(uint64, required, tag = "5")]
    pub r4: u64,
    #[prost(uint64, required, tag = "6")]
    pub r5: u64,
    #[prost(uint64, required, tag = "7")]
    pub r6: u64,
    #[prost(uint64, required, tag = "8")]
    pub r7: u64,
    #[prost(uint64, required, tag = "9")]
    pub r8: u64,
    #[prost(uint64, required, tag = "10")]
    pub r9: u64,
    #[prost(uint64, required, tag = "11")]
    pub r10: u64,
    #[prost(uint64, required, tag = "12")]
    pub r11: u64,
    #[prost(uint64, required, tag = "13")]
    pub r12: u64,
    #[prost(uint64, required, tag = "14")]
    pub r13: u64,
    #[prost(uint64, required, tag = "15")]
    pub r14: u64,
    #[prost(uint64, required, tag = "16")]
    pub r15: u64,
    #[prost(uint64, required, tag = "17")]
    pub r16: u64,
    #[prost(uint64, required, tag = "18")]
    pub r17: u64,
    #[prost(uint64, required, tag = "19")]
    pub r18: u64,
    #[prost(uint64, required, tag = "20")]
    pub r19: u64,
    #[prost(uint64, required, tag = "21")]
    pub r20: u64,
    #[prost(uint64, required, tag = "22")]
    pub r21: u64,
    #[prost(uint64, required, tag = "23")]
    pub r22: u64,
    #[prost(uint64, required, tag = "24")]
    pub r23: u64,
    #[prost(uint64, required, tag = "25")]
    pub r24: u64,
    #[prost(uint64, required, tag = "26")]
    pub r25: u64,
    #[prost(uint64, required, tag = "27")]
    pub r26: u64,
    #[prost(uint64, required, tag = "28")]
    pub r27: u64,
    #[prost(uint64, required, tag = "29")]
    pub r28: u64,
    #[prost(uint64, required, tag = "30")]
    pub r29: u64,
    #[prost(uint64, required, tag = "31")]
    pub r30: u64,
    #[prost(uint64, required, tag = "32")]
    pub r31: u64,
    #[prost(uint64, required, tag = "33")]
    pub lo: u64,
    #[prost(uint64, required, tag = "34")]
    pub hi: u64,
    #[prost(uint64, required, tag = "35")]
    pub cp0_epc: u64,
    #[prost(uint64, required, tag = "36")]
    pub cp0_badvaddr: u64,
    #[prost(uint64, required, tag = "37")]
    pub cp0_status: u64,
    #[prost(uint64, required, tag = "38")]
    pub cp0_cause: u64,
}

/// Floating point registers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserMipsFpregsEntry {
    #[prost(uint64, required, tag = "1")]
    pub r0: u64,
    #[prost(uint64, required, tag = "2")]
    pub r1: u64,
    #[prost(uint64, required, tag = "3")]
    pub r2: u64,
    #[prost(uint64, required, tag = "4")]
    pub r3: u64,
    #[prost(uint64, required, tag = "5")]
    pub r4: u64,
    #[prost(uint64, required, tag = "6")]
    pub r5: u64,
    #[prost(uint64, required, tag = "7")]
    pub r6: u64,
    #[prost(uint64, required, tag = "8")]
    pub r7: u64,
    #[prost(uint64, required, tag = "9")]
    pub r8: u64,
    #[prost(uint64, required, tag = "10")]
    pub r9: u64,
    #[prost(uint64, required, tag = "11")]
    pub r10: u64,
    #[prost(uint64, required, tag = "12")]
    pub r11: u64,
    #[prost(uint64, required, tag = "13")]
    pub r12: u64,
    #[prost(uint64, required, tag = "14")]
    pub r13: u64,
    #[prost(uint64, required, tag = "15")]
    pub r14: u64,
    #[prost(uint64, required, tag = "16")]
    pub r15: u64,
    #[prost(uint64, required, tag = "17")]
    pub r16: u64,
    #[prost(uint64, required, tag = "18")]
    pub r17: u64,
    #[prost(uint64, required, tag = "19")]
    pub r18: u64,
    #[prost(uint64, required, tag = "20")]
    pub r19: u64,
    #[prost(uint64, required, tag = "21")]
    pub r20: u64,
    #[prost(uint64, required, tag = "22")]
    pub r21: u64,
    #[prost(uint64, required, tag = "23")]
    pub r22: u64,
    #[prost(uint64, required, tag = "24")]
    pub r23: u64,
    #[prost(uint64, required, tag = "25")]
    pub r24: u64,
    #[prost(uint64, required, tag = "26")]
    pub r25: u64,
    #[prost(uint64, required, tag = "27")]
    pub r26: u64,
    #[prost(uint64, required, tag = "28")]
    pub r27: u64,
    #[prost(uint64, required, tag = "29")]
    pub r28: u64,
    #[prost(uint64, required, tag = "30")]
    pub r29: u64,
    #[prost(uint64, required, tag = "31")]
    pub r30: u64,
    #[prost(uint64, required, tag = "32")]
    pub r31: u64,
    #[prost(uint64, required, tag = "33")]
    pub lo: u64,
    #[prost(uint64, required, tag = "34")]
    pub hi: u64,
    #[prost(uint32, required, tag = "35")]
    pub fpu_fcr31: u32,
    #[prost(uint32, required, tag = "36")]
    pub fpu_id: u32,
}

/// Processor state of a thread on 64-bit MIPS.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct ThreadInfoMips {
    #[prost(uint64, required, tag = "1")]
    pub clear_tid_addr: u64,
    #[prost(uint64, required, tag = "2")]
    pub tls: u64,
    #[prost(message, required, tag = "3")]
    pub gpregs: UserMipsRegsEntry,
    #[prost(message, required, tag = "4")]
    pub fpregs: UserMipsFpregsEntry,
}
