//! What a command says when it fails, and the exit code that goes with it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use cryopod::{ErrorKind, Unsupported};
use serde::Serialize;

use crate::output;
use crate::pidfile::PidFileError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The library failed.
    #[error(transparent)]
    Cryopod(#[from] cryopod::Error),
    /// A pidfile cannot be used.
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    /// A program cannot be started.
    #[error("cannot start {program:?}: {reason}")]
    Start {
        /// The program.
        program: OsString,
        /// Why, in its own words or the system's.
        reason: String,
        /// What sort of failure that is.
        kind: ErrorKind,
    },
    /// A file or directory of the command's own cannot be used.
    #[error("cannot {operation} {}", .path.display())]
    Path {
        /// What was attempted.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A filter for log messages makes no sense.
    #[error("log level {level:?} makes no sense")]
    LogLevel {
        /// What was given.
        level: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Several things failed, and each has been told already.
    #[error("{failed} of {of} failed")]
    Several {
        /// How many.
        failed: usize,
        /// Of how many.
        of: usize,
        /// The first of them.
        source: Box<Failure>,
    },
    /// The machine lacks what is needed for anything to work.
    #[error("this machine lacks what cryopod needs: {}", .0.join(", "))]
    Lacking(Vec<&'static str>),
    /// The demonstration failed.
    #[error("the demonstration failed: {what}")]
    Demo {
        /// What was not as it should be.
        what: String,
    },
    /// Only root can do this.
    #[error("{what} needs root")]
    NeedsRoot {
        /// What.
        what: &'static str,
    },
}

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Document<'a> {
    error: Described<'a>,
}

#[derive(Debug, Serialize)]
struct Described<'a> {
    kind: &'static str,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    unsupported: &'a [Unsupported],
}

impl Failure {
    /// What sort of failure it is.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Cryopod(error) => error.kind(),
            Self::PidFile(PidFileError { source, .. }) | Self::Path { source, .. } => {
                kind_of_io(source)
            }
            Self::Start { kind, .. } => *kind,
            Self::LogLevel { .. } => ErrorKind::InvalidInput,
            Self::Several { source, .. } => source.kind(),
            Self::Lacking(_) => ErrorKind::Unsupported,
            Self::Demo { .. } => ErrorKind::External,
            Self::NeedsRoot { .. } => ErrorKind::Permission,
        }
    }

    /// What to do about it, where there is something to do.
    fn hint(&self) -> Option<String> {
        match self {
            Self::Cryopod(error) => error.hint(),
            Self::LogLevel { .. } => Some("use error, warn, info, debug or trace".to_owned()),
            Self::Lacking(_) => Some("see the table: it tells what each one is for".to_owned()),
            Self::NeedsRoot { .. } => Some("run it as root, for example with sudo".to_owned()),
            Self::Start {
                kind: ErrorKind::NotFound,
                ..
            } => Some("check the name, and that its directory is in PATH".to_owned()),
            _ => None,
        }
    }

    fn unsupported(&self) -> &[Unsupported] {
        match self {
            Self::Cryopod(error) => error.unsupported(),
            _ => &[],
        }
    }

    /// What led to it, one by one.
    fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        causes
    }

    /// Tells it: on standard error for people, or as the one document on standard output.
    pub(crate) fn report(&self, json: bool) {
        if json {
            return output::document(&Document {
                error: Described {
                    kind: self.kind().name(),
                    message: self.to_string(),
                    causes: self.causes(),
                    hint: self.hint(),
                    unsupported: self.unsupported(),
                },
            });
        }
        output::error_line(&self.text());
    }

    /// As people read it.
    fn text(&self) -> String {
        let mut lines = vec![format!("error: {self}")];
        // Some causes say again what the error above them says.
        lines.extend(
            self.causes()
                .into_iter()
                .map(|cause| format!("  caused by: {cause}")),
        );
        lines.extend(self.hint().map(|hint| format!("hint: {hint}")));
        lines.join("\n")
    }

    /// The exit code, as `cryopod --help` documents it.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(code(self.kind()))
    }
}

/// The exit code for one kind of failure. 2 is clap's, for a command line that is wrong.
fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound => 3,
        ErrorKind::InvalidInput => 4,
        ErrorKind::Unsupported => 5,
        ErrorKind::Permission => 6,
        ErrorKind::Busy => 7,
        ErrorKind::Corrupt => 8,
        _ => 1,
    }
}

/// The kind of a plain system call failure.
pub(crate) fn kind_of_io(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::Permission
        }
        io::ErrorKind::AlreadyExists | io::ErrorKind::ResourceBusy => ErrorKind::Busy,
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => ErrorKind::InvalidInput,
        _ => ErrorKind::External,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Failure {
        cryopod::Error::Unsupported(vec![Unsupported {
            pid: 41,
            fd: Some(7),
            what: "a socket: not supported".into(),
        }])
        .into()
    }

    #[test]
    fn people_read_what_failed_why_and_what_to_do() {
        insta::assert_snapshot!(sample().text(), @r"
        error: one thing that cannot be checkpointed:
          pid 41 fd 7: a socket: not supported
        hint: end or close what is listed, then try again; nothing was changed
        ");
        let source = io::Error::from(io::ErrorKind::NotFound);
        let failure = Failure::Path {
            operation: "write",
            path: "/x".into(),
            source,
        };
        insta::assert_snapshot!(failure.text(), @r"
        error: cannot write /x
          caused by: entity not found
        ");
    }

    #[test]
    fn exit_codes_are_those_of_the_help() {
        assert_eq!(code(sample().kind()), 5);
        assert_eq!(code(Failure::NeedsRoot { what: "x" }.kind()), 6);
        assert_eq!(code(ErrorKind::Internal), 1);
    }
}
