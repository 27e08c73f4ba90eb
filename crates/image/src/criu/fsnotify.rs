//! Inotify (`inotify(7)`) and fanotify (`fanotify(7)`) instances with their watches.

/// One inotify watch.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct InotifyWdEntry {
    /// The inotify instance.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint64, required, tag = "2")]
    pub i_ino: u64,
    /// `IN_*` bits.
    #[prost(uint32, required, tag = "3")]
    pub mask: u32,
    #[prost(uint32, required, tag = "4")]
    pub ignored_mask: u32,
    /// Device of the watched file.
    #[prost(uint32, required, tag = "5")]
    pub s_dev: u32,
    /// Watch descriptor.
    #[prost(uint32, required, tag = "6")]
    pub wd: u32,
    #[prost(message, required, tag = "7")]
    pub f_handle: super::FhEntry,
}

/// An inotify instance.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct InotifyFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(message, required, tag = "4")]
    pub fown: super::FownEntry,
    #[prost(message, repeated, tag = "5")]
    pub wd: Vec<InotifyWdEntry>,
}

/// What a fanotify mark is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ::prost::Enumeration)]
#[repr(i32)]
pub enum MarkType {
    Inode = 1,
    Mount = 2,
    /// A whole file system, named by one of its mounts. CRIU has no word for it.
    Filesystem = 20001,
}

/// A mark on an inode.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct FanotifyInodeMarkEntry {
    #[prost(uint64, required, tag = "1")]
    pub i_ino: u64,
    #[prost(message, required, tag = "2")]
    pub f_handle: super::FhEntry,
}

/// A mark on a mount.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct FanotifyMountMarkEntry {
    #[prost(uint32, required, tag = "1")]
    pub mnt_id: u32,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub path: Option<Vec<u8>>,
}

/// One fanotify mark.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct FanotifyMarkEntry {
    /// The fanotify instance.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(enumeration = "MarkType", required, tag = "2")]
    pub r#type: i32,
    #[prost(uint32, required, tag = "3")]
    pub mflags: u32,
    #[prost(uint32, required, tag = "4")]
    pub mask: u32,
    #[prost(uint32, required, tag = "5")]
    pub ignored_mask: u32,
    #[prost(uint32, required, tag = "6")]
    pub s_dev: u32,
    /// With [`MarkType::Inode`].
    #[prost(message, optional, tag = "7")]
    pub ie: Option<FanotifyInodeMarkEntry>,
    /// With [`MarkType::Mount`] and [`MarkType::Filesystem`].
    #[prost(message, optional, tag = "8")]
    pub me: Option<FanotifyMountMarkEntry>,
}

/// A fanotify instance.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct FanotifyFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(message, required, tag = "3")]
    pub fown: super::FownEntry,
    /// `FAN_*` flags of `fanotify_init(2)`.
    #[prost(uint32, required, tag = "4")]
    pub faflags: u32,
    /// Open flags of the descriptors in events.
    #[prost(uint32, required, tag = "5")]
    pub evflags: u32,
    #[prost(message, repeated, tag = "6")]
    pub mark: Vec<FanotifyMarkEntry>,
}
