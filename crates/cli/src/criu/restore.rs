//! `criu restore`: brings a tree back from a directory of images, and waits for its end unless told to detach.

use cryopod::{Cancel, NoProgress, RestoreOptions, foreground};

use super::parse::Settings;
use super::{Error, scripts};
use crate::output;
use crate::pidfile::{self, Existing, PidFile};

pub(super) fn run(settings: &Settings) -> Result<(), Error> {
    scripts::run(settings, "pre-restore", None)?;
    // A pidfile that cannot be written is found before there is a tree that nobody could find.
    let pidfile = settings
        .pidfile()
        .map(|path| PidFile::create(&path, Existing::Refuse))
        .transpose();
    let pidfile = pidfile.map_err(file("create the pidfile"))?;
    if let Some(fd) = settings.status_fd {
        pidfile::tell_ready(fd).map_err(|source| Error::File {
            operation: "write to the status descriptor",
            path: fd.to_string(),
            source,
        })?;
    }
    let options = RestoreOptions {
        leave_stopped: settings.leave_stopped,
        remove_links: true,
        file_validation: settings.file_validation,
        cgroups: settings.cgroups(),
        connections: settings.connections(),
        refuse_shell_job: !settings.shell_job,
        foreground: settings.shell_job && !settings.detached,
        ..RestoreOptions::default()
    };
    // Signals for what is waited for are kept from the first instant that there is something.
    let cancel = if settings.detached {
        Cancel::default()
    } else {
        foreground::prepare()?
    };
    let restored = cryopod::restore_dir(&settings.images_dir, &options, &NoProgress, &cancel)?;
    let root = Some(restored.root_pid);
    if let Some(pidfile) = pidfile {
        pidfile
            .write(restored.root_pid, "")
            .map_err(file("write the pidfile"))?;
    }
    cryopod::write_restore_stats(settings.work_dir(), &restored.report)?;
    scripts::run(settings, "post-restore", root)?;
    scripts::run(settings, "pre-resume", root)?;
    scripts::run(settings, "post-resume", root)?;
    tracing::info!("Restore finished successfully. Tasks resumed.");
    if settings.display_stats {
        let report = &restored.report;
        output::line(&format!(
            "Displaying restore stats:\nPages restored: {}\nRestore time: {} us",
            report.pages_bytes / 4096,
            report.total_time_us
        ));
    }
    if settings.detached {
        restored.detach();
    } else {
        restored.wait()?;
    }
    Ok(())
}

fn file(operation: &'static str) -> impl FnOnce(pidfile::PidFileError) -> Error {
    move |error| Error::File {
        operation,
        path: error.path.display().to_string(),
        source: error.source,
    }
}
