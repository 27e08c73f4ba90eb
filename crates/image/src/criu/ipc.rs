//! ipcns-shm-ID.img, ipcns-sem-ID.img, ipcns-msg-ID.img: System V shared memory, semaphores and message queues, see
//! `sysvipc(7)`.

/// What the three kinds have in common.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct IpcDescEntry {
    /// 0 for a private one.
    #[prost(uint32, required, tag = "1")]
    pub key: u32,
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
    /// Who made it.
    #[prost(uint32, required, tag = "4")]
    pub cuid: u32,
    #[prost(uint32, required, tag = "5")]
    pub cgid: u32,
    /// Permissions, with `SHM_DEST` where it goes with its last user.
    #[prost(uint32, required, tag = "6")]
    pub mode: u32,
    /// What `shmget(2)` and its like return.
    #[prost(uint32, required, tag = "7")]
    pub id: u32,
    /// Ours, ignored by criu: it is one of a namespace that others use too, and not of the tree's own.
    #[prost(bool, optional, tag = "20001")]
    pub cryopod_shared_namespace: Option<bool>,
}

/// One segment of shared memory; its contents are in the pagemap-shmem file of its id.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct IpcShmEntry {
    #[prost(message, required, tag = "1")]
    pub desc: IpcDescEntry,
    /// In bytes.
    #[prost(uint64, required, tag = "2")]
    pub size: u64,
    /// Old dumps have the contents behind the entry.
    #[prost(bool, optional, tag = "3")]
    pub in_pagemaps: Option<bool>,
    /// Page size as in `shmget(2)` flags.
    #[prost(uint32, optional, tag = "4")]
    pub hugetlb_flag: Option<u32>,
}

/// One set of semaphores; its values follow, two bytes each, filled up to a multiple of eight bytes.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct IpcSemEntry {
    #[prost(message, required, tag = "1")]
    pub desc: IpcDescEntry,
    #[prost(uint32, required, tag = "2")]
    pub nsems: u32,
}

/// One message queue; as many [`IpcMsg`] follow as it says.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct IpcMsgEntry {
    #[prost(message, required, tag = "1")]
    pub desc: IpcDescEntry,
    /// Most bytes it may hold.
    #[prost(uint32, required, tag = "2")]
    pub qbytes: u32,
    /// Messages in it.
    #[prost(uint32, required, tag = "3")]
    pub qnum: u32,
}

/// One message; its text follows, filled up to a multiple of eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, ::prost::Message)]
pub struct IpcMsg {
    #[prost(uint64, required, tag = "1")]
    pub mtype: u64,
    #[prost(uint32, required, tag = "2")]
    pub msize: u32,
}
