//! Owner of the signals a file sends, see `F_SETOWN_EX` in `fcntl(2)`.

/// Who gets SIGIO from a file, and as whom it was asked for.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct FownEntry {
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    #[prost(uint32, required, tag = "2")]
    pub euid: u32,
    /// See `F_SETSIG` in `fcntl(2)`.
    #[prost(uint32, required, tag = "3")]
    pub signum: u32,
    /// `F_OWNER_*` number: 0 thread, 1 process, 2 process group.
    #[prost(uint32, required, tag = "4")]
    pub pid_type: u32,
    /// 0 when there is no owner.
    #[prost(uint32, required, tag = "5")]
    pub pid: u32,
}
