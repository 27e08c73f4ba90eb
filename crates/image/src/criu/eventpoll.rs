//! Epoll instances, see `epoll(7)`.

/// One descriptor an epoll instance watches.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct EventpollTfdEntry {
    /// The epoll instance.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Watched descriptor.
    #[prost(uint32, required, tag = "2")]
    pub tfd: u32,
    /// `EPOLL*` bits.
    #[prost(uint32, required, tag = "3")]
    pub events: u32,
    /// User data.
    #[prost(uint64, required, tag = "4")]
    pub data: u64,
    /// Device of the watched file; with `inode` and `pos` finds one whose number is closed or reused.
    #[prost(uint32, optional, tag = "5")]
    pub dev: Option<u32>,
    #[prost(uint64, optional, tag = "6")]
    pub inode: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    pub pos: Option<u64>,
    /// The number that the file was added under, where `tfd` is another one because that is closed or reused.
    #[prost(uint32, optional, tag = "20001")]
    pub cryopod_number: Option<u32>,
}

/// An epoll instance.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct EventpollFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    #[prost(message, required, tag = "3")]
    pub fown: super::FownEntry,
    #[prost(message, repeated, tag = "4")]
    pub tfd: Vec<EventpollTfdEntry>,
    /// The descriptor table that the watched descriptors are in, where none leads to the instance: it waits in the queue
    /// of a socket.
    #[prost(uint32, optional, tag = "20001")]
    pub cryopod_home: Option<u32>,
}
