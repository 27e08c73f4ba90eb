//! /proc/PID/maps and /proc/PID/smaps: the mappings of an address space, and the same with their VmFlags.

use std::ops::Range;

use super::misread;
use crate::error::Result;
use crate::proc;

/// One mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address behind the last byte.
    pub end: u64,
    /// PROT_READ, PROT_WRITE, PROT_EXEC as 1, 2, 4.
    pub prot: u32,
    /// MAP_SHARED.
    pub shared: bool,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Major and minor number of the file's device.
    pub device: (u32, u32),
    /// Inode of the file, 0 for none.
    pub inode: u64,
    /// The path or bracketed name as printed, octal escapes undone.
    pub name: Vec<u8>,
    /// Size of its pages in bytes as the kernel counts them; more than 4096 for hugetlb. 0 without VmFlags.
    pub page_bytes: u64,
    /// The two-letter VmFlags, where they were read ([`read_flagged`]).
    pub flags: Vec<[u8; 2]>,
}

impl Mapping {
    /// Length in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.end - self.start
    }

    /// Whether the VmFlags hold `flag` (`b"gd"`, `b"lo"`, ...).
    pub fn has(&self, flag: &[u8; 2]) -> bool {
        self.flags.contains(flag)
    }

    /// Whether two descriptions of the same address space mean the same mapping, whatever is known of its flags.
    pub fn is_same(&self, other: &Self) -> bool {
        let known = |one: &Self| (one.start, one.end, one.prot, one.shared, one.offset);
        let file = |one: &Self| (one.device, one.inode);
        known(self) == known(other) && file(self) == file(other) && self.name == other.name
    }

    /// Whether it is the program's, and not one that the kernel put there.
    pub fn is_user(&self) -> bool {
        !self.name.starts_with(b"[v")
    }

    /// Whether the mapping has the given bracketed name.
    pub fn is(&self, name: &str) -> bool {
        self.name == name.as_bytes()
    }
}

/// Reads /proc/PID/maps, ascending: all but the VmFlags.
pub fn read(pid: i32) -> Result<Vec<Mapping>> {
    let text = proc::read(pid, "maps")?;
    let lines = text.split(|&byte| byte == b'\n');
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_head(line).ok_or_else(|| misread(pid, "maps", &String::from_utf8_lossy(line)))
        })
        .collect()
}

/// Reads /proc/PID/smaps, ascending. The kernel counts every page for it, which takes as long as there are many: some
/// 10 ms for each GiB.
pub fn read_flagged(pid: i32) -> Result<Vec<Mapping>> {
    let text = proc::read(pid, "smaps")?;
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(size) = line.strip_prefix(b"KernelPageSize:") {
            if let Some(last) = mappings.last_mut() {
                last.page_bytes = kilobytes(size)
                    .ok_or_else(|| misread(pid, "smaps", &String::from_utf8_lossy(line)))?;
            }
        } else if let Some(flags) = line.strip_prefix(b"VmFlags:") {
            if let Some(last) = mappings.last_mut() {
                last.flags = flags
                    .split(|&byte| byte == b' ')
                    .filter_map(|word| <[u8; 2]>::try_from(word).ok())
                    .collect();
            }
        } else if line
            .first()
            .is_some_and(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
        {
            let mapping = parse_head(line)
                .ok_or_else(|| misread(pid, "smaps", &String::from_utf8_lossy(line)))?;
            mappings.push(mapping);
        }
    }
    Ok(mappings)
}

/// Whether two lists are of the same mappings.
pub fn are_same(one: &[Mapping], other: &[Mapping]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.is_same(other))
}

/// Takes a range out of mappings without a file.
pub fn cut_out(maps: &mut Vec<Mapping>, range: &Range<u64>) {
    let Some(index) = maps
        .iter()
        .position(|one| one.start <= range.start && range.end <= one.end)
    else {
        return;
    };
    let whole = maps.remove(index);
    let parts = [(whole.start, range.start), (range.end, whole.end)];
    let parts = parts.into_iter().filter(|(start, end)| start < end);
    let parts = parts.map(|(start, end)| Mapping {
        start,
        end,
        ..whole.clone()
    });
    maps.splice(index..index, parts);
}

/// Parses `start-end perms offset major:minor inode  name`.
fn parse_head(line: &[u8]) -> Option<Mapping> {
    let mut words = line.splitn(6, |&byte| byte == b' ');
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let (start, end) = word()?.split_once('-')?;
    let perms = word()?.as_bytes();
    let offset = word()?;
    let (major, minor) = word()?.split_once(':')?;
    let inode = word()?.parse().ok()?;
    let name = words.next().unwrap_or_default();
    let bit = |index: usize, letter: u8, value: u32| {
        if perms.get(index) == Some(&letter) {
            value
        } else {
            0
        }
    };
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        prot: bit(0, b'r', 1) | bit(1, b'w', 2) | bit(2, b'x', 4),
        shared: *perms.get(3)? == b's',
        offset: hex(offset)?,
        device: (hex(major)? as u32, hex(minor)? as u32),
        inode,
        name: unescape(name.trim_ascii_start()),
        page_bytes: 0,
        flags: Vec::new(),
    })
}

/// `   2048 kB` in bytes.
fn kilobytes(text: &[u8]) -> Option<u64> {
    let number = std::str::from_utf8(text).ok()?.trim().strip_suffix(" kB")?;
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// Undoes the kernel's octal escape of the newline.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(b"\\012") {
            out.push(b'\n');
            rest = tail;
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = b"7f00-8000 rw-s 00002000 08:0a 42                         /tmp/a b (deleted)";
        let mapping = parse_head(line).unwrap();
        assert_eq!(
            (mapping.start, mapping.end, mapping.prot, mapping.shared),
            (0x7f00, 0x8000, 3, true)
        );
        assert_eq!(
            (mapping.device, mapping.inode, mapping.offset),
            ((8, 10), 42, 0x2000)
        );
        assert_eq!(mapping.name, b"/tmp/a b (deleted)");
    }

    #[test]
    fn an_anonymous_line_has_no_name() {
        assert_eq!(
            parse_head(b"1000-2000 ---p 00000000 00:00 0 ")
                .unwrap()
                .name,
            b""
        );
        assert_eq!(
            parse_head(b"1000-2000 ---p 00000000 00:00 0").unwrap().prot,
            0
        );
        assert_eq!(parse_head(b"garbage"), None);
    }

    #[test]
    fn sizes_are_in_kilobytes() {
        assert_eq!(kilobytes(b"     2048 kB"), Some(2 << 20));
        assert_eq!(kilobytes(b"     2048"), None);
        assert_eq!(kilobytes(b" 99999999999999999999 kB"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let mappings = read_flagged(std::process::id() as i32).unwrap();
        assert!(
            mappings
                .iter()
                .any(|mapping| mapping.is("[stack]") && mapping.has(b"gd"))
        );
        assert!(mappings.is_sorted_by_key(|mapping| mapping.start));
        assert!(mappings.iter().any(|mapping| mapping.page_bytes == 4096));
        let plain = read(std::process::id() as i32).unwrap();
        assert!(plain.iter().any(|mapping| mapping.is("[stack]")));
    }

    #[test]
    fn a_range_is_cut_out_of_what_it_merged_with() {
        let one = |start, end| Mapping {
            start,
            end,
            prot: 3,
            ..Mapping::default()
        };
        let around = [one(0, 10), one(20, 30), one(40, 50)];
        let cut = |range: Range<u64>| {
            let mut maps = around.to_vec();
            cut_out(&mut maps, &range);
            let ranges = maps.iter().map(|one| (one.start, one.end));
            ranges.skip(1).collect::<Vec<_>>()
        };
        assert_eq!(cut(20..30), [(40, 50)]);
        assert_eq!(cut(20..24), [(24, 30), (40, 50)]);
        assert_eq!(cut(26..30), [(20, 26), (40, 50)]);
        assert_eq!(cut(24..26), [(20, 24), (26, 30), (40, 50)]);
        assert_eq!(cut(10..20), [(20, 30), (40, 50)]);
    }
}
