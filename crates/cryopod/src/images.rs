//! Dumping into a directory of images, as criu does: no store, no digests, nothing flushed to disk.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cryopod_engine::{
    Cancel, CgroupOptions, DumpOptions, FileValidation, Freeze, Frozen, Increment, Progress,
    TcpOptions, Tracker,
};
use cryopod_image::criu::{InventoryEntry, RestoreStatsEntry, StatsEntry};
use cryopod_image::set::PARENT_LINK;
use cryopod_image::{Kind, SetReader, SetWriter};
use serde::Serialize;

use crate::checkpoint::micros;
use crate::error::{Error, Result};
use crate::restore::RestoreReport;
use crate::target::Target;
use crate::track;

/// What becomes of the target after its dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Afterwards {
    /// It is ended, as criu does unless told otherwise.
    #[default]
    Kill,
    /// It goes on.
    Run,
    /// It is left stopped, as SIGSTOP does.
    Stop,
}

/// How a dump is to be made.
#[derive(Clone, Debug, Default)]
pub struct DumpDirOptions {
    /// What becomes of the target.
    pub afterwards: Afterwards,
    /// The target may belong to a session or group whose leader is outside of the tree.
    pub shell_job: bool,
    /// The largest deleted file whose contents are taken along; `None` for the engine's own limit.
    pub ghost_limit_bytes: Option<u64>,
    /// Take locks on open files along, instead of refusing a program that holds any.
    pub file_locks: bool,
    /// Make hard links (`link_remap.N`) for open files whose name is gone while others of them are left, instead of
    /// refusing them.
    pub link_remap: bool,
    /// Directories to search for watched files (inotify, fanotify) whose path the kernel does not tell.
    pub irmap_scan_paths: Vec<PathBuf>,
    /// Search even where the kernel opens a watched file by its handle.
    pub force_irmap: bool,
    /// Sockets may be connected to unix sockets of datagrams outside the tree that have an address.
    pub external_unix_sockets: bool,
    /// What is recorded of programs and libraries, to know them again.
    pub file_validation: FileValidation,
    /// Control groups.
    pub cgroups: CgroupOptions,
    /// What becomes of TCP connections; whether the target ends is known without it.
    pub tcp: TcpOptions,
    /// Only memory matters, and the target hardly stands still: a dump for others to build on. The target goes on.
    pub pre_dump: bool,
    /// Follow what the target writes to from now on, so that later dumps can build on this one. For that the calling process
    /// must have no other thread.
    pub track_mem: bool,
    /// The images of the last dump, seen from those of this one: what has not changed since is left out.
    pub parent: Option<PathBuf>,
}

/// What a dump became. Times are in microseconds, sizes in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct DumpDirReport {
    /// The pid of the first process.
    pub root_pid: i32,
    /// How many processes are in it.
    pub processes: usize,
    /// How many threads they have.
    pub threads: usize,
    /// How much memory they had.
    pub memory_bytes: u64,
    /// How much of it was written.
    pub pages_bytes: u64,
    /// How long it took until everything stood still.
    pub freezing_time_us: u64,
    /// How long the target stood still (unless it goes on: until all of it was written).
    pub frozen_time_us: u64,
    /// How long memory took.
    pub memory_time_us: u64,
    /// How long everything took.
    pub total_time_us: u64,
}

/// Dumps `target` into `images`, and statistics into `work`. Image files of an earlier dump are overwritten.
///
/// `before_the_end` is called when everything is written, with the target still standing still: if it fails, so does the
/// dump, and the target goes on.
///
/// # Errors
///
/// Whatever they are, the target runs on as before. Image files may be left.
pub fn dump_dir(
    images: &Path,
    work: &Path,
    target: &Target,
    options: &DumpDirOptions,
    before_the_end: &mut dyn FnMut() -> Result<()>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<DumpDirReport> {
    let started = Instant::now();
    let dump_options = dump_options(options);
    let root = target.resolve()?;
    cryopod_engine::survey(root, &dump_options)?;

    clear(images, |kind| {
        kind != Kind::StatsDump && kind != Kind::StatsRestore
    })?;
    let afterwards = match options.pre_dump {
        true => Afterwards::Run,
        false => options.afterwards,
    };
    let track_mem = options.track_mem || options.pre_dump;
    let mut tracker = track::tracker_for(root, track_mem && afterwards != Afterwards::Kill);
    unlink_parent(images)?;
    let parent = match &options.parent {
        Some(parent) => Some(link_parent(images, parent)?),
        None => None,
    };
    let parent = parent.filter(|set| is_base(set, tracker.as_ref()));
    let set = SetWriter::create(images)?.cached();
    let id = random_id()?;
    let mut increment = Increment {
        id: id.clone(),
        tracker: tracker.as_mut(),
        parent: parent.as_ref(),
    };
    let frozen = cryopod_engine::freeze_for_dump(root, &dump_options.tcp, cancel)?;
    let freezing_time = frozen.since().elapsed();
    let snapshot = cryopod_engine::dump(
        &frozen,
        &set,
        &dump_options,
        Some(&mut increment),
        progress,
        cancel,
    )?;
    // A pre-dump from copies does not need the target any more.
    let held = match options.pre_dump && !snapshot.needs_tree() {
        true => Err(frozen.thaw()),
        false => Ok(frozen),
    };
    let mut dumped = snapshot.write_memory(progress, cancel)?;
    set.finish()?;
    // The scripts of a container runtime synchronise file systems here: the target must not have gone on yet.
    before_the_end()?;
    if cancel.is_requested() {
        return Err(Error::Interrupted);
    }
    let frozen_time = match held {
        Ok(frozen) => release(frozen, afterwards)?,
        Err(frozen_time) => frozen_time,
    };
    // A target that goes on is expected to change its files, so that nothing is left behind in its directories.
    if afterwards != Afterwards::Run {
        dumped.links.keep();
    }
    if let Some(tracker) = tracker.filter(|_| afterwards != Afterwards::Kill) {
        track::commit(tracker, &id);
    }
    write_stats(
        work,
        Kind::StatsDump,
        &dumped.stats(freezing_time, frozen_time),
    )?;
    Ok(DumpDirReport {
        root_pid: root,
        processes: dumped.processes.len(),
        threads: dumped.processes.iter().map(|process| process.threads).sum(),
        memory_bytes: dumped.memory_bytes,
        pages_bytes: dumped.pages_bytes,
        freezing_time_us: micros(freezing_time),
        frozen_time_us: micros(frozen_time),
        memory_time_us: micros(dumped.memory_time),
        total_time_us: micros(started.elapsed()),
    })
}

fn dump_options(options: &DumpDirOptions) -> DumpOptions {
    let default = DumpOptions::default();
    DumpOptions {
        shell_job: options.shell_job,
        outside_terminal: options.shell_job,
        ghost_limit_bytes: options
            .ghost_limit_bytes
            .unwrap_or(default.ghost_limit_bytes),
        file_locks: options.file_locks,
        link_remap: options.link_remap,
        irmap_scan_paths: options.irmap_scan_paths.clone(),
        force_irmap: options.force_irmap,
        external_unix_sockets: options.external_unix_sockets,
        // criu's scripts and options expect a target that stands still until everything is written.
        freeze: match options.pre_dump {
            true => Freeze::Auto,
            false => Freeze::Stop,
        },
        cgroups: options.cgroups.clone(),
        file_validation: options.file_validation,
        tcp: TcpOptions {
            ends: options.afterwards == Afterwards::Kill && !options.pre_dump,
            ..options.tcp
        },
        ..default
    }
}

/// Removes the link to a parent that an earlier dump made.
fn unlink_parent(images: &Path) -> Result<()> {
    let link = images.join(PARENT_LINK);
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::path("replace", link)(error))
        }
        _ => Ok(()),
    }
}

/// Makes the link to the images of the parent, and opens them.
fn link_parent(images: &Path, parent: &Path) -> Result<SetReader> {
    let link = images.join(PARENT_LINK);
    symlink(parent, &link).map_err(Error::path("make", &link))?;
    Ok(SetReader::open(&link, None)?)
}

/// Whether a set is what the tracker knows changes since. It may be criu's, or of another program.
fn is_base(set: &SetReader, tracker: Option<&Tracker>) -> bool {
    let Some(base) = tracker.and_then(Tracker::base) else {
        return false;
    };
    let inventory = set.read_one::<InventoryEntry>(Kind::Inventory, None);
    let is_base = inventory.is_ok_and(|inventory| inventory.cryopod_id.as_deref() == Some(base));
    if !is_base {
        tracing::warn!("the previous images are not those of the last dump: everything is stored");
    }
    is_base
}

/// What a set of images is known by, in the form of a UUID.
fn random_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/uuid";
    let text = std::fs::read_to_string(PATH).map_err(Error::path("read", PATH))?;
    Ok(text.trim_end().to_owned())
}

/// Lets the target go the way that was asked for. Returns how long it stood still.
fn release(frozen: Frozen, afterwards: Afterwards) -> Result<Duration> {
    /// SIGSTOP, signal(7).
    const SIGSTOP: i32 = 19;
    match afterwards {
        Afterwards::Kill => Ok(frozen.kill()?),
        Afterwards::Run => Ok(frozen.thaw()),
        Afterwards::Stop => {
            for process in frozen.processes().iter().filter(|process| !process.zombie) {
                let stopped = cryopod_sys::process::kill(process.pid, SIGSTOP);
                stopped.map_err(|errno| Error::Child {
                    operation: "stop",
                    pid: process.pid,
                    source: errno.into(),
                })?;
            }
            Ok(frozen.thaw())
        }
    }
}

/// Writes stats-restore into `work`, in the place of one that is there.
///
/// # Errors
///
/// [`Error::Path`], [`Error::Image`].
pub fn write_restore_stats(work: &Path, report: &RestoreReport) -> Result<()> {
    let time = u32::try_from(report.total_time_us).unwrap_or(u32::MAX);
    let restore = RestoreStatsEntry {
        pages_compared: 0,
        pages_skipped_cow: 0,
        forking_time: 0,
        restore_time: time,
        pages_restored: Some(report.pages_bytes / PAGE_BYTES),
    };
    write_stats(
        work,
        Kind::StatsRestore,
        &StatsEntry {
            dump: None,
            restore: Some(restore),
        },
    )
}

/// The unit of the statistics.
const PAGE_BYTES: u64 = 4096;

fn write_stats(work: &Path, kind: Kind, stats: &StatsEntry) -> Result<()> {
    clear(work, |found| found == kind)?;
    let set = SetWriter::create(work)?;
    set.write_one(kind, None, stats)?;
    set.finish()?;
    Ok(())
}

/// Deletes the image files in `dir` that are of one of the kinds wanted. Anything else is left alone.
fn clear(dir: &Path, wanted: impl Fn(Kind) -> bool) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(Error::path("read", dir))? {
        let entry = entry.map_err(Error::path("read", dir))?;
        let name = entry.file_name();
        let kind = name
            .to_str()
            .and_then(Kind::of_file_name)
            .map(|(kind, _)| kind);
        if kind.is_some_and(&wanted) {
            std::fs::remove_file(entry.path()).map_err(Error::path("overwrite", entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryopod_image::SetReader;

    fn report(pages_bytes: u64) -> RestoreReport {
        RestoreReport {
            root_pid: 41,
            processes: 1,
            threads: 1,
            pages_bytes,
            lazy_bytes: 0,
            helper_pid: None,
            total_time_us: 1500,
        }
    }

    #[test]
    fn statistics_replace_those_of_an_earlier_run() {
        let dir = tempfile::tempdir().unwrap();
        write_restore_stats(dir.path(), &report(4096)).unwrap();
        write_restore_stats(dir.path(), &report(8192)).unwrap();
        let set = SetReader::open(dir.path(), None).unwrap();
        let stats: StatsEntry = set.read_one(Kind::StatsRestore, None).unwrap();
        let restore = stats.restore.unwrap();
        assert_eq!(
            (restore.pages_restored, restore.restore_time),
            (Some(2), 1500)
        );
    }

    #[test]
    fn only_image_files_are_cleared() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "core-41.img",
            "pages-1.img",
            "inventory.img",
            "stats-dump",
            "dump.log",
            "core-x.img",
            "notes.img",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        clear(dir.path(), |kind| kind != Kind::StatsDump).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["core-x.img", "dump.log", "notes.img", "stats-dump"]);
    }
}
