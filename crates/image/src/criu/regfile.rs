//! Files opened by path: regular files, directories, devices, executables.

/// An open file that has a path.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct RegFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Open flags (`O_*`).
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// File position; all ones where there is none (`O_PATH`).
    #[prost(uint64, required, tag = "3")]
    pub pos: u64,
    #[prost(message, required, tag = "5")]
    pub fown: super::FownEntry,
    /// Absolute path as bytes, not necessarily UTF-8.
    #[prost(bytes = "vec", required, tag = "6")]
    pub name: Vec<u8>,
    /// Mount the path starts from, -1 unknown.
    #[prost(sint32, optional, tag = "7", default = "-1")]
    pub mnt_id: Option<i32>,
    /// Size at dump, to notice a changed file.
    #[prost(uint64, optional, tag = "8")]
    pub size: Option<u64>,
    /// Provided from outside.
    #[prost(bool, optional, tag = "9")]
    pub ext: Option<bool>,
    /// `st_mode` at dump.
    #[prost(uint32, optional, tag = "10")]
    pub mode: Option<u32>,
    /// ELF build id, in 32-bit words.
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub build_id: Vec<u32>,
    /// CRC32C.
    #[prost(uint32, optional, tag = "12")]
    pub checksum: Option<u32>,
    /// Which bytes the checksum covers.
    #[prost(uint32, optional, tag = "13")]
    pub checksum_config: Option<u32>,
    /// Parameter of that choice.
    #[prost(uint32, optional, tag = "14")]
    pub checksum_parameter: Option<u32>,
}
