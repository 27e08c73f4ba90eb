//! /proc/PID/fdinfo/FD: position, flags and what the kind of file adds.

use super::{misread, read_text};
use crate::error::Result;

/// proc_pid_fdinfo(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdInfo {
    /// File offset in bytes.
    pub pos: u64,
    /// `O_*` flags, O_CLOEXEC among them.
    pub flags: u32,
    /// Mount that the file was opened on.
    pub mnt_id: i32,
    /// Inode, 0 before Linux 5.14.
    pub ino: u64,
    /// Every other line, in order.
    pub lines: Vec<String>,
}

impl FdInfo {
    /// Reads /proc/PID/fdinfo/FD.
    pub fn read(pid: i32, fd: i32) -> Result<Self> {
        let file = format!("fdinfo/{fd}");
        let text = read_text(pid, &file)?;
        Self::parse(&text).ok_or_else(|| misread(pid, &file, &text))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut info = Self::default();
        for line in text.lines() {
            match line.split_once(':').map(|(key, value)| (key, value.trim())) {
                Some(("pos", value)) => info.pos = value.parse().ok()?,
                Some(("flags", value)) => info.flags = u32::from_str_radix(value, 8).ok()?,
                Some(("mnt_id", value)) => info.mnt_id = value.parse().ok()?,
                Some(("ino", value)) => info.ino = value.parse().ok()?,
                _ => info.lines.push(line.to_owned()),
            }
        }
        Some(info)
    }

    /// The value behind `key:` in the extra lines.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then_some(value.trim())
        })
    }

    /// A hexadecimal value.
    pub fn hex(&self, key: &str) -> Option<u64> {
        u64::from_str_radix(self.value(key)?.trim_start_matches("0x"), 16).ok()
    }

    /// A decimal value.
    pub fn number(&self, key: &str) -> Option<i64> {
        self.value(key)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_octal_and_the_rest_is_kept() {
        let info = FdInfo::parse(
            "pos:\t7\nflags:\t02000002\nmnt_id:\t15\nino:\t9\neventfd-count:               2a\n",
        )
        .unwrap();
        assert_eq!(
            (info.pos, info.flags, info.mnt_id, info.ino),
            (7, 0o2_000_002, 15, 9)
        );
        assert_eq!(info.hex("eventfd-count"), Some(0x2a));
    }
}
