//! One run: a fresh process is checkpointed, restored, looked at and killed.

use std::cell::Cell;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::plan::{Case, Load, Pair, Run, Side};
use super::redis::{Clients, Latency};
use super::stats::DumpStats;
use super::target::{Target, await_end};
use crate::command;

/// What one run took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measurement {
    /// What for.
    #[serde(flatten)]
    pub case: Case,
    /// Counted from 0.
    pub round: u32,
    /// By whom.
    pub side: Side,
    /// How long the process stood still, as the side itself says.
    pub frozen_time_us: u64,
    /// How long the checkpoint took to whoever waited for it, with the sync where there is one.
    pub checkpoint_time_us: u64,
    /// The part of it that was a separate sync of the file system.
    pub sync_time_us: u64,
    /// How long the restore took until the command returned.
    pub restore_time_us: u64,
    /// From the start of the restore until the program answered.
    pub answer_time_us: u64,
    /// What the checkpoint takes up.
    pub size_bytes: u64,
    /// The most memory that a command had of its own.
    pub own_memory_bytes: u64,
    /// How long the answers of a server took meanwhile.
    pub latency: Option<Latency>,
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| us as f64 / 1e3;
        write!(
            f,
            "frozen {:.1} ms, checkpoint {:.1} ms, restore {:.1} ms, answer {:.1} ms, {} MiB, own memory {} MiB",
            ms(self.frozen_time_us),
            ms(self.checkpoint_time_us),
            ms(self.restore_time_us),
            ms(self.answer_time_us),
            self.size_bytes >> 20,
            self.own_memory_bytes >> 20
        )?;
        match self.latency {
            None => Ok(()),
            Some(latency) => write!(
                f,
                ", p99 {:.2} ms, before {:.2} ms, longest {:.1} ms",
                ms(latency.p99_during_us),
                ms(latency.p99_before_us),
                ms(latency.longest_us)
            ),
        }
    }
}

/// A directory that goes away with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path) -> Result<Scratch> {
        let path = parent.join(format!("cryopod-bench-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next run cannot create it and says so.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes one run.
pub fn measure(run: &Run, cryopod: &Path) -> Result<Measurement> {
    let scratch = Scratch::new(&run.case.place.directory())?;
    let mut target = Target::start(&run.case, run.side, &scratch.0)?;
    target.check_alive()?;
    // What earlier runs left dirty is not this one's to write.
    command::succeed(&mut Command::new("sync"))?;
    let contender = Contender {
        cryopod,
        run,
        directory: &scratch.0,
        pid: target.pid(),
        own_memory_bytes: Cell::new(0),
    };
    let clients = match target.server() {
        // criu cannot checkpoint a server with connections here.
        Some(address) if run.side == Side::Cryopod => {
            Some(Clients::start(address, run.case.size_mib)?)
        }
        _ => None,
    };

    let start = Instant::now();
    let output = contender.checkpoint()?;
    let after_command = start.elapsed();
    contender.sync()?;
    let checkpoint_time = start.elapsed();

    let latency = clients.map(Clients::end).transpose()?;
    let frozen_time_us = contender.frozen_time_us(&output)?;
    if run.case.pair.leaves_running() {
        target.check_alive().context("after the checkpoint")?;
        target.kill()?;
    } else {
        target.wait_gone()?;
    }

    let size_bytes = forget_cached(&scratch.0)?;
    let start = Instant::now();
    let report = contender.restore()?;
    let restore_time = start.elapsed();
    target.await_answer().context("after the restore")?;
    let answer_time = start.elapsed();

    if run.case.pair == Pair::Lazy && run.side == Side::Cryopod {
        // Memory that is still to come cannot be looked at from outside.
        await_fill(&report)?;
    }
    target.check_alive().context("after the restore")?;
    target.kill_restored()?;
    Ok(Measurement {
        case: run.case,
        round: run.round,
        side: run.side,
        frozen_time_us,
        checkpoint_time_us: micros(checkpoint_time),
        sync_time_us: micros(checkpoint_time - after_command),
        restore_time_us: micros(restore_time),
        answer_time_us: micros(answer_time),
        size_bytes,
        own_memory_bytes: contender.own_memory_bytes.get(),
        latency,
    })
}

/// Waits until the helper of a lazy restore has left.
fn await_fill(report: &str) -> Result<()> {
    let report: serde_json::Value =
        serde_json::from_str(report).context("the report is not JSON")?;
    match report["helper_pid"].as_u64() {
        Some(pid) => await_end(u32::try_from(pid)?),
        None => Ok(()),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Has the kernel drop what it keeps of the files under a directory: a checkpoint is restored long after it was made, or
/// elsewhere. On tmpfs that changes nothing. Returns what the files take together.
fn forget_cached(directory: &Path) -> Result<u64> {
    // Only what is written out can be dropped.
    command::succeed(Command::new("sync").arg("-f").arg(directory))?;
    let mut total = 0;
    for (path, size_bytes) in files(directory)? {
        let file =
            fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .with_context(|| format!("cannot forget {}", path.display()))?;
        total += size_bytes;
    }
    Ok(total)
}

/// All files under a directory, with their sizes in bytes.
fn files(directory: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let read = || format!("cannot read {}", directory.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(read)? {
        let entry = entry.with_context(read)?;
        let metadata = entry.metadata().with_context(read)?;
        if metadata.is_dir() {
            found.extend(files(&entry.path())?);
        } else if metadata.is_file() {
            found.push((entry.path(), metadata.len()));
        }
    }
    Ok(found)
}

/// The most memory that a process had, looked at every few milliseconds until it ends (VmHWM of proc_pid_status(5)).
fn peak_memory(pid: u32) -> u64 {
    let mut peak_kib = 0;
    while let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        // One that has ended has no memory.
        let Some(line) = line else { break };
        let kib = line.split_ascii_whitespace().next().unwrap_or_default();
        peak_kib = kib.parse().unwrap_or(0).max(peak_kib);
        thread::sleep(Duration::from_millis(2));
    }
    peak_kib << 10
}

/// One side's way of doing a run.
struct Contender<'a> {
    cryopod: &'a Path,
    run: &'a Run,
    directory: &'a Path,
    pid: u32,
    own_memory_bytes: Cell<u64>,
}

/// Name under which cryopod keeps the checkpoint.
const REFERENCE: &str = "bench:run";

impl Contender<'_> {
    /// Whether cryopod is used by its own command line rather than criu's.
    fn is_native(&self) -> bool {
        self.run.side == Side::Cryopod && !self.run.case.pair.is_drop_in()
    }

    fn checkpoint(&self) -> Result<String> {
        let mut command = if self.is_native() {
            let mut command = self.native("checkpoint");
            command.arg(self.pid.to_string()).arg(REFERENCE);
            if !self.run.case.pair.leaves_running() {
                command.arg("--stop");
            }
            command
        } else {
            let mut command = self.criu("dump");
            command.arg("-t").arg(self.pid.to_string());
            if self.run.case.pair.leaves_running() {
                command.arg("--leave-running");
            }
            command
        };
        if self.has_connections() {
            command.arg("--tcp-established");
        }
        self.execute(&mut command, "dump.log")
    }

    fn restore(&self) -> Result<String> {
        let mut command = if self.is_native() {
            let mut command = self.native("restore");
            command.args([REFERENCE, "--detach"]);
            if self.run.case.pair == Pair::Lazy {
                command.arg("--lazy");
            }
            command
        } else {
            let mut command = self.criu("restore");
            command.arg("-d");
            command
        };
        if self.has_connections() {
            command.arg("--tcp-close");
        }
        self.execute(&mut command, "restore.log")
    }

    /// Whether clients are connected during the checkpoint; they are gone when it is restored.
    fn has_connections(&self) -> bool {
        self.run.side == Side::Cryopod && self.run.case.load == Load::Redis
    }

    fn native(&self, verb: &str) -> Command {
        let mut command = Command::new(self.cryopod);
        command
            .args([verb, "--json", "--store"])
            .arg(self.directory);
        command
    }

    fn criu(&self, verb: &str) -> Command {
        let mut command = match self.run.side {
            Side::Criu => Command::new("criu"),
            Side::Cryopod => {
                let mut command = Command::new(self.cryopod);
                command.arg("criu");
                command
            }
        };
        let log = format!("{verb}.log");
        command.arg(verb).arg("-D").arg(self.directory);
        command.args(["-o", &log, "-v4", "--shell-job"]);
        command
    }

    /// Runs a command; its failure carries what it said, or the end of its log.
    fn execute(&self, command: &mut Command, log: &str) -> Result<String> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run `{}`", command::display(command)))?;
        let pid = child.id();
        let watch = thread::spawn(move || peak_memory(pid));
        let output = child
            .wait_with_output()
            .with_context(|| format!("cannot wait for `{}`", command::display(command)))?;
        let peak_bytes = watch.join().unwrap_or(0);
        self.own_memory_bytes
            .set(self.own_memory_bytes.get().max(peak_bytes));
        if !output.status.success() {
            let log = fs::read_to_string(self.directory.join(log)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(10)..];
            bail!(
                "`{}` failed: {}\n{}{}",
                command::display(command),
                output.status,
                String::from_utf8_lossy(&output.stderr),
                tail.join("\n")
            );
        }
        String::from_utf8(output.stdout).context("the output is not UTF-8")
    }

    /// Has the file system written out where the side did not do that itself and the comparison asks for it.
    fn sync(&self) -> Result<()> {
        if self.run.side == Side::Cryopod || self.run.case.pair.is_drop_in() {
            return Ok(());
        }
        command::succeed(Command::new("sync").arg("-f").arg(self.directory))
    }

    fn frozen_time_us(&self, output: &str) -> Result<u64> {
        if !self.is_native() {
            return Ok(DumpStats::read(self.directory)?.frozen_time_us);
        }
        let report: serde_json::Value =
            serde_json::from_str(output).context("the report is not JSON")?;
        report["frozen_time_us"]
            .as_u64()
            .with_context(|| format!("the report has no frozen_time_us: {output}"))
    }
}
