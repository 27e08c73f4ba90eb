//! Tests of the description of a checkpoint.

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
            |(name, (size_bytes, blake3, blocks, other)): (String, (_, _, Vec<_>, _))| FileDigest {
                other,
                ..FileDigest::new(name, size_bytes, blake3, &blocks)
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
                id: other[4].keys().next().cloned(),
                parent: about
                    .1
                    .first()
                    .map(|_| Ref::parse(&format!("{}:{}", names.1, names.0)).unwrap()),
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
                freeze: other[2].keys().next().map(|mode| FreezeInfo {
                    mode: mode.clone(),
                    reason: "because".to_owned(),
                    other: other[1].clone(),
                }),
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
