//! `cryopod restore`.

use std::process::ExitCode;

use cryopod::{RestoreOptions, foreground};

use super::Context;
use crate::failure::Failure;
use crate::format;
use crate::pidfile::{Existing, PidFile};
use crate::request::{Restore, Source};

pub(crate) fn run(context: &Context, restore: &Restore) -> Result<ExitCode, Failure> {
    // A pidfile that cannot be written is found before there is a program that nobody could find.
    let pidfile = restore
        .parent
        .pidfile
        .as_ref()
        .map(|path| PidFile::create(path, Existing::Overwrite))
        .transpose()?;
    let bars = context.bars();
    // No signal may end this process and leave a program without its parent, from the first instant that there is one.
    let cancel = foreground::prepare()?;
    let options = RestoreOptions {
        foreground: !restore.parent.detach,
        ..restore.options.clone()
    };
    let restored = match &restore.source {
        Source::Store(reference) => {
            cryopod::restore(&context.store()?, reference, &options, &bars, &cancel)?
        }
        Source::Dir(dir) => cryopod::restore_dir(dir, &options, &bars, &cancel)?,
    };
    drop(bars);
    if let Some(pidfile) = pidfile
        && let Err(error) = pidfile.write(restored.root_pid, "\n")
    {
        restored.kill()?;
        return Err(error.into());
    }
    let report = &restored.report;
    if restore.parent.detach {
        context.output.print(report, || report.root_pid.to_string());
        context.output.note(&format!(
            "{}, {}; {} read, {} in all{}",
            format::count(report.processes as u64, "process", "processes"),
            format::count(report.threads as u64, "thread", "threads"),
            format::bytes(report.pages_bytes),
            format::micros(report.total_time_us),
            match report.lazy_bytes {
                0 => String::new(),
                bytes => format!("; {} follow", format::bytes(bytes)),
            },
        ));
        restored.detach();
        return Ok(ExitCode::SUCCESS);
    }
    // From here on, standard output is the program's: people get nothing more.
    context.output.print(report, String::new);
    let bars = context.bars();
    let status = restored.wait_showing(&bars);
    drop(bars);
    status?.exit()
}
