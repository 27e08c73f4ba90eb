//! Netlink sockets, see `netlink(7)`.

/// A netlink socket.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct NetlinkSkEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    #[prost(uint32, required, tag = "3")]
    pub protocol: u32,
    #[prost(uint32, required, tag = "4")]
    pub state: u32,
    #[prost(uint32, required, tag = "6")]
    pub flags: u32,
    #[prost(uint32, required, tag = "7")]
    pub portid: u32,
    /// Bit mask of multicast groups.
    #[prost(uint32, repeated, packed = "false", tag = "8")]
    pub groups: Vec<u32>,
    #[prost(uint32, required, tag = "9")]
    pub dst_portid: u32,
    #[prost(uint32, required, tag = "10")]
    pub dst_group: u32,
    #[prost(message, required, tag = "11")]
    pub fown: super::FownEntry,
    #[prost(message, required, tag = "12")]
    pub opts: super::SkOptsEntry,
    /// Network namespace.
    #[prost(uint32, optional, tag = "13")]
    pub ns_id: Option<u32>,
    /// `SOCK_RAW`, which criu takes all for, or `SOCK_DGRAM`.
    #[prost(uint32, optional, tag = "20001")]
    pub cryopod_type: Option<u32>,
    /// Further options that are not what a new socket has.
    #[prost(message, repeated, tag = "20002")]
    pub cryopod_options: Vec<super::CryopodOption>,
}
