//! BPF maps (bpf(2)) that nobody but the tree uses: hash tables and arrays, whose pairs can be read and put back.
//!
//! A map that a loaded program uses, or that a process outside the tree has open, would not be the same one after a
//! restore, so it is refused.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use cryopod_image::criu::{BpfmapDataEntry, BpfmapFileEntry, FdTypes, FileEntry};
use cryopod_image::{Kind as Image, SetWriter};
use cryopod_sys::bpf::{self, MapInfo};
use cryopod_sys::{Errno, process};

use super::Description;
use super::lazy::Lazy;
use super::seen::{Seen, is_gone};
use crate::error::{Context, Result};
use crate::proc::{self, fdinfo::FdInfo};

/// What the link in /proc of such a file says.
const LINK: &str = "anon_inode:bpf-map";
/// Most bytes of pairs of one map.
pub const MOST_BYTES: usize = 64 << 20;

/// Why a map cannot be checkpointed, in words.
pub fn problem(seen: &Seen, pids: &[i32]) -> Option<String> {
    let kind = match seen.info.number("map_type") {
        Some(kind) => u32::try_from(kind).unwrap_or(u32::MAX),
        None => return None,
    };
    if !matches!(kind, bpf::HASH | bpf::ARRAY) {
        return Some(format!(
            "BPF map of type {kind} (only hash tables and arrays give back what is in them): not supported"
        ));
    }
    let what = match ask(seen) {
        Err(error) if is_gone(&error) => return None,
        Err(error) => format!("that cannot be looked at ({error})"),
        Ok(info) => why_not(&info, pids)?,
    };
    Some(format!("BPF map {what}: not supported"))
}

fn why_not(info: &MapInfo, pids: &[i32]) -> Option<String> {
    let pair_bytes = u64::from(info.key_bytes) + u64::from(info.value_bytes);
    if info.has_types {
        Some("with types (BTF)".to_owned())
    } else if info.ifindex != 0 {
        Some("of a network interface".to_owned())
    } else if info.kind == bpf::ARRAY
        && pair_bytes.saturating_mul(info.max_entries.into()) > MOST_BYTES as u64
    {
        Some(format!("of more than {MOST_BYTES} bytes"))
    } else if let Some(program) = bpf::program_with(info.id).ok().flatten() {
        Some(format!("that program {program} uses"))
    } else {
        outside(info.id, pids)
            .map(|pid| format!("that pid {pid}, outside of the tree, has open too"))
    }
}

/// Somebody outside the tree who has a map open.
fn outside(id: u32, pids: &[i32]) -> Option<i32> {
    let own = std::process::id() as i32;
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut others = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    others.find(|&pid| {
        let has_it = |fd: i32| {
            proc::read_link(pid, &format!("fd/{fd}")).is_ok_and(|link| link.as_os_str() == LINK)
                && FdInfo::read(pid, fd).is_ok_and(|info| info.number("map_id") == Some(id.into()))
        };
        pid != own
            && !pids.contains(&pid)
            && proc::numbers(pid, "fd")
                .unwrap_or_default()
                .into_iter()
                .any(has_it)
    })
}

fn ask(seen: &Seen) -> Result<MapInfo> {
    let fd = seen.fd.unwrap_or(-1);
    let asked = || {
        let pidfd = process::pidfd_open(seen.pid)?;
        bpf::map_info(process::pidfd_getfd(pidfd.as_fd(), fd)?.as_fd())
    };
    asked().fd("look at it (BPF_OBJ_GET_INFO_BY_FD)", seen.pid, fd)
}

/// The maps of a tree.
pub struct BpfMaps<'a> {
    data: Lazy<'a>,
    /// By the kernel's number.
    known: HashSet<u32>,
}

impl<'a> BpfMaps<'a> {
    pub fn new(set: &'a SetWriter) -> Self {
        Self {
            data: Lazy::new(set, Image::BpfmapData),
            known: HashSet::new(),
        }
    }

    /// The entry of a descriptor. With the first of a map come its pairs.
    pub(super) fn dump(&mut self, one: &Description<'_>) -> Result<FileEntry> {
        let map = one.check("look at it", bpf::map_info(one.file.as_fd()))?;
        if self.known.insert(map.id) {
            self.contents(one, &map)?;
        }
        let info = &one.seen.info;
        let entry = BpfmapFileEntry {
            id: one.id,
            flags: one.seen.flags(),
            pos: info.pos,
            fown: one.owner.clone(),
            map_type: map.kind,
            key_size: map.key_bytes,
            value_size: map.value_bytes,
            map_id: map.id,
            max_entries: map.max_entries,
            map_flags: map.flags,
            memlock: info.number("memlock").unwrap_or(0) as u64,
            frozen: one.line(info.number("frozen"))? != 0,
            map_name: name(&map),
            ifindex: 0,
            mnt_id: None,
            map_extra: Some(map.extra),
        };
        Ok(FileEntry {
            r#type: FdTypes::BpfMap.into(),
            id: one.id,
            bpf: Some(Box::new(entry)),
            ..FileEntry::default()
        })
    }

    fn contents(&mut self, one: &Description<'_>, map: &MapInfo) -> Result<()> {
        let pairs = if one.seen.is_readable() {
            bpf::pairs(one.file.as_fd(), MOST_BYTES)
        } else {
            let again: std::result::Result<OwnedFd, Errno> = bpf::map_by_id(map.id, 0);
            again.and_then(|again| bpf::pairs(again.as_fd(), MOST_BYTES))
        };
        if pairs == Err(Errno::FBIG) {
            let what = format!("BPF map with more than {MOST_BYTES} bytes in it: not supported");
            return Err(super::refuse(one.seen, what));
        }
        let (keys, mut values) = one.check("read its pairs", pairs)?;
        let entry = BpfmapDataEntry {
            map_id: map.id,
            keys_bytes: keys.len() as u32,
            values_bytes: values.len() as u32,
            count: (keys.len() / (map.key_bytes as usize).max(1)) as u32,
        };
        let mut bytes = keys;
        bytes.append(&mut values);
        Ok(self.data.writer()?.push_with_payload(&entry, &bytes)?)
    }

    /// Completes the image.
    pub fn finish(self) -> Result<()> {
        self.data.finish()
    }
}

fn name(map: &MapInfo) -> String {
    let len = map.name.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&map.name[..len.unwrap_or(map.name.len())]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_come_back_is_named() {
        let plain = MapInfo {
            kind: bpf::ARRAY,
            key_bytes: 4,
            value_bytes: 8,
            max_entries: 4,
            ..MapInfo::default()
        };
        assert_eq!(why_not(&plain, &[]), None);
        let big = MapInfo {
            max_entries: u32::MAX,
            value_bytes: u32::MAX,
            ..plain
        };
        assert!(why_not(&big, &[]).unwrap().contains("more than"));
        let typed = MapInfo {
            has_types: true,
            ..plain
        };
        assert!(why_not(&typed, &[]).unwrap().contains("BTF"));
    }

    #[test]
    fn names_end_at_the_first_zero() {
        let mut map = MapInfo::default();
        assert_eq!(name(&map), "");
        map.name = *b"abcdefghijklmno\0";
        assert_eq!(name(&map), "abcdefghijklmno");
    }
}
