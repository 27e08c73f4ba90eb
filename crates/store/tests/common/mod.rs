//! What the tests of the store share.
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::path::Path;

use cryopod_store::{
    CheckpointMeta, Error, FileDigest, Label, Name, Ref, Replace, Staging, Store, Stored,
};

/// A directory that goes away with the test, with a store in it.
pub struct Scratch {
    dir: tempfile::TempDir,
    /// The store.
    pub store: Store,
}

impl Scratch {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    /// The directory around the store.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

pub fn label(text: &str) -> Label {
    Label::parse(text).unwrap()
}

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub fn reference(text: &str) -> Ref {
    Ref::parse(text).unwrap()
}

/// A description of what [`stage`] stages.
pub fn meta(reference: &str) -> CheckpointMeta {
    let reference = self::reference(reference);
    let mut meta = CheckpointMeta::new(reference.label, reference.name.unwrap(), 1);
    meta.files = vec![FileDigest::new("pages-1.img", 6, [1; 32], &[[2; 32]])];
    meta.size_bytes = 6;
    meta
}

/// A checkpoint of one file.
pub fn stage(store: &Store) -> Staging {
    let staging = store.stage().unwrap();
    std::fs::write(staging.images().join("pages-1.img"), b"memory").unwrap();
    staging
}

/// Publishes what `meta` says.
pub fn publish_meta(
    store: &Store,
    meta: &CheckpointMeta,
    replace: Replace,
) -> Result<Stored, Error> {
    stage(store).publish(meta, &meta.label, &meta.name, replace)
}

/// Publishes a small checkpoint.
pub fn publish(store: &Store, reference: &str, replace: Replace) -> Result<Stored, Error> {
    publish_meta(store, &meta(reference), replace)
}

/// What is in `tmp/`.
pub fn left_in_tmp(store: &Store) -> usize {
    std::fs::read_dir(store.path().join("tmp")).unwrap().count()
}

/// The references of all checkpoints in the order of the listing; a broken one is an error.
pub fn listed(store: &Store) -> Vec<String> {
    let listed = store.list(None).unwrap();
    listed
        .iter()
        .map(|entry| {
            entry
                .stored()
                .unwrap_or_else(|| panic!("{entry:?}"))
                .reference()
                .to_string()
        })
        .collect()
}
