//! What is left when a command is killed, and when the disk is full.
//!
//! The commands that are killed are this test binary, run again with [`CHILD`] set.

mod common;

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use common::*;
use cryopod_store::{Error, ErrorKind, Replace, Store};

/// Set in a child; says what it does.
const CHILD: &str = "CRYOPOD_STORE_TEST_CHILD";
/// Set in a child; the store's directory.
const DIR: &str = "CRYOPOD_STORE_TEST_DIR";
/// What a child writes before each thing worth telling its parent.
const MARK: &str = "child:";

/// Not a test: what a child does.
#[test]
fn child() {
    let Ok(what) = std::env::var(CHILD) else {
        return;
    };
    let store = Store::open(Path::new(&std::env::var(DIR).unwrap())).unwrap();
    match what.as_str() {
        "stage" => {
            let staging = stage(&store);
            say(staging.path().to_str().unwrap());
            // Until killed, or until the parent is gone.
            let _ = std::io::stdin().read(&mut [0]);
        }
        "publish" => loop {
            let stored = publish(&store, "web:v1", Replace::Yes).unwrap();
            say(&stored.meta.created.to_string());
            store.remove(&reference("web:v2")).ok();
            publish(&store, "web:v2", Replace::No).unwrap();
        },
        other => panic!("{other}"),
    }
}

/// Tells the parent something; it is past caring if this fails.
fn say(text: &str) {
    // Not println!, which the test harness keeps to itself.
    let mut out = std::io::stdout();
    if writeln!(out, "\n{MARK}{text}")
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}

/// A child, and what it says.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    _stdin: ChildStdin,
}

impl Running {
    fn start(what: &str, store: &Store) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--test-threads", "1"])
            .envs([(CHILD, what.as_ref()), (DIR, store.path().as_os_str())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stdin = child.stdin.take().unwrap();
        Self {
            child,
            lines,
            _stdin: stdin,
        }
    }

    /// The next thing the child says.
    fn hear(&mut self) -> String {
        loop {
            let line = self.lines.next().expect("the child has ended").unwrap();
            if let Some(text) = line.strip_prefix(MARK) {
                return text.to_owned();
            }
        }
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn what_a_killed_command_staged_is_swept_by_the_next() {
    let scratch = Scratch::new();
    let mut running = Running::start("stage", &scratch.store);
    let staged = PathBuf::from(running.hear());
    // While it lives, other commands leave it alone.
    let store = Store::open(scratch.store.path()).unwrap();
    assert!(staged.join("images/pages-1.img").exists());
    assert!(listed(&store).is_empty());
    running.kill();
    assert!(staged.join("images/pages-1.img").exists());
    assert!(listed(&store).is_empty());
    let store = Store::open(scratch.store.path()).unwrap();
    assert_eq!(left_in_tmp(&store), 0);
}

#[test]
fn a_command_killed_at_any_time_leaves_whole_checkpoints_only() {
    let scratch = Scratch::new();
    for round in 1..=20 {
        let mut running = Running::start("publish", &scratch.store);
        let mut said = String::new();
        // However long that takes; the kill then meets whatever the child is doing.
        for _ in 0..round % 5 + 1 {
            said = running.hear();
        }
        running.kill();
        let store = Store::open(scratch.store.path()).unwrap();
        assert_eq!(left_in_tmp(&store), 0);
        // Every entry is whole; and what was reported as published is there, or a later one in its place.
        let names = listed(&store);
        assert!(names.contains(&"web:v1".to_owned()), "{names:?}");
        let stored = store.get(&reference("web:v1")).unwrap();
        assert!(stored.meta.created >= said.parse().unwrap());
        for name in names {
            let stored = store.get(&reference(&name)).unwrap();
            assert_eq!(
                std::fs::read(stored.images().join("pages-1.img")).unwrap(),
                b"memory"
            );
        }
    }
}

/// A file system of its own; unmounted at the end.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// Mounts a tiny one; `Err` says why it cannot.
    fn mount() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("mounting a small tmpfs needs root".to_owned());
        }
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs"])
            .arg(dir.path());
        match mount.output() {
            Ok(output) if output.status.success() => Ok(Self(dir)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
    }
}

#[test]
fn a_full_disk_is_its_own_error_and_leaves_nothing() {
    let tmpfs = match Tmpfs::mount() {
        Ok(tmpfs) => tmpfs,
        Err(reason) => {
            let _ = writeln!(std::io::stderr(), "skipped: {reason}");
            return;
        }
    };
    let store = Store::open(&tmpfs.0.path().join("store")).unwrap();
    let first = publish(&store, "web:v1", Replace::No).unwrap();
    let mut meta = meta("web:v2");
    for replace in [Replace::No, Replace::Yes] {
        let staging = stage(&store);
        // Until nothing more fits.
        let mut filler = std::fs::File::create(staging.images().join("filler")).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
        drop(filler);
        let error = staging
            .publish(&meta, &meta.label, &meta.name, replace)
            .unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::External);
        assert!(error.hint().is_some());
        assert_eq!(listed(&store), ["web:v1"]);
        assert_eq!(left_in_tmp(&store), 0);
        // The second time, what is there is to be replaced.
        meta.name = name("v1");
    }
    assert_eq!(store.get(&reference("web:v1")).unwrap(), first);
    publish(&store, "web:v2", Replace::No).unwrap();
}
