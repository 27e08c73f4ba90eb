//! Internet sockets, see `ip(7)`, `ipv6(7)`, `tcp(7)`, `udp(7)`.

/// Options of raw sockets.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct IpOptsRawEntry {
    #[prost(bool, optional, tag = "1")]
    pub hdrincl: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub nodefrag: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    pub checksum: Option<bool>,
    #[prost(uint32, repeated, packed = "false", tag = "4")]
    pub icmpv_filter: Vec<u32>,
}

/// Options at IP level.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct IpOptsEntry {
    #[prost(bool, optional, tag = "1")]
    pub freebind: Option<bool>,
    #[prost(message, optional, tag = "4")]
    pub raw: Option<IpOptsRawEntry>,
    #[prost(bool, optional, tag = "5")]
    pub pktinfo: Option<bool>,
    #[prost(uint32, optional, tag = "6")]
    pub tos: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    pub ttl: Option<u32>,
}

/// An internet socket. `id` names it for descriptors, `ino` for its tcp-stream file.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct InetSkEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    /// `AF_INET` (2) or `AF_INET6` (10).
    #[prost(uint32, required, tag = "3")]
    pub family: u32,
    /// `SOCK_*` number.
    #[prost(uint32, required, tag = "4")]
    pub r#type: u32,
    /// `IPPROTO_*` number.
    #[prost(uint32, required, tag = "5")]
    pub proto: u32,
    /// TCP state number.
    #[prost(uint32, required, tag = "6")]
    pub state: u32,
    #[prost(uint32, required, tag = "7")]
    pub src_port: u32,
    #[prost(uint32, required, tag = "8")]
    pub dst_port: u32,
    #[prost(uint32, required, tag = "9")]
    pub flags: u32,
    #[prost(uint32, required, tag = "10")]
    pub backlog: u32,
    /// Words in network byte order: one for IPv4, four for IPv6; so `dst_addr`.
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub src_addr: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "12")]
    pub dst_addr: Vec<u32>,
    #[prost(message, required, tag = "13")]
    pub fown: super::FownEntry,
    #[prost(message, required, tag = "14")]
    pub opts: super::SkOptsEntry,
    #[prost(bool, optional, tag = "15")]
    pub v6only: Option<bool>,
    #[prost(message, optional, tag = "16")]
    pub ip_opts: Option<IpOptsEntry>,
    /// Interface of a link-local address.
    #[prost(bytes = "vec", optional, tag = "17")]
    pub ifname: Option<Vec<u8>>,
    /// Network namespace.
    #[prost(uint32, optional, tag = "18")]
    pub ns_id: Option<u32>,
    #[prost(enumeration = "super::SkShutdown", optional, tag = "19")]
    pub shutdown: Option<i32>,
    #[prost(message, optional, tag = "20")]
    pub tcp_opts: Option<super::TcpOptsEntry>,
    /// Further options that are not what a new socket has.
    #[prost(message, repeated, tag = "20001")]
    pub cryopod_options: Vec<CryopodOption>,
    /// Who made the socket: user and group.
    #[prost(uint32, optional, tag = "20002")]
    pub cryopod_uid: Option<u32>,
    #[prost(uint32, optional, tag = "20003")]
    pub cryopod_gid: Option<u32>,
    /// Multicast groups that it has joined.
    #[prost(message, repeated, tag = "20004")]
    pub cryopod_memberships: Vec<CryopodMembership>,
}

/// An option of a socket, at whatever level.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CryopodOption {
    /// `SOL_*` or `IPPROTO_*` number.
    #[prost(uint32, required, tag = "1")]
    pub level: u32,
    #[prost(uint32, required, tag = "2")]
    pub name: u32,
    /// As setsockopt(2) takes it.
    #[prost(bytes = "vec", required, tag = "3")]
    pub value: Vec<u8>,
}

/// A multicast group that a socket has joined.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CryopodMembership {
    /// Interface.
    #[prost(bytes = "vec", required, tag = "1")]
    pub ifname: Vec<u8>,
    /// Words in network byte order: one for IPv4, four for IPv6; so those of `sources`.
    #[prost(uint32, repeated, packed = "false", tag = "2")]
    pub group: Vec<u32>,
    /// `MCAST_EXCLUDE` (0) or `MCAST_INCLUDE` (1).
    #[prost(uint32, required, tag = "3")]
    pub mode: u32,
    /// All words behind one another.
    #[prost(uint32, repeated, packed = "false", tag = "4")]
    pub sources: Vec<u32>,
}
