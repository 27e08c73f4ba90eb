//! `cryopod checkpoint`.

use std::process::ExitCode;

use cryopod::interrupt::CancelOnSignal;
use cryopod::{CheckpointOptions, CheckpointReport, Target};

use super::Context;
use crate::failure::Failure;
use crate::format;

pub(crate) fn run(
    context: &Context,
    target: &Target,
    options: &CheckpointOptions,
) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let signals = CancelOnSignal::watch()?;
    let bars = context.bars();
    let report = cryopod::checkpoint(&store, target, options, &bars, signals.cancel())?;
    drop(bars);
    // A signal that came too late to cancel anything has nothing left to say.
    let _ = signals.finish();
    context.output.print(&report, || report.reference.clone());
    context.output.note(&summary(&report));
    if let Some(why) = &report.alone_because {
        context
            .output
            .note(&format!("everything was stored: {why}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// One line about what became of it.
pub(crate) fn summary(report: &CheckpointReport) -> String {
    format!(
        "{}, {}; {} of memory, {} stored{}; {} {}, {} in all",
        format::count(report.processes as u64, "process", "processes"),
        format::count(report.threads as u64, "thread", "threads"),
        format::bytes(report.memory_bytes),
        format::bytes(report.size_bytes),
        report
            .parent
            .as_ref()
            .map_or(String::new(), |parent| format!(" on top of {parent}")),
        if report.stopped {
            "read in"
        } else {
            "frozen for"
        },
        format::micros(report.frozen_time_us),
        format::micros(report.total_time_us),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_one_line() {
        let report = CheckpointReport {
            reference: "web:v1".into(),
            path: "/x".into(),
            root_pid: 41,
            processes: 3,
            threads: 1,
            memory_bytes: 300 << 20,
            pages_bytes: 256 << 20,
            size_bytes: (256 << 20) + 5000,
            frozen_time_us: 45_678,
            total_time_us: 1_234_567,
            live: true,
            stopped: false,
            parent: None,
            parent_bytes: 0,
            alone_because: None,
        };
        insta::assert_snapshot!(summary(&report), @"3 processes, 1 thread; 300.0 MiB of memory, 256.0 MiB stored; frozen for 45.7 ms, 1.23 s in all");
    }
}
