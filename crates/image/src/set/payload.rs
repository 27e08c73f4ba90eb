//! Which entries have raw bytes behind them, and how many.

use prost::Message;

use crate::criu::{
    BpfmapDataEntry, CryopodMqueueMessage, GhostChunkEntry, IpcMsg, IpcSemEntry, PipeDataEntry,
    SkPacketEntry, TcpStreamEntry,
};

/// An entry that raw bytes follow.
///
/// [`GhostFileEntry`](crate::criu::GhostFileEntry) is not one: its bytes go on to the end of the file, or come in
/// [`GhostChunkEntry`] pieces.
pub trait Payload: Message + Default {
    /// How many bytes follow, as the entry says; not to be trusted.
    fn payload_bytes(&self) -> u64;
}

impl Payload for PipeDataEntry {
    fn payload_bytes(&self) -> u64 {
        self.bytes.into()
    }
}

impl Payload for SkPacketEntry {
    fn payload_bytes(&self) -> u64 {
        self.length.into()
    }
}

impl Payload for TcpStreamEntry {
    fn payload_bytes(&self) -> u64 {
        u64::from(self.inq_len) + u64::from(self.outq_len)
    }
}

impl Payload for BpfmapDataEntry {
    fn payload_bytes(&self) -> u64 {
        u64::from(self.keys_bytes) + u64::from(self.values_bytes)
    }
}

impl Payload for IpcSemEntry {
    fn payload_bytes(&self) -> u64 {
        (u64::from(self.nsems) * 2).next_multiple_of(8)
    }
}

impl Payload for IpcMsg {
    fn payload_bytes(&self) -> u64 {
        u64::from(self.msize).next_multiple_of(8)
    }
}

impl Payload for CryopodMqueueMessage {
    fn payload_bytes(&self) -> u64 {
        self.size_bytes.into()
    }
}

impl Payload for GhostChunkEntry {
    fn payload_bytes(&self) -> u64 {
        self.len
    }
}
