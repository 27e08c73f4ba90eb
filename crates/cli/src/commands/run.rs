//! `cryopod run`: starts a program in a session of its own.
//!
//! setsid(2) has to be called in the new process, between fork(2) and execve(2). Without unsafe code that takes a step in
//! between: cryopod starts itself as a *starter*, which makes the session and then becomes the program. A pipe that
//! closes by itself when that happens tells the parent; if it cannot happen, the reason comes through the pipe.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode};

use cryopod::{ErrorKind, ExitStatus, foreground};
use serde_json::json;

use super::Context;
use crate::failure::{Failure, kind_of_io};
use crate::pidfile::{Existing, PidFile};
use crate::request::Parent;

/// The hidden first argument of a starter.
pub(crate) const STARTER: &str = "__start";

/// What a starter says first.
const READY: u8 = b'+';

pub(crate) fn run(
    context: &Context,
    command: &[OsString],
    parent: &Parent,
) -> Result<ExitCode, Failure> {
    let pidfile = parent
        .pidfile
        .as_ref()
        .map(|path| PidFile::create(path, Existing::Overwrite))
        .transpose()?;
    let (program, arguments) = command
        .split_first()
        .map_or((OsStr::new(""), &[][..]), |(first, rest)| (first, rest));
    if !parent.detach {
        // What arrives before there is a program is for the program.
        let _nothing_to_cancel = foreground::prepare()?;
    }
    let mut child = start(program, arguments)?;
    let pid = child.id() as i32;
    if let Some(pidfile) = pidfile
        && let Err(error) = pidfile.write(pid, "\n")
    {
        let _ = child.kill();
        let _ = child.wait();
        return Err(error.into());
    }
    let document = json!({ "pid": pid });
    if parent.detach {
        context.output.print(&document, || pid.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    context.output.print(&document, String::new);
    end_as(foreground::wait(pid)?)
}

fn end_as(status: ExitStatus) -> ! {
    status.exit()
}

/// Starts a program in a session of its own. When this returns, it is that program.
pub(crate) fn start(program: &OsStr, arguments: &[OsString]) -> Result<Child, Failure> {
    let failed = |source: io::Error| Failure::Start {
        program: program.to_owned(),
        reason: source.to_string(),
        kind: kind_of_io(&source),
    };
    let (mut reader, writer) = io::pipe().map_err(failed)?;
    let mut starter = Command::new("/proc/self/exe");
    starter.arg0("cryopod").arg(STARTER);
    starter
        .arg(std::process::id().to_string())
        .arg(writer.as_raw_fd().to_string());
    starter.arg(program).args(arguments);
    let mut child = starter.spawn().map_err(failed)?;
    // Once the starter has opened its own end, ours is closed: the pipe ends when the starter's does.
    let mut said = [0];
    let ready = reader.read_exact(&mut said).map_err(failed);
    drop(writer);
    let mut reason = String::new();
    let read = ready.and_then(|()| reader.read_to_string(&mut reason).map_err(failed));
    match read {
        Ok(_) if reason.is_empty() => Ok(child),
        read => {
            let _ = child.kill();
            let _ = child.wait();
            read?;
            let (kind, reason) = reason.split_once(' ').unwrap_or(("", &reason));
            Err(Failure::Start {
                program: program.to_owned(),
                reason: reason.to_owned(),
                kind: parse_kind(kind),
            })
        }
    }
}

/// What a starter does: makes a session, then becomes the program. `arguments`: pid of the parent, descriptor of its end
/// of the pipe, program, arguments.
pub(crate) fn become_command(arguments: &[OsString]) -> ExitCode {
    let [parent, descriptor, program, rest @ ..] = arguments else {
        return ExitCode::FAILURE;
    };
    let path = format!(
        "/proc/{}/fd/{}",
        parent.to_string_lossy(),
        descriptor.to_string_lossy()
    );
    // Opened anew rather than inherited, it is closed by the kernel the moment this becomes the program.
    let Ok(mut pipe) = OpenOptions::new().write(true).open(path) else {
        return ExitCode::FAILURE;
    };
    let _ = pipe.write_all(&[READY]);
    let error = match foreground::start_session() {
        Ok(()) => Command::new(program).args(rest).exec(),
        Err(error) => io::Error::other(error),
    };
    let _ = write!(pipe, "{} {error}", kind_of_io(&error).name());
    ExitCode::FAILURE
}

fn parse_kind(name: &str) -> ErrorKind {
    let kinds = [
        ErrorKind::NotFound,
        ErrorKind::Permission,
        ErrorKind::InvalidInput,
        ErrorKind::Busy,
    ];
    kinds
        .into_iter()
        .find(|kind| kind.name() == name)
        .unwrap_or(ErrorKind::External)
}
