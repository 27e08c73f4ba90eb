//! `cryopod demo`: checkpoints, kills and restores a small tree of programs, and proves that every part of it went on
//! where it was.
//!
//! - [`worker`]: the programs: a parent and two children that do things which can be checked
//! - [`memory`]: memory with contents that can be worked out again
//! - [`status`]: what a program tells about itself, in a file of its own
//! - [`proof`]: comparing what they told before and after
//! - [`table`]: the result
//!
//! This module is the driver: it starts the programs, has them checkpointed and ended, brings them back, lets them go on
//! for a while, and has them finish. Everything is in a temporary directory that is removed in the end.

mod memory;
mod proof;
mod status;
mod table;
mod worker;

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use cryopod::interrupt::{self, CancelOnSignal};
use cryopod::{
    Cancel, CheckpointOptions, CheckpointReport, ExitStatus, Label, Ref, RestoreOptions,
    RestoreReport, Store, Target, doctor, foreground,
};

use crate::commands::Context;
use crate::failure::Failure;
use status::{ROLES, Status};
pub(crate) use worker::{WORKER, worker};

/// How long a step may take on a slow machine before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the demonstration found.
#[derive(Debug)]
struct Outcome {
    checkpoint: CheckpointReport,
    restore: RestoreReport,
    before: Vec<Status>,
    after: Vec<Status>,
}

pub(crate) fn run(context: &Context, memory_bytes: u64) -> Result<ExitCode, Failure> {
    check_machine()?;
    let dir = tempfile::Builder::new().prefix("cryopod-demo-").tempdir();
    let dir = dir.map_err(|source| Failure::Path {
        operation: "create a directory in",
        path: std::env::temp_dir(),
        source,
    })?;
    let outcome = Scene::set(dir.path(), memory_bytes)?.play(context)?;
    context
        .output
        .print(&table::document(&outcome), || table::text(&outcome));
    Ok(ExitCode::SUCCESS)
}

fn check_machine() -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::NeedsRoot {
            what: "the demonstration",
        });
    }
    let missing: Vec<&str> = doctor::examine(None)
        .checks
        .iter()
        .filter(|check| check.needed && !check.have)
        .map(|check| check.name)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Failure::Lacking(missing))
    }
}

/// The programs while they run, and where. Dropping it ends them, in whatever state they are.
struct Scene<'a> {
    dir: &'a Path,
    /// The first program, while it is a child of this one.
    root: Option<i32>,
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        if let Some(pid) = self.root.take() {
            let _ = foreground::kill(pid);
        }
    }
}

impl<'a> Scene<'a> {
    /// Starts the programs.
    fn set(dir: &'a Path, memory_bytes: u64) -> Result<Self, Failure> {
        let failed = |source: io::Error| Failure::Path {
            operation: "start the programs in",
            path: dir.to_owned(),
            source,
        };
        let log = File::create(dir.join("log")).map_err(failed)?;
        let mut program = Command::new("/proc/self/exe");
        program
            .arg0("cryopod")
            .arg(WORKER)
            .arg(ROLES[0])
            .arg(dir)
            .arg(memory_bytes.to_string());
        program.current_dir(dir).env_clear().stdin(Stdio::null());
        program.stdout(log.try_clone().map_err(failed)?).stderr(log);
        // What the caller left open may be what nothing here can checkpoint.
        foreground::inherit_only_streams()?;
        let child = program.spawn().map_err(failed)?;
        Ok(Self {
            dir,
            root: Some(child.id() as i32),
        })
    }

    /// The demonstration, from beginning to end.
    fn play(mut self, context: &Context) -> Result<Outcome, Failure> {
        let root = self.root.ok_or_else(|| failed("there is no program"))?;
        context.output.note(&format!(
            "started pid {root} and two children; they are filling their memory"
        ));
        self.wait_for("the programs to be at work", |statuses| {
            statuses.iter().all(Status::is_at_work)
        })?;

        let store = Store::open(&self.dir.join("store")).map_err(cryopod::Error::from)?;
        let checkpoint = self.checkpoint(context, &store, root)?;
        context.output.note(&format!(
            "checkpointed as {} and killed",
            checkpoint.reference
        ));
        let before = self.statuses()?;
        proof::all_ended(&before).map_err(failed)?;
        // Init may take seconds to collect the children; that is no part of how long a restore takes.
        self.wait_for("the children to be collected", |statuses| {
            statuses.iter().all(Status::is_gone)
        })?;

        let restore = self.restore(context, &store, &checkpoint.reference)?;
        context
            .output
            .note(&format!("restored; pid {} runs again", restore.root_pid));
        self.wait_for("every part to go on", |after| {
            proof::all_went_on(&before, after)
        })?;
        let after = self.finish()?;
        proof::nothing_got_lost(self.dir, &before, &after).map_err(failed)?;
        Ok(Outcome {
            checkpoint,
            restore,
            before,
            after,
        })
    }

    fn checkpoint(
        &mut self,
        context: &Context,
        store: &Store,
        root: i32,
    ) -> Result<CheckpointReport, Failure> {
        let label = Label::parse("demo").map_err(cryopod::Error::from)?;
        let options = CheckpointOptions {
            stop: true,
            label: Some(label),
            ..CheckpointOptions::default()
        };
        let signals = CancelOnSignal::watch()?;
        let bars = context.bars();
        let report = cryopod::checkpoint(
            store,
            &Target::Process(root),
            &options,
            &bars,
            signals.cancel(),
        )?;
        // Whoever ends a child in this way has collected it as well.
        self.root = None;
        Ok(report)
    }

    fn restore(
        &mut self,
        context: &Context,
        store: &Store,
        reference: &str,
    ) -> Result<RestoreReport, Failure> {
        let reference = Ref::parse(reference).map_err(cryopod::Error::from)?;
        let options = RestoreOptions::default();
        let restored = cryopod::restore(
            store,
            &reference,
            &options,
            &context.bars(),
            &Cancel::default(),
        )?;
        self.root = Some(restored.root_pid);
        let report = restored.report.clone();
        restored.detach();
        Ok(report)
    }

    /// Has the programs come to an end by themselves, with everything that is still under way delivered.
    fn finish(&mut self) -> Result<Vec<Status>, Failure> {
        let path = self.dir.join(status::STOP_FILE);
        File::create(&path).map_err(|source| Failure::Path {
            operation: "create",
            path,
            source,
        })?;
        self.wait_for("the programs to finish", |statuses| {
            statuses.iter().all(|status| status.done)
        })?;
        if let Some(root) = self.root.take() {
            match foreground::wait(root)? {
                ExitStatus::Exited(0) => {}
                status => {
                    return Err(failed(format!(
                        "the first program ended with {status:?}{}",
                        self.log()
                    )));
                }
            }
        }
        self.statuses()
    }

    /// Waits until what the programs tell is as it should be; at once an error if one of them found something wrong.
    fn wait_for(&self, what: &str, reached: impl Fn(&[Status]) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let statuses = self.statuses();
            if let Ok(statuses) = &statuses {
                if let Some(problem) = statuses.iter().flat_map(|status| &status.problems).next() {
                    return Err(failed(format!("{problem}{}", self.log())));
                }
                if reached(statuses) {
                    return Ok(());
                }
            }
            if interrupt::is_noted() {
                return Err(cryopod::Error::Interrupted.into());
            }
            if Instant::now() > deadline {
                let state = statuses.map_or_else(
                    |failure| failure.to_string(),
                    |statuses| format!("{statuses:?}"),
                );
                return Err(failed(format!(
                    "waited in vain for {what}: {state}{}",
                    self.log()
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn statuses(&self) -> Result<Vec<Status>, Failure> {
        ROLES
            .iter()
            .map(|role| Status::read(self.dir, role))
            .collect()
    }

    /// What the programs wrote to their standard streams, which should be nothing.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        if log.is_empty() {
            log
        } else {
            format!("\n{}", log.trim_end())
        }
    }
}

fn failed(what: impl Into<String>) -> Failure {
    Failure::Demo { what: what.into() }
}

/// A file of one of the programs'.
fn file_of(dir: &Path, what: &str, role: &str) -> PathBuf {
    dir.join(format!("{what}-{role}"))
}
