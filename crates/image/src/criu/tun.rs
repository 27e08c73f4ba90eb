//! TUN and TAP devices held open by a descriptor.

/// An open TUN or TAP queue.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TunfileEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Device name.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub netdev: Option<Vec<u8>>,
    /// The queue is switched off.
    #[prost(bool, optional, tag = "3")]
    pub detached: Option<bool>,
    /// Network namespace.
    #[prost(uint32, optional, tag = "4")]
    pub ns_id: Option<u32>,
}

/// A TUN or TAP device, part of a network namespace.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct TunLinkEntry {
    #[prost(uint32, required, tag = "1")]
    pub flags: u32,
    #[prost(int32, required, tag = "2")]
    pub owner: i32,
    #[prost(int32, required, tag = "3")]
    pub group: i32,
    #[prost(uint32, required, tag = "4")]
    pub vnethdr: u32,
    #[prost(uint32, required, tag = "5")]
    pub sndbuf: u32,
}
