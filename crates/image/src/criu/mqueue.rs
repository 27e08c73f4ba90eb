//! POSIX message queues, see `mq_overview(7)`. Not of criu, which has no such entries.

/// A descriptor of a queue: an entry of files.img.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CryopodMqueueFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Open flags.
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(message, required, tag = "3")]
    pub fown: super::FownEntry,
    /// The [`CryopodMqueueEntry::id`] of its queue.
    #[prost(uint32, required, tag = "4")]
    pub queue: u32,
    /// Position of read(2), which tells about the queue.
    #[prost(uint64, required, tag = "5")]
    pub pos: u64,
    /// The path it was opened by, where that was one of a mounted mqueue file system.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub path: Option<Vec<u8>>,
}

/// cryopod-mqueue.img: one queue; as many [`CryopodMqueueMessage`] follow as it says.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CryopodMqueueEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Without a slash.
    #[prost(bytes = "vec", required, tag = "2")]
    pub name: Vec<u8>,
    /// It has that name no more.
    #[prost(bool, required, tag = "3")]
    pub unlinked: bool,
    #[prost(uint32, required, tag = "4")]
    pub mode: u32,
    #[prost(uint32, required, tag = "5")]
    pub uid: u32,
    #[prost(uint32, required, tag = "6")]
    pub gid: u32,
    #[prost(uint64, required, tag = "7")]
    pub max_messages: u64,
    #[prost(uint64, required, tag = "8")]
    pub message_size_bytes: u64,
    /// Messages in it.
    #[prost(uint32, required, tag = "9")]
    pub messages: u32,
    /// Who is to be told when a message comes.
    #[prost(message, optional, tag = "10")]
    pub notify: Option<CryopodMqueueNotify>,
}

/// What `mq_notify(3)` asked for.
#[derive(Clone, Copy, PartialEq, Eq, ::prost::Message)]
pub struct CryopodMqueueNotify {
    /// The process.
    #[prost(uint32, required, tag = "1")]
    pub pid: u32,
    /// `SIGEV_*`.
    #[prost(uint32, required, tag = "2")]
    pub kind: u32,
    /// With `SIGEV_SIGNAL`.
    #[prost(uint32, required, tag = "3")]
    pub signal: u32,
}

/// One message; its text follows. They come in the order in which they would be received.
#[derive(Clone, Copy, PartialEq, Eq, ::prost::Message)]
pub struct CryopodMqueueMessage {
    #[prost(uint32, required, tag = "1")]
    pub priority: u32,
    #[prost(uint32, required, tag = "2")]
    pub size_bytes: u32,
}
