//! /proc/PID/status: credentials, masks and counters, by name.

use std::collections::HashMap;

use super::{misread, read_text};
use crate::error::Result;

/// The lines of /proc/PID/status, or of /proc/PID/task/TID/status.
#[derive(Clone, Debug, Default)]
pub struct Status {
    pid: i32,
    lines: HashMap<String, String>,
}

impl Status {
    /// Reads /proc/PID/task/TID/status.
    pub fn read(pid: i32, tid: i32) -> Result<Self> {
        Ok(Self::parse(
            pid,
            &read_text(pid, &format!("task/{tid}/status"))?,
        ))
    }

    fn parse(pid: i32, text: &str) -> Self {
        let lines = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect();
        Self { pid, lines }
    }

    /// The value of a line, or the empty string.
    pub fn text(&self, key: &str) -> &str {
        self.lines.get(key).map_or("", String::as_str)
    }

    /// A decimal number.
    pub fn number(&self, key: &str) -> Result<i64> {
        let text = self.text(key);
        text.split_ascii_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| misread(self.pid, "status", &format!("{key}: {text}")))
    }

    /// A hexadecimal mask.
    pub fn mask(&self, key: &str) -> Result<u64> {
        let text = self.text(key);
        u64::from_str_radix(text, 16)
            .map_err(|_| misread(self.pid, "status", &format!("{key}: {text}")))
    }

    /// An octal number (`Umask`).
    pub fn octal(&self, key: &str) -> Result<u32> {
        let text = self.text(key);
        u32::from_str_radix(text, 8)
            .map_err(|_| misread(self.pid, "status", &format!("{key}: {text}")))
    }

    /// A list of decimal numbers (`Uid`, `Gid`, `Groups`).
    pub fn numbers(&self, key: &str) -> Vec<u32> {
        self.text(key)
            .split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_name() {
        let status = Status::parse(
            1,
            "Name:\tcat\nUmask:\t0022\nUid:\t0\t1\t2\t3\nSigBlk:\t0000000000010000\n",
        );
        assert_eq!(status.octal("Umask").unwrap(), 0o22);
        assert_eq!(status.numbers("Uid"), [0, 1, 2, 3]);
        assert_eq!(status.mask("SigBlk").unwrap(), 0x10000);
        assert!(status.number("Missing").is_err());
    }
}
