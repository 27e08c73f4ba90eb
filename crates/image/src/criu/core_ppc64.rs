//! The 64-bit POWER part of core-PID.img.

/// General registers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserPpc64RegsEntry {
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub gpr: Vec<u64>,
    #[prost(uint64, required, tag = "2")]
    pub nip: u64,
    #[prost(uint64, required, tag = "3")]
    pub msr: u64,
    #[prost(uint64, required, tag = "4")]
    pub orig_gpr3: u64,
    #[prost(uint64, required, tag = "5")]
    pub ctr: u64,
    #[prost(uint64, required, tag = "6")]
    pub link: u64,
    #[prost(uint64, required, tag = "7")]
    pub xer: u64,
    #[prost(uint64, required, tag = "8")]
    pub ccr: u64,
    #[prost(uint64, required, tag = "9")]
    pub trap: u64,
    #[prost(uint64, optional, tag = "10")]
    pub texasr: Option<u64>,
    #[prost(uint64, optional, tag = "11")]
    pub tfhar: Option<u64>,
    #[prost(uint64, optional, tag = "12")]
    pub tfiar: Option<u64>,
}

/// Floating point registers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserPpc64FpstateEntry {
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub fpregs: Vec<u64>,
}

/// Vector registers, high and low half of each in turn, VSCR last.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserPpc64VrstateEntry {
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub vrregs: Vec<u64>,
    #[prost(uint32, required, tag = "2")]
    pub vrsave: u32,
}

/// The halves of the vector-scalar registers that nothing else covers.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserPpc64VsxstateEntry {
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub vsxregs: Vec<u64>,
}

/// State of a memory transaction under way.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserPpc64TmRegsEntry {
    #[prost(message, required, tag = "1")]
    pub gpregs: UserPpc64RegsEntry,
    #[prost(message, optional, tag = "2")]
    pub fpstate: Option<UserPpc64FpstateEntry>,
    #[prost(message, optional, tag = "3")]
    pub vrstate: Option<UserPpc64VrstateEntry>,
    #[prost(message, optional, tag = "4")]
    pub vsxstate: Option<UserPpc64VsxstateEntry>,
}

/// Processor state of a thread on 64-bit POWER.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct ThreadInfoPpc64 {
    #[prost(uint64, required, tag = "1")]
    pub clear_tid_addr: u64,
    #[prost(message, required, tag = "2")]
    pub gpregs: UserPpc64RegsEntry,
    #[prost(message, optional, tag = "3")]
    pub fpstate: Option<UserPpc64FpstateEntry>,
    #[prost(message, optional, tag = "4")]
    pub vrstate: Option<UserPpc64VrstateEntry>,
    #[prost(message, optional, tag = "5")]
    pub vsxstate: Option<UserPpc64VsxstateEntry>,
    #[prost(message, optional, tag = "6")]
    pub tmstate: Option<UserPpc64TmRegsEntry>,
}
