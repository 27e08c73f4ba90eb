//! fs-PID.img: working directory, root directory and umask.

/// The one entry of fs-PID.img.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct FsEntry {
    /// Working directory: id of a [`RegFileEntry`](super::RegFileEntry).
    #[prost(uint32, required, tag = "1")]
    pub cwd_id: u32,
    /// Root directory: id of a [`RegFileEntry`](super::RegFileEntry).
    #[prost(uint32, required, tag = "2")]
    pub root_id: u32,
    #[prost(uint32, optional, tag = "3")]
    pub umask: Option<u32>,
}
