//! criu's command line: what `cryopod criu ...` does, and cryopod itself when it is called `criu`.
//!
//! Images are in a directory, under the names that criu gives them, without a store, digests or flushing; logs,
//! statistics and pidfiles are where criu puts them. Exit codes are criu's as well: 0 or 1.
//!
//! - [`options`]: every option, and whether it is supported, accepted or refused, and why
//! - [`parse`]: from arguments to [`parse::Settings`], the way getopt_long(3) reads them
//! - [`dump`], [`restore`], [`check`]: the commands
//! - [`log`], [`scripts`]: log files and action scripts

mod check;
mod dump;
mod log;
mod options;
mod parse;
mod restore;
mod scripts;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::output;
use parse::{Command, Settings};

/// The version of criu whose command line and images this is about. Callers compare it with what they need.
const CRIU_VERSION: &str = "4.1.1";

/// A command of criu's that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line cannot be understood.
    #[error(transparent)]
    Usage(#[from] parse::UsageError),
    /// The command line asks for what is not there.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
    /// The workflow failed.
    #[error(transparent)]
    Cryopod(#[from] cryopod::Error),
    /// A file of this command line's own cannot be used.
    #[error("cannot {operation} {path}")]
    File {
        /// What was attempted.
        operation: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// An action script failed.
    #[error(transparent)]
    Script(#[from] scripts::ScriptError),
    /// The machine lacks something.
    #[error("{0}")]
    Lacking(String),
}

impl Error {
    /// What to do about it, where there is something to do.
    fn hint(&self) -> Option<String> {
        match self {
            Self::Cryopod(error) => error.hint(),
            Self::Usage(_) => Some("`cryopod criu --help` lists commands and options".to_owned()),
            _ => None,
        }
    }
}

/// Runs one command; `arguments` are those behind `criu`.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    let outcome = parse::parse(arguments)
        .map_err(Error::from)
        .and_then(|settings| run(&settings));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> Result<(), Error> {
    match settings.command {
        Command::Help => {
            output::line(&options::help());
            Ok(())
        }
        Command::Version => {
            output::line(&format!("Version: {CRIU_VERSION}"));
            output::line(&format!("cryopod {}", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        Command::Check => check::run(settings),
        Command::Dump | Command::PreDump => {
            log::start(settings)?;
            refuse(settings)?;
            dump::run(settings)
        }
        Command::Restore => {
            log::start(settings)?;
            refuse(settings)?;
            restore::run(settings)
        }
    }
}

/// Fails if there were options that would change what happens, and are not there.
fn refuse(settings: &Settings) -> Result<(), Error> {
    for (option, why) in &settings.accepted {
        tracing::debug!("option {option}: {why}");
    }
    if settings.refused.is_empty() {
        Ok(())
    } else {
        Err(Error::Refused(settings.refused.clone()))
    }
}

/// Writes a failure to the log, which is on standard error unless there is a log file, and then to standard error too.
fn report(error: &Error) {
    let mut lines = vec![error.to_string()];
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        lines.push(format!("caused by: {cause}"));
        source = cause.source();
    }
    lines.extend(error.hint().map(|hint| format!("hint: {hint}")));
    for line in lines.iter().flat_map(|line| line.lines()) {
        tracing::error!("{line}");
    }
    if !log::is_on_stderr() {
        for (index, line) in lines.iter().enumerate() {
            output::error_line(&if index == 0 {
                format!("Error: {line}")
            } else {
                line.clone()
            });
        }
    }
}
