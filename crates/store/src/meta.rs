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
use crate::name::{Label, Name};

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
            created: Timestamp::now(),
            host: Host::default(),
            cpu_features: Vec::new(),
            engine: EngineInfo::default(),
            options: Map::new(),
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
mod tests {
    use super::*;
    use crate::ErrorKind;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::json;

    /// A small valid description, as JSON.
    fn sample() -> Value {
        let mut meta =
            CheckpointMeta::new(Label::parse("web").unwrap(), Name::parse("v1").unwrap(), 41);
        meta.files = vec![FileDigest::new("pages-1.img", 5, [7; 32], &[[8; 32]])];
        meta.processes = vec![ProcessSummary {
            pid: 41,
            comm: "sleep".to_owned(),
            ..ProcessSummary::default()
        }];
        serde_json::to_value(meta).unwrap()
    }

    fn parse(value: &Value) -> Result<CheckpointMeta, Error> {
        CheckpointMeta::from_slice(&serde_json::to_vec(value).unwrap())
    }

    /// Checks that `value` is refused as broken, with `expected` somewhere in the reason.
    #[track_caller]
    fn broken(value: &Value, expected: &str) {
        let error = parse(value).unwrap_err();
        let reason = match &error {
            Error::MetaSyntax { source } => source.to_string(),
            error => error.to_string(),
        };
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.hint().is_some());
    }

    /// [`sample`] with one value replaced.
    fn with(pointer: &str, value: Value) -> Value {
        let mut sample = sample();
        *sample.pointer_mut(pointer).unwrap() = value;
        sample
    }

    #[test]
    fn unknown_fields_survive_at_every_level() {
        let mut value = sample();
        for level in ["", "/host", "/engine", "/stats", "/processes/0", "/files/0"] {
            let object = value.pointer_mut(level).unwrap().as_object_mut().unwrap();
            object.insert(
                "later".to_owned(),
                json!({"deep": [1, -2, 0.1, null, "text"]}),
            );
        }
        let meta = parse(&value).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&meta.to_vec().unwrap()).unwrap(),
            value
        );
    }

    #[test]
    fn a_later_format_is_told_apart_whatever_it_looks_like() {
        for bytes in [
            &b"{\"format_version\": 2}"[..],
            b"{\"label\": 7, \"format_version\": 18446744073709551615}",
        ] {
            let error = CheckpointMeta::from_slice(bytes).unwrap_err();
            assert!(matches!(error, Error::MetaVersion { .. }), "{error:?}");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.hint().is_some());
        }
        broken(&with("/format_version", json!(0)), "versions start at 1");
        broken(&with("/format_version", json!("1")), "invalid type");
    }

    #[test]
    fn impossible_values_are_refused() {
        broken(&json!([]), "invalid length 0");
        broken(&json!({"format_version": 1}), "missing field");
        broken(&with("/label", json!("../etc")), "starts with '.'");
        broken(&with("/name", json!("a/b")), "'/' is not allowed");
        broken(&with("/created", json!("yesterday")), "parse");
        broken(&with("/root_pid", json!(0)), "root_pid: not a process id");
        broken(&with("/size_bytes", json!(-1)), "invalid value");
        broken(
            &with("/files/0/blake3", json!("7f")),
            "2 bytes long instead of 64",
        );
        broken(
            &with("/files/0/blocks/0", json!("g".repeat(64))),
            "not all of it is hexadecimal",
        );
        broken(
            &with("/files/0/size_bytes", json!(u64::MAX)),
            "more than any disk holds",
        );
    }

    #[test]
    fn file_names_are_plain_names() {
        for bad in [
            "",
            ".",
            "..",
            "/",
            "a/b",
            "../pages-1.img",
            "a\0b",
            &"x".repeat(256),
        ] {
            broken(&with("/files/0/name", json!(bad)), "files[0].name");
        }
        for good in ["...", "core-1.img", "ü", &"x".repeat(255)] {
            assert!(parse(&with("/files/0/name", json!(good))).is_ok(), "{good}");
        }
        let file = sample()["files"][0].clone();
        broken(
            &with("/files", json!([file, file])),
            "files[1].name: the name is there twice",
        );
    }

    #[test]
    fn sizes_cannot_overflow_together() {
        let mut one = sample()["files"][0].clone();
        one["size_bytes"] = json!(i64::MAX);
        let mut two = one.clone();
        two["name"] = json!("two");
        assert!(parse(&with("/files", json!([one]))).is_ok());
        broken(&with("/files", json!([one, two])), "files[1].size_bytes");
    }

    #[test]
    fn what_is_too_large_is_not_parsed() {
        let spaces = vec![b' '; MAX_META_BYTES as usize + 1];
        let error = CheckpointMeta::from_slice(&spaces).unwrap_err();
        assert!(
            matches!(error, Error::MetaTooLarge { unit: "bytes", .. }),
            "{error:?}"
        );
        let brackets = vec![b'['; MAX_META_VALUES as usize + 1];
        let error = CheckpointMeta::from_slice(&brackets).unwrap_err();
        assert!(
            matches!(error, Error::MetaTooLarge { unit: "values", .. }),
            "{error:?}"
        );
        assert_eq!(
            read_bounded(std::io::repeat(0)).unwrap().len() as u64,
            MAX_META_BYTES + 1
        );
    }

    #[test]
    fn nothing_is_written_that_cannot_be_read() {
        let mut meta = parse(&sample()).unwrap();
        meta.other.insert("label".to_owned(), json!("again"));
        assert!(matches!(meta.to_vec(), Err(Error::MetaSyntax { .. })));
        let mut meta = parse(&sample()).unwrap();
        meta.files[0].name = "../escape".to_owned();
        assert!(matches!(meta.to_vec(), Err(Error::MetaField { .. })));
        let mut meta = parse(&sample()).unwrap();
        meta.format_version = 2;
        assert!(matches!(
            meta.to_vec(),
            Err(Error::MetaVersion { found: 2 })
        ));
    }

    #[test]
    fn times_keep_their_nanoseconds() {
        let meta = parse(&with(
            "/created",
            json!("2031-02-03T04:05:06.123456789+01:00"),
        ))
        .unwrap();
        let text = String::from_utf8(meta.to_vec().unwrap()).unwrap();
        assert!(
            text.contains("\"2031-02-03T03:05:06.123456789Z\""),
            "{text}"
        );
    }

    /// Any JSON value, not too deep.
    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            proptest::num::f64::NORMAL.prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("x-[a-z]{1,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// Unknown fields.
    fn any_other() -> impl Strategy<Value = Map<String, Value>> {
        proptest::collection::btree_map("x-[a-z]{1,8}", any_value(), 0..3)
            .prop_map(|map| map.into_iter().collect())
    }

    fn any_process() -> impl Strategy<Value = ProcessSummary> {
        let texts = (any::<String>(), vec(any::<String>(), 0..3));
        let numbers = (
            any::<i32>(),
            any::<i32>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
        );
        (texts, numbers, any_other()).prop_map(|((comm, command_line), numbers, other)| {
            let (pid, ppid, threads, descriptors, memory_bytes) = numbers;
            ProcessSummary {
                pid,
                ppid,
                comm,
                command_line,
                threads,
                descriptors,
                memory_bytes,
                other,
            }
        })
    }

    fn any_files() -> impl Strategy<Value = Vec<FileDigest>> {
        let digest = || any::<[u8; 32]>();
        let file = (0..1_u64 << 50, digest(), vec(digest(), 0..3), any_other());
        proptest::collection::btree_map("[a-z0-9-]{1,12}[.]img", file, 0..4).prop_map(|files| {
            let described =
                |(name, (size_bytes, blake3, blocks, other)): (String, (_, _, Vec<_>, _))| {
                    FileDigest {
                        other,
                        ..FileDigest::new(name, size_bytes, blake3, &blocks)
                    }
                };
            files.into_iter().map(described).collect()
        })
    }

    fn any_meta() -> impl Strategy<Value = CheckpointMeta> {
        let names = (
            "[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}",
            "[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}",
        );
        let created = (0..4_000_000_000_i64, 0..1_000_000_000_i32);
        let about = (
            any::<[String; 5]>(),
            vec(any::<String>(), 0..4),
            any::<[u64; 5]>(),
            1..i32::MAX,
        );
        let contents = (vec(any_process(), 0..3), any_files());
        (names, created, about, contents, vec(any_other(), 5)).prop_map(
            |(names, created, about, contents, other)| {
                let [kernel, arch, hostname, name, version] = about.0;
                let [
                    frozen_time_us,
                    total_time_us,
                    memory_bytes,
                    pages_bytes,
                    size_bytes,
                ] = about.2;
                CheckpointMeta {
                    format_version: FORMAT_VERSION,
                    label: Label::parse(&names.0).unwrap(),
                    name: Name::parse(&names.1).unwrap(),
                    created: Timestamp::new(created.0, created.1).unwrap(),
                    host: Host {
                        kernel,
                        arch,
                        hostname,
                        other: other[0].clone(),
                    },
                    cpu_features: about.1,
                    engine: EngineInfo {
                        name,
                        version,
                        other: other[1].clone(),
                    },
                    options: other[2].clone(),
                    processes: contents.0,
                    root_pid: about.3,
                    stats: Stats {
                        frozen_time_us,
                        total_time_us,
                        memory_bytes,
                        pages_bytes,
                        other: other[3].clone(),
                    },
                    size_bytes,
                    files: contents.1,
                    other: other[4].clone(),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn descriptions_round_trip(meta in any_meta()) {
            prop_assert_eq!(CheckpointMeta::from_slice(&meta.to_vec().unwrap()).unwrap(), meta);
        }

        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..512)) {
            let _ = CheckpointMeta::from_slice(&bytes);
        }

        #[test]
        fn what_is_taken_can_be_written(meta in any_meta(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = meta.to_vec().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(damaged) = CheckpointMeta::from_slice(&bytes) {
                prop_assert_eq!(CheckpointMeta::from_slice(&damaged.to_vec().unwrap()).unwrap(), damaged);
            }
        }

        #[test]
        fn half_a_description_is_none(meta in any_meta(), end in any::<prop::sample::Index>()) {
            let bytes = meta.to_vec().unwrap();
            // The last two bytes are the closing brace and a line feed.
            prop_assert!(CheckpointMeta::from_slice(&bytes[..end.index(bytes.len() - 1)]).is_err());
        }
    }
}
