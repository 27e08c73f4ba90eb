//! BPF maps: made anew, filled, and frozen where they were.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use cryopod_image::criu::{BpfmapDataEntry, BpfmapFileEntry};
use cryopod_image::{Kind as Image, SetReader};
use cryopod_sys::bpf::{self, MapInfo, NAME_BYTES};

use super::corrupt;
use crate::error::{Context, Error, Result};

/// `BPF_F_RDONLY` and `BPF_F_WRONLY`.
const READ_ONLY: u32 = 1 << 3;
const WRITE_ONLY: u32 = 1 << 4;

/// The pairs of one map: all keys, then all values.
#[derive(Debug)]
struct Pairs {
    entry: BpfmapDataEntry,
    bytes: Vec<u8>,
}

/// The maps of an image set, by the numbers they had.
#[derive(Debug, Default)]
pub struct BpfMaps {
    pairs: BTreeMap<u32, Pairs>,
    /// The numbers of those that were made.
    made: BTreeMap<u32, u32>,
}

impl BpfMaps {
    /// Reads bpfmap-data.img.
    pub fn load(set: &SetReader) -> Result<Self> {
        let mut maps = Self::default();
        if !set.exists(Image::BpfmapData, None) {
            return Ok(maps);
        }
        let mut image = set.entries(Image::BpfmapData, None)?;
        while let Some((entry, bytes)) = image.next_with_payload::<BpfmapDataEntry>()? {
            // criu writes them once for each descriptor.
            maps.pairs.insert(entry.map_id, Pairs { entry, bytes });
        }
        Ok(maps)
    }

    /// Opens a map as a file entry has it; the first time it is made.
    pub fn open(&mut self, entry: &BpfmapFileEntry) -> Result<OwnedFd> {
        let access = match entry.flags & libc::O_ACCMODE as u32 {
            flags if flags == libc::O_RDONLY as u32 => READ_ONLY,
            flags if flags == libc::O_WRONLY as u32 => WRITE_ONLY,
            _ => 0,
        };
        let number = match self.made.get(&entry.map_id) {
            Some(&number) => number,
            None => {
                let map = self.make(entry)?;
                let number = bpf::map_info(map.as_fd()).host("look at a BPF map")?.id;
                self.made.insert(entry.map_id, number);
                if access == 0 {
                    return Ok(map);
                }
                return reopen(number, access);
            }
        };
        reopen(number, access)
    }

    fn make(&mut self, entry: &BpfmapFileEntry) -> Result<OwnedFd> {
        let info = info(entry)?;
        let map = bpf::make_map(&info).host("make a BPF map")?;
        if let Some(pairs) = self.pairs.remove(&entry.map_id) {
            let (keys, values) = split(&info, &pairs)
                .ok_or_else(|| corrupt(entry.id, "a BPF map with pairs of another length"))?;
            let (key_bytes, value_bytes) = (info.key_bytes as usize, info.value_bytes as usize);
            for (key, value) in keys
                .chunks_exact(key_bytes)
                .zip(values.chunks_exact(value_bytes))
            {
                bpf::put_pair(map.as_fd(), &info, key, value).host("put a pair into a BPF map")?;
            }
        }
        if entry.frozen {
            bpf::freeze_map(map.as_fd()).host("freeze a BPF map")?;
        }
        Ok(map)
    }
}

fn reopen(number: u32, access: u32) -> Result<OwnedFd> {
    bpf::map_by_id(number, access).host("open a BPF map (BPF_MAP_GET_FD_BY_ID)")
}

/// What the map is to be.
fn info(entry: &BpfmapFileEntry) -> Result<MapInfo> {
    let name = entry.map_name.as_bytes();
    if !matches!(entry.map_type, bpf::HASH | bpf::ARRAY) || entry.ifindex != 0 {
        let what = format!("file {}: a BPF map of type {}", entry.id, entry.map_type);
        return Err(Error::NotRestorable { what });
    }
    if name.len() >= NAME_BYTES || entry.key_size == 0 || entry.value_size == 0 {
        return Err(corrupt(entry.id, "a BPF map that cannot be"));
    }
    let mut info = MapInfo {
        kind: entry.map_type,
        key_bytes: entry.key_size,
        value_bytes: entry.value_size,
        max_entries: entry.max_entries,
        flags: entry.map_flags,
        extra: entry.map_extra.unwrap_or(0),
        ..MapInfo::default()
    };
    info.name[..name.len()].copy_from_slice(name);
    Ok(info)
}

/// Keys and values, if there are as many of both as is said, and not more than fit.
fn split<'p>(info: &MapInfo, pairs: &'p Pairs) -> Option<(&'p [u8], &'p [u8])> {
    let entry = &pairs.entry;
    let is_whole =
        |bytes: u32, each: u32| u64::from(bytes) == u64::from(each) * u64::from(entry.count);
    if entry.count > info.max_entries
        || !is_whole(entry.keys_bytes, info.key_bytes)
        || !is_whole(entry.values_bytes, info.value_bytes)
    {
        return None;
    }
    pairs.bytes.split_at_checked(entry.keys_bytes as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> BpfmapFileEntry {
        BpfmapFileEntry {
            id: 1,
            flags: libc::O_RDWR as u32,
            map_id: 77,
            map_type: bpf::ARRAY,
            key_size: 4,
            value_size: 2,
            max_entries: 3,
            map_name: "numbers".to_owned(),
            ..BpfmapFileEntry::default()
        }
    }

    fn pairs(count: u32) -> Pairs {
        Pairs {
            entry: BpfmapDataEntry {
                map_id: 77,
                keys_bytes: 4 * count,
                values_bytes: 2 * count,
                count,
            },
            bytes: (0..count)
                .flat_map(u32::to_ne_bytes)
                .chain((0..2 * count).map(|value| value as u8))
                .collect(),
        }
    }

    #[test]
    fn two_descriptors_of_a_map_lead_to_one() {
        let mut maps = BpfMaps::default();
        maps.pairs.insert(77, pairs(3));
        let Ok(one) = maps.open(&entry()) else {
            return;
        };
        let other = maps.open(&BpfmapFileEntry {
            flags: libc::O_RDONLY as u32,
            ..entry()
        });
        let other = other.unwrap();
        let id = |map: &OwnedFd| bpf::map_info(map.as_fd()).unwrap().id;
        assert_eq!(id(&one), id(&other));
        let (_, values) = bpf::pairs(other.as_fd(), 100).unwrap();
        assert_eq!(values, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let info = info(&entry()).unwrap();
        assert!(split(&info, &pairs(3)).is_some());
        assert!(split(&info, &pairs(4)).is_none());
        let mut short = pairs(2);
        short.entry.values_bytes -= 1;
        assert!(split(&info, &short).is_none());
        let with = |change: fn(&mut BpfmapFileEntry)| {
            let mut entry = entry();
            change(&mut entry);
            super::info(&entry)
        };
        assert!(with(|one| one.map_type = 22).is_err());
        assert!(with(|one| one.value_size = 0).is_err());
        assert!(with(|one| one.map_name = "a name that is too long".to_owned()).is_err());
    }
}
