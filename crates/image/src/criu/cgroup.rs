//! cgroup.img: which control groups the tasks were in and how these were set up, see `cgroups(7)`.

/// Mode and owner of a control group file or directory.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CgroupPerms {
    #[prost(uint32, required, tag = "1")]
    pub mode: u32,
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
}

/// One control file and its contents.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CgroupPropEntry {
    #[prost(string, required, tag = "1")]
    pub name: String,
    #[prost(bytes = "vec", required, tag = "2")]
    pub value: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    pub perms: Option<CgroupPerms>,
}

/// One control group and those below it.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CgroupDirEntry {
    /// Path below the group above, the first one from the root of the hierarchy.
    #[prost(bytes = "vec", required, tag = "1")]
    pub dir_name: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    pub children: Vec<CgroupDirEntry>,
    #[prost(message, repeated, tag = "3")]
    pub properties: Vec<CgroupPropEntry>,
    #[prost(message, optional, tag = "4")]
    pub dir_perms: Option<CgroupPerms>,
}

/// One hierarchy: its controllers and its groups.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CgControllerEntry {
    /// Controllers mounted together, empty string for version 2.
    #[prost(string, repeated, tag = "1")]
    pub cnames: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    pub dirs: Vec<CgroupDirEntry>,
    #[prost(bool, optional, tag = "3")]
    pub is_threaded: Option<bool>,
}

/// Membership in one hierarchy.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CgMemberEntry {
    /// Controllers as in `/proc/PID/cgroup`.
    #[prost(string, required, tag = "1")]
    pub name: String,
    /// Path in the hierarchy.
    #[prost(bytes = "vec", required, tag = "2")]
    pub path: Vec<u8>,
    /// Length of the part of `path` that is outside the cgroup namespace.
    #[prost(uint32, optional, tag = "3")]
    pub cgns_prefix: Option<u32>,
}

/// The control groups of a task; tasks name a set by its id.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CgSetEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(message, repeated, tag = "2")]
    pub ctls: Vec<CgMemberEntry>,
}

/// The one entry of cgroup.img.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CgroupEntry {
    #[prost(message, repeated, tag = "1")]
    pub sets: Vec<CgSetEntry>,
    #[prost(message, repeated, tag = "2")]
    pub controllers: Vec<CgControllerEntry>,
}
