//! The workflow of a restore: store -> image set -> a running process.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Instant;

use cryopod_engine::restore::lazy::{Filling, News};
use cryopod_engine::{
    Cancel, CgroupOptions, Connections, FileValidation, NoProgress, Progress, Stdio,
};
use cryopod_image::criu::PstreeEntry;
use cryopod_image::{Kind, SetReader};
use cryopod_store::{Ref, Store};
use serde::Serialize;

use crate::checkpoint::micros;
use crate::error::Result;
use crate::foreground::{self, ExitStatus};
use crate::host;
use crate::line::Line;

/// How a restore is to be done.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// What becomes of standard streams that led outside of the tree.
    pub stdio: Stdio,
    /// Refuse a tree that has a terminal whose other end was outside of it, instead of joining it to this process's own.
    pub refuse_shell_job: bool,
    /// This process will wait for the program ([`Restored::wait`]): it gets the foreground of the terminal that this process
    /// has, where it belongs to the same session.
    pub foreground: bool,
    /// Leave every process stopped, as SIGSTOP does, instead of letting it go.
    pub leave_stopped: bool,
    /// Open files also when their size or mode is not what it was at the checkpoint.
    pub force_files: bool,
    /// How programs and libraries are compared with what they were at the checkpoint.
    pub file_validation: FileValidation,
    /// Remove the hard links that the checkpoint made for files that had lost their name. It cannot be restored again
    /// then.
    pub remove_links: bool,
    /// Control groups.
    pub cgroups: CgroupOptions,
    /// What becomes of TCP connections.
    pub connections: Connections,
    /// Let the program run before its memory is there: pages come when they are touched, and the rest in the background,
    /// from a helper process that leaves when all are there.
    pub lazy: bool,
    /// Threads that fill memory; as many as there are processors when left out.
    pub jobs: Option<NonZeroUsize>,
}

/// What a restore brought back. Times are in microseconds, sizes in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct RestoreReport {
    /// The pid of the first process.
    pub root_pid: i32,
    /// How many processes came back.
    pub processes: usize,
    /// How many threads they have.
    pub threads: usize,
    /// How much memory was read.
    pub pages_bytes: u64,
    /// How much memory is filled while the program runs.
    pub lazy_bytes: u64,
    /// The pid of the helper that fills it.
    pub helper_pid: Option<i32>,
    /// How long it took.
    pub total_time_us: u64,
}

/// A tree that runs again, as a child of this process.
#[derive(Debug)]
#[must_use = "wait for it, or detach from it"]
pub struct Restored {
    /// The pid of the first process.
    pub root_pid: i32,
    /// What came back.
    pub report: RestoreReport,
    filling: Option<Filling>,
}

impl Restored {
    /// Stays its parent: passes signals on and waits for its end; see [`foreground::wait`].
    ///
    /// # Errors
    ///
    /// [`crate::Error::Child`] if it cannot be waited for.
    pub fn wait(self) -> Result<ExitStatus> {
        self.wait_showing(&NoProgress)
    }

    /// As [`Restored::wait`]; `progress` hears of memory that is filled meanwhile.
    ///
    /// # Errors
    ///
    /// Also those of the filling, after which the program has been ended.
    pub fn wait_showing(self, progress: &dyn Progress) -> Result<ExitStatus> {
        let Some(filling) = self.filling else {
            return foreground::wait(self.root_pid);
        };
        let mut watch = Watch::begin(filling, progress);
        let status = foreground::wait_beside(self.root_pid, Some(&mut watch))?;
        watch.end(status)?;
        Ok(status)
    }

    /// Ends it, all of it.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Child`] if its root is not there to be waited for.
    pub fn kill(self) -> Result<()> {
        foreground::kill(self.root_pid)
    }

    /// Leaves it to itself. It goes on as a child of this process until this process ends.
    pub fn detach(self) {}
}

/// Follows the filling of memory while the program is waited for.
struct Watch<'a> {
    filling: Filling,
    progress: &'a dyn Progress,
    told_bytes: u64,
    outcome: Option<std::result::Result<(), cryopod_engine::Error>>,
}

impl<'a> Watch<'a> {
    fn begin(filling: Filling, progress: &'a dyn Progress) -> Self {
        progress.begin("fill memory", Some(filling.total_bytes()));
        Self {
            filling,
            progress,
            told_bytes: 0,
            outcome: None,
        }
    }

    fn advance(&mut self, bytes: u64) {
        self.progress.advance(bytes.saturating_sub(self.told_bytes));
        self.told_bytes = bytes;
    }

    /// A program that was killed may have been killed because its memory could not be filled; whoever did that says so.
    fn end(mut self, status: ExitStatus) -> Result<()> {
        const SIGKILL: i32 = 9;
        if self.outcome.is_none() && status == ExitStatus::Signaled(SIGKILL) {
            self.outcome = Some(self.filling.wait(|_| {}));
        }
        self.progress.end();
        match self.outcome {
            Some(Err(error)) if status == ExitStatus::Signaled(SIGKILL) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl foreground::Beside for Watch<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.filling.as_fd()
    }

    fn look(&mut self) -> bool {
        while let Some(news) = self.filling.news() {
            match news {
                News::Ready(_) => {}
                News::Progress(bytes) => self.advance(bytes),
                News::Done => {
                    self.progress.end();
                    self.outcome = Some(Ok(()));
                }
                News::Failed(kind, what) => {
                    self.outcome = Some(Err(cryopod_engine::Error::Filling { kind, what }));
                }
            }
        }
        self.outcome.is_none() && !self.filling.is_ended()
    }
}

/// Restores a checkpoint. When this returns, the tree runs.
///
/// The calling process must have no other thread: the tree is made by forking.
///
/// # Errors
///
/// [`crate::Error::OtherArchitecture`] and [`crate::Error::MissingCpuFeatures`] before anything is made; a pid that is
/// taken; images that are damaged. After any of them nothing of the tree is left.
pub fn restore(
    store: &Store,
    reference: &Ref,
    options: &RestoreOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Restored> {
    let started = Instant::now();
    let stored = store.get(reference)?;
    host::check(&stored.meta.host, &stored.meta.cpu_features)?;
    let line = Line::open(store, &stored)?;
    tracing::debug!(reference = %stored.reference(), builds_on = line.members.len() - 1, "restoring");
    revive(&line.set, options, progress, cancel, started)
}

/// Restores a directory of images as criu writes it. They carry no digests, so that damage may go unnoticed.
///
/// The calling process must have no other thread.
///
/// # Errors
///
/// As [`restore`].
pub fn restore_dir(
    dir: &Path,
    options: &RestoreOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Restored> {
    let started = Instant::now();
    let set = SetReader::open(dir, None)?;
    tracing::debug!(dir = %dir.display(), "restoring");
    revive(&set, options, progress, cancel, started)
}

fn revive(
    set: &SetReader,
    options: &RestoreOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
    started: Instant,
) -> Result<Restored> {
    await_free_pids(set)?;
    let engine_options = cryopod_engine::RestoreOptions {
        stdio: options.stdio,
        outside_terminal: !options.refuse_shell_job,
        foreground: options.foreground,
        leave_stopped: options.leave_stopped,
        force_files: options.force_files,
        file_validation: options.file_validation,
        remove_links: options.remove_links,
        cgroups: options.cgroups.clone(),
        connections: options.connections,
        lazy: options.lazy,
        jobs: options.jobs,
    };
    let made = cryopod_engine::restore(set, &engine_options, progress, cancel)?;
    tracing::info!(
        root_pid = made.root_pid,
        processes = made.processes,
        "restored"
    );
    let report = RestoreReport {
        root_pid: made.root_pid,
        processes: made.processes,
        threads: made.threads,
        pages_bytes: made.pages_bytes,
        lazy_bytes: made.filling.as_ref().map_or(0, Filling::total_bytes),
        helper_pid: made.filling.as_ref().map(Filling::helper_pid),
        total_time_us: micros(started.elapsed()),
    };
    Ok(Restored {
        root_pid: made.root_pid,
        report,
        filling: made.filling,
    })
}

/// A tree that ended just now may have left zombies, until whoever inherited them collects them; up to then their pids are
/// taken.
fn await_free_pids(set: &SetReader) -> Result<()> {
    let processes: Vec<PstreeEntry> = set.read_all(Kind::Pstree, None)?;
    foreground::await_collected(
        processes
            .iter()
            .filter_map(|process| i32::try_from(process.pid).ok()),
    );
    Ok(())
}
