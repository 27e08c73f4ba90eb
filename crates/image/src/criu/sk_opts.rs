//! Options every socket has, see `socket(7)`.

/// Socket options.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct SkOptsEntry {
    #[prost(uint32, required, tag = "1")]
    pub so_sndbuf: u32,
    #[prost(uint32, required, tag = "2")]
    pub so_rcvbuf: u32,
    #[prost(uint64, required, tag = "3")]
    pub so_snd_tmo_sec: u64,
    #[prost(uint64, required, tag = "4")]
    pub so_snd_tmo_usec: u64,
    #[prost(uint64, required, tag = "5")]
    pub so_rcv_tmo_sec: u64,
    #[prost(uint64, required, tag = "6")]
    pub so_rcv_tmo_usec: u64,
    #[prost(bool, optional, tag = "7")]
    pub reuseaddr: Option<bool>,
    #[prost(uint32, optional, tag = "8")]
    pub so_priority: Option<u32>,
    #[prost(uint32, optional, tag = "9")]
    pub so_rcvlowat: Option<u32>,
    #[prost(uint32, optional, tag = "10")]
    pub so_mark: Option<u32>,
    #[prost(bool, optional, tag = "11")]
    pub so_passcred: Option<bool>,
    #[prost(bool, optional, tag = "12")]
    pub so_passsec: Option<bool>,
    #[prost(bool, optional, tag = "13")]
    pub so_dontroute: Option<bool>,
    #[prost(bool, optional, tag = "14")]
    pub so_no_check: Option<bool>,
    /// Interface name.
    #[prost(bytes = "vec", optional, tag = "15")]
    pub so_bound_dev: Option<Vec<u8>>,
    /// Attached filter, one `struct sock_filter` per word.
    #[prost(fixed64, repeated, packed = "false", tag = "16")]
    pub so_filter: Vec<u64>,
    #[prost(bool, optional, tag = "17")]
    pub so_reuseport: Option<bool>,
    #[prost(bool, optional, tag = "18")]
    pub so_broadcast: Option<bool>,
    #[prost(bool, optional, tag = "19")]
    pub so_keepalive: Option<bool>,
    /// Superseded by [`TcpOptsEntry`](super::TcpOptsEntry), as the next two.
    #[prost(uint32, optional, tag = "20")]
    pub tcp_keepcnt: Option<u32>,
    #[prost(uint32, optional, tag = "21")]
    pub tcp_keepidle: Option<u32>,
    #[prost(uint32, optional, tag = "22")]
    pub tcp_keepintvl: Option<u32>,
    #[prost(uint32, optional, tag = "23")]
    pub so_oobinline: Option<u32>,
    /// Seconds; absent when off.
    #[prost(uint32, optional, tag = "24")]
    pub so_linger: Option<u32>,
    /// `SO_BUF_LOCK` bits.
    #[prost(uint32, optional, tag = "25")]
    pub so_buf_lock: Option<u32>,
    /// Further options that are not what a new socket has.
    #[prost(message, repeated, tag = "20001")]
    pub cryopod_others: Vec<CryopodSkOption>,
}

/// An option at `SOL_SOCKET` that is an integer.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct CryopodSkOption {
    /// `SO_*` number.
    #[prost(uint32, required, tag = "1")]
    pub name: u32,
    #[prost(sint32, required, tag = "2")]
    pub value: i32,
}

/// Which directions of a socket are shut down, see `shutdown(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ::prost::Enumeration)]
#[repr(i32)]
pub enum SkShutdown {
    None = 0,
    Read = 1,
    Write = 2,
    Both = 3,
}
