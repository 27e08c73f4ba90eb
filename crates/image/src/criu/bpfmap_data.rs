//! bpfmap-data.img: contents of BPF maps. The keys and values follow each entry.

/// Contents of one map; `keys_bytes`, then `values_bytes` raw bytes follow.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct BpfmapDataEntry {
    #[prost(uint32, required, tag = "1")]
    pub map_id: u32,
    #[prost(uint32, required, tag = "2")]
    pub keys_bytes: u32,
    #[prost(uint32, required, tag = "3")]
    pub values_bytes: u32,
    /// Number of pairs.
    #[prost(uint32, required, tag = "4")]
    pub count: u32,
}
