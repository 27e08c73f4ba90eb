//! The x86 part of core-PID.img: registers, floating point and vector state, thread-local descriptors.

/// Width of the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ::prost::Enumeration)]
#[repr(i32)]
pub enum UserX86RegsMode {
    Native = 1,
    Compat = 2,
}

/// General registers, those of `struct user_regs_struct`.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserX86RegsEntry {
    #[prost(uint64, required, tag = "1")]
    pub r15: u64,
    #[prost(uint64, required, tag = "2")]
    pub r14: u64,
    #[prost(uint64, required, tag = "3")]
    pub r13: u64,
    #[prost(uint64, required, tag = "4")]
    pub r12: u64,
    #[prost(uint64, required, tag = "5")]
    pub bp: u64,
    #[prost(uint64, required, tag = "6")]
    pub bx: u64,
    #[prost(uint64, required, tag = "7")]
    pub r11: u64,
    #[prost(uint64, required, tag = "8")]
    pub r10: u64,
    #[prost(uint64, required, tag = "9")]
    pub r9: u64,
    #[prost(uint64, required, tag = "10")]
    pub r8: u64,
    #[prost(uint64, required, tag = "11")]
    pub ax: u64,
    #[prost(uint64, required, tag = "12")]
    pub cx: u64,
    #[prost(uint64, required, tag = "13")]
    pub dx: u64,
    #[prost(uint64, required, tag = "14")]
    pub si: u64,
    #[prost(uint64, required, tag = "15")]
    pub di: u64,
    /// Number of the system call the thread is in, or -1.
    #[prost(uint64, required, tag = "16")]
    pub orig_ax: u64,
    #[prost(uint64, required, tag = "17")]
    pub ip: u64,
    #[prost(uint64, required, tag = "18")]
    pub cs: u64,
    /// RFLAGS.
    #[prost(uint64, required, tag = "19")]
    pub flags: u64,
    #[prost(uint64, required, tag = "20")]
    pub sp: u64,
    #[prost(uint64, required, tag = "21")]
    pub ss: u64,
    #[prost(uint64, required, tag = "22")]
    pub fs_base: u64,
    #[prost(uint64, required, tag = "23")]
    pub gs_base: u64,
    #[prost(uint64, required, tag = "24")]
    pub ds: u64,
    #[prost(uint64, required, tag = "25")]
    pub es: u64,
    #[prost(uint64, required, tag = "26")]
    pub fs: u64,
    #[prost(uint64, required, tag = "27")]
    pub gs: u64,
    #[prost(
        enumeration = "UserX86RegsMode",
        optional,
        tag = "28",
        default = "Native"
    )]
    pub mode: Option<i32>,
}

/// Shadow stack state (control-flow enforcement).
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserX86CetEntry {
    /// `MSR_IA32_U_CET`.
    #[prost(uint64, required, tag = "1")]
    pub cet: u64,
    /// Shadow stack pointer.
    #[prost(uint64, required, tag = "2")]
    pub ssp: u64,
}

/// Extended state beyond the FXSAVE area, component by component.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserX86XsaveEntry {
    /// Components that are not in their initial state (XSTATE_BV).
    #[prost(uint64, required, tag = "1")]
    pub xstate_bv: u64,
    /// Component 2: high halves of ymm0 to ymm15, 64 words.
    #[prost(uint32, repeated, packed = "false", tag = "2")]
    pub ymmh_space: Vec<u32>,
    /// Component 3 (MPX).
    #[prost(uint64, repeated, packed = "false", tag = "3")]
    pub bndreg_state: Vec<u64>,
    /// Component 4 (MPX).
    #[prost(uint64, repeated, packed = "false", tag = "4")]
    pub bndcsr_state: Vec<u64>,
    /// Component 5: k0 to k7.
    #[prost(uint64, repeated, packed = "false", tag = "5")]
    pub opmask_reg: Vec<u64>,
    /// Component 6: upper halves of zmm0 to zmm15.
    #[prost(uint64, repeated, packed = "false", tag = "6")]
    pub zmm_upper: Vec<u64>,
    /// Component 7: zmm16 to zmm31.
    #[prost(uint64, repeated, packed = "false", tag = "7")]
    pub hi16_zmm: Vec<u64>,
    /// Component 9: protection keys.
    #[prost(uint32, repeated, packed = "false", tag = "8")]
    pub pkru: Vec<u32>,
    #[prost(message, optional, tag = "9")]
    pub cet: Option<UserX86CetEntry>,
}

/// The FXSAVE area (Intel SDM volume 1, 10.5.1) and what XSAVE adds to it.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserX86FpregsEntry {
    /// x87 control word.
    #[prost(uint32, required, tag = "1")]
    pub cwd: u32,
    /// x87 status word.
    #[prost(uint32, required, tag = "2")]
    pub swd: u32,
    /// x87 tag word, abridged.
    #[prost(uint32, required, tag = "3")]
    pub twd: u32,
    /// Last x87 opcode.
    #[prost(uint32, required, tag = "4")]
    pub fop: u32,
    /// Last x87 instruction.
    #[prost(uint64, required, tag = "5")]
    pub rip: u64,
    /// Last x87 operand.
    #[prost(uint64, required, tag = "6")]
    pub rdp: u64,
    #[prost(uint32, required, tag = "7")]
    pub mxcsr: u32,
    #[prost(uint32, required, tag = "8")]
    pub mxcsr_mask: u32,
    /// st0 to st7, 32 words.
    #[prost(uint32, repeated, packed = "false", tag = "9")]
    pub st_space: Vec<u32>,
    /// xmm0 to xmm15, 64 words.
    #[prost(uint32, repeated, packed = "false", tag = "10")]
    pub xmm_space: Vec<u32>,
    /// Unused; old images have it.
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub padding: Vec<u32>,
    /// Absent where the processor has no XSAVE.
    #[prost(message, optional, tag = "13")]
    pub xsave: Option<UserX86XsaveEntry>,
}

/// A thread-local storage descriptor, see `set_thread_area(2)`.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UserDesc {
    #[prost(uint32, required, tag = "1")]
    pub entry_number: u32,
    #[prost(uint32, required, tag = "2")]
    pub base_addr: u32,
    #[prost(uint32, required, tag = "3")]
    pub limit: u32,
    #[prost(bool, required, tag = "4")]
    pub seg_32bit: bool,
    #[prost(bool, required, tag = "5")]
    pub contents_h: bool,
    #[prost(bool, required, tag = "6")]
    pub contents_l: bool,
    #[prost(bool, required, tag = "7", default = "true")]
    pub read_exec_only: bool,
    #[prost(bool, required, tag = "8")]
    pub limit_in_pages: bool,
    #[prost(bool, required, tag = "9", default = "true")]
    pub seg_not_present: bool,
    #[prost(bool, required, tag = "10")]
    pub usable: bool,
}

/// Processor state of a thread on x86.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct ThreadInfoX86 {
    /// See `set_tid_address(2)`.
    #[prost(uint64, required, tag = "1")]
    pub clear_tid_addr: u64,
    #[prost(message, required, tag = "2")]
    pub gpregs: UserX86RegsEntry,
    #[prost(message, required, tag = "3")]
    pub fpregs: UserX86FpregsEntry,
    /// The three TLS descriptors of the GDT.
    #[prost(message, repeated, tag = "4")]
    pub tls: Vec<UserDesc>,
}
