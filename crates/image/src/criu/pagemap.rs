//! pagemap-ID.img: which pages of an address space are in which pages file.
//!
//! The checked view of such a file is [`crate::pagemap::Pagemap`].

/// First entry of a pagemap file.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct PagemapHead {
    /// The bytes are in pages-ID.img.
    #[prost(uint32, required, tag = "1")]
    pub pages_id: u32,
}

/// One run of pages, all other entries of a pagemap file.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct PagemapEntry {
    /// First address; offset into the segment in a pagemap of shared memory.
    #[prost(uint64, required, tag = "1")]
    pub vaddr: u64,
    /// Number of pages, read when `nr_pages` is missing (older criu).
    #[prost(uint32, required, tag = "2")]
    pub compat_nr_pages: u32,
    /// The pages are in the parent image set; older form of the flag.
    #[prost(bool, optional, tag = "3")]
    pub in_parent: Option<bool>,
    /// [`page_flags`](crate::pagemap::page_flags) bits.
    #[prost(uint32, optional, tag = "4")]
    pub flags: Option<u32>,
    /// Number of pages.
    #[prost(uint64, optional, tag = "5")]
    pub nr_pages: Option<u64>,
}
