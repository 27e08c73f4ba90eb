//! The result of the demonstration.

use serde_json::{Value, json};

use super::Outcome;
use super::status::Status;
use crate::format;

/// What is printed with `--json`.
pub(super) fn document(outcome: &Outcome) -> Value {
    json!({
        "went_on": true,
        "checkpoint": outcome.checkpoint,
        "restore": outcome.restore,
        "before": outcome.before,
        "after": outcome.after,
    })
}

/// As people read it.
pub(super) fn text(outcome: &Outcome) -> String {
    let checkpoint = &outcome.checkpoint;
    let mut figures = format::table(&["", ""]);
    let rows = [
        (
            "processes",
            format!(
                "{} with {} threads",
                checkpoint.processes, checkpoint.threads
            ),
        ),
        ("memory", format::bytes(checkpoint.memory_bytes)),
        ("frozen", format::micros(checkpoint.frozen_time_us)),
        (
            "checkpoint",
            format!("{} in all", format::micros(checkpoint.total_time_us)),
        ),
        (
            "restore",
            format!("{} in all", format::micros(outcome.restore.total_time_us)),
        ),
        ("on disk", format::bytes(checkpoint.size_bytes)),
    ];
    for (name, value) in rows {
        figures.add_row([name.to_owned(), value]);
    }
    let mut parts = format::table(&["", "AT THE CHECKPOINT", "AFTER THE RESTORE"]);
    let total = |statuses: &[Status], of: fn(&Status) -> u64| {
        statuses.iter().map(of).sum::<u64>().to_string()
    };
    let mut sum = |name: &str, of: fn(&Status) -> u64| {
        parts.add_row([
            name.to_owned(),
            total(&outcome.before, of),
            total(&outcome.after, of),
        ]);
    };
    sum("counted to", |status| status.counter);
    sum("messages received", |status| status.received);
    sum("lines written", |status| status.lines);
    sum("bytes read from files", |status| status.read_bytes);
    sum("timer expirations", |status| status.ticks);
    sum("checks of all memory", |status| status.memory_checks);
    let checksum = |statuses: &[Status]| {
        format!(
            "{:016x}",
            statuses
                .iter()
                .fold(0_u64, |sum, status| sum.rotate_left(7) ^ status.checksum)
        )
    };
    parts.add_row([
        "checksum of memory".to_owned(),
        checksum(&outcome.before),
        checksum(&outcome.after),
    ]);
    format::right(&mut parts, &[1, 2]);
    let figures = figures.trim_fmt();
    format!(
        "{}\n\n{}\n\neverything went on where it was",
        figures.trim_start(),
        parts.trim_fmt()
    )
}
