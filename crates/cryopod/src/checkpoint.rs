//! The workflow of a checkpoint: target -> survey -> freeze -> dump -> image set -> store.

use std::num::NonZeroUsize;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cryopod_engine::{Cancel, DumpOptions, Freeze, Frozen, Increment, Progress, TcpOptions};
use cryopod_image::set::PARENT_LINK;
use cryopod_image::{Kind, SetWriter};
use cryopod_store::{CheckpointMeta, Label, Name, Ref, Replace, Store};
use jiff::Timestamp;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::line::{self, Incremental};
use crate::target::Target;
use crate::{host, meta, naming, track};

/// How a checkpoint is to be made.
#[derive(Clone, Debug, Default)]
pub struct CheckpointOptions {
    /// End the target once the checkpoint is safely stored, instead of letting it go on.
    pub stop: bool,
    /// Take a terminal along whose other end is outside of the tree, also where it is no standard stream: restored, it is
    /// the restorer's.
    pub shell_job: bool,
    /// Put the checkpoint in the place of one that has the name already, instead of refusing.
    pub replace: bool,
    /// Take locks on open files along, instead of refusing a program that holds any.
    pub file_locks: bool,
    /// Make hard links (`link_remap.N`) for open files whose name is gone while others of them are left, instead of
    /// refusing them.
    pub link_remap: bool,
    /// The largest deleted file whose contents are taken along; `None` for the engine's own limit.
    pub ghost_limit_bytes: Option<u64>,
    /// Directories to search for watched files (inotify, fanotify) whose path the kernel does not tell.
    pub irmap_scan_paths: Vec<PathBuf>,
    /// Search even where the kernel opens a watched file by its handle.
    pub force_irmap: bool,
    /// What becomes of TCP connections; whether the target ends is known without it.
    pub tcp: TcpOptions,
    /// The label; the command's name by default.
    pub label: Option<Label>,
    /// The name under the label; the time in UTC by default.
    pub name: Option<Name>,
    /// Sockets may be connected to unix sockets of datagrams outside the tree that have an address (a log daemon's):
    /// a restore connects them to it again.
    pub external_unix_sockets: bool,
    /// How long the target is to stand still. One that is ended afterwards does so until all its memory is read: what
    /// it did meanwhile would be lost.
    pub freeze: Freeze,
    /// Threads that read and write memory; as many as there are processors when left out.
    pub jobs: Option<NonZeroUsize>,
    /// Leave out what an earlier checkpoint has and what has not changed since. Anything but [`Incremental::No`] starts a
    /// tracker if there is none, for which the calling process must have no other thread.
    pub incremental: Incremental,
}

/// What a checkpoint became. Times are in microseconds, sizes in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct CheckpointReport {
    /// What to call it from now on: `label:name`.
    pub reference: String,
    /// Its directory.
    pub path: PathBuf,
    /// The pid of the first of its processes.
    pub root_pid: i32,
    /// How many processes are in it.
    pub processes: usize,
    /// How many threads they have.
    pub threads: usize,
    /// How much memory they had.
    pub memory_bytes: u64,
    /// How much of it was stored; pages full of zeroes are not.
    pub pages_bytes: u64,
    /// The size of all image files.
    pub size_bytes: u64,
    /// How long the target stood still, from the first interrupt to the last resume (with `stop`: until all of it was
    /// read).
    pub frozen_time_us: u64,
    /// How long everything took.
    pub total_time_us: u64,
    /// Whether its memory was read from copies while the target went on.
    pub live: bool,
    /// Whether the target was ended.
    pub stopped: bool,
    /// The checkpoint that has what this one leaves out.
    pub parent: Option<String>,
    /// How much of the memory that is.
    pub parent_bytes: u64,
    /// Why there is no parent, where one was asked for.
    pub alone_because: Option<String>,
}

/// Makes a checkpoint of `target` in `store`.
///
/// Must be called on a thread that lives as long as the call: the kernel ties ptrace(2) to it.
///
/// # Errors
///
/// Whatever they are, the target runs on as before and the store has nothing new; the exceptions are
/// [`Error::StoredNotStopped`] and [`cryopod_store::Error::NotDurable`], which say so.
/// [`Error::Unsupported`] lists everything that stands in the way, found before the target was touched.
pub fn checkpoint(
    store: &Store,
    target: &Target,
    options: &CheckpointOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<CheckpointReport> {
    let started = Instant::now();
    let created = Timestamp::now();
    let dump_options = dump_options(options);

    // What can be refused is refused before anything is touched.
    let root = target.resolve()?;
    let (label, name) = choose_name(store, options, root, created)?;
    cryopod_engine::survey(root, &dump_options)?;
    let is_incremental = options.incremental != Incremental::No;
    let mut tracker = track::tracker_for(root, is_incremental && !options.stop);
    let own = options
        .replace
        .then(|| Ref::exact(label.clone(), name.clone()));
    let chosen = line::choose(store, &options.incremental, tracker.as_ref(), own.as_ref())?;
    let (parent, alone_because) = match chosen {
        Ok(line) => (Some(line), None),
        Err(why) => (None, Some(why).filter(|_| is_incremental)),
    };

    // From here on two guards undo everything: dropping `staging` deletes it, dropping `frozen` lets the target go.
    let staging = store.stage()?;
    let set = SetWriter::create(&staging.images())?;
    let id = staging.id().to_owned();
    if let Some(parent) = &parent {
        let link = staging.images().join(PARENT_LINK);
        let made = symlink(parent.first().images_from_sibling(), &link);
        made.map_err(Error::path("make", link))?;
    }
    let mut increment = Increment {
        id: id.clone(),
        tracker: tracker.as_mut(),
        parent: parent.as_ref().map(|line| &line.set),
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
    let held = Held::let_go(frozen, options.stop || snapshot.needs_tree());
    let mut dumped = snapshot.write_memory(progress, cancel)?;
    if let Some(choice) = dumped.freeze.as_mut().filter(|_| options.stop) {
        choice.reason = "it is ended afterwards, there is nothing to keep running".to_owned();
    }
    let held = held.let_go_now(options.stop);
    let frozen_time = held.frozen_time();
    set.write_one(
        Kind::StatsDump,
        None,
        &dumped.stats(freezing_time, frozen_time),
    )?;
    let files = set.finish()?;

    let mut described = CheckpointMeta::new(label.clone(), name.clone(), root);
    described.created = created;
    described.id = Some(id.clone());
    described.parent = parent.as_ref().map(|line| line.first().reference());
    described.host = host::describe();
    described.cpu_features = host::cpu_features()?;
    described.engine = meta::engine();
    described
        .options
        .insert("stop".to_owned(), options.stop.into());
    meta::describe(&mut described, &dumped, files);
    described.stats.frozen_time_us = micros(frozen_time);
    described.stats.total_time_us = micros(started.elapsed());

    if cancel.is_requested() {
        return Err(Error::Interrupted);
    }
    let replace = if options.replace {
        Replace::Yes
    } else {
        Replace::No
    };
    progress.begin("storing", None);
    let stored = staging.publish(&described, &label, &name, replace);
    progress.end();
    let stored = stored?;
    for link in dumped.links.keep() {
        tracing::info!(path = %link.display(), "a link that the checkpoint needs was left");
    }
    let reference = stored.reference().to_string();
    if let Some(tracker) = tracker.filter(|_| !options.stop) {
        track::commit(tracker, &id);
    }
    if let Held::ToEnd(frozen, _) = held {
        let killed = frozen.kill();
        killed.map_err(|source| Error::StoredNotStopped {
            reference: reference.clone(),
            source,
        })?;
    }
    tracing::info!(reference, "checkpoint stored");
    Ok(CheckpointReport {
        reference,
        path: stored.path,
        root_pid: root,
        processes: dumped.processes.len(),
        threads: dumped.processes.iter().map(|process| process.threads).sum(),
        memory_bytes: dumped.memory_bytes,
        pages_bytes: dumped.pages_bytes,
        size_bytes: described.size_bytes,
        frozen_time_us: micros(frozen_time),
        total_time_us: micros(started.elapsed()),
        live: dumped.freeze.is_some_and(|choice| choice.live),
        stopped: options.stop,
        parent: described.parent.as_ref().map(Ref::to_string),
        parent_bytes: dumped.parent_bytes,
        alone_because,
    })
}

/// How cryopod's own checkpoints are dumped: a program may be part of the session of the shell that started it, and its
/// standard streams may lead outside of the tree; a restore joins them to its own.
fn dump_options(options: &CheckpointOptions) -> DumpOptions {
    let default = DumpOptions::default();
    DumpOptions {
        file_locks: options.file_locks,
        link_remap: options.link_remap,
        irmap_scan_paths: options.irmap_scan_paths.clone(),
        force_irmap: options.force_irmap,
        freeze: if options.stop {
            Freeze::Stop
        } else {
            options.freeze
        },
        jobs: options.jobs,
        tcp: TcpOptions {
            ends: options.stop,
            ..options.tcp
        },
        external_stdio: true,
        shell_job: true,
        cgroups: default.cgroups,
        file_validation: default.file_validation,
        outside_terminal: options.shell_job,
        external_unix_sockets: options.external_unix_sockets,
        ghost_limit_bytes: options
            .ghost_limit_bytes
            .unwrap_or(default.ghost_limit_bytes),
    }
}

/// Settles what the checkpoint is to be called, and refuses a name that is taken. Only publishing decides that, but by
/// then the target has stood still for nothing.
fn choose_name(
    store: &Store,
    options: &CheckpointOptions,
    root: i32,
    created: Timestamp,
) -> Result<(Label, Name)> {
    let label = match &options.label {
        Some(label) => label.clone(),
        None => naming::label_of(root)?,
    };
    let name = match &options.name {
        Some(name) => name.clone(),
        None => naming::free_name(store, &label, created)?,
    };
    if !options.replace && store.contains(&label, &name)? {
        let reference = Ref::exact(label, name);
        return Err(cryopod_store::Error::Exists {
            reference,
            store: store.path().to_owned(),
        }
        .into());
    }
    let reference = Ref::exact(label.clone(), name.clone());
    if options.replace && store.contains(&label, &name)? {
        let by = store.dependents(&label, &name)?;
        if !by.is_empty() {
            return Err(cryopod_store::Error::Needed { reference, by }.into());
        }
    }
    Ok((label, name))
}

/// The tree on its way from standing still to whatever becomes of it.
enum Held {
    /// It stands still.
    Still(Frozen),
    /// It is to be ended once its checkpoint is stored: nothing that it did from here on may get lost. It stood still
    /// for this long until everything was read.
    ToEnd(Frozen, Duration),
    /// It goes on, and stood still for this long.
    Gone(Duration),
}

impl Held {
    /// Lets the tree go on, unless it must stay.
    fn let_go(frozen: Frozen, stay: bool) -> Self {
        if stay {
            Self::Still(frozen)
        } else {
            Self::Gone(frozen.thaw())
        }
    }

    /// Lets the tree go on if it did not yet, unless it is to be ended.
    fn let_go_now(self, stop: bool) -> Self {
        match self {
            Self::Still(frozen) if stop => {
                let frozen_time = frozen.since().elapsed();
                Self::ToEnd(frozen, frozen_time)
            }
            Self::Still(frozen) => Self::Gone(frozen.thaw()),
            other => other,
        }
    }

    fn frozen_time(&self) -> Duration {
        match self {
            Self::Still(frozen) => frozen.since().elapsed(),
            Self::ToEnd(_, time) | Self::Gone(time) => *time,
        }
    }
}

/// A duration in microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn options(name: &str, replace: bool) -> CheckpointOptions {
        CheckpointOptions {
            replace,
            label: Some(Label::parse("web").unwrap()),
            name: Some(Name::parse(name).unwrap()),
            ..CheckpointOptions::default()
        }
    }

    #[test]
    fn a_name_that_is_taken_is_refused_before_anything_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        std::fs::create_dir_all(dir.path().join("checkpoints/web/v1")).unwrap();
        let choose = |options| choose_name(&store, &options, 1, Timestamp::now());
        let refused = choose(options("v1", false)).unwrap_err();
        assert!(
            matches!(refused, Error::Store(cryopod_store::Error::Exists { .. })),
            "{refused}"
        );
        assert!(choose(options("v1", true)).is_ok());
        assert!(choose(options("v2", false)).is_ok());
    }

    #[test]
    fn a_process_that_is_not_there_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let gone = Target::Process(i32::MAX);
        let error = checkpoint(
            &store,
            &gone,
            &CheckpointOptions::default(),
            &cryopod_engine::NoProgress,
            &Cancel::default(),
        )
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(store.list(None).unwrap().is_empty());
    }
}
