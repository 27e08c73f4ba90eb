//! `cryopod inspect`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use cryopod::inspect::{Descriptor, descriptors};
use cryopod::{ProcessSummary, Ref, Stored};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Context;
use crate::failure::Failure;
use crate::format;

/// How much of a command line is shown.
const COMMAND_LIMIT: usize = 100;

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Document<'a> {
    reference: String,
    id: Option<&'a str>,
    parent: Option<String>,
    path: String,
    created: String,
    root_pid: i32,
    engine: String,
    kernel: &'a str,
    arch: &'a str,
    hostname: &'a str,
    cpu_features: &'a [String],
    options: &'a Map<String, Value>,
    freeze: Option<&'a cryopod::FreezeInfo>,
    stats: &'a cryopod::Stats,
    size_bytes: u64,
    processes: Vec<Process<'a>>,
    files: Vec<File<'a>>,
}

#[derive(Debug, Serialize)]
struct Process<'a> {
    #[serde(flatten)]
    summary: &'a ProcessSummary,
    open: Option<&'a [Descriptor]>,
}

#[derive(Debug, Serialize)]
struct File<'a> {
    name: &'a str,
    size_bytes: u64,
    blake3: String,
}

pub(crate) fn run(
    context: &Context,
    reference: &Ref,
    with_descriptors: bool,
) -> Result<ExitCode, Failure> {
    let stored = context
        .store()?
        .get(reference)
        .map_err(cryopod::Error::from)?;
    let open = if with_descriptors {
        descriptors(&stored)?
    } else {
        BTreeMap::new()
    };
    context
        .output
        .print(&describe(&stored, &open), || text(&stored, &open));
    Ok(ExitCode::SUCCESS)
}

fn describe<'a>(stored: &'a Stored, open: &'a BTreeMap<i32, Vec<Descriptor>>) -> Document<'a> {
    let meta = &stored.meta;
    let process = |summary: &'a ProcessSummary| Process {
        summary,
        open: open.get(&summary.pid).map(Vec::as_slice),
    };
    Document {
        reference: stored.reference().to_string(),
        id: meta.id.as_deref(),
        parent: meta.parent.as_ref().map(ToString::to_string),
        path: stored.path.display().to_string(),
        created: meta.created.to_string(),
        root_pid: meta.root_pid,
        engine: format!("{} {}", meta.engine.name, meta.engine.version),
        kernel: &meta.host.kernel,
        arch: &meta.host.arch,
        hostname: &meta.host.hostname,
        cpu_features: &meta.cpu_features,
        options: &meta.options,
        freeze: meta.freeze.as_ref(),
        stats: &meta.stats,
        size_bytes: meta.size_bytes,
        processes: meta.processes.iter().map(process).collect(),
        files: meta
            .files
            .iter()
            .map(|file| File {
                name: &file.name,
                size_bytes: file.size_bytes,
                blake3: file.blake3.to_string(),
            })
            .collect(),
    }
}

fn text(stored: &Stored, open: &BTreeMap<i32, Vec<Descriptor>>) -> String {
    let meta = &stored.meta;
    let mut lines = vec![
        format!("checkpoint  {}", stored.reference()),
        format!("path        {}", stored.path.display()),
        format!(
            "created     {} on {}",
            meta.created.strftime("%Y-%m-%d %H:%M:%S UTC"),
            format::escape(&meta.host.hostname)
        ),
        format!(
            "made by     {} {} on Linux {} ({})",
            format::escape(&meta.engine.name),
            format::escape(&meta.engine.version),
            format::escape(&meta.host.kernel),
            format::escape(&meta.host.arch)
        ),
        format!(
            "memory      {}, {} of it stored",
            format::bytes(meta.stats.memory_bytes),
            format::bytes(meta.stats.pages_bytes)
        ),
        format!(
            "size        {} in {}",
            format::bytes(meta.size_bytes),
            format::count(meta.files.len() as u64, "file", "files")
        ),
        format!(
            "time        frozen for {}{}, {} in all",
            format::micros(meta.stats.frozen_time_us),
            meta.freeze.as_ref().map_or(String::new(), |freeze| format!(
                " ({}: {})",
                freeze.mode, freeze.reason
            )),
            format::micros(meta.stats.total_time_us)
        ),
        format!("processes   {}", meta.processes.len()),
        String::new(),
    ];
    if let Some(parent) = &meta.parent {
        lines.insert(1, format!("parent      {parent}"));
    }
    lines.extend(tree(&meta.processes, open));
    lines.join("\n")
}

/// The process tree, a line for each, children indented below their parents; below each its descriptors.
fn tree(processes: &[ProcessSummary], open: &BTreeMap<i32, Vec<Descriptor>>) -> Vec<String> {
    let pids: std::collections::BTreeSet<i32> =
        processes.iter().map(|process| process.pid).collect();
    let mut children: BTreeMap<i32, Vec<&ProcessSummary>> = BTreeMap::new();
    let mut stack = Vec::new();
    for process in processes {
        // What is read may make anything of itself: its own parent, or two processes with one pid.
        if pids.contains(&process.ppid) && process.ppid != process.pid {
            children.entry(process.ppid).or_default().push(process);
        } else {
            stack.push((process, 0_usize));
        }
    }
    stack.reverse();
    let mut lines = Vec::new();
    while let Some((process, depth)) = stack.pop() {
        let indent = "  ".repeat(depth.min(40));
        lines.push(format!("{indent}{}", one(process)));
        for descriptor in open.get(&process.pid).into_iter().flatten() {
            lines.push(format!("{indent}    {}", descriptor_line(descriptor)));
        }
        // Taken out, so that a circle in what was read has an end.
        let below = children.remove(&process.pid).unwrap_or_default();
        stack.extend(below.into_iter().rev().map(|child| (child, depth + 1)));
    }
    lines
}

fn one(process: &ProcessSummary) -> String {
    if process.other.get("zombie") == Some(&Value::Bool(true)) {
        return format!("{} {} (ended)", process.pid, format::escape(&process.comm));
    }
    let command = if process.command_line.is_empty() {
        format!("[{}]", format::escape(&process.comm))
    } else {
        format::command_line(&process.command_line, COMMAND_LIMIT)
    };
    format!(
        "{} {command}  ({}, {}, {})",
        process.pid,
        format::count(process.threads, "thread", "threads"),
        format::count(process.descriptors, "descriptor", "descriptors"),
        format::bytes(process.memory_bytes),
    )
}

fn descriptor_line(descriptor: &Descriptor) -> String {
    let mut line = format!("{:>3} {}", descriptor.fd, descriptor.kind);
    if let Some(path) = &descriptor.path {
        line.push(' ');
        line.push_str(&format::escape(path));
    }
    if let Some(position) = descriptor.position_bytes.filter(|position| *position > 0) {
        line.push_str(&format!(" at {position}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryopod::{CheckpointMeta, Label, Name};

    fn process(pid: i32, ppid: i32, command_line: &[&str]) -> ProcessSummary {
        ProcessSummary {
            pid,
            ppid,
            comm: "worker".into(),
            command_line: command_line.iter().map(|one| (*one).to_owned()).collect(),
            threads: 2,
            descriptors: 1,
            memory_bytes: 4096,
            ..ProcessSummary::default()
        }
    }

    fn sample(processes: Vec<ProcessSummary>) -> Stored {
        let (label, name) = (Label::parse("web").unwrap(), Name::parse("v1").unwrap());
        let mut meta = CheckpointMeta::new(label.clone(), name.clone(), 41);
        meta.created = "2026-11-21T05:15:30.123Z".parse().unwrap();
        meta.host.kernel = "6.18.0".into();
        meta.host.arch = "x86_64".into();
        meta.host.hostname = "here".into();
        meta.engine.name = "cryopod".into();
        meta.engine.version = "0.1.0".into();
        meta.stats.memory_bytes = 1 << 20;
        meta.stats.pages_bytes = 1 << 19;
        meta.processes = processes;
        Stored {
            label,
            name,
            path: "/store/checkpoints/web/v1".into(),
            meta,
        }
    }

    #[test]
    fn a_checkpoint_is_shown_with_its_tree() {
        let mut ended = process(44, 41, &[]);
        ended.other.insert("zombie".into(), true.into());
        let stored = sample(vec![
            process(41, 1, &["python3", "server.py", "--name", "two words"]),
            process(42, 41, &["sh", "-c", "evil\x1b[2J"]),
            process(43, 42, &[]),
            ended,
        ]);
        let file = Descriptor {
            fd: 3,
            kind: "file",
            path: Some("/var/log/web".into()),
            position_bytes: Some(77),
            close_on_exec: false,
        };
        let open = BTreeMap::from([(42, vec![file])]);
        insta::assert_snapshot!(text(&stored, &open), @r"
        checkpoint  web:v1
        path        /store/checkpoints/web/v1
        created     2026-11-21 05:15:30 UTC on here
        made by     cryopod 0.1.0 on Linux 6.18.0 (x86_64)
        memory      1.0 MiB, 512.0 KiB of it stored
        size        0 B in 0 files
        time        frozen for 0 us, 0 us in all
        processes   4

        41 python3 server.py --name 'two words'  (2 threads, 1 descriptor, 4.0 KiB)
          42 sh -c 'evil\u{1b}[2J'  (2 threads, 1 descriptor, 4.0 KiB)
                3 file /var/log/web at 77
            43 [worker]  (2 threads, 1 descriptor, 4.0 KiB)
          44 worker (ended)
        ");
    }

    #[test]
    fn a_tree_that_cannot_be_is_no_endless_one() {
        let open = BTreeMap::new();
        assert_eq!(
            tree(&[process(1, 2, &[]), process(2, 1, &[])], &open).len(),
            0
        );
        assert_eq!(
            tree(&[process(1, 1, &[]), process(1, 1, &[])], &open).len(),
            2
        );
    }

    #[test]
    fn programs_get_everything() {
        let stored = sample(vec![process(41, 1, &["x"])]);
        let open = BTreeMap::new();
        let value = serde_json::to_value(describe(&stored, &open)).unwrap();
        assert_eq!(value["processes"][0]["command_line"][0], "x");
        assert_eq!(value["processes"][0]["open"], Value::Null);
        assert_eq!(value["stats"]["pages_bytes"], 1 << 19);
    }
}
