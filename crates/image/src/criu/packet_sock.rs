//! Packet sockets, see `packet(7)`.

/// One multicast membership.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct PacketMclist {
    #[prost(uint32, required, tag = "1")]
    pub index: u32,
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    #[prost(bytes = "vec", required, tag = "3")]
    pub addr: Vec<u8>,
}

/// A packet ring.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct PacketRing {
    #[prost(uint32, required, tag = "1")]
    pub block_size: u32,
    #[prost(uint32, required, tag = "2")]
    pub block_nr: u32,
    #[prost(uint32, required, tag = "3")]
    pub frame_size: u32,
    #[prost(uint32, required, tag = "4")]
    pub frame_nr: u32,
    #[prost(uint32, required, tag = "5")]
    pub retire_tmo: u32,
    #[prost(uint32, required, tag = "6")]
    pub sizeof_priv: u32,
    #[prost(uint32, required, tag = "7")]
    pub features: u32,
}

/// A packet socket.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct PacketSockEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    #[prost(uint32, required, tag = "3")]
    pub protocol: u32,
    #[prost(uint32, required, tag = "4")]
    pub flags: u32,
    #[prost(uint32, required, tag = "5")]
    pub ifindex: u32,
    #[prost(message, required, tag = "6")]
    pub fown: super::FownEntry,
    #[prost(message, required, tag = "7")]
    pub opts: super::SkOptsEntry,
    #[prost(uint32, required, tag = "8")]
    pub version: u32,
    #[prost(uint32, required, tag = "9")]
    pub reserve: u32,
    #[prost(bool, required, tag = "10")]
    pub aux_data: bool,
    #[prost(bool, required, tag = "11")]
    pub orig_dev: bool,
    #[prost(bool, required, tag = "12")]
    pub vnet_hdr: bool,
    #[prost(bool, required, tag = "13")]
    pub loss: bool,
    #[prost(uint32, required, tag = "14")]
    pub timestamp: u32,
    #[prost(uint32, required, tag = "15")]
    pub copy_thresh: u32,
    #[prost(message, repeated, tag = "16")]
    pub mclist: Vec<PacketMclist>,
    /// `u32::MAX` for none.
    #[prost(uint32, optional, tag = "17", default = "0xffffffff")]
    pub fanout: Option<u32>,
    #[prost(message, optional, tag = "18")]
    pub rx_ring: Option<PacketRing>,
    #[prost(message, optional, tag = "19")]
    pub tx_ring: Option<PacketRing>,
    /// Network namespace.
    #[prost(uint32, optional, tag = "20")]
    pub ns_id: Option<u32>,
    /// Further options that are not what a new socket has.
    #[prost(message, repeated, tag = "20001")]
    pub cryopod_options: Vec<super::CryopodOption>,
}
