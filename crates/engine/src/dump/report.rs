//! What a dump found and wrote.

use std::time::Duration;

use cryopod_image::criu::{DumpStatsEntry, StatsEntry};
use cryopod_sys::memory::PAGE;

use super::FreezeChoice;
use super::files::links::TemporaryLinks;

/// One process of a dumped tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSummary {
    /// Its pid.
    pub pid: i32,
    /// Its parent's pid.
    pub ppid: i32,
    /// Command name, at most 15 bytes.
    pub comm: String,
    /// Command line; empty for a zombie.
    pub command_line: Vec<String>,
    /// Number of threads.
    pub threads: usize,
    /// Number of open descriptors.
    pub descriptors: usize,
    /// Bytes of memory stored for it (shared memory not counted).
    pub memory_bytes: u64,
    /// Whether it had ended already.
    pub zombie: bool,
}

/// Figures of a dump.
#[derive(Debug, Default)]
pub struct DumpReport {
    /// Every process, parents before children.
    pub processes: Vec<ProcessSummary>,
    /// Bytes of memory that were there to be stored: pages present in private memory and in shared memory.
    pub memory_bytes: u64,
    /// Bytes of pages written to the image set: less than the former by the pages full of zeroes.
    pub pages_bytes: u64,
    /// Bytes of memory that are as they were in the parent image set, and not written again.
    pub parent_bytes: u64,
    /// Pages of private memory looked at.
    pub pages_scanned: u64,
    /// Pages of private memory written.
    pub pages_written: u64,
    /// Pages of shared memory looked at.
    pub shmem_pages_scanned: u64,
    /// Pages of shared memory written.
    pub shmem_pages_written: u64,
    /// How long memory took.
    pub memory_time: Duration,
    /// Hard links that were made for the restore. They go with the report unless they are kept.
    pub links: TemporaryLinks,
    /// How long the tree stood still, and why.
    pub freeze: Option<FreezeChoice>,
}

impl DumpReport {
    /// The contents of stats-dump. Times are in microseconds there.
    pub fn stats(&self, freezing: Duration, frozen: Duration) -> StatsEntry {
        let us = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        StatsEntry {
            dump: Some(DumpStatsEntry {
                freezing_time: us(freezing),
                frozen_time: us(frozen),
                memdump_time: us(self.memory_time),
                memwrite_time: us(self.memory_time),
                pages_scanned: self.pages_scanned,
                pages_skipped_parent: self.parent_bytes / PAGE,
                pages_written: self.pages_written,
                irmap_resolve: Some(0),
                pages_lazy: 0,
                page_pipes: Some(0),
                page_pipe_bufs: Some(0),
                shpages_scanned: Some(self.shmem_pages_scanned),
                shpages_skipped_parent: Some(0),
                shpages_written: Some(self.shmem_pages_written),
            }),
            restore: None,
        }
    }
}
