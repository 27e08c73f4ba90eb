//! `criu dump`: writes a tree to a directory of images, and ends it unless told otherwise; `criu pre-dump`: lets it go on,
//! and later dumps build on it.

use cryopod::interrupt::CancelOnSignal;
use cryopod::{DumpDirOptions, DumpDirReport, NoProgress};

use super::parse::{Command, Settings};
use super::{Error, scripts};
use crate::output;
use crate::pidfile;

pub(super) fn run(settings: &Settings) -> Result<(), Error> {
    let target = settings.target()?;
    let options = DumpDirOptions {
        afterwards: settings.afterwards,
        shell_job: settings.shell_job,
        ghost_limit_bytes: settings.ghost_limit_bytes,
        file_locks: settings.file_locks,
        link_remap: settings.link_remap,
        force_irmap: settings.force_irmap,
        irmap_scan_paths: settings.irmap_scan_paths.clone(),
        external_unix_sockets: settings.external_unix_sockets,
        file_validation: settings.file_validation,
        cgroups: settings.cgroups(),
        tcp: settings.tcp(),
        pre_dump: settings.command == Command::PreDump,
        track_mem: settings.track_mem,
        parent: settings.prev_images_dir.clone(),
    };
    scripts::run(settings, "pre-dump", settings.tree)?;
    if let Some(fd) = settings.status_fd {
        pidfile::tell_ready(fd).map_err(|source| Error::File {
            operation: "write to the status descriptor",
            path: fd.to_string(),
            source,
        })?;
    }
    let signals = CancelOnSignal::watch()?;
    let report = cryopod::dump_dir(
        &settings.images_dir,
        settings.work_dir(),
        &target,
        &options,
        &mut || {
            if options.pre_dump {
                return Ok(());
            }
            scripts::run(settings, "post-dump", settings.tree).map_err(|error| {
                cryopod::Error::Hook {
                    stage: "post-dump",
                    source: Box::new(error),
                }
            })
        },
        &NoProgress,
        signals.cancel(),
    )?;
    tracing::info!(
        "{} finished successfully",
        match options.pre_dump {
            true => "Pre-dumping",
            false => "Dumping",
        }
    );
    if settings.display_stats {
        output::line(&statistics(&report));
    }
    Ok(())
}

fn statistics(report: &DumpDirReport) -> String {
    format!(
        "Displaying dump stats:\nFreezing time: {} us\nFrozen time: {} us\nMemory dump time: {} us\n\
         Memory write time: {} us\nMemory pages written: {} ({:#x})",
        report.freezing_time_us,
        report.frozen_time_us,
        report.memory_time_us,
        report.memory_time_us,
        report.pages_bytes / 4096,
        report.pages_bytes / 4096,
    )
}
