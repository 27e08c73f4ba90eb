//! What several tests need.

use std::fs;
use std::path::PathBuf;

use cryopod_image::criu::PstreeEntry;
use cryopod_image::framing;
use cryopod_image::{Error, FileDigest, Kind, SetReader, SetWriter};
use prost::Message;
use tempfile::TempDir;

/// A directory with an image set in it, removed at the end.
pub(crate) struct Scratch {
    dir: TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn writer(&self) -> SetWriter {
        SetWriter::create(self.dir.path()).unwrap()
    }

    pub(crate) fn reader(&self) -> SetReader {
        SetReader::open(self.dir.path(), None).unwrap()
    }

    pub(crate) fn verifying_reader(&self, digests: Vec<FileDigest>) -> SetReader {
        SetReader::open(self.dir.path(), Some(digests)).unwrap()
    }
}

/// The file that has these entries.
pub(crate) fn image<M: Message>(kind: Kind, entries: &[M]) -> Vec<u8> {
    let mut bytes = framing::header(kind);
    for entry in entries {
        bytes.extend(frame(&entry.encode_to_vec()));
    }
    bytes
}

/// A message with its length in front.
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&length.to_le_bytes(), message].concat()
}

pub(crate) fn process(pid: u32) -> PstreeEntry {
    PstreeEntry {
        pid,
        ppid: 1,
        pgid: pid,
        sid: pid,
        threads: vec![pid, pid + 1],
    }
}

/// The text of a failure, which must name this file.
#[track_caller]
pub(crate) fn failure<T>(result: Result<T, Error>, file: &str) -> (Error, String) {
    let Err(error) = result else {
        panic!("no failure with {file}")
    };
    let text = error.to_string();
    assert!(text.contains(file), "{text:?} does not name {file}");
    (error, text)
}
