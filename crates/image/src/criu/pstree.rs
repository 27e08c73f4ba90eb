//! pstree.img: the process tree, one entry per process, parents first.

/// One process. All ids are as its own pid namespace shows them.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct PstreeEntry {
    #[prost(uint32, required, tag = "1")]
    pub pid: u32,
    /// Parent, 0 for the root of the tree.
    #[prost(uint32, required, tag = "2")]
    pub ppid: u32,
    /// Process group.
    #[prost(uint32, required, tag = "3")]
    pub pgid: u32,
    /// Session.
    #[prost(uint32, required, tag = "4")]
    pub sid: u32,
    /// All thread ids, the group leader among them.
    #[prost(uint32, repeated, packed = "false", tag = "5")]
    pub threads: Vec<u32>,
}
