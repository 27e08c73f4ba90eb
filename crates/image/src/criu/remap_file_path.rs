//! remap-fpath.img: files whose recorded path must be made to exist before they can be opened.

/// How a path is made to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ::prost::Enumeration)]
#[repr(i32)]
pub enum RemapType {
    Linked = 0,
    Ghost = 1,
    Procfs = 2,
}

/// One file whose path needs help.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct RemapFilePathEntry {
    /// Id of the [`RegFileEntry`](super::RegFileEntry) to be opened.
    #[prost(uint32, required, tag = "1")]
    pub orig_id: u32,
    /// Id of a ghost file, of a linked file, or a pid, by `remap_type`.
    #[prost(uint32, required, tag = "2")]
    pub remap_id: u32,
    #[prost(enumeration = "RemapType", optional, tag = "3")]
    pub remap_type: Option<i32>,
}
