//! From a frozen tree to an image set.
//!
//! Everything but memory is read first, process by process, then memory; each kind of resource has its room here and a
//! twin of the same name in [`crate::restore`].
//!
//! - `process`: what belongs to a whole process, and the order of its parts
//! - `threads`: registers and what else each thread has of its own
//! - `signals`, `timers`, `credentials`, `seccomp`: the parts of both
//! - `mappings`: address spaces, with their `guards` and `aio` rings; `memory`: their contents; `shmem`: memory that processes share
//! - `files`: descriptors
//! - `ipc`: shared memory, semaphores and message queues of System V
//! - `connections`: what becomes of those of TCP; `listeners`: of those that wait to be accepted
//! - `ids`: which processes share which kernel objects; `cgroups`; `inventory`

pub(crate) mod aio;
mod cgroups;
mod connections;
mod credentials;
pub mod files;
pub(crate) mod guards;
pub(crate) mod ids;
mod inventory;
pub(crate) mod ipc;
mod listeners;
pub(crate) mod mappings;
pub(crate) mod memory;
mod process;
mod report;
mod seccomp;
mod settings;
mod shmem;
pub(crate) mod signals;
mod threads;
mod timers;

use std::num::NonZeroUsize;

use std::path::PathBuf;

use cryopod_image::SetWriter;

pub use connections::{Connections, Held, NetworkLock, TcpOptions};
pub use listeners::freeze_for_dump;
pub use report::{DumpReport, ProcessSummary};

use crate::cgroups::CgroupOptions;
use crate::elf::FileValidation;
use crate::error::Result;
use crate::freeze::Frozen;
use crate::progress::{Cancel, Progress};
use crate::track::Increment;

/// What a dump includes and tolerates.
#[derive(Clone, Debug)]
pub struct DumpOptions {
    /// Standard streams that lead outside the tree are recorded as such instead of being refused.
    pub external_stdio: bool,
    /// The tree may belong to a session or group whose leader is outside.
    pub shell_job: bool,
    /// A terminal whose other end is outside of the tree may be among its files; restored, it is the restorer's.
    pub outside_terminal: bool,
    /// Control groups.
    pub cgroups: CgroupOptions,
    /// The largest deleted file whose contents are taken along, in bytes.
    pub ghost_limit_bytes: u64,
    /// Sockets may be connected to unix sockets of datagrams outside the tree; a restore connects them to the same
    /// address.
    pub external_unix_sockets: bool,
    /// Threads that read and write memory; as many as there are processors when left out.
    pub jobs: Option<NonZeroUsize>,
    /// Locks on open files (flock, POSIX, OFD, leases) are checkpointed instead of being refused.
    pub file_locks: bool,
    /// Files that lost the name they were opened by are linked anew beside it, instead of being refused.
    pub link_remap: bool,
    /// Directories that are searched for watched files whose path the kernel does not tell.
    pub irmap_scan_paths: Vec<PathBuf>,
    /// They are searched even where the kernel opens a watched file by its handle.
    pub force_irmap: bool,
    /// How long the tree is to stand still.
    pub freeze: Freeze,
    /// What is recorded of programs and libraries, to know them again.
    pub file_validation: FileValidation,
    /// What becomes of TCP connections.
    pub tcp: TcpOptions,
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self {
            external_stdio: false,
            shell_job: false,
            outside_terminal: false,
            cgroups: CgroupOptions::default(),
            ghost_limit_bytes: 1 << 20,
            external_unix_sockets: false,
            jobs: None,
            file_locks: false,
            link_remap: false,
            irmap_scan_paths: Vec::new(),
            force_irmap: false,
            freeze: Freeze::default(),
            file_validation: FileValidation::default(),
            tcp: TcpOptions::default(),
        }
    }
}

/// How long the tree is to stand still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freeze {
    /// As briefly as it can: [`Freeze::Live`] where there is room, otherwise [`Freeze::Stop`].
    #[default]
    Auto,
    /// Until copy-on-write copies of its processes are made. An error where that cannot be.
    Live,
    /// Until all its memory is read.
    Stop,
}

/// How long a tree stood still, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreezeChoice {
    /// Whether its memory was read from copies, while it went on.
    pub live: bool,
    /// Why, in words.
    pub reason: String,
}

/// A tree of which everything is in the image set but the contents of private memory.
pub struct Snapshot<'s> {
    set: &'s SetWriter,
    jobs: Option<NonZeroUsize>,
    contents: memory::Contents,
    report: DumpReport,
    choice: FreezeChoice,
}

impl Snapshot<'_> {
    /// Whether memory is yet to be read from the tree itself, so that it must go on standing still.
    pub fn needs_tree(&self) -> bool {
        self.contents.needs_tree()
    }

    /// Writes the contents of memory.
    ///
    /// # Errors
    ///
    /// Any; the set is incomplete. Copies of the tree's processes are gone in any case.
    pub fn write_memory(self, progress: &dyn Progress, cancel: &Cancel) -> Result<DumpReport> {
        let mut report = self.report;
        self.contents.write(&mut memory::Output {
            set: self.set,
            jobs: self.jobs,
            report: &mut report,
            progress,
            cancel,
        })?;
        report.freeze = Some(self.choice);
        Ok(report)
    }
}

/// Writes the image set of a frozen tree, up to the contents of its private memory, which are taken from the snapshot
/// that this returns. Unless that [needs it](Snapshot::needs_tree), the tree may go on. What became of it is the
/// caller's decision.
///
/// With an `increment`, what has not changed since its parent is left out, and writes are followed from now on.
///
/// # Errors
///
/// Any; the tree is as it was, the set is incomplete.
pub fn dump<'s>(
    frozen: &Frozen,
    set: &'s SetWriter,
    options: &DumpOptions,
    mut increment: Option<&mut Increment<'_>>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Snapshot<'s>> {
    let pids = frozen.pids();
    let held = Held::lock(&pids, &options.tcp)?;
    let run_id = held.run_id().map(str::to_owned);
    frozen.hold(held);
    let mut world = process::World {
        set,
        ids: ids::Ids::default(),
        files: files::Files::new(set, options, &pids)?,
        shmem: shmem::Shmem::default(),
        seccomp: seccomp::Filters::default(),
        cgroups: cgroups::Sets::default(),
        spaces: std::collections::HashSet::new(),
        tables: std::collections::HashSet::new(),
        report: DumpReport::default(),
        memory: Vec::new(),
    };
    let mut shared_with_others = Vec::new();
    let ipc = ipc::Objects::find(&pids, &mut shared_with_others)?;
    if !shared_with_others.is_empty() {
        return Err(crate::Error::Unsupported(shared_with_others));
    }
    world.files.reserve(ipc.segments());
    for one in frozen.processes() {
        if cancel.is_requested() {
            return Err(crate::Error::Cancelled);
        }
        process::dump(&mut world, one)?;
    }
    let line = inventory::Line {
        run_id,
        id: increment.as_ref().map(|increment| increment.id.clone()),
        parent_id: increment
            .as_ref()
            .and_then(|increment| increment.parent_id()),
    };
    inventory::dump(&mut world, frozen, options, line)?;
    let process::World {
        files,
        mut shmem,
        seccomp,
        cgroups,
        mut report,
        mut memory,
        ..
    } = world;
    let (shared, links) = files.finish()?;
    shmem.extend(shared);
    report.links = links;
    ipc.write(set, &mut shmem)?;
    if !options.tcp.ends {
        frozen.unlock();
    }
    seccomp.write(set)?;
    cgroups.write(set, &options.cgroups)?;
    // Late: what fails before this costs the next dump nothing.
    if let Some(increment) = &mut increment {
        increment.mark(&mut memory);
    }
    let mut contents = memory::Contents::new(memory, shmem);
    let mut output = memory::Output {
        set,
        jobs: options.jobs,
        report: &mut report,
        progress,
        cancel,
    };
    let choice = choose(options.freeze, &pids, &mut contents, &mut output)?;
    tracing::info!(live = choice.live, reason = choice.reason, "freeze");
    Ok(Snapshot {
        set,
        jobs: options.jobs,
        contents,
        report,
        choice,
    })
}

/// Makes copies of the tree's processes, if that is wanted and can be.
fn choose(
    wanted: Freeze,
    pids: &[i32],
    contents: &mut memory::Contents,
    output: &mut memory::Output<'_>,
) -> Result<FreezeChoice> {
    let stop = |reason: String| FreezeChoice {
        live: false,
        reason,
    };
    let shortage = match wanted {
        Freeze::Stop => return Ok(stop("asked for".to_owned())),
        Freeze::Auto => memory::shortage(pids)?,
        Freeze::Live => None,
    };
    if let Some(why) = shortage {
        return Ok(stop(why));
    }
    match contents.copy(output)? {
        Ok(()) => Ok(FreezeChoice {
            live: true,
            reason: match wanted {
                Freeze::Auto => "there is room for copies".to_owned(),
                _ => "asked for".to_owned(),
            },
        }),
        Err(errno) if wanted == Freeze::Auto => Ok(stop(format!(
            "the kernel makes no copy of a process: {errno}"
        ))),
        Err(source) => Err(crate::Error::NoCopy { source }),
    }
}
