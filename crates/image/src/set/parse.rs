//! Parsing an image of any kind from memory, for tests, fuzzing and checks.

use prost::Message;

use crate::criu;
use crate::error::Error;
use crate::kind::Kind;
use crate::pagemap::Pagemap;
use crate::set::entries::EntryReader;
use crate::set::payload::Payload;

/// What [`parse_bytes`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Number of entries.
    pub entries: u64,
    /// Raw bytes behind entries, all together.
    pub payload_bytes: u64,
}

/// Parses a whole file of this kind with the code that reads files, and throws the entries away.
///
/// # Errors
///
/// Whatever reading such a file can fail with, other than what the system reports.
pub fn parse_bytes(kind: Kind, bytes: &[u8]) -> Result<Parsed, Error> {
    let reader = || EntryReader::from_bytes(kind, bytes);
    match kind {
        Kind::Inventory => plain::<criu::InventoryEntry>(reader()?),
        Kind::Pstree => plain::<criu::PstreeEntry>(reader()?),
        Kind::Core => plain::<criu::CoreEntry>(reader()?),
        Kind::Ids => plain::<criu::TaskKobjIdsEntry>(reader()?),
        Kind::Mm => plain::<criu::MmEntry>(reader()?),
        Kind::Pagemap | Kind::PagemapShmem => {
            let pagemap = Pagemap::read_entries(reader()?)?;
            Ok(Parsed {
                entries: pagemap.runs.len() as u64 + 1,
                payload_bytes: 0,
            })
        }
        Kind::Pages => Ok(Parsed {
            entries: 0,
            payload_bytes: bytes.len() as u64,
        }),
        Kind::Fdinfo => plain::<criu::FdinfoEntry>(reader()?),
        Kind::Files => plain::<criu::FileEntry>(reader()?),
        Kind::Fs => plain::<criu::FsEntry>(reader()?),
        Kind::RemapFpath => plain::<criu::RemapFilePathEntry>(reader()?),
        Kind::GhostFile => ghost_file(reader()?),
        Kind::PipesData | Kind::FifoData => with_payload::<criu::PipeDataEntry>(reader()?),
        Kind::SkQueues => with_payload::<criu::SkPacketEntry>(reader()?),
        Kind::TcpStream => with_payload::<criu::TcpStreamEntry>(reader()?),
        Kind::EventpollTfd => plain::<criu::EventpollTfdEntry>(reader()?),
        Kind::InotifyWd => plain::<criu::InotifyWdEntry>(reader()?),
        Kind::FanotifyMark => plain::<criu::FanotifyMarkEntry>(reader()?),
        Kind::Memfd => plain::<criu::MemfdInodeEntry>(reader()?),
        Kind::TtyInfo => plain::<criu::TtyInfoEntry>(reader()?),
        Kind::TtyData => plain::<criu::TtyDataEntry>(reader()?),
        Kind::FileLocks => plain::<criu::FileLockEntry>(reader()?),
        Kind::Seccomp => plain::<criu::SeccompEntry>(reader()?),
        Kind::Timens => plain::<criu::TimensEntry>(reader()?),
        Kind::Cgroup => plain::<criu::CgroupEntry>(reader()?),
        Kind::IpcnsShm => plain::<criu::IpcShmEntry>(reader()?),
        Kind::IpcnsSem => with_payload::<criu::IpcSemEntry>(reader()?),
        Kind::IpcnsMsg => queues(reader()?),
        Kind::BpfmapData => with_payload::<criu::BpfmapDataEntry>(reader()?),
        Kind::CryopodMqueue => posix_queues(reader()?),
        Kind::StatsDump | Kind::StatsRestore => plain::<criu::StatsEntry>(reader()?),
        Kind::IrmapCache => plain::<criu::IrmapCacheEntry>(reader()?),
    }
}

/// Message queues of System V, each with its messages.
fn queues(reader: EntryReader<'_>) -> Result<Parsed, Error> {
    with_messages::<criu::IpcMsgEntry, criu::IpcMsg>(reader, |queue| queue.qnum)
}

/// POSIX message queues, each with its messages.
fn posix_queues(reader: EntryReader<'_>) -> Result<Parsed, Error> {
    use criu::{CryopodMqueueEntry as Queue, CryopodMqueueMessage as Message};
    with_messages::<Queue, Message>(reader, |queue| queue.messages)
}

fn with_messages<Q: Message + Default, M: Payload>(
    mut reader: EntryReader<'_>,
    count: impl Fn(&Q) -> u32,
) -> Result<Parsed, Error> {
    let mut parsed = Parsed::default();
    while let Some(queue) = reader.next_entry::<Q>()? {
        parsed.entries += 1;
        for _ in 0..count(&queue) {
            let Some((_, text)) = reader.next_with_payload::<M>()? else {
                break;
            };
            parsed.entries += 1;
            parsed.payload_bytes += text.len() as u64;
        }
    }
    Ok(parsed)
}

fn plain<M: Message + Default>(mut reader: EntryReader<'_>) -> Result<Parsed, Error> {
    let mut parsed = Parsed::default();
    while reader.next_entry::<M>()?.is_some() {
        parsed.entries += 1;
    }
    Ok(parsed)
}

fn with_payload<M: Payload>(mut reader: EntryReader<'_>) -> Result<Parsed, Error> {
    let mut parsed = Parsed::default();
    while let Some((_, payload)) = reader.next_with_payload::<M>()? {
        parsed.entries += 1;
        parsed.payload_bytes += payload.len() as u64;
    }
    Ok(parsed)
}

/// One entry with metadata, then pieces or plain bytes to the end of the file.
fn ghost_file(mut reader: EntryReader<'_>) -> Result<Parsed, Error> {
    let ghost: criu::GhostFileEntry = reader.expect_entry()?;
    if ghost.chunks != Some(true) {
        let payload_bytes = reader.remaining_bytes();
        reader.skip_payload(payload_bytes)?;
        return Ok(Parsed {
            entries: 1,
            payload_bytes,
        });
    }
    let mut parsed = Parsed {
        entries: 1,
        payload_bytes: 0,
    };
    while let Some(chunk) = reader.next_entry::<criu::GhostChunkEntry>()? {
        reader.skip_payload(chunk.len)?;
        parsed.entries += 1;
        parsed.payload_bytes += chunk.len;
    }
    Ok(parsed)
}
