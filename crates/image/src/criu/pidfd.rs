//! Process descriptors, see `pidfd_open(2)`.

/// A process descriptor.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct PidfdEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Inode number, equal for descriptors of one process.
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    #[prost(uint32, required, tag = "3")]
    pub flags: u32,
    /// Pid, -1 when the process is gone.
    #[prost(int32, required, tag = "4")]
    pub nspid: i32,
    #[prost(message, required, tag = "5")]
    pub fown: super::FownEntry,
}
