//! The results for people: medians and ratios.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Results;
use super::measure::Measurement;
use super::plan::{Case, Side};
use super::redis::Latency;

/// Microseconds out of a measurement.
type Pick = fn(&Measurement) -> u64;

const COLUMNS: &[(&str, Pick)] = &[
    ("frozen", |m| m.frozen_time_us),
    ("checkpoint", |m| m.checkpoint_time_us),
    ("restore", |m| m.restore_time_us),
    ("restore, until it answers", |m| m.answer_time_us),
];

/// Writes the summary.
pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write!(text, "{}", heading(results));
    for (pair, about) in PAIRS {
        let cases = cases(results, pair);
        if cases.is_empty() {
            continue;
        }
        let _ = write!(text, "\n## {pair}\n\n{about}\n\n{}", table(&cases));
    }
    text
}

const PAIRS: &[(&str, &str)] = &[
    (
        "drop-in",
        "`cryopod criu dump` and `criu dump`, then `restore`: the same command line; neither syncs.",
    ),
    (
        "stop",
        "`cryopod checkpoint --stop`, which is on disk when it returns, and `criu dump` followed by `sync -f`.",
    ),
    (
        "live",
        "`cryopod checkpoint`, after which the process goes on, and `criu dump --leave-running` followed by `sync -f`.",
    ),
    (
        "live-drop-in",
        "`cryopod criu dump --leave-running`, which stands still as criu does, and `criu dump --leave-running`; neither \
         syncs.",
    ),
    (
        "lazy",
        "As `stop`, but for `cryopod restore --lazy`; what counts is how soon the process answers.",
    ),
];

fn heading(results: &Results) -> String {
    let machine = &results.machine;
    let file_systems: Vec<String> = machine
        .file_systems
        .iter()
        .map(|(place, kind)| format!("{place} is {kind}"))
        .collect();
    let rounds = results
        .measurements
        .iter()
        .map(|m| m.round + 1)
        .max()
        .unwrap_or(0);
    format!(
        "# cryopod and criu, {}\n\n\
         {} and criu {}; {}, {} processors, {} MiB of memory, Linux {}, transparent huge pages: {}; {}.\n\
         `plain`: one process with incompressible private memory; `tree`: 8 processes, half of whose memory is shared \
         copy-on-write; `dirty1`, `dirty10`: one process that writes to 1% or 10% of its memory every second; `redis`: under \
         load by 4 clients for cryopod, idle for criu, which cannot checkpoint TCP sockets on this kernel. Restored from a disk whose cache is cold (tmpfs \
         is memory). Medians of {rounds} rounds, the sides taking turns; in brackets the smallest and the largest. A ratio above 1 is cryopod's \
         advantage; own memory is the most that a command of the side had, looked at every 2 ms. \"Frozen\" is what each side reports itself, \"checkpoint\" and \"restore\" are the commands' wall \
         times. The raw numbers lie beside this file.\n",
        results.date,
        machine.cryopod,
        machine.criu.trim_start_matches("Version: "),
        machine.processor,
        machine.processors,
        machine.memory_mib,
        machine.kernel,
        machine.huge_pages,
        file_systems.join(", "),
    )
}

/// The measurements of one comparison, by case.
fn cases<'a>(results: &'a Results, pair: &str) -> BTreeMap<Case, Vec<&'a Measurement>> {
    let mut cases = BTreeMap::<Case, Vec<&Measurement>>::new();
    for measurement in &results.measurements {
        if measurement.case.pair.to_string() == pair {
            cases.entry(measurement.case).or_default().push(measurement);
        }
    }
    cases
}

fn table(cases: &BTreeMap<Case, Vec<&Measurement>>) -> String {
    let mut text =
        "| load | size | place | | cryopod ms | criu ms | ratio |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
    for (case, measurements) in cases {
        for (name, pick) in COLUMNS {
            let times = |side| -> Vec<u64> {
                let of_side = measurements.iter().filter(|m| m.side == side);
                of_side.map(|m| pick(m)).collect()
            };
            let (ours, theirs) = (times(Side::Cryopod), times(Side::Criu));
            let ratio = median(&theirs) / median(&ours).max(1.0);
            let _ = writeln!(
                text,
                "| {} | {} MiB | {} | {name} | {} | {} | {ratio:.2} |",
                case.load,
                case.size_mib,
                case.place,
                cell(&ours),
                cell(&theirs)
            );
        }
        let _ = writeln!(text, "{}", own_memory(case, measurements));
        text.push_str(&latencies(case, measurements));
    }
    text
}

/// The most memory of each side's own, and what its checkpoints take.
fn own_memory(case: &Case, measurements: &[&Measurement]) -> String {
    let largest = |side, pick: Pick| {
        let of_side = measurements.iter().filter(|m| m.side == side);
        of_side.map(|m| pick(m) >> 20).max().unwrap_or(0)
    };
    let both = |pick: Pick| (largest(Side::Cryopod, pick), largest(Side::Criu, pick));
    let ((our_memory, their_memory), (our_size, their_size)) =
        (both(|m| m.own_memory_bytes), both(|m| m.size_bytes));
    let Case {
        load,
        size_mib,
        place,
        ..
    } = case;
    format!(
        "| {load} | {size_mib} MiB | {place} | own memory, MiB | {our_memory} | {their_memory} | |\n\
         | {load} | {size_mib} MiB | {place} | on disk, MiB | {our_size} | {their_size} | |"
    )
}

/// How long a server took to answer during cryopod's checkpoints.
fn latencies(case: &Case, measurements: &[&Measurement]) -> String {
    let all: Vec<Latency> = measurements.iter().filter_map(|m| m.latency).collect();
    if all.is_empty() {
        return String::new();
    }
    let Case {
        load,
        size_mib,
        place,
        ..
    } = case;
    let of = |pick: fn(&Latency) -> u64| cell(&all.iter().map(pick).collect::<Vec<u64>>());
    let rows = [
        ("p99 of answers before", of(|one| one.p99_before_us)),
        (
            "p99 of answers during the checkpoint",
            of(|one| one.p99_during_us),
        ),
        (
            "longest answer during the checkpoint",
            of(|one| one.longest_us),
        ),
    ];
    rows.iter()
        .map(|(name, cell)| {
            format!("| {load} | {size_mib} MiB | {place} | {name} | {cell} | | |\n")
        })
        .collect()
}

/// `MEDIAN (SMALLEST-LARGEST)` in milliseconds.
fn cell(times_us: &[u64]) -> String {
    let ms = |us: f64| us / 1e3;
    let bound = |us: Option<&u64>| ms(us.copied().unwrap_or(0) as f64);
    format!(
        "{:.1} ({:.1}-{:.1})",
        ms(median(times_us)),
        bound(times_us.iter().min()),
        bound(times_us.iter().max())
    )
}

fn median(values: &[u64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[middle] as f64,
        _ => (values[middle - 1] as f64 + values[middle] as f64) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::machine::Machine;
    use crate::bench::plan::{Load, Pair, Place};

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3, 1, 2]), 2.0);
        assert_eq!(median(&[4, 1, 2, 3]), 2.5);
    }

    #[test]
    fn summary_has_a_row_per_time() {
        let measurement = |side, time| Measurement {
            case: Case {
                pair: Pair::Stop,
                place: Place::Disk,
                load: Load::Plain,
                size_mib: 256,
            },
            round: 0,
            side,
            frozen_time_us: time,
            checkpoint_time_us: time * 2,
            sync_time_us: 0,
            restore_time_us: time * 3,
            answer_time_us: time * 3,
            size_bytes: 1,
            own_memory_bytes: 5 << 20,
            latency: None,
        };
        let results = Results {
            date: "2026-01-31".to_owned(),
            machine: Machine {
                processor: "P".to_owned(),
                processors: 2,
                memory_mib: 1,
                kernel: "6.1.0".to_owned(),
                huge_pages: "madvise".to_owned(),
                file_systems: vec![("disk".to_owned(), "ext2/ext3".to_owned())],
                cryopod: "cryopod 0.1.0".to_owned(),
                criu: "Version: 4.1".to_owned(),
            },
            measurements: vec![
                measurement(Side::Cryopod, 1000),
                measurement(Side::Criu, 4000),
            ],
        };
        let text = markdown(&results);
        assert!(
            text.contains(
                "| plain | 256 MiB | disk | frozen | 1.0 (1.0-1.0) | 4.0 (4.0-4.0) | 4.00 |"
            ),
            "{text}"
        );
        assert!(text.contains("| plain | 256 MiB | disk | own memory, MiB | 5 | 5 | |"));
        assert!(
            text.contains("| plain | 256 MiB | disk | restore | 3.0 (3.0-3.0) |"),
            "{text}"
        );
        assert!(!text.contains("## live"));
    }
}
