//! Checkpoints of programs that go on meanwhile: the image is the state of one instant, and the program does not notice.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::harness::context::skip;
use crate::harness::cryopod::find;
use crate::harness::{Context, Program, Scene, Test, poll, processes};

/// Checkpoints taken of a tree under load, each of which is restored.
const INSTANTS: u32 = 100;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("live::of_one_instant", of_one_instant),
        Test::new("live::no_child_is_seen", no_child_is_seen),
        Test::new("live::no_room_for_copies", no_room_for_copies),
        Test::new("live::a_group_without_memory", a_group_without_memory),
        Test::new("live::said_why", said_why),
    ]
}

/// Whether a report tells of a live checkpoint.
fn is_live(report: &Value) -> bool {
    find(report, "live").and_then(Value::as_bool) == Some(true)
}

/// The images of a tree whose parts keep in step are in step, whenever they are taken.
fn of_one_instant(context: &Context) -> Result<()> {
    context.cryopod()?;
    let mut scene = Scene::start(context, Program::native("instant"))?;
    for round in 0..INSTANTS {
        let report = scene.checkpoint(&format!("target:r{round}"))?;
        ensure!(is_live(&report), "round {round} was not live: {report}");
        scene.content()?;
    }
    scene.checkpoint_and_stop("target:last")?;
    for round in 0..INSTANTS {
        scene.restore(&format!("target:r{round}"))?;
        scene.tell_to_go()?;
        scene.await_file("done")?;
        ensure!(processes::wait_for_end(scene.root)? == 0, "round {round}");
        scene
            .content()
            .with_context(|| format!("round {round} of {INSTANTS}"))?;
        for file in ["go", "done"] {
            fs::remove_file(scene.directory.join(file))?;
        }
    }
    scene.restore("target:last")?;
    scene.finish()
}

/// The copies are children of the target, which must not be told of any.
fn no_child_is_seen(context: &Context) -> Result<()> {
    context.cryopod()?;
    let scene = Scene::start(context, Program::native("childless").ignoring(&["/state"]))?;
    for _ in 0..20 {
        ensure!(is_live(&scene.checkpoint_again()?), "not live");
    }
    ensure!(
        processes::tree(scene.root) == [scene.root],
        "there are children: {:?}",
        processes::tree(scene.root)
    );
    scene.finish()
}

/// Where no process may be added, the tree stands still for longer, and everything else is the same.
fn no_room_for_copies(context: &Context) -> Result<()> {
    context.cryopod()?;
    let mut scene = Scene::start(context, Program::native("no_more_processes"))?;
    let report = scene.checkpoint("target:auto")?;
    ensure!(!is_live(&report), "it was live: {report}");
    let shown = scene.cryopod.json(&["inspect", "target:auto"])?;
    let freeze = find(&shown, "freeze").context("no word on how it was frozen")?;
    ensure!(
        freeze["mode"] == "stop"
            && freeze["reason"]
                .as_str()
                .is_some_and(|why| why.contains("makes no copy")),
        "{freeze}"
    );
    let pid = scene.root.to_string();
    scene
        .cryopod
        .run(&[
            "checkpoint",
            &pid,
            "target:live",
            "--freeze",
            "live",
            "--json",
        ])?
        .failed("external")?
        .says("--freeze stop")?;
    scene.checkpoint_and_stop("target:last")?;
    scene.restore("target:last")?;
    scene.finish()
}

/// A control group that has less memory left than copies may come to need: no copies are made.
fn a_group_without_memory(context: &Context) -> Result<()> {
    context.cryopod()?;
    let scene = Scene::start(context, Program::native("ballast").arg("64"))?;
    let group = MemoryGroup::around(scene.root, 100 << 20)?;
    let report = scene.checkpoint("target:tight")?;
    ensure!(!is_live(&report), "it was live: {report}");
    let shown = scene.cryopod.json(&["inspect", "target:tight"])?;
    let reason = find(&shown, "freeze").map(|freeze| freeze["reason"].to_string());
    ensure!(
        reason.as_deref().is_some_and(|why| why.contains("leaves")),
        "{reason:?}"
    );
    drop(group);
    let report = scene.checkpoint("target:wide")?;
    ensure!(is_live(&report), "it was not live: {report}");
    scene.finish()
}

/// What was chosen is in the description, with the reason.
fn said_why(context: &Context) -> Result<()> {
    context.cryopod()?;
    let mut scene = Scene::start(context, Program::native("anonymous"))?;
    let pid = scene.root.to_string();
    for mode in ["live", "stop"] {
        let name = format!("target:{mode}");
        let report =
            scene
                .cryopod
                .json(&["checkpoint", &pid, &name, "--freeze", mode, "--jobs", "3"])?;
        ensure!(is_live(&report) == (mode == "live"), "{mode}: {report}");
        let shown = scene.cryopod.json(&["inspect", &name])?;
        let freeze = find(&shown, "freeze").context("no word on how it was frozen")?;
        ensure!(
            freeze["mode"] == mode && freeze["reason"] == "asked for",
            "{freeze}"
        );
    }
    scene.checkpoint_and_stop("target:ended")?;
    let shown = scene.cryopod.json(&["inspect", "target:ended"])?;
    let reason = find(&shown, "freeze").map(|freeze| freeze["reason"].to_string());
    ensure!(
        reason.as_deref().is_some_and(|why| why.contains("ended")),
        "{reason:?}"
    );
    scene.restore("target:live")?;
    scene.finish()
}

/// A control group with little memory that a process is in; it goes back where it was in the end.
struct MemoryGroup {
    directory: std::path::PathBuf,
    home: std::path::PathBuf,
    pid: i32,
}

impl MemoryGroup {
    fn around(pid: i32, limit_bytes: u64) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let point = mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let options = right.rsplit(' ').next()?;
            (right.starts_with("cgroup ") && options.split(',').any(|one| one == "memory"))
                .then(|| left.split(' ').nth(4).unwrap_or_default().to_owned())
        });
        let Some(point) = point else {
            return skip("no memory controller of control groups version 1 is mounted");
        };
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let own = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (names, path) = (parts.next()?, parts.next()?);
            names
                .split(',')
                .any(|one| one == "memory")
                .then(|| path.trim_start_matches('/').to_owned())
        });
        let home = std::path::Path::new(&point).join(own.unwrap_or_default());
        let directory = home.join(format!("cryopod-e2e-{pid}"));
        if let Err(error) = fs::create_dir(&directory) {
            return skip(format!("no control group can be made: {error}"));
        }
        let group = Self {
            directory,
            home,
            pid,
        };
        fs::write(
            group.directory.join("memory.limit_in_bytes"),
            limit_bytes.to_string(),
        )?;
        fs::write(group.directory.join("cgroup.procs"), pid.to_string())?;
        // What was charged elsewhere stays there; this much is charged here.
        fs::write(
            group.directory.join("memory.limit_in_bytes"),
            (32u64 << 20).to_string(),
        )?;
        Ok(group)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::write(self.home.join("cgroup.procs"), self.pid.to_string());
        let _ = poll::until_true("the control group to be empty", || {
            fs::remove_dir(&self.directory).is_ok()
        });
    }
}
