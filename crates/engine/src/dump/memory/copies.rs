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
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::Path;

use cryopod_image::criu::SaEntry;
use cryopod_sys::memory::PAGE;
use cryopod_sys::ptrace::{self, options};
use cryopod_sys::{Errno, pagemap, process, wait};

use super::Space;
use super::runs::{Run, runs_of};
use super::saved::Saved;
use crate::dump::mappings::Layout;
use crate::dump::{guards, signals};
use crate::error::{Context, Error, Result};
use crate::freeze::{COPY_NAME, Frozen};
use crate::proc::maps::{self, Mapping};
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
    puppet: Puppet,
    /// Memory for answers to its calls.
    scratch: u64,
    /// A mapping that it has and the process has not.
    extra: Option<Range<u64>>,
    /// What the process has and it has not.
    saved: Saved,
    left_out: Vec<Range<u64>>,
    /// Guards among that.
    guards: Vec<Range<u64>>,
}

impl Copy {
    /// Copies frozen processes, all at the same time; `Err` of the inner kind says why the kernel did not make one.
    pub fn of_all(spaces: &[Space]) -> Result<std::result::Result<Vec<Self>, Errno>> {
        // On a failure, visits end before copies, whose end takes a visit.
        let mut copies = Vec::with_capacity(spaces.len());
        let mut visits = Vec::with_capacity(spaces.len());
        for space in spaces {
            visits.push(Visit::enter(space.reader, &space.mem, space.room)?);
        }
        for visit in &mut visits {
            visit.begin_copy()?;
        }
        for visit in &mut visits {
            visit.run_copy()?;
        }
        let mut refused = None;
        for (visit, space) in visits.iter_mut().zip(spaces) {
            match visit.await_copy()? {
                Ok(pid) => copies.push(Self::tame(pid, visit, space)?),
                Err(errno) => refused = Some(errno),
            }
        }
        for visit in visits {
            visit.leave()?;
        }
        Ok(match refused {
            Some(errno) => Err(errno),
            None => Ok(copies),
        })
    }

    /// Makes a copy that was just born harmless: it dies with cryopod, and holds no descriptor.
    fn tame(pid: i32, visit: &Visit<'_>, space: &Space) -> Result<Self> {
        await_birth(pid)?;
        let copy = Self {
            pid,
            of: (space.reader, space.room),
            mem: Mem::open(pid)?,
            puppet: Puppet::new(pid, pid, visit.gate_of_copy())?,
            scratch: visit.scratch(),
            extra: visit.scratch_mapping(),
            saved: Saved::default(),
            left_out: Vec::new(),
            guards: Vec::new(),
        };
        // Its name first: if cryopod dies before the next step, it comes to its end alone, and is known by that.
        let mut name = COPY_NAME.as_bytes().to_vec();
        name.push(0);
        copy.mem.write(copy.scratch, &name)?;
        let set_name = [libc::PR_SET_NAME as u64, copy.scratch, 0, 0, 0, 0];
        (copy.puppet).must("prctl (PR_SET_NAME)", libc::SYS_prctl, set_name)?;
        let wanted = options::SYSGOOD | options::EXITKILL;
        // It has the filters of its parent.
        match ptrace::set_options(pid, wanted | options::SUSPEND_SECCOMP) {
            Err(Errno::PERM | Errno::INVAL) => ptrace::set_options(pid, wanted),
            other => other,
        }
        .task("have it killed when cryopod ends", pid)?;
        let close_range = [0, u64::from(u32::MAX), CLOSE_RANGE_UNSHARE, 0, 0, 0];
        (copy.puppet).must("close_range", libc::SYS_close_range, close_range)?;
        // When memory is short, better the copy than the program.
        if let Err(error) = std::fs::write(proc::path(pid, "oom_score_adj"), "1000") {
            tracing::debug!(pid, %error, "could not offer the copy to the OOM killer");
        }
        Ok(copy)
    }

    /// Reads what the copy does not have, as long as the process stands still.
    pub fn complete(&mut self, dir: &Path, space: &mut Space) -> Result<()> {
        let (reader, layout) = (space.reader, &mut space.layout);
        // MADV_DONTFORK, or anything else that makes a difference.
        if !layout.flagged && !maps::are_same(&layout.maps, &self.own(maps::read(self.pid)?)) {
            tracing::debug!(pid = reader, "its copy has not all of its mappings");
            layout.flag(reader, maps::read_flagged(reader)?)?;
        }
        let (theirs, ours) = (pagemap_of(reader)?, pagemap_of(self.pid)?);
        let lacks =
            |mapping: &Mapping| is_wiped(mapping, &theirs, &ours).task("look at its pages", reader);
        let left_out = layout.left_out(lacks)?;
        self.guards = guards::find(reader, left_out.iter().copied())?;
        let ranges = guards::cut(layout.ranges(&left_out), &self.guards);
        self.left_out = left_out.iter().map(|one| one.start..one.end).collect();
        self.saved = Saved::save(dir, &space.mem, runs_of(reader, ranges.iter())?)?;
        Ok(())
    }

    /// Mappings of the copy without what a visit left.
    fn own(&self, mut maps: Vec<Mapping>) -> Vec<Mapping> {
        if let Some(extra) = &self.extra {
            maps::cut_out(&mut maps, extra);
        }
        maps
    }

    /// The mappings of the process with their flags.
    pub fn flagged_maps(&self) -> Result<Vec<Mapping>> {
        Ok(self.own(maps::read_flagged(self.pid)?))
    }

    /// All guards of the process.
    pub fn guards(&self, layout: &Layout) -> Result<Vec<Range<u64>>> {
        let copied = |one: &&Mapping| !self.left_out.contains(&(one.start..one.end));
        let mut all = guards::find(self.pid, layout.maps.iter().filter(copied))?;
        all.extend(self.guards.iter().cloned());
        all.sort_by_key(|guard| guard.start);
        Ok(all)
    }

    /// The signal actions of the process.
    pub fn actions(&self) -> Result<Vec<SaEntry>> {
        signals::actions(|signal| {
            let args = [
                signal as u64,
                0,
                self.scratch,
                size_of::<u64>() as u64,
                0,
                0,
            ];
            (self.puppet).must("rt_sigaction", libc::SYS_rt_sigaction, args)?;
            let mut action = [0; size_of::<signals::Action>()];
            self.mem.read(self.scratch, &mut action)?;
            Ok(action)
        })
    }

    /// What there is to read, by address.
    pub fn runs(&self, space: &Space) -> Result<Vec<Run>> {
        let (saved, copied): (Vec<_>, Vec<_>) =
            space.ranges.iter().partition(|range| range.not_copied);
        let mut runs = runs_of(self.pid, copied.into_iter())?;
        for range in saved {
            runs.extend(self.saved.within(&range.range));
        }
        runs.sort_by_key(|run| run.start);
        Ok(runs)
    }

    /// Fills a buffer with what the process had at `address`. The buffer does not reach beyond a run.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        match self.saved.read(address, buffer) {
            Some(read) => read,
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

fn pagemap_of(pid: i32) -> Result<File> {
    let path = proc::path(pid, "pagemap");
    File::open(&path).map_err(|source| Error::Path {
        operation: "open",
        path,
        source,
    })
}

/// Whether a copy has lost the pages of a mapping that it has (MADV_WIPEONFORK, MAP_DROPPABLE): only anonymous memory
/// does, and all of it at once, so that the first page tells.
fn is_wiped(mapping: &Mapping, theirs: &File, ours: &File) -> std::result::Result<bool, Errno> {
    let kept = mapping.shared || mapping.inode != 0 || !mapping.is_user();
    if kept {
        return Ok(false);
    }
    let first = pagemap::first_page(theirs.as_fd(), mapping.start..mapping.end)?;
    match first {
        Some(page) => Ok(!pagemap::any_page(ours.as_fd(), page..page + PAGE)?),
        None => Ok(false),
    }
}
