//! Open namespace files, see `namespaces(7)`.

/// An open namespace file.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct NsFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Namespace id of criu.
    #[prost(uint32, required, tag = "2")]
    pub ns_id: u32,
    /// `CLONE_NEW*` flag of its kind.
    #[prost(uint32, required, tag = "3")]
    pub ns_cflag: u32,
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
}
