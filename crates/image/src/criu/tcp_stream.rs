//! tcp-stream-INO.img: an established TCP connection, see `TCP_REPAIR` in the kernel. The queues follow the entry.

/// Options of a TCP socket.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TcpOptsEntry {
    #[prost(bool, optional, tag = "1")]
    pub cork: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub nodelay: Option<bool>,
    #[prost(uint32, optional, tag = "3")]
    pub keepcnt: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    pub keepidle: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    pub keepintvl: Option<u32>,
}

/// First entry of a tcp-stream file; `inq_len`, then `outq_len` raw bytes follow.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TcpStreamEntry {
    /// Bytes received and not read.
    #[prost(uint32, required, tag = "1")]
    pub inq_len: u32,
    /// Sequence number behind them.
    #[prost(uint32, required, tag = "2")]
    pub inq_seq: u32,
    /// Bytes sent and not acknowledged, and bytes not sent.
    #[prost(uint32, required, tag = "3")]
    pub outq_len: u32,
    /// Sequence number behind them.
    #[prost(uint32, required, tag = "4")]
    pub outq_seq: u32,
    /// `TCPI_OPT_*` bits.
    #[prost(uint32, required, tag = "5")]
    pub opt_mask: u32,
    #[prost(uint32, required, tag = "6")]
    pub snd_wscale: u32,
    #[prost(uint32, required, tag = "7")]
    pub mss_clamp: u32,
    #[prost(uint32, optional, tag = "8")]
    pub rcv_wscale: Option<u32>,
    #[prost(uint32, optional, tag = "9")]
    pub timestamp: Option<u32>,
    /// Superseded by [`TcpOptsEntry`], as `nodelay`.
    #[prost(bool, optional, tag = "10")]
    pub cork: Option<bool>,
    #[prost(bool, optional, tag = "11")]
    pub nodelay: Option<bool>,
    /// Bytes of the send queue that were never sent.
    #[prost(uint32, optional, tag = "12")]
    pub unsq_len: Option<u32>,
    #[prost(uint32, optional, tag = "13")]
    pub snd_wl1: Option<u32>,
    #[prost(uint32, optional, tag = "14")]
    pub snd_wnd: Option<u32>,
    #[prost(uint32, optional, tag = "15")]
    pub max_window: Option<u32>,
    #[prost(uint32, optional, tag = "16")]
    pub rcv_wnd: Option<u32>,
    #[prost(uint32, optional, tag = "17")]
    pub rcv_wup: Option<u32>,
}
