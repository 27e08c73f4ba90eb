//! A target program to be started.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::Context;

#[derive(Clone, Debug)]
enum Source {
    /// One of the C programs in `targets/`.
    Native(&'static str),
    /// One of those in [`crate::targets`].
    Own(&'static str),
    /// Anything else, found in the PATH. It learns the directory from the environment: `DIR`.
    Command(String),
}

/// A target program with its arguments.
#[derive(Clone, Debug)]
pub struct Program {
    source: Source,
    arguments: Vec<String>,
    /// Parts of a snapshot that may differ because the program goes on: see [`super::snapshot`].
    pub ignoring: Vec<&'static str>,
    /// Further options of its checkpoints.
    pub checkpoint_options: Vec<&'static str>,
    /// Further options of its restores.
    pub restore_options: Vec<&'static str>,
    /// Stay in the session of the test instead of leading one.
    pub same_session: bool,
    /// It writes to files of its own accord, so that it cannot be brought back from a checkpoint after which it went on.
    pub writes: bool,
    /// The exit code it ends with when all is well.
    pub exit_code: i32,
}

impl Program {
    fn new(source: Source) -> Self {
        Self {
            source,
            arguments: Vec::new(),
            ignoring: Vec::new(),
            checkpoint_options: Vec::new(),
            restore_options: Vec::new(),
            same_session: false,
            writes: false,
            exit_code: 0,
        }
    }

    /// One of the C programs.
    pub fn native(name: &'static str) -> Self {
        Self::new(Source::Native(name))
    }

    /// One of this program's own targets.
    pub fn own(name: &'static str) -> Self {
        Self::new(Source::Own(name))
    }

    /// A program of the system, or any other by its path.
    pub fn command(name: impl Into<String>) -> Self {
        Self::new(Source::Command(name.into()))
    }

    /// A shell script.
    pub fn shell(script: &str) -> Self {
        Self::command("sh").arg("-c").arg(script)
    }

    /// With one more argument.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With more arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(|one| one.as_ref().to_owned()));
        self
    }

    /// Not comparing parts of the snapshots.
    pub fn ignoring(mut self, parts: &[&'static str]) -> Self {
        self.ignoring.extend(parts);
        self
    }

    /// Checkpointed with further options.
    pub fn checkpointed_with(mut self, options: &[&'static str]) -> Self {
        self.checkpoint_options.extend(options);
        self
    }

    /// Writing to files while nobody looks.
    pub fn that_writes(mut self) -> Self {
        self.writes = true;
        self
    }

    /// Restored with further options.
    pub fn restored_with(mut self, options: &[&'static str]) -> Self {
        self.restore_options.extend(options);
        self
    }

    /// In the session that the test is in.
    pub fn in_same_session(mut self) -> Self {
        self.same_session = true;
        self
    }

    /// Ending with a certain exit code.
    pub fn exits_with(mut self, code: i32) -> Self {
        self.exit_code = code;
        self
    }

    /// The program and its arguments as words of a command line.
    pub fn words(&self, context: &Context, directory: &Path) -> Result<Vec<OsString>> {
        let mut words: Vec<OsString> = match &self.source {
            Source::Native(name) => {
                vec![
                    context.native_programs()?.into(),
                    name.into(),
                    directory.into(),
                ]
            }
            Source::Own(name) => {
                vec![
                    std::env::current_exe()?.into(),
                    "target".into(),
                    name.into(),
                    directory.into(),
                ]
            }
            Source::Command(name) => vec![name.into()],
        };
        words.extend(self.arguments.iter().map(OsString::from));
        Ok(words)
    }

    /// A command that starts the program with no descriptor but the standard streams, which lead to /dev/null and to the
    /// directory's log.
    pub fn launch(&self, context: &Context, directory: &Path) -> Result<Command> {
        let mut command = Command::new(context.native_programs()?);
        command.arg("launch");
        if self.same_session {
            command.arg("same-session");
        }
        let log = directory.join("log");
        let log = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        command
            .args(self.words(context, directory)?)
            .current_dir("/")
            .env("DIR", directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }
}
