//! memfd.img: anonymous shared memory objects, see `memfd_create(2)`, and files open on them.

/// An open file on a memfd.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct MemfdFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(uint64, required, tag = "3")]
    pub pos: u64,
    #[prost(message, required, tag = "4")]
    pub fown: super::FownEntry,
    /// Id of a [`MemfdInodeEntry`].
    #[prost(uint32, required, tag = "5")]
    pub inode_id: u32,
}

/// One memfd; its contents are in the pagemap-shmem file of its `shmid`.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct MemfdInodeEntry {
    /// Without the `memfd:` prefix; bytes, not necessarily UTF-8.
    #[prost(bytes = "vec", required, tag = "1")]
    pub name: Vec<u8>,
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
    #[prost(uint64, required, tag = "4")]
    pub size: u64,
    /// Names pagemap-shmem-ID.img.
    #[prost(uint32, required, tag = "5")]
    pub shmid: u32,
    /// `F_SEAL_*` bits.
    #[prost(uint32, required, tag = "6")]
    pub seals: u32,
    #[prost(uint64, required, tag = "7")]
    pub inode_id: u64,
    /// Page size as in `memfd_create(2)` flags.
    #[prost(uint32, optional, tag = "8")]
    pub hugetlb_flag: Option<u32>,
    #[prost(uint32, optional, tag = "9")]
    pub mode: Option<u32>,
}
