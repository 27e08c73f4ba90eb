//! The description of a checkpoint, `checkpoint.json`, made from what the engine reports.

use cryopod_engine::{DumpReport, FreezeChoice};
use cryopod_store::{CheckpointMeta, EngineInfo, FileDigest, FreezeInfo, ProcessSummary};
use serde_json::Map;

/// What cryopod's own engine is called in descriptions.
pub(crate) const ENGINE_NAME: &str = "cryopod";

/// The engine that makes checkpoints now.
pub(crate) fn engine() -> EngineInfo {
    EngineInfo {
        name: ENGINE_NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        other: Map::new(),
    }
}

/// Fills in what a dump found: processes, memory, files.
pub(crate) fn describe(
    meta: &mut CheckpointMeta,
    dumped: &DumpReport,
    files: Vec<cryopod_image::FileDigest>,
) {
    meta.freeze = dumped.freeze.as_ref().map(freeze);
    meta.processes = dumped.processes.iter().map(process).collect();
    meta.stats.memory_bytes = dumped.memory_bytes;
    meta.stats.pages_bytes = dumped.pages_bytes;
    set_files(meta, &files);
}

/// Fills in what image files there are.
pub(crate) fn set_files(meta: &mut CheckpointMeta, files: &[cryopod_image::FileDigest]) {
    meta.size_bytes = files.iter().map(|file| file.size_bytes).sum();
    meta.files = files.iter().map(to_store).collect();
}

fn freeze(choice: &FreezeChoice) -> FreezeInfo {
    FreezeInfo {
        mode: if choice.live { "live" } else { "stop" }.to_owned(),
        reason: choice.reason.clone(),
        other: Map::new(),
    }
}

fn process(found: &cryopod_engine::ProcessSummary) -> ProcessSummary {
    let mut other = Map::new();
    if found.zombie {
        other.insert("zombie".to_owned(), true.into());
    }
    ProcessSummary {
        pid: found.pid,
        ppid: found.ppid,
        comm: found.comm.clone(),
        command_line: found.command_line.clone(),
        threads: found.threads as u64,
        descriptors: found.descriptors as u64,
        memory_bytes: found.memory_bytes,
        other,
    }
}

fn to_store(file: &cryopod_image::FileDigest) -> FileDigest {
    FileDigest::new(
        file.name.clone(),
        file.size_bytes,
        file.blake3,
        &file.blocks,
    )
}

/// The digests of a checkpoint's files, as a reader of images takes them.
pub(crate) fn digests(meta: &CheckpointMeta) -> Vec<cryopod_image::FileDigest> {
    meta.files
        .iter()
        .map(|file| cryopod_image::FileDigest {
            name: file.name.clone(),
            size_bytes: file.size_bytes,
            blake3: *file.blake3.as_bytes(),
            blocks: file.block_bytes(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryopod_store::{Label, Name};

    #[test]
    fn a_description_holds_what_the_dump_found() {
        let mut meta =
            CheckpointMeta::new(Label::parse("web").unwrap(), Name::parse("v1").unwrap(), 41);
        let dumped = DumpReport {
            processes: vec![cryopod_engine::ProcessSummary {
                pid: 41,
                zombie: true,
                ..Default::default()
            }],
            memory_bytes: 8192,
            pages_bytes: 4096,
            ..DumpReport::default()
        };
        let file = cryopod_image::FileDigest {
            name: "pages-1.img".to_owned(),
            size_bytes: 4096,
            blake3: [7; 32],
            blocks: vec![[8; 32]],
        };
        describe(&mut meta, &dumped, vec![file.clone()]);
        assert_eq!(
            (
                meta.size_bytes,
                meta.stats.memory_bytes,
                meta.stats.pages_bytes
            ),
            (4096, 8192, 4096)
        );
        assert_eq!(meta.processes[0].other["zombie"], true);
        assert_eq!(digests(&meta), [file]);
    }
}
