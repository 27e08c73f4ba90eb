//! Unix domain sockets, see `unix(7)`.

/// Mode and owner of a socket file.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct FilePermsEntry {
    #[prost(uint32, required, tag = "1")]
    pub mode: u32,
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
}

/// A unix socket. `id` names it for descriptors, `ino` for its peer.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct UnixSkEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Inode number of the socket.
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    /// `SOCK_*` number.
    #[prost(uint32, required, tag = "3")]
    pub r#type: u32,
    /// TCP state number: 1 established, 7 closed, 10 listening.
    #[prost(uint32, required, tag = "4")]
    pub state: u32,
    /// Open flags (`O_*`).
    #[prost(uint32, required, tag = "5")]
    pub flags: u32,
    /// Flags of criu for this entry.
    #[prost(uint32, required, tag = "6")]
    pub uflags: u32,
    #[prost(uint32, required, tag = "7")]
    pub backlog: u32,
    /// `ino` of the peer, 0 for none.
    #[prost(uint32, required, tag = "8")]
    pub peer: u32,
    #[prost(message, required, tag = "9")]
    pub fown: super::FownEntry,
    #[prost(message, required, tag = "10")]
    pub opts: super::SkOptsEntry,
    /// Address; an abstract one begins with a zero byte.
    #[prost(bytes = "vec", required, tag = "11")]
    pub name: Vec<u8>,
    #[prost(enumeration = "super::SkShutdown", optional, tag = "12")]
    pub shutdown: Option<i32>,
    #[prost(message, optional, tag = "13")]
    pub file_perms: Option<FilePermsEntry>,
    /// Directory a relative address was bound in.
    #[prost(bytes = "vec", optional, tag = "14")]
    pub name_dir: Option<Vec<u8>>,
    /// The socket file is gone.
    #[prost(bool, optional, tag = "15")]
    pub deleted: Option<bool>,
    /// Network namespace.
    #[prost(uint32, optional, tag = "16")]
    pub ns_id: Option<u32>,
    #[prost(sint32, optional, tag = "17", default = "-1")]
    pub mnt_id: Option<i32>,
    /// Who made the other end, as SO_PEERCRED tells; of a listening socket, who listens.
    #[prost(message, optional, tag = "20001")]
    pub cryopod_peer: Option<CryopodPeer>,
    /// The peer was closed with data in it that nobody had read: an error that is still to be told.
    #[prost(bool, optional, tag = "20002")]
    pub cryopod_reset: Option<bool>,
    /// `ino` of each connection that waits to be accepted, in their order.
    #[prost(uint32, repeated, packed = "false", tag = "20003")]
    pub cryopod_waiting: Vec<u32>,
    /// Who connected, where the connection waits to be accepted.
    #[prost(message, optional, tag = "20004")]
    pub cryopod_owner: Option<CryopodPeer>,
    /// Where the socket file was, when not where its address says.
    #[prost(bytes = "vec", optional, tag = "20005")]
    pub cryopod_path: Option<Vec<u8>>,
    /// Of datagrams: it is connected to a socket that is closed.
    #[prost(bool, optional, tag = "20006")]
    pub cryopod_peer_gone: Option<bool>,
}

/// Somebody as unix sockets remember him.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CryopodPeer {
    #[prost(int32, required, tag = "1")]
    pub pid: i32,
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
    #[prost(uint32, repeated, packed = "false", tag = "4")]
    pub groups: Vec<u32>,
}
