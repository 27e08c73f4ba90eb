//! Pages that a copy of a process does not have, read while the tree stands still.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cryopod_sys::Errno;
use rustix::fs::{Mode, OFlags};

use super::runs::Run;
use crate::error::{Context, Error, Result};
use crate::proc::mem::Mem;

/// How much is kept in cryopod's own memory, for each process: a file is made for more. The vdso is everybody's.
const MAX_KEPT_BYTES: u64 = 64 << 10;

/// How much is read at once of what is saved.
const CHUNK_BYTES: usize = 256 << 10;

/// The pages.
#[derive(Debug, Default)]
pub struct Saved {
    place: Place,
    /// By address, each with its offset in its place.
    runs: Vec<(Run, u64)>,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<u8>),
    /// A file without a name.
    File(File),
}

impl Default for Place {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

impl Saved {
    /// Reads pages of a process. If they are many, they go to a file in `dir`.
    pub fn save(dir: &Path, mem: &Mem, runs: Vec<Run>) -> Result<Self> {
        let mut saved = Self::default();
        let total_bytes: u64 = runs.iter().map(|run| run.end - run.start).sum();
        if total_bytes > MAX_KEPT_BYTES {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            let file = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR);
            let file = file.map_err(|errno| in_file(dir, errno.into()))?;
            saved.place = Place::File(file.into());
        }
        let mut buffer = vec![0; CHUNK_BYTES.min(total_bytes as usize)];
        let mut offset = 0;
        for run in runs {
            saved.runs.push((run, offset));
            let mut at = run.start;
            while at < run.end {
                let len = (run.end - at).min(CHUNK_BYTES as u64) as usize;
                mem.read(at, &mut buffer[..len])?;
                match &mut saved.place {
                    Place::Memory(bytes) => bytes.extend_from_slice(&buffer[..len]),
                    Place::File(file) => {
                        let written = file.write_all_at(&buffer[..len], offset);
                        written.map_err(|source| in_file(dir, source))?;
                    }
                }
                at += len as u64;
                offset += len as u64;
            }
        }
        Ok(saved)
    }

    /// What is there in a range, in parts of whole pages.
    pub fn within(&self, range: &Range<u64>) -> impl Iterator<Item = Run> {
        let first = self.runs.partition_point(|(run, _)| run.end <= range.start);
        self.runs[first..]
            .iter()
            .take_while(|(run, _)| run.start < range.end)
            .map(|(run, _)| Run {
                start: run.start.max(range.start),
                end: run.end.min(range.end),
                ..*run
            })
    }

    /// Fills a buffer with what was at an address, if that was saved. The buffer does not reach beyond a run.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Option<Result<()>> {
        let behind = self.runs.partition_point(|(run, _)| run.start <= address);
        let (run, offset) = self.runs.get(behind.checked_sub(1)?)?;
        if address >= run.end {
            return None;
        }
        let offset = offset + (address - run.start);
        Some(match &self.place {
            Place::Memory(bytes) => {
                let start = offset as usize;
                bytes
                    .get(start..start + buffer.len())
                    .map(|bytes| buffer.copy_from_slice(bytes))
                    .ok_or(Errno::IO)
                    .host("read saved memory")
            }
            Place::File(file) => read_file(file, offset, buffer),
        })
    }
}

fn read_file(file: &File, offset: u64, buffer: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file.as_fd(), &mut buffer[done..], offset + done as u64) {
            Ok(0) => return Err(Errno::IO).host("read saved memory"),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).host("read saved memory"),
        }
    }
    Ok(())
}

fn in_file(dir: &Path, source: std::io::Error) -> Error {
    Error::Path {
        operation: "keep memory in a file without a name in",
        path: dir.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use cryopod_sys::memory::PAGE;

    use super::*;

    /// Some pages of this very process.
    fn save(pages: usize) {
        let dir = tempfile::tempdir().unwrap();
        let page = PAGE as usize;
        let memory: Vec<u8> = (0..(pages + 1) * page).map(|at| (at / 61) as u8).collect();
        let start = (memory.as_ptr().addr() as u64).next_multiple_of(PAGE);
        let skip = (start - memory.as_ptr().addr() as u64) as usize;
        let middle = start + PAGE;
        let run = |start, end| Run {
            start,
            end,
            sparse: true,
        };
        let runs = vec![
            run(start, middle),
            run(middle + PAGE, start + pages as u64 * PAGE),
        ];
        let mem = Mem::open(std::process::id() as i32).unwrap();
        let saved = Saved::save(dir.path(), &mem, runs).unwrap();
        let mut buffer = vec![0; page];
        for index in (0..pages).filter(|&index| index != 1) {
            let at = start + (index * page) as u64;
            saved.read(at, &mut buffer).unwrap().unwrap();
            assert_eq!(buffer, memory[skip + index * page..][..page]);
        }
        assert!(saved.read(middle, &mut buffer).is_none());
        assert!(saved.read(start - PAGE, &mut buffer).is_none());
        let clipped: Vec<Run> = saved.within(&(middle..start + 3 * PAGE)).collect();
        assert_eq!(clipped, [run(middle + PAGE, start + 3 * PAGE)]);
    }

    #[test]
    fn a_few_pages_are_kept_and_many_go_to_a_file() {
        save(4);
        save(400);
    }
}
