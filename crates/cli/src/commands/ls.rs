//! `cryopod ls`.

use std::process::ExitCode;

use cryopod::{Label, Listed, Stored};
use serde::Serialize;

use super::Context;
use crate::failure::Failure;
use crate::format;

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Document {
    checkpoints: Vec<Entry>,
    broken: Vec<Broken>,
}

#[derive(Debug, Serialize)]
struct Entry {
    reference: String,
    label: String,
    name: String,
    created: String,
    path: String,
    root_pid: i32,
    processes: usize,
    threads: u64,
    memory_bytes: u64,
    size_bytes: u64,
    parent: Option<String>,
    engine: String,
    kernel: String,
}

#[derive(Debug, Serialize)]
struct Broken {
    reference: Option<String>,
    path: String,
    kind: &'static str,
    error: String,
}

pub(crate) fn run(context: &Context, label: Option<&Label>) -> Result<ExitCode, Failure> {
    let listed = context.store()?.list(label).map_err(cryopod::Error::from)?;
    let document = describe(listed);
    context.output.print(&document, || text(&document));
    if !context.output.json {
        for broken in &document.broken {
            context.output.note(&format!(
                "broken: {}: {}",
                format::escape(&broken.path),
                format::escape(&broken.error)
            ));
        }
        if document.checkpoints.is_empty() && document.broken.is_empty() {
            context
                .output
                .note("no checkpoints; `cryopod checkpoint PID` makes one");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(listed: Vec<Listed>) -> Document {
    let mut document = Document {
        checkpoints: Vec::new(),
        broken: Vec::new(),
    };
    for one in listed {
        match one {
            Listed::Whole(stored) => document.checkpoints.push(entry(&stored)),
            Listed::Broken {
                reference,
                path,
                error,
            } => {
                let error = cryopod::Error::from(error);
                document.broken.push(Broken {
                    reference: reference.map(|reference| reference.to_string()),
                    path: path.display().to_string(),
                    kind: error.kind().name(),
                    error: with_causes(&error),
                });
            }
        }
    }
    document
}

fn with_causes(error: &cryopod::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn entry(stored: &Stored) -> Entry {
    let meta = &stored.meta;
    Entry {
        reference: stored.reference().to_string(),
        label: stored.label.to_string(),
        name: stored.name.to_string(),
        created: meta.created.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        path: stored.path.display().to_string(),
        root_pid: meta.root_pid,
        processes: meta.processes.len(),
        threads: meta
            .processes
            .iter()
            .map(|process| process.threads)
            .fold(0, u64::saturating_add),
        memory_bytes: meta.stats.memory_bytes,
        size_bytes: meta.size_bytes,
        parent: meta.parent.as_ref().map(ToString::to_string),
        engine: format!("{} {}", meta.engine.name, meta.engine.version),
        kernel: meta.host.kernel.clone(),
    }
}

fn text(document: &Document) -> String {
    if document.checkpoints.is_empty() {
        return String::new();
    }
    let mut table = format::table(&[
        "CHECKPOINT",
        "CREATED",
        "PID",
        "PROCESSES",
        "MEMORY",
        "SIZE",
        "PARENT",
    ]);
    for entry in &document.checkpoints {
        table.add_row([
            entry.reference.clone(),
            entry.created.clone(),
            entry.root_pid.to_string(),
            entry.processes.to_string(),
            format::bytes(entry.memory_bytes),
            format::bytes(entry.size_bytes),
            entry.parent.clone().unwrap_or_default(),
        ]);
    }
    format::right(&mut table, &[2, 3, 4, 5]);
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryopod::{CheckpointMeta, Name};

    fn stored(label: &str, name: &str, memory_bytes: u64) -> Listed {
        let (label, name) = (Label::parse(label).unwrap(), Name::parse(name).unwrap());
        let mut meta = CheckpointMeta::new(label.clone(), name.clone(), 41);
        meta.created = "2026-11-21T05:15:30.123Z".parse().unwrap();
        meta.stats.memory_bytes = memory_bytes;
        meta.size_bytes = memory_bytes + 4711;
        Listed::Whole(Box::new(Stored {
            label,
            name,
            path: "/store/x".into(),
            meta,
        }))
    }

    #[test]
    fn a_list_is_a_table() {
        let document = describe(vec![
            stored("web", "v1", 256 << 20),
            stored("database", "before-upgrade", 4096),
        ]);
        insta::assert_snapshot!(text(&document), @r"
        CHECKPOINT               CREATED                  PID  PROCESSES     MEMORY       SIZE  PARENT
        web:v1                   2026-11-21 05:15:30 UTC   41          0  256.0 MiB  256.0 MiB
        database:before-upgrade  2026-11-21 05:15:30 UTC   41          0    4.0 KiB    8.6 KiB
        ");
        assert_eq!(text(&describe(Vec::new())), "");
    }
}
