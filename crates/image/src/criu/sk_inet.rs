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
}
