//! Live dumps: the tree goes on while its memory is still being read, from copy-on-write copies.
//!
//! With the tree standing still, every process is made to clone itself without CLONE_VM. The copies never run; they hold
//! the pages of that instant while the program goes on and pays for a page only when it writes to it. What a copy does
//! not have is read before the tree goes on: memory that is shared ([`Contents::copy`] writes it at once), and ranges
//! that clone(2) leaves out ([`Saved`]).
//!
//! A copy is a child of the process it was made from. It is held by ptrace, is killed when cryopod ends for whatever
//! reason (PTRACE_O_EXITKILL), sends no signal to its parent, and shows in no wait(2) without `__WALL`. Only its parent
//! can collect it, so that is made to, in a short visit at the end; if cryopod was killed before, the next checkpoint
//! does it ([`FrozenProcess::leftovers`](crate::freeze::FrozenProcess)).

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cryopod_image::SetWriter;
use cryopod_sys::ptrace::{self, options};
use cryopod_sys::{Errno, process, wait};
use rustix::fs::{Mode, OFlags};

use super::Space;
use super::runs::{Run, runs_of};
use crate::error::{Context, Error, Result};
use crate::freeze::{COPY_NAME, Frozen};
use crate::proc::{self, mem::Mem};
use crate::remote::puppet::{Puppet, await_birth};
use crate::remote::visit::Visit;

/// The copy of one process.
#[derive(Debug)]
pub struct Copy {
    pid: i32,
    /// What it is a copy of, and the room for visits there.
    of: (i32, u64),
    mem: Mem,
    saved: Saved,
}

impl Copy {
    /// Copies a frozen process; `Err` of the inner kind says why the kernel did not make one.
    pub fn make(set: &SetWriter, space: &Space) -> Result<std::result::Result<Self, Errno>> {
        let mut visit = Visit::enter(space.reader, &space.mem, space.room)?;
        let pid = match visit.copy_process()? {
            Ok(pid) => pid,
            Err(errno) => return Ok(Err(errno)),
        };
        let copy = Self::tame(pid, &visit, space);
        visit.leave()?;
        let mut copy = copy?;
        copy.saved.save(set.path(), space)?;
        Ok(Ok(copy))
    }

    /// Makes a copy that was just born harmless: it dies with cryopod, and holds no descriptor.
    fn tame(pid: i32, visit: &Visit<'_>, space: &Space) -> Result<Self> {
        await_birth(pid)?;
        let mem = Mem::open(pid)?;
        let puppet = Puppet::new(pid, pid, visit.gate_of_copy())?;
        // Its name first: if cryopod dies before the next step, it comes to its end alone, and is known by that.
        let mut name = COPY_NAME.as_bytes().to_vec();
        name.push(0);
        mem.write(visit.scratch(), &name)?;
        let set_name = [libc::PR_SET_NAME as u64, visit.scratch(), 0, 0, 0, 0];
        puppet.must("prctl (PR_SET_NAME)", libc::SYS_prctl, set_name)?;
        let wanted = options::SYSGOOD | options::EXITKILL;
        // It has the filters of its parent.
        match ptrace::set_options(pid, wanted | options::SUSPEND_SECCOMP) {
            Err(Errno::PERM | Errno::INVAL) => ptrace::set_options(pid, wanted),
            other => other,
        }
        .task("have it killed when cryopod ends", pid)?;
        let copy = Self {
            pid,
            of: (space.reader, space.room),
            mem,
            saved: Saved::default(),
        };
        let close_range = [0, u64::from(u32::MAX), CLOSE_RANGE_UNSHARE, 0, 0, 0];
        puppet.must("close_range", libc::SYS_close_range, close_range)?;
        // When memory is short, better the copy than the program.
        if let Err(error) = std::fs::write(proc::path(pid, "oom_score_adj"), "1000") {
            tracing::debug!(pid, %error, "could not offer the copy to the OOM killer");
        }
        Ok(copy)
    }

    /// What there is to read, by address.
    pub fn runs(&self, space: &Space) -> Result<Vec<Run>> {
        let copied = space.ranges.iter().filter(|range| !range.not_copied);
        let mut runs = runs_of(self.pid, copied)?;
        runs.extend(self.saved.runs.iter().map(|(run, _)| *run));
        runs.sort_by_key(|run| run.start);
        Ok(runs)
    }

    /// Fills a buffer with what the process had at `address`. The buffer does not reach beyond a run.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        match self.saved.find(address) {
            Some(offset) => self.saved.read(offset, buffer),
            None => self.mem.read(address, buffer),
        }
    }

    /// Ends the copy and has its parent collect it.
    fn end(&self) -> Result<()> {
        match process::kill(self.pid, libc::SIGKILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno).task("end it", self.pid),
        }
        while let Ok(Some((_, status))) = wait::wait(self.pid, false) {
            if matches!(status, wait::Status::Exited(_) | wait::Status::Signaled(..)) {
                break;
            }
        }
        let (parent, room) = self.of;
        let held = match Frozen::hold_one(parent) {
            // The parent ended meanwhile; whoever took over its children collects them.
            Err(Error::NoProcess { .. }) => return Ok(()),
            // The dump failed before the tree went on.
            Err(Error::Traced { tracer, .. }) if tracer == own_tid() => None,
            held => Some(held?),
        };
        let mem = Mem::open(parent)?;
        let mut visit = Visit::enter(parent, &mem, room)?;
        let collected = collect(&mut visit, self.pid);
        visit.leave()?;
        drop(held);
        collected
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(pid = self.pid, of = self.of.0, %error, "the copy of a process was not collected");
        }
    }
}

/// Has a process collect an ended copy of itself.
pub fn collect(visit: &mut Visit<'_>, copy: i32) -> Result<()> {
    let options = (libc::__WALL | libc::WNOHANG) as u64;
    match visit.call(libc::SYS_wait4, [copy as u64, 0, options, 0, 0, 0])? {
        Ok(_) | Err(Errno::CHILD) => Ok(()),
        Err(source) => Err(Error::Remote {
            call: "wait4",
            pid: visit.tid(),
            source,
        }),
    }
}

fn own_tid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// linux/close_range.h: give the caller a table of its own first, with only what stays open.
const CLOSE_RANGE_UNSHARE: u64 = 1 << 1;

/// Pages that a copy does not have, read while the tree stands still, in a file without a name.
#[derive(Debug, Default)]
struct Saved {
    file: Option<File>,
    /// By address, each with its offset in the file.
    runs: Vec<(Run, u64)>,
}

impl Saved {
    fn save(&mut self, dir: &Path, space: &Space) -> Result<()> {
        let left_out = space.ranges.iter().filter(|range| range.not_copied);
        let runs = runs_of(space.reader, left_out)?;
        if runs.is_empty() {
            return Ok(());
        }
        let failed = |source| Error::Path {
            operation: "keep memory in a file without a name in",
            path: dir.to_owned(),
            source,
        };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(|errno| failed(errno.into()))?);
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut offset = 0;
        for run in runs {
            self.runs.push((run, offset));
            let mut at = run.start;
            while at < run.end {
                let len = (run.end - at).min(CHUNK_BYTES as u64) as usize;
                space.mem.read(at, &mut buffer[..len])?;
                file.write_all_at(&buffer[..len], offset).map_err(failed)?;
                at += len as u64;
                offset += len as u64;
            }
        }
        self.file = Some(file);
        Ok(())
    }

    /// Where an address is in the file.
    fn find(&self, address: u64) -> Option<u64> {
        let behind = self.runs.partition_point(|(run, _)| run.start <= address);
        let (run, offset) = self.runs.get(behind.checked_sub(1)?)?;
        (address < run.end).then(|| offset + (address - run.start))
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let Some(file) = &self.file else {
            return Err(Errno::IO).host("read saved memory");
        };
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
}

/// How much is read at once of what is saved.
const CHUNK_BYTES: usize = 256 << 10;
