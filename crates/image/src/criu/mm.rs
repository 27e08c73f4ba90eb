//! mm-PID.img: an address space, see `PR_SET_MM_MAP` in `prctl(2)`.

/// One asynchronous I/O context, see `io_setup(2)`.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct AioRingEntry {
    /// Address of the ring, which is the context id.
    #[prost(uint64, required, tag = "1")]
    pub id: u64,
    /// Requests asked for in `io_setup(2)`.
    #[prost(uint32, required, tag = "2")]
    pub nr_req: u32,
    /// Size of the mapping in bytes.
    #[prost(uint32, required, tag = "3")]
    pub ring_len: u32,
}

/// The one entry of mm-PID.img.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct MmEntry {
    #[prost(uint64, required, tag = "1")]
    pub mm_start_code: u64,
    #[prost(uint64, required, tag = "2")]
    pub mm_end_code: u64,
    #[prost(uint64, required, tag = "3")]
    pub mm_start_data: u64,
    #[prost(uint64, required, tag = "4")]
    pub mm_end_data: u64,
    /// Top of the initial stack.
    #[prost(uint64, required, tag = "5")]
    pub mm_start_stack: u64,
    #[prost(uint64, required, tag = "6")]
    pub mm_start_brk: u64,
    #[prost(uint64, required, tag = "7")]
    pub mm_brk: u64,
    #[prost(uint64, required, tag = "8")]
    pub mm_arg_start: u64,
    #[prost(uint64, required, tag = "9")]
    pub mm_arg_end: u64,
    #[prost(uint64, required, tag = "10")]
    pub mm_env_start: u64,
    #[prost(uint64, required, tag = "11")]
    pub mm_env_end: u64,
    /// Executable: id of a [`RegFileEntry`](super::RegFileEntry).
    #[prost(uint32, required, tag = "12")]
    pub exe_file_id: u32,
    /// Auxiliary vector, see `getauxval(3)`.
    #[prost(uint64, repeated, packed = "false", tag = "13")]
    pub mm_saved_auxv: Vec<u64>,
    /// Mappings by ascending address.
    #[prost(message, repeated, tag = "14")]
    pub vmas: Vec<super::VmaEntry>,
    /// See `PR_SET_DUMPABLE` in `prctl(2)`.
    #[prost(int32, optional, tag = "15")]
    pub dumpable: Option<i32>,
    #[prost(message, repeated, tag = "16")]
    pub aios: Vec<AioRingEntry>,
    /// See `PR_SET_THP_DISABLE` in `prctl(2)`.
    #[prost(bool, optional, tag = "17")]
    pub thp_disabled: Option<bool>,
    /// Ours, ignored by criu: what `PR_GET_THP_DISABLE` says where it says more than that.
    #[prost(uint32, optional, tag = "20020")]
    pub cryopod_thp_disable: Option<u32>,
}
