//! What a program tells about itself, in a file that is replaced in one step each time.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::file_of;
use crate::failure::Failure;

/// The programs: a parent and its two children. Messages go from the first to the second to the third and back.
pub(super) const ROLES: [&str; 3] = ["parent", "first-child", "second-child"];

/// When this is there, the programs finish.
pub(super) const STOP_FILE: &str = "stop";

/// What a program tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status {
    /// Which program it is.
    pub(super) role: String,
    /// Its pid.
    pub(super) pid: i32,
    /// A random number that it drew when it was started: one that was started again has another.
    pub(super) nonce: u64,
    /// How far it has counted.
    pub(super) counter: u64,
    /// How many messages it has sent (the parent: sent off; a child: passed on).
    pub(super) sent: u64,
    /// How many messages it has received in order.
    pub(super) received: u64,
    /// How many lines it has written to its file.
    pub(super) lines: u64,
    /// How many bytes it has read from its other file.
    pub(super) read_bytes: u64,
    /// How often its timer has expired.
    pub(super) ticks: u64,
    /// How many of those it was told by its event counter.
    pub(super) events: u64,
    /// How much memory it has filled.
    pub(super) memory_bytes: u64,
    /// How often it has checked all of that memory.
    pub(super) memory_checks: u64,
    /// The sum of that memory.
    pub(super) checksum: u64,
    /// Whether it has finished, with nothing under way any more.
    pub(super) done: bool,
    /// What it found wrong.
    pub(super) problems: Vec<String>,
}

impl Status {
    /// Whether the program is doing everything that it is going to do.
    pub(super) fn is_at_work(&self) -> bool {
        self.memory_checks > 0
            && self.received > 1000
            && self.counter > 1000
            && self.lines > 10
            && self.ticks > 10
            && self.events > 10
            && self.read_bytes > 0
    }

    /// Whether nothing is left of the program.
    pub(super) fn is_gone(&self) -> bool {
        !Path::new(&format!("/proc/{}", self.pid)).exists()
    }

    /// Reads what a program told last.
    pub(super) fn read(dir: &Path, role: &str) -> Result<Self, Failure> {
        let path = file_of(dir, "status", role);
        let read = std::fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
        read.map_err(|source| Failure::Path {
            operation: "read",
            path,
            source,
        })
    }

    /// Tells.
    pub(super) fn write(&self, dir: &Path) -> std::io::Result<()> {
        let path: PathBuf = file_of(dir, "status", &self.role);
        let next = file_of(dir, "next-status", &self.role);
        std::fs::write(&next, serde_json::to_vec(self)?)?;
        std::fs::rename(next, path)
    }
}
