//! What a store does, and what it refuses, one command at a time.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::*;
use cryopod_store::{Error, ErrorKind, Listed, Replace, Store};

/// The permissions of a file or directory.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Checks that an error is of `kind`, matches `pattern`, says something and has a hint.
macro_rules! refused {
    ($result:expr, $kind:ident, $pattern:pat) => {{
        let error = $result.unwrap_err();
        assert!(matches!(error, $pattern), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::$kind);
        assert!(error.hint().is_some(), "{error:?}");
        error
    }};
}

/// Makes a directory where a checkpoint would be, with this `checkpoint.json`.
fn forge(store: &Store, at: &str, meta: Option<&[u8]>) -> PathBuf {
    let path = store.path().join("checkpoints").join(at);
    fs::create_dir_all(&path).unwrap();
    if let Some(meta) = meta {
        fs::write(path.join("checkpoint.json"), meta).unwrap();
    }
    path
}

#[test]
fn a_store_is_made_private_with_its_parents() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("var/lib/cryopod");
    let store = Store::open(&path).unwrap();
    for made in [
        "var",
        "var/lib",
        "var/lib/cryopod",
        "var/lib/cryopod/tmp",
        "var/lib/cryopod/checkpoints",
    ] {
        assert_eq!(mode(&dir.path().join(made)), 0o700, "{made}");
    }
    let staging = stage(&store);
    assert_eq!(mode(staging.path()), 0o700);
    assert_eq!(mode(&staging.images()), 0o700);
    let stored = staging
        .publish(&meta("web:v1"), &label("web"), &name("v1"), Replace::No)
        .unwrap();
    assert_eq!(mode(&stored.path), 0o700);
    assert_eq!(mode(&stored.path.join("checkpoint.json")), 0o600);
    assert_eq!(
        fs::read(stored.images().join("pages-1.img")).unwrap(),
        b"memory"
    );
}

#[test]
fn a_checkpoint_is_there_under_its_name() {
    let scratch = Scratch::new();
    let store = &scratch.store;
    assert!(!store.contains(&label("web"), &name("v1")).unwrap());
    let stored = publish(store, "web:v1", Replace::No).unwrap();
    assert!(store.contains(&label("web"), &name("v1")).unwrap());
    assert_eq!(store.get(&reference("web:v1")).unwrap(), stored);
    assert_eq!(store.get(&reference("web")).unwrap(), stored);
    assert_eq!(left_in_tmp(store), 0);
    // Another command sees the same.
    let again = Store::open(store.path()).unwrap();
    assert_eq!(again.get(&reference("web:v1")).unwrap(), stored);
}

#[test]
fn the_name_published_under_is_the_name_it_has() {
    let scratch = Scratch::new();
    let stored = stage(&scratch.store)
        .publish(&meta("aa:bb"), &label("web"), &name("v1"), Replace::No)
        .unwrap();
    assert_eq!(stored.meta.label, label("web"));
    assert_eq!(
        scratch.store.get(&reference("web:v1")).unwrap().meta.name,
        name("v1")
    );
}

#[test]
fn a_dropped_staging_leaves_nothing() {
    let scratch = Scratch::new();
    let staging = stage(&scratch.store);
    fs::create_dir_all(staging.images().join("deep/deeper")).unwrap();
    fs::write(staging.images().join("deep/deeper/file"), b"x").unwrap();
    symlink("/", staging.images().join("root")).unwrap();
    assert_eq!(left_in_tmp(&scratch.store), 1);
    drop(staging);
    assert_eq!(left_in_tmp(&scratch.store), 0);
    assert!(Path::new("/").exists());
}

#[test]
fn a_taken_name_is_refused_and_kept() {
    let scratch = Scratch::new();
    let first = publish(&scratch.store, "web:v1", Replace::No).unwrap();
    let error = refused!(
        publish(&scratch.store, "web:v1", Replace::No),
        InvalidInput,
        Error::Exists { .. }
    );
    assert!(error.to_string().contains("web:v1"), "{error}");
    assert_eq!(scratch.store.get(&reference("web:v1")).unwrap(), first);
    assert_eq!(left_in_tmp(&scratch.store), 0);
}

#[test]
fn replacing_needs_nothing_to_replace() {
    let scratch = Scratch::new();
    let first = publish(&scratch.store, "web:v1", Replace::Yes).unwrap();
    let second = publish(&scratch.store, "web:v1", Replace::Yes).unwrap();
    assert!(first.meta.created < second.meta.created);
    assert_eq!(scratch.store.get(&reference("web:v1")).unwrap(), second);
    assert_eq!(listed(&scratch.store), ["web:v1"]);
    assert_eq!(left_in_tmp(&scratch.store), 0);
}

#[test]
fn a_broken_checkpoint_can_be_replaced_and_removed() {
    let scratch = Scratch::new();
    forge(&scratch.store, "web/v1", None);
    refused!(
        publish(&scratch.store, "web:v1", Replace::No),
        InvalidInput,
        Error::Exists { .. }
    );
    publish(&scratch.store, "web:v1", Replace::Yes).unwrap();
    forge(&scratch.store, "web/v2", Some(b"{"));
    scratch.store.remove(&reference("web:v2")).unwrap();
    assert_eq!(listed(&scratch.store), ["web:v1"]);
}

#[test]
fn listings_are_sorted_newest_first_and_then_by_name() {
    let scratch = Scratch::new();
    let time = |text: &str| text.parse().unwrap();
    for (at, created) in [
        ("web:old", "2030-01-01T00:00:00.000000001Z"),
        ("db:new", "2030-01-01T00:00:00.000000003Z"),
        ("web:tie-a", "2030-01-01T00:00:00.000000002Z"),
        ("web:tie-b", "2030-01-01T00:00:00.000000002Z"),
    ] {
        let mut meta = meta(at);
        meta.created = time(created);
        publish_meta(&scratch.store, &meta, Replace::No).unwrap();
    }
    assert_eq!(
        listed(&scratch.store),
        ["db:new", "web:tie-b", "web:tie-a", "web:old"]
    );
    assert_eq!(
        scratch.store.newest(&label("web")).unwrap().name,
        name("tie-b")
    );
    assert_eq!(scratch.store.list(Some(&label("db"))).unwrap().len(), 1);
    assert!(scratch.store.list(Some(&label("none"))).unwrap().is_empty());
}

#[test]
fn broken_checkpoints_are_listed_as_such_after_the_others() {
    let scratch = Scratch::new();
    let store = &scratch.store;
    publish(store, "web:good", Replace::No).unwrap();
    forge(store, "web/empty", None);
    forge(store, "web/later", Some(b"{\"format_version\": 9}"));
    forge(store, "web/.hidden", None);
    fs::write(store.path().join("checkpoints/file"), b"").unwrap();
    fs::write(store.path().join("checkpoints/web/file"), b"").unwrap();
    let entries = store.list(None).unwrap();
    assert_eq!(entries.len(), 6);
    assert!(entries[0].stored().is_some());
    let mut kinds = Vec::new();
    for entry in &entries[1..] {
        let Listed::Broken {
            reference,
            path,
            error,
        } = entry
        else {
            panic!("{entry:?}")
        };
        assert!(path.starts_with(store.path()));
        assert!(error.hint().is_some(), "{error:?}");
        kinds.push((reference.as_ref().map(ToString::to_string), error.kind()));
    }
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        kinds,
        [
            (None, ErrorKind::Corrupt),
            (None, ErrorKind::Corrupt),
            (some("web:empty"), ErrorKind::Corrupt),
            (some("web:file"), ErrorKind::Corrupt),
            (some("web:later"), ErrorKind::Unsupported),
        ]
    );
    assert_eq!(store.newest(&label("web")).unwrap().name, name("good"));
}

#[test]
fn what_is_not_there_is_not_found() {
    let scratch = Scratch::new();
    let store = &scratch.store;
    publish(store, "web:v1", Replace::No).unwrap();
    for missing in ["web:v2", "db:v1", "db"] {
        let error = refused!(
            store.get(&reference(missing)),
            NotFound,
            Error::NotFound { .. }
        );
        assert!(error.to_string().contains(missing), "{error}");
        refused!(
            store.remove(&reference(missing)),
            NotFound,
            Error::NotFound { .. }
        );
    }
    // A label that lost its checkpoints without the help of the store.
    fs::create_dir(store.path().join("checkpoints/hollow")).unwrap();
    refused!(
        store.get(&reference("hollow")),
        NotFound,
        Error::NotFound { .. }
    );
}

#[test]
fn removing_removes_the_checkpoint_and_then_its_label() {
    let scratch = Scratch::new();
    let store = &scratch.store;
    publish(store, "web:v1", Replace::No).unwrap();
    publish(store, "web:v2", Replace::No).unwrap();
    assert_eq!(store.remove(&reference("web")).unwrap().name, name("v2"));
    assert_eq!(listed(store), ["web:v1"]);
    store.remove(&reference("web:v1")).unwrap();
    assert!(!store.path().join("checkpoints/web").exists());
    assert_eq!(left_in_tmp(store), 0);
    publish(store, "web:v1", Replace::No).unwrap();
}

#[test]
fn removing_several_goes_on_after_a_failure() {
    let scratch = Scratch::new();
    let store = &scratch.store;
    for at in ["web:v1", "web:v2", "db:v1"] {
        publish(store, at, Replace::No).unwrap();
    }
    let wanted = ["db:v1", "web:v9", "web", "web"].map(reference);
    let results = store.remove_all(&wanted);
    assert_eq!(results.len(), 4);
    assert!(results[0].is_ok());
    assert!(matches!(results[1], Err(Error::NotFound { .. })));
    assert_eq!(results[2].as_ref().unwrap().name, name("v2"));
    // The newest of the label is one checkpoint, however often it is named.
    assert!(matches!(results[3], Err(Error::NotFound { .. })));
    assert_eq!(listed(store), ["web:v1"]);
}

#[test]
fn a_checkpoint_whose_files_cannot_be_deleted_is_gone_all_the_same() {
    let scratch = Scratch::new();
    let store = &scratch.store;
    forge(store, &format!("web/v1{}", "/deep".repeat(40)), None);
    let error = store.remove(&reference("web:v1")).unwrap_err();
    assert!(matches!(error, Error::NotDeleted { .. }), "{error:?}");
    assert!(error.hint().is_some());
    assert!(listed(store).is_empty());
    assert_eq!(left_in_tmp(store), 1);
    // Nor does it get in the way of the next command.
    Store::open(store.path()).unwrap();
}

#[test]
fn files_in_the_way_of_the_store_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    refused!(
        Store::open(&file),
        InvalidInput,
        Error::StoreNotADirectory { .. }
    );
    refused!(
        Store::open(&file.join("below")),
        InvalidInput,
        Error::StoreNotADirectory { .. }
    );
    for part in ["tmp", "checkpoints"] {
        let store = dir.path().join(format!("store-{part}"));
        fs::create_dir(&store).unwrap();
        fs::write(store.join(part), b"").unwrap();
        let error = refused!(Store::open(&store), Corrupt, Error::InTheWay { .. });
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn files_in_the_way_of_a_checkpoint_are_named() {
    let scratch = Scratch::new();
    let store = &scratch.store;
    let checkpoints = store.path().join("checkpoints");
    fs::write(checkpoints.join("file"), b"").unwrap();
    symlink("/tmp", checkpoints.join("link")).unwrap();
    publish(store, "web:v1", Replace::No).unwrap();
    fs::write(checkpoints.join("web/file"), b"").unwrap();
    symlink("v1", checkpoints.join("web/link")).unwrap();
    for at in ["file:v1", "link:v1", "web:file", "web:link"] {
        for replace in [Replace::No, Replace::Yes] {
            refused!(publish(store, at, replace), Corrupt, Error::InTheWay { .. });
        }
        refused!(store.get(&reference(at)), Corrupt, Error::InTheWay { .. });
        refused!(
            store.remove(&reference(at)),
            Corrupt,
            Error::InTheWay { .. }
        );
    }
    assert_eq!(left_in_tmp(store), 0);
    assert!(checkpoints.join("web/file").exists());
}

#[test]
fn a_refused_publish_leaves_no_label_behind() {
    let scratch = Scratch::new();
    let staging = stage(&scratch.store);
    fs::rename(staging.path(), scratch.path().join("stolen")).unwrap();
    let lost = staging.publish(&meta("web:v1"), &label("web"), &name("v1"), Replace::No);
    refused!(lost, External, Error::StagingLost { .. });
    assert!(!scratch.store.path().join("checkpoints/web").exists());
}

#[test]
fn unusable_descriptions_are_told_apart() {
    let scratch = Scratch::new();
    let store = &scratch.store;
    forge(store, "web/empty", None);
    refused!(
        store.get(&reference("web:empty")),
        Corrupt,
        Error::MissingMeta { .. }
    );
    forge(store, "web/half", Some(b"{\"format_version\": 1"));
    let error = refused!(
        store.get(&reference("web:half")),
        Corrupt,
        Error::Unreadable { .. }
    );
    assert!(
        error.to_string().contains("web/half/checkpoint.json"),
        "{error}"
    );
    forge(store, "web/later", Some(b"{\"format_version\": 2}"));
    let error = refused!(
        store.get(&reference("web:later")),
        Unsupported,
        Error::Unreadable { .. }
    );
    let Error::Unreadable { source, .. } = error else {
        unreachable!()
    };
    assert!(matches!(*source, Error::MetaVersion { found: 2 }));
    let large = forge(store, "web/large", Some(b""));
    let file = fs::File::options()
        .write(true)
        .open(large.join("checkpoint.json"))
        .unwrap();
    file.set_len(cryopod_store::MAX_META_BYTES + 1).unwrap();
    refused!(
        store.get(&reference("web:large")),
        Corrupt,
        Error::Unreadable { .. }
    );
    // With nothing but broken ones, the label is as broken as they are.
    assert_ne!(
        store.newest(&label("web")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn only_a_regular_file_is_read_as_a_description() {
    let scratch = Scratch::new();
    let store = &scratch.store;
    let good = publish(store, "web:good", Replace::No).unwrap();
    let path = forge(store, "web/link", None);
    symlink(
        good.path.join("checkpoint.json"),
        path.join("checkpoint.json"),
    )
    .unwrap();
    refused!(
        store.get(&reference("web:link")),
        Corrupt,
        Error::NotAFile { .. }
    );
    let path = forge(store, "web/dir", None);
    fs::create_dir(path.join("checkpoint.json")).unwrap();
    refused!(
        store.get(&reference("web:dir")),
        Corrupt,
        Error::NotAFile { .. }
    );
    // Nobody writes to this one: reading it must not wait.
    let path = forge(store, "web/fifo", None);
    let private = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path.join("checkpoint.json"),
        rustix::fs::FileType::Fifo,
        private,
        0,
    )
    .unwrap();
    refused!(
        store.get(&reference("web:fifo")),
        Corrupt,
        Error::NotAFile { .. }
    );
}

#[test]
fn a_description_promises_no_files_that_are_not_there() {
    let scratch = Scratch::new();
    let publish =
        |meta| stage(&scratch.store).publish(&meta, &label("web"), &name("v1"), Replace::No);
    let mut short = meta("web:v1");
    short.files[0].size_bytes = 7;
    let error = publish(short).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("pages-1.img: has 6 bytes instead of 7"),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Internal);
    let mut missing = meta("web:v1");
    missing.files[0].name = "pages-2.img".to_owned();
    assert!(matches!(publish(missing), Err(Error::FileMismatch { .. })));
    let mut escaping = meta("web:v1");
    escaping.files[0].name = "../images/pages-1.img".to_owned();
    assert!(matches!(publish(escaping), Err(Error::MetaField { .. })));
    assert!(listed(&scratch.store).is_empty());
    assert_eq!(left_in_tmp(&scratch.store), 0);
}

#[test]
fn a_directory_with_a_public_tmp_is_not_a_store() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("tmp")).unwrap();
    fs::set_permissions(dir.path().join("tmp"), Permissions::from_mode(0o1777)).unwrap();
    let foreign = dir.path().join("tmp/67e55044-10b1-426f-9247-bb680e5fe0c8");
    fs::create_dir(&foreign).unwrap();
    refused!(
        Store::open(dir.path()),
        InvalidInput,
        Error::NotAStore { .. }
    );
    assert!(foreign.exists());
    assert!(!dir.path().join("checkpoints").exists());
}

/// Collects the messages of events.
#[derive(Clone, Default)]
struct Messages(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Messages {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = String::new();
        event.record(
            &mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                text += &format!("{field}={value:?} ");
            },
        );
        self.0.lock().unwrap().push(text);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn an_open_store_is_warned_about_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let messages = Messages::default();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    tracing::subscriber::with_default(messages.clone(), || {
        Store::open(dir.path()).unwrap();
        assert!(messages.0.lock().unwrap().is_empty(), "{:?}", messages.0);
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Store::open(dir.path()).unwrap();
    });
    let messages = messages.0.lock().unwrap();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(
        messages[0].contains("memory of processes") && messages[0].contains("755"),
        "{messages:?}"
    );
    assert_eq!(mode(dir.path()), 0o755);
}
