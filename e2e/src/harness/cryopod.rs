//! Running the command under test and reading what it says.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::{Context, poll, processes};

/// The exit code of a Rust program that panics.
const PANIC: i32 = 101;

/// One way of calling the command: with a store, and a directory for what it prints.
#[derive(Clone, Debug)]
pub struct Cryopod<'a> {
    pub context: &'a Context,
    pub store: PathBuf,
    output: PathBuf,
}

/// What came of one call.
pub struct Ran {
    line: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A call that is under way.
pub struct Running {
    line: String,
    pub child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl<'a> Cryopod<'a> {
    /// With a store in a directory.
    pub fn new(context: &'a Context, directory: &Path) -> Self {
        Self {
            context,
            store: directory.join("store"),
            output: directory.to_owned(),
        }
    }

    /// The command with arguments, unstarted.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Command> {
        let mut command = Command::new(self.context.cryopod()?);
        command
            .args(arguments)
            .env("CRYOPOD_STORE", &self.store)
            .env("RUST_BACKTRACE", "1");
        Ok(command)
    }

    /// The command with arguments, to be run by one of the helpers among the native programs.
    pub fn command_by<S: AsRef<OsStr>>(
        &self,
        helper: &[&OsStr],
        arguments: &[S],
    ) -> Result<Command> {
        let plain = self.command(arguments)?;
        let mut command = Command::new(self.context.native_programs()?);
        command
            .args(helper)
            .arg(plain.get_program())
            .args(plain.get_args());
        command
            .env("CRYOPOD_STORE", &self.store)
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Starts the command. What it prints goes to files: a pipe would be kept open by what it restores.
    pub fn start<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Running> {
        let mut command = self.command(arguments)?;
        command.stdin(Stdio::null());
        self.start_command(command)
    }

    /// Starts a command that was made by [`Self::command`], possibly inside another one.
    pub fn start_command(&self, mut command: Command) -> Result<Running> {
        let line = format!("{command:?}");
        let stdout = self.output_file(".out")?;
        let stderr = self.output_file(".err")?;
        command
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?);
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {line}"))?;
        Ok(Running {
            line,
            child,
            stdout,
            stderr,
        })
    }

    /// Starts a command whose standard output leads somewhere else, for a program that it brings to the foreground.
    pub fn start_command_talking(&self, mut command: Command, output: Stdio) -> Result<Running> {
        let line = format!("{command:?}");
        let stdout = self.output_file(".out")?;
        let stderr = self.output_file(".err")?;
        command.stdout(output).stderr(File::create(&stderr)?);
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {line}"))?;
        Ok(Running {
            line,
            child,
            stdout,
            stderr,
        })
    }

    /// A new file for what the command prints.
    fn output_file(&self, prefix: &str) -> Result<PathBuf> {
        Ok(tempfile::Builder::new()
            .prefix(prefix)
            .tempfile_in(&self.output)?
            .into_temp_path()
            .keep()?)
    }

    /// Runs the command to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Ran> {
        self.start(arguments)?.wait()
    }

    /// Runs the command, which must succeed, with `--json`.
    pub fn json<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Value> {
        let mut arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        arguments.push("--json".as_ref());
        let ran = self.run(&arguments)?.succeeded()?;
        serde_json::from_str(&ran.stdout).with_context(|| format!("not one JSON document: {ran:?}"))
    }

    /// Runs the command with `--json`; it must fail with that kind of error.
    pub fn fails<S: AsRef<OsStr>>(&self, kind: &str, arguments: &[S]) -> Result<Ran> {
        let mut arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        arguments.push("--json".as_ref());
        self.run(&arguments)?.failed(kind)
    }

    /// Everything that the store lists, as JSON.
    pub fn list(&self) -> Result<Value> {
        self.json(&["ls"])
    }

    /// The names that are in the store, whatever the command says, as `LABEL:NAME`.
    pub fn stored(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let checkpoints = self.store.join("checkpoints");
        for label in directories(&checkpoints)? {
            for name in directories(&checkpoints.join(&label))? {
                found.push(format!("{label}:{name}"));
            }
        }
        Ok(found)
    }

    /// What is in the staging directory.
    pub fn staged(&self) -> Result<Vec<String>> {
        directories(&self.store.join("tmp"))
    }

    /// The directory of a checkpoint's images.
    pub fn images(&self, reference: &str) -> Result<PathBuf> {
        let (label, name) = reference.split_once(':').context("not a full reference")?;
        Ok(self
            .store
            .join("checkpoints")
            .join(label)
            .join(name)
            .join("images"))
    }
}

/// The entries of a directory, in order; none where there is no such directory.
fn directories(path: &Path) -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(path) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

impl Running {
    /// The pid.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    /// Waits for the end; one that takes for ever is killed, with all that it has started.
    pub fn wait(mut self) -> Result<Ran> {
        let child = &mut self.child;
        let status = match poll::until("its end", || Ok(child.try_wait()?)) {
            Ok(status) => status,
            Err(error) => {
                let wchan =
                    fs::read_to_string(format!("/proc/{}/syscall", child.id())).unwrap_or_default();
                for pid in processes::tree(i32::try_from(child.id())?) {
                    processes::signal(pid, Signal::KILL)?;
                }
                child.wait()?;
                let stderr = read(&self.stderr)?;
                return Err(error.context(format!("{} hangs in {wchan}\n{stderr}", self.line)));
            }
        };
        let ran = Ran {
            line: self.line,
            status,
            stdout: read(&self.stdout)?,
            stderr: read(&self.stderr)?,
        };
        ensure!(
            ran.status.code() != Some(PANIC) && !ran.stderr.contains("panicked at"),
            "it panicked: {ran:?}"
        );
        Ok(ran)
    }
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\n{}: {}\n{}\n{}",
            self.line, self.status, self.stdout, self.stderr
        )
    }
}

impl Ran {
    /// Must have succeeded.
    pub fn succeeded(self) -> Result<Self> {
        ensure!(self.status.success(), "it failed: {self:?}");
        Ok(self)
    }

    /// Must have failed in a certain way, with the exit code of that way.
    pub fn failed(self, kind: &str) -> Result<Self> {
        self.failed_as_one_of(&[kind])
    }

    /// Must have failed in one of several ways.
    pub fn failed_as_one_of(self, kinds: &[&str]) -> Result<Self> {
        let Some(code) = self.status.code() else {
            bail!(
                "it was killed by signal {:?}: {self:?}",
                self.status.signal()
            );
        };
        ensure!(
            code != 0,
            "it succeeded where {kinds:?} was expected: {self:?}"
        );
        let document = self.document()?;
        let found = find(&document, "kind")
            .and_then(Value::as_str)
            .unwrap_or("(none)");
        ensure!(
            kinds.contains(&found),
            "the error is `{found}`, not {kinds:?}: {self:?}"
        );
        ensure!(
            exit_code_of(found) == Some(code),
            "exit code {code} for `{found}`: {self:?}"
        );
        Ok(self)
    }

    /// The document that was printed.
    pub fn document(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout)
            .or_else(|_| serde_json::from_str(&self.stderr))
            .map_err(|error| anyhow!("{error}: not one JSON document: {self:?}"))
    }

    /// All that was printed.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Must have said something.
    pub fn says(self, what: &str) -> Result<Self> {
        ensure!(
            self.text().contains(what),
            "it does not say {what:?}: {self:?}"
        );
        Ok(self)
    }
}

/// The documented exit code of a kind of error.
fn exit_code_of(kind: &str) -> Option<i32> {
    let codes = [
        ("external", 1),
        ("internal", 1),
        ("not_found", 3),
        ("invalid_input", 4),
        ("unsupported", 5),
        ("permission", 6),
        ("busy", 7),
        ("corrupt", 8),
    ];
    codes
        .iter()
        .find(|(name, _)| *name == kind)
        .map(|(_, code)| *code)
}

/// The first value with a key, anywhere in a document.
pub fn find<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match value {
        Value::Object(map) => map
            .get(key)
            .or_else(|| map.values().find_map(|value| find(value, key))),
        Value::Array(values) => values.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

/// Every object with a key, anywhere in a document.
pub fn find_all<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(map) => {
            if map.contains_key(key) {
                found.push(value);
            }
            for value in map.values() {
                find_all(value, key, found);
            }
        }
        Value::Array(values) => {
            for value in values {
                find_all(value, key, found);
            }
        }
        _ => {}
    }
}
