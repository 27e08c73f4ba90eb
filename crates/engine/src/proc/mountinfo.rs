//! /proc/PID/mountinfo: the mounts of a mount namespace (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::{misread, read};
use crate::error::Result;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number.
    pub id: u32,
    /// Device of its file system, major and minor.
    pub device: (u32, u32),
    /// Where it is.
    pub point: PathBuf,
    /// Type of its file system.
    pub file_system: Vec<u8>,
}

/// The mounts that a process sees, in the order in which they were made.
pub fn read_all(pid: i32) -> Result<Vec<Mount>> {
    let text = read(pid, "mountinfo")?;
    text.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            Mount::parse(line)
                .ok_or_else(|| misread(pid, "mountinfo", &String::from_utf8_lossy(line)))
        })
        .collect()
}

impl Mount {
    /// Parses `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|&byte| byte == b' ');
        let text = |word: &[u8]| std::str::from_utf8(word).ok().map(str::to_owned);
        let id = text(words.next()?)?.parse().ok()?;
        let device = text(words.nth(1)?)?;
        let (major, minor) = device.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let point = unescape(words.nth(1)?);
        let mut words = words.skip_while(|word| word != b"-");
        Some(Self {
            id,
            device,
            point: PathBuf::from(OsString::from_vec(point)),
            file_system: words.nth(1)?.to_vec(),
        })
    }
}

/// Undoes `\040` and its like.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut at = 0;
    while at < word.len() {
        let digits = word.get(at + 1..at + 4).filter(|digits| {
            word[at] == b'\\' && digits.iter().all(|digit| (b'0'..b'8').contains(digit))
        });
        match digits {
            Some(digits) => {
                let value = digits
                    .iter()
                    .fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                plain.push(value as u8);
                at += 4;
            }
            None => {
                plain.push(word[at]);
                at += 1;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mount_is_read() {
        let line =
            b"36 35 98:7 /mnt1 /a\\040b\\134 rw,noatime master:1 shared:2 - ext3 /dev/root rw";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.id, mount.device), (36, (98, 7)));
        assert_eq!(mount.point, PathBuf::from("/a b\\"));
        assert_eq!(mount.file_system, b"ext3");
        assert_eq!(Mount::parse(b"36 35 98:7 /mnt1"), None);
    }

    #[test]
    fn this_machines_mounts_are_read() {
        let mounts = read_all(std::process::id() as i32).unwrap();
        assert!(mounts.iter().any(|mount| mount.file_system == b"proc"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(line: Vec<u8>) {
            let _no_panic = Mount::parse(&line);
        }

        #[test]
        fn what_the_kernel_escapes_comes_back(name in "[a-z \t\n\\\\]{0,20}") {
            let escaped: String = name.chars().map(|one| match one {
                ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", one as u32),
                one => one.to_string(),
            }).collect();
            prop_assert_eq!(unescape(escaped.as_bytes()), name.into_bytes());
        }
    }
}
