//! Seccomp modes and filters: seccomp.img holds every distinct filter of the tree, each pointing at the older one
//! below it, so that threads that share a stack of filters share its entries.

use cryopod_image::criu::{SeccompEntry, SeccompFilter};
use cryopod_image::{Kind, SetWriter};
use cryopod_sys::{Errno, ptrace};

use crate::error::{Context, Result};
use crate::proc::status::Status;

/// The distinct filters met so far.
#[derive(Debug, Default)]
pub struct Filters {
    entries: Vec<SeccompFilter>,
}

impl Filters {
    /// Mode of a thread, and the number of its newest filter.
    pub fn of(&mut self, tid: i32, status: &Status) -> Result<(i32, Option<u32>)> {
        const FILTER: i64 = 2;
        let mode = status.number("Seccomp").unwrap_or(0);
        if mode != FILTER {
            return Ok((mode as i32, None));
        }
        let mut stack = Vec::new();
        loop {
            match ptrace::seccomp_filter(tid, stack.len()) {
                Ok(filter) => stack.push(filter),
                Err(Errno::NOENT) => break,
                Err(errno) => return Err(errno).task("read its seccomp filters", tid),
            }
        }
        // The kernel gives the newest first; the oldest is the base of the chain.
        let newest = stack
            .into_iter()
            .rev()
            .fold(None, |prev, filter| Some(self.number(filter, prev)));
        Ok((mode as i32, newest))
    }

    fn number(&mut self, filter: Vec<u8>, prev: Option<u32>) -> u32 {
        let entry = SeccompFilter {
            filter,
            prev,
            flags: None,
        };
        let known = self.entries.iter().position(|one| *one == entry);
        known.unwrap_or_else(|| {
            self.entries.push(entry);
            self.entries.len() - 1
        }) as u32
    }

    /// Writes seccomp.img.
    pub fn write(self, set: &SetWriter) -> Result<()> {
        Ok(set.write_one(
            Kind::Seccomp,
            None,
            &SeccompEntry {
                seccomp_filters: self.entries,
            },
        )?)
    }
}
