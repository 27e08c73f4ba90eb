//! `checkpoint.json`: what a checkpoint is, without opening its images.
//!
//! The file is read back from a disk that others may write to, so [`CheckpointMeta::from_slice`], the only parser,
//! bounds its size before it is parsed, asks for the format version before anything else (a later format may look
//! different), and checks every value that somebody might use as a path or a length. Fields it does not know are
//! kept and written back.

use std::collections::BTreeSet;
use std::io::{self, Read};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::FileDigest;
use crate::error::Error;
use crate::name::{Label, Name, Ref};

/// The format version this crate writes, and the highest it reads.
pub const FORMAT_VERSION: u32 = 1;
/// The largest `checkpoint.json`, in bytes. One MiB of memory needs about 80 bytes of it, in the form of a digest.
pub const MAX_META_BYTES: u64 = 64 << 20;
/// The most JSON values in a `checkpoint.json`. A parsed value is up to forty times as large as `0,` in a file, so
/// [`MAX_META_BYTES`] alone would let a small file ask for gigabytes.
pub const MAX_META_VALUES: u64 = 4 << 20;
/// The most image files of one checkpoint.
pub const MAX_FILES: usize = 1 << 20;
/// The longest file name, in bytes: `NAME_MAX`, path_resolution(7).
const MAX_FILE_NAME_BYTES: usize = 255;

/// Where a checkpoint was made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The kernel's release, as uname(2) has it.
    pub kernel: String,
    /// The machine's architecture, as uname(2) has it.
    pub arch: String,
    /// The host's name.
    pub hostname: String,
    /// Fields of later minor revisions, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What made a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// The engine's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Fields of later minor revisions, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One checkpointed process, for people to read; a restore goes by the images.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessSummary {
    /// Its process id.
    pub pid: i32,
    /// Its parent's process id.
    pub ppid: i32,
    /// Its short name, as in `/proc/PID/comm`. Chosen by the program: escape before printing.
    pub comm: String,
    /// Its arguments. Chosen by the program: escape before printing.
    pub command_line: Vec<String>,
    /// How many threads it has.
    pub threads: u64,
    /// How many file descriptors it has.
    pub descriptors: u64,
    /// How much memory is in the images for it, in bytes.
    pub memory_bytes: u64,
    /// Fields of later minor revisions, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How long the processes stood still, and why.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FreezeInfo {
    /// `live` when memory was read from copies while the processes went on, `stop` when they stood still until then.
    pub mode: String,
    /// Why, in words.
    pub reason: String,
    /// Fields of later minor revisions, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How the checkpoint went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// How long the processes stood still, in microseconds.
    pub frozen_time_us: u64,
    /// How long the whole checkpoint took, in microseconds.
    pub total_time_us: u64,
    /// How much memory the processes had, in bytes.
    pub memory_bytes: u64,
    /// How much of it is in the images, in bytes.
    pub pages_bytes: u64,
    /// Fields of later minor revisions, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The contents of `checkpoint.json`.
///
/// Unknown fields are kept as [`Value`]s: integers outside of `i64` and `u64` turn into floating point numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointMeta {
    /// The version of this format: 1 to [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The label it was published under.
    pub label: Label,
    /// The name it was published under.
    pub name: Name,
    /// What it is known by whatever it is called, and its images with it: different for each that was ever made. Absent in
    /// those of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The checkpoint in the same store that has the pages which this one lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Ref>,
    /// When it was made (RFC 3339, UTC, to the nanosecond); decides which one is the newest.
    pub created: Timestamp,
    /// Where it was made.
    pub host: Host,
    /// What the processor offered the processes, as in `/proc/cpuinfo`.
    pub cpu_features: Vec<String>,
    /// What made it.
    pub engine: EngineInfo,
    /// The options it was made with.
    pub options: Map<String, Value>,
    /// How long the processes stood still, and why; absent when the maker did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze: Option<FreezeInfo>,
    /// The processes in it.
    pub processes: Vec<ProcessSummary>,
    /// The process id of the first of them.
    pub root_pid: i32,
    /// How it went.
    pub stats: Stats,
    /// The size of all image files, in bytes.
    pub size_bytes: u64,
    /// The image files under `images/`.
    pub files: Vec<FileDigest>,
    /// Fields of later minor revisions, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Just enough of any `checkpoint.json`, of whatever version, to tell its version.
#[derive(Deserialize)]
struct VersionOnly {
    format_version: u64,
}

impl CheckpointMeta {
    /// A description of a checkpoint made now, with nothing in it yet.
    #[must_use]
    pub fn new(label: Label, name: Name, root_pid: i32) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            label,
            name,
            id: None,
            parent: None,
            created: Timestamp::now(),
            host: Host::default(),
            cpu_features: Vec::new(),
            engine: EngineInfo::default(),
            options: Map::new(),
            freeze: None,
            processes: Vec::new(),
            root_pid,
            stats: Stats::default(),
            size_bytes: 0,
            files: Vec::new(),
            other: Map::new(),
        }
    }

    /// Parses and checks a `checkpoint.json`.
    ///
    /// # Errors
    ///
    /// [`Error::MetaTooLarge`], [`Error::MetaVersion`] for a later format, [`Error::MetaSyntax`] for anything that is
    /// not JSON of the right shape, [`Error::MetaField`] for a value that cannot be.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, Error> {
        check_size(bytes)?;
        let VersionOnly { format_version } =
            serde_json::from_slice(bytes).map_err(|source| Error::MetaSyntax { source })?;
        if format_version > u64::from(FORMAT_VERSION) {
            return Err(Error::MetaVersion {
                found: format_version,
            });
        }
        let meta: Self =
            serde_json::from_slice(bytes).map_err(|source| Error::MetaSyntax { source })?;
        meta.check()?;
        Ok(meta)
    }

    /// Writes the description as JSON, and makes sure that it can be read back.
    ///
    /// # Errors
    ///
    /// [`Error::MetaEncode`], and every error of [`CheckpointMeta::from_slice`].
    pub fn to_vec(&self) -> Result<Vec<u8>, Error> {
        let mut bytes =
            serde_json::to_vec_pretty(self).map_err(|source| Error::MetaEncode { source })?;
        bytes.push(b'\n');
        Self::from_slice(&bytes)?;
        Ok(bytes)
    }

    /// The checks that the types do not make.
    fn check(&self) -> Result<(), Error> {
        let refused = |field: &str, problem: &str| {
            Err(Error::MetaField {
                field: field.to_owned(),
                problem: problem.to_owned(),
            })
        };
        if self.format_version == 0 {
            return refused("format_version", "versions start at 1");
        }
        if self.root_pid < 1 {
            return refused("root_pid", "not a process id");
        }
        if self
            .parent
            .as_ref()
            .is_some_and(|parent| parent.name.is_none())
        {
            return refused("parent", "a checkpoint is LABEL:NAME");
        }
        if self.files.len() > MAX_FILES {
            return Err(Error::MetaTooLarge {
                actual: self.files.len() as u64,
                limit: MAX_FILES as u64,
                unit: "files",
            });
        }
        let mut names = BTreeSet::new();
        let mut total_bytes = 0_u64;
        for (index, file) in self.files.iter().enumerate() {
            let field = || format!("files[{index}]");
            if let Err(problem) = check_file_name(&file.name) {
                return refused(&format!("{}.name", field()), problem);
            }
            if !names.insert(file.name.as_str()) {
                return refused(&format!("{}.name", field()), "the name is there twice");
            }
            // off_t is signed: no file is larger, and sums of two cannot overflow.
            total_bytes = match total_bytes.checked_add(file.size_bytes) {
                Some(sum) if i64::try_from(sum).is_ok() => sum,
                _ => {
                    return refused(
                        &format!("{}.size_bytes", field()),
                        "more than any disk holds",
                    );
                }
            };
        }
        Ok(())
    }
}

/// Checks that `name` can only ever mean a file in the directory it is looked up in.
fn check_file_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("the name is empty"),
        "." | ".." => Err("the name means a directory"),
        _ if name.len() > MAX_FILE_NAME_BYTES => Err("the name is longer than 255 bytes"),
        _ if name.contains(['/', '\0']) => Err("the name is not a plain file name"),
        _ => Ok(()),
    }
}

/// Checks that parsing `bytes` takes a bounded amount of memory. Every JSON value but the first follows a comma or an
/// opening bracket (some of those are inside strings: this counts too many, never too few).
fn check_size(bytes: &[u8]) -> Result<(), Error> {
    let actual = bytes.len() as u64;
    if actual > MAX_META_BYTES {
        return Err(Error::MetaTooLarge {
            actual,
            limit: MAX_META_BYTES,
            unit: "bytes",
        });
    }
    let values = bytes
        .iter()
        .filter(|byte| matches!(byte, b',' | b'[' | b'{'))
        .count() as u64;
    if values > MAX_META_VALUES {
        return Err(Error::MetaTooLarge {
            actual: values,
            limit: MAX_META_VALUES,
            unit: "values",
        });
    }
    Ok(())
}

/// Reads a `checkpoint.json` of at most [`MAX_META_BYTES`]; one byte more is read so that the size check sees it.
pub(crate) fn read_bounded(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_META_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
