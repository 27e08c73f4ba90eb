//! The kinds of files in an image set: what each is called, how it begins, what it holds.
//!
//! File names and magic numbers are those of criu (`criu/image-desc.c`, `criu/include/magic.h`). The magic numbers
//! are coordinates of towns.

use std::fmt;

use crate::error::Error;

/// How a file begins and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// The file's own magic alone, then entries: the inventory, by which a set is recognised.
    Inventory,
    /// The common magic, the file's own, then entries.
    Common,
    /// The service magic, the file's own, then entries. These files have no `.img` in their names.
    Service,
    /// Raw bytes from the first on.
    Raw,
}

/// How the number in a file name is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbering {
    None,
    Decimal,
    Hexadecimal,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $stem:literal, $numbering:ident, $framing:ident, $magic:literal;)*) => {
        /// A kind of file in an image set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            /// All kinds.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];

            /// Name without number and extension.
            fn stem(self) -> &'static str {
                match self { $(Kind::$kind => $stem,)* }
            }

            fn numbering(self) -> Numbering {
                match self { $(Kind::$kind => Numbering::$numbering,)* }
            }

            /// How files of this kind begin.
            #[must_use]
            pub fn framing(self) -> Framing {
                match self { $(Kind::$kind => Framing::$framing,)* }
            }

            /// The magic number of this kind, 0 for raw ones.
            #[must_use]
            pub fn magic(self) -> u32 {
                match self { $(Kind::$kind => $magic,)* }
            }
        }
    };
}

kinds! {
    /// [`InventoryEntry`](crate::criu::InventoryEntry), one.
    Inventory = "inventory", None, Inventory, 0x5831_3116;
    /// [`PstreeEntry`](crate::criu::PstreeEntry), one per process.
    Pstree = "pstree", None, Common, 0x5027_3030;
    /// [`CoreEntry`](crate::criu::CoreEntry), one; numbered by thread id.
    Core = "core", Decimal, Common, 0x5505_3847;
    /// [`TaskKobjIdsEntry`](crate::criu::TaskKobjIdsEntry), one; numbered by pid.
    Ids = "ids", Decimal, Common, 0x5443_2030;
    /// [`MmEntry`](crate::criu::MmEntry), one; numbered by pid.
    Mm = "mm", Decimal, Common, 0x5749_2820;
    /// See [`Pagemap`](crate::pagemap::Pagemap); numbered by pid.
    Pagemap = "pagemap", Decimal, Common, 0x5608_4025;
    /// See [`Pagemap`](crate::pagemap::Pagemap); numbered by shared memory id.
    PagemapShmem = "pagemap-shmem", Decimal, Common, 0x5608_4025;
    /// Raw pages; numbered by the pages id of a pagemap.
    Pages = "pages", Decimal, Raw, 0;
    /// [`FdinfoEntry`](crate::criu::FdinfoEntry), one per descriptor; numbered by descriptor table id.
    Fdinfo = "fdinfo", Decimal, Common, 0x5621_3732;
    /// [`FileEntry`](crate::criu::FileEntry), one per open file.
    Files = "files", None, Common, 0x5630_3138;
    /// [`FsEntry`](crate::criu::FsEntry), one; numbered by pid.
    Fs = "fs", Decimal, Common, 0x5140_3912;
    /// [`RemapFilePathEntry`](crate::criu::RemapFilePathEntry), one per file.
    RemapFpath = "remap-fpath", None, Common, 0x5913_3954;
    /// [`GhostFileEntry`](crate::criu::GhostFileEntry) and contents; numbered by remap id.
    GhostFile = "ghost-file", Hexadecimal, Common, 0x5258_3605;
    /// [`PipeDataEntry`](crate::criu::PipeDataEntry), each with its bytes.
    PipesData = "pipes-data", None, Common, 0x5645_3709;
    /// [`PipeDataEntry`](crate::criu::PipeDataEntry), each with its bytes.
    FifoData = "fifo-data", None, Common, 0x5933_3054;
    /// [`SkPacketEntry`](crate::criu::SkPacketEntry), each with its bytes.
    SkQueues = "sk-queues", None, Common, 0x5626_4026;
    /// [`TcpStreamEntry`](crate::criu::TcpStreamEntry) and queues; numbered by socket inode.
    TcpStream = "tcp-stream", Hexadecimal, Common, 0x5146_5506;
    /// [`EventpollTfdEntry`](crate::criu::EventpollTfdEntry): where older dumps keep what epoll instances watch.
    EventpollTfd = "eventpoll-tfd", None, Common, 0x4443_3746;
    /// [`InotifyWdEntry`](crate::criu::InotifyWdEntry): where older dumps keep watches.
    InotifyWd = "inotify-wd", None, Common, 0x5456_2009;
    /// [`FanotifyMarkEntry`](crate::criu::FanotifyMarkEntry): where older dumps keep marks.
    FanotifyMark = "fanotify-mark", None, Common, 0x5650_6035;
    /// [`MemfdInodeEntry`](crate::criu::MemfdInodeEntry), one per memfd.
    Memfd = "memfd", None, Common, 0x4845_3499;
    /// [`TtyInfoEntry`](crate::criu::TtyInfoEntry), one per terminal.
    TtyInfo = "tty-info", None, Common, 0x5945_3036;
    /// [`TtyDataEntry`](crate::criu::TtyDataEntry), one per terminal with input.
    TtyData = "tty-data", None, Common, 0x5941_3026;
    /// [`FileLockEntry`](crate::criu::FileLockEntry), one per lock.
    FileLocks = "filelocks", None, Common, 0x5432_3616;
    /// [`SeccompEntry`](crate::criu::SeccompEntry), one.
    Seccomp = "seccomp", None, Common, 0x6441_3049;
    /// [`TimensEntry`](crate::criu::TimensEntry), one; numbered by namespace id.
    Timens = "timens", Decimal, Common, 0x4311_4433;
    /// [`CgroupEntry`](crate::criu::CgroupEntry), one.
    Cgroup = "cgroup", None, Common, 0x5938_3330;
    /// [`IpcShmEntry`](crate::criu::IpcShmEntry), one per segment; numbered by namespace id.
    IpcnsShm = "ipcns-shm", Decimal, Common, 0x4628_3044;
    /// [`IpcSemEntry`](crate::criu::IpcSemEntry), each with its values; numbered by namespace id.
    IpcnsSem = "ipcns-sem", Decimal, Common, 0x5957_3019;
    /// [`IpcMsgEntry`](crate::criu::IpcMsgEntry), each with its [`IpcMsg`](crate::criu::IpcMsg); numbered by namespace id.
    IpcnsMsg = "ipcns-msg", Decimal, Common, 0x5545_3737;
    /// [`BpfmapDataEntry`](crate::criu::BpfmapDataEntry), each with its keys and values.
    BpfmapData = "bpfmap-data", None, Common, 0x6432_4033;
    /// [`CryopodMqueueEntry`](crate::criu::CryopodMqueueEntry), each with its
    /// [`CryopodMqueueMessage`](crate::criu::CryopodMqueueMessage)s. Ours, unknown to criu.
    CryopodMqueue = "cryopod-mqueue", None, Common, 0x4e49_0920;
    /// [`StatsEntry`](crate::criu::StatsEntry) of a dump, one.
    StatsDump = "stats-dump", None, Service, 0x5709_3306;
    /// [`StatsEntry`](crate::criu::StatsEntry) of a restore, one.
    StatsRestore = "stats-restore", None, Service, 0x5709_3306;
    /// [`IrmapCacheEntry`](crate::criu::IrmapCacheEntry), one per inode.
    IrmapCache = "irmap-cache", None, Service, 0x5700_4059;
}

impl Kind {
    /// Name of the file of this kind with this number.
    ///
    /// # Errors
    ///
    /// [`Error::Id`] when the kind is numbered and there is no id, or the other way round.
    pub fn file_name(self, id: Option<u64>) -> Result<String, Error> {
        let extension = self.extension();
        let stem = self.stem();
        match (self.numbering(), id) {
            (Numbering::None, None) => Ok(format!("{stem}{extension}")),
            (Numbering::Decimal, Some(id)) => Ok(format!("{stem}-{id}{extension}")),
            (Numbering::Hexadecimal, Some(id)) => Ok(format!("{stem}-{id:x}{extension}")),
            (numbering, _) => Err(Error::Id {
                kind: self,
                needs_id: numbering != Numbering::None,
            }),
        }
    }

    /// The kind and number a file name stands for; `None` when no kind is called so.
    #[must_use]
    pub fn of_file_name(name: &str) -> Option<(Kind, Option<u64>)> {
        Self::ALL.iter().find_map(|&kind| {
            let rest = name
                .strip_prefix(kind.stem())?
                .strip_suffix(kind.extension())?;
            let id = match (kind.numbering(), rest.strip_prefix('-')) {
                (Numbering::None, None) => None,
                (Numbering::Decimal, Some(number)) => Some(number.parse().ok()?),
                (Numbering::Hexadecimal, Some(number)) => {
                    Some(u64::from_str_radix(number, 16).ok()?)
                }
                _ => return None,
            };
            // Only the one spelling: no "+1", "01" or capital digits.
            (kind.file_name(id).ok()? == name).then_some((kind, id))
        })
    }

    /// Refuses kinds that are raw bytes.
    pub(crate) fn check_has_entries(self) -> Result<(), Error> {
        if self.framing() == Framing::Raw {
            return Err(Error::WrongKind {
                kind: self,
                what: "are raw bytes, they have no entries",
            });
        }
        Ok(())
    }

    fn extension(self) -> &'static str {
        if self.framing() == Framing::Service {
            ""
        } else {
            ".img"
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.stem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_criu() {
        let name = |kind: Kind, id| kind.file_name(id).unwrap();
        assert_eq!(name(Kind::Inventory, None), "inventory.img");
        assert_eq!(name(Kind::Core, Some(42)), "core-42.img");
        assert_eq!(
            name(Kind::PagemapShmem, Some(u64::MAX)),
            "pagemap-shmem-18446744073709551615.img"
        );
        assert_eq!(name(Kind::GhostFile, Some(0x1f)), "ghost-file-1f.img");
        assert_eq!(name(Kind::StatsDump, None), "stats-dump");
    }

    #[test]
    fn a_number_is_there_when_it_should_be_and_only_then() {
        assert!(matches!(
            Kind::Core.file_name(None),
            Err(Error::Id { needs_id: true, .. })
        ));
        assert!(matches!(
            Kind::Files.file_name(Some(1)),
            Err(Error::Id {
                needs_id: false,
                ..
            })
        ));
    }

    #[test]
    fn every_name_leads_back_to_its_kind() {
        for &kind in Kind::ALL {
            let id = (kind.numbering() != Numbering::None).then_some(0xabc);
            assert_eq!(
                Kind::of_file_name(&kind.file_name(id).unwrap()),
                Some((kind, id))
            );
        }
    }

    #[test]
    fn other_names_are_nothing() {
        for name in [
            "",
            "core",
            "core-.img",
            "core-1",
            "core-+1.img",
            "core-01.img",
            "ghost-file-1F.img",
            "files-1.img",
        ] {
            assert_eq!(Kind::of_file_name(name), None, "{name}");
        }
        assert_eq!(Kind::of_file_name("core-18446744073709551616.img"), None);
    }
}
