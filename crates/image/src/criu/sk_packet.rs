//! sk-queues.img: messages waiting in a socket. The bytes follow each entry.

/// A control message.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct ScmEntry {
    /// `SCM_*` number.
    #[prost(uint32, required, tag = "1")]
    pub r#type: u32,
    /// Ids of the [`FileEntry`](super::FileEntry)s passed.
    #[prost(uint32, repeated, packed = "false", tag = "2")]
    pub rights: Vec<u32>,
}

/// One message in a queue; `length` raw bytes follow.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct SkPacketEntry {
    /// `id` of the socket it waits in.
    #[prost(uint32, required, tag = "1")]
    pub id_for: u32,
    /// Number of bytes that follow the entry.
    #[prost(uint32, required, tag = "2")]
    pub length: u32,
    #[prost(message, repeated, tag = "4")]
    pub scm: Vec<ScmEntry>,
    /// Address of the sender, as in [`UnixSkEntry::name`](super::UnixSkEntry::name); empty when it had none. Of an
    /// internet socket: its `sockaddr`.
    #[prost(bytes = "vec", optional, tag = "20001")]
    pub cryopod_from: Option<Vec<u8>>,
    /// The sender, where the socket asks for that.
    #[prost(message, optional, tag = "20002")]
    pub cryopod_sender: Option<super::CryopodPeer>,
    /// The `sockaddr` that it was sent to, where it waits in an internet socket.
    #[prost(bytes = "vec", optional, tag = "20003")]
    pub cryopod_to: Option<Vec<u8>>,
}
