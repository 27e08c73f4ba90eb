//! Names, listings, and everything else about checkpoints that lie in a store.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::harness::cryopod::{Cryopod, find, find_all};
use crate::harness::{Context, Program, Scene, Test, processes};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("store::names_by_default", names_by_default),
        Test::new("store::newest_when_the_name_is_left_out", newest),
        Test::new("store::a_name_is_taken_once", a_name_is_taken_once),
        Test::new("store::bad_names", bad_names),
        Test::new("store::what_is_not_there", what_is_not_there),
        Test::new("store::list_inspect_and_remove", list_inspect_and_remove),
        Test::new("store::broken_ones_are_shown_as_such", broken_ones),
        Test::new("store::a_pid_that_is_taken", a_pid_that_is_taken),
        Test::new("store::a_file_in_the_way", a_file_in_the_way),
        Test::new("store::two_at_once", two_at_once),
        Test::new("store::doctor", doctor),
    ]
}

/// A small target, for what is not about targets.
fn small(context: &Context) -> Result<Scene<'_>> {
    context.cryopod()?;
    Scene::start(context, Program::native("auxiliary"))
}

fn reference_of(report: &Value) -> Result<String> {
    Ok(find(report, "reference")
        .and_then(Value::as_str)
        .context("no reference")?
        .to_owned())
}

/// The references that `cryopod ls` shows, in its order.
fn listed(cryopod: &Cryopod, arguments: &[&str]) -> Result<Vec<String>> {
    let document = cryopod.json(arguments)?;
    let mut found = Vec::new();
    find_all(&document["checkpoints"], "reference", &mut found);
    Ok(found
        .iter()
        .filter_map(|one| Some(one["reference"].as_str()?.to_owned()))
        .collect())
}

fn names_by_default(context: &Context) -> Result<()> {
    let scene = small(context)?;
    let pid = scene.root.to_string();
    let report = scene.cryopod.json(&["checkpoint", &format!("pid:{pid}")])?;
    let reference = reference_of(&report)?;
    let (label, name) = reference.split_once(':').context("no name")?;
    ensure!(label == "targets", "the label is {label}");
    // 20261121T051530.123Z
    let shape: String = name
        .chars()
        .map(|letter| if letter.is_ascii_digit() { '0' } else { letter })
        .collect();
    ensure!(
        shape.starts_with("00000000T000000") && shape.ends_with('Z'),
        "the name is {name}"
    );
    let report = scene.cryopod.json(&["checkpoint", &pid, "label-only"])?;
    ensure!(
        reference_of(&report)?.starts_with("label-only:"),
        "{report}"
    );
    ensure!(listed(&scene.cryopod, &["ls"])?.len() == 2, "two were made");
    scene.finish()
}

fn newest(context: &Context) -> Result<()> {
    let mut scene = small(context)?;
    for reference in ["web:zz", "web:aa", "db:later"] {
        scene.checkpoint(reference)?;
    }
    let shown = scene.cryopod.json(&["inspect", "web"])?;
    ensure!(reference_of(&shown)? == "web:aa", "{shown:#}");
    ensure!(
        listed(&scene.cryopod, &["ls", "web"])? == ["web:aa", "web:zz"],
        "ls web"
    );
    scene.checkpoint_and_stop("web:last")?;
    scene.restore("web")?;
    scene.finish()
}

fn a_name_is_taken_once(context: &Context) -> Result<()> {
    let scene = small(context)?;
    let pid = scene.root.to_string();
    let first = scene.checkpoint("web:v1")?;
    scene
        .cryopod
        .fails("invalid_input", &["checkpoint", &pid, "web:v1"])?
        .says("web:v1")?;
    scene
        .cryopod
        .fails("invalid_input", &["checkpoint", &pid, "web:v1", "--stop"])?;
    ensure!(
        processes::is_alive(scene.root),
        "it was stopped without a checkpoint"
    );
    let path = scene
        .cryopod
        .images("web:v1")?
        .with_file_name("checkpoint.json");
    let before = fs::read(&path)?;
    scene
        .cryopod
        .json(&["checkpoint", &pid, "web:v1", "--replace"])?;
    ensure!(fs::read(&path)? != before, "nothing was replaced: {first}");
    scene
        .cryopod
        .json(&["checkpoint", &pid, "web:new", "--replace"])?;
    ensure!(
        scene.cryopod.stored()? == ["web:new", "web:v1"],
        "{:?}",
        scene.cryopod.stored()?
    );
    ensure!(
        scene.cryopod.staged()?.is_empty(),
        "something was left in tmp"
    );
    scene.finish()
}

fn bad_names(context: &Context) -> Result<()> {
    let scene = small(context)?;
    let pid = scene.root.to_string();
    let long = "x".repeat(300);
    for name in [
        "../up",
        "a/b",
        ".hidden",
        "-x",
        "a",
        "web:",
        ":v1",
        "web:a:b",
        "we b",
        "web:\u{e9}\u{e9}",
        "",
        &long,
    ] {
        let ran = scene
            .cryopod
            .run(&["checkpoint", &pid, "--json", "--", name])?;
        // What no command line can mean is refused by the command line.
        if ran.status.code() != Some(2) {
            ran.failed("invalid_input")
                .with_context(|| format!("name {name:?}"))?;
        }
        let ran = scene
            .cryopod
            .run(&["restore", "--detach", "--json", "--", name])?;
        ensure!(
            matches!(ran.status.code(), Some(2 | 4)),
            "name {name:?}: {ran:?}"
        );
    }
    ensure!(
        scene.cryopod.stored()?.is_empty(),
        "{:?}",
        scene.cryopod.stored()?
    );
    scene.finish()
}

fn what_is_not_there(context: &Context) -> Result<()> {
    let directory = context.scene_directory()?;
    let cryopod = Cryopod::new(context, &directory);
    for reference in ["nothing", "nothing:here"] {
        cryopod
            .fails("not_found", &["restore", reference])?
            .says("nothing")?;
        cryopod.fails("not_found", &["inspect", reference])?;
        cryopod.fails("not_found", &["rm", reference])?;
    }
    ensure!(listed(&cryopod, &["ls"])?.is_empty(), "there is something");
    ensure!(
        listed(&cryopod, &["ls", "nothing"])?.is_empty(),
        "there is something"
    );
    cryopod.fails("not_found", &["restore", "--dir", "/nonexistent"])?;
    Ok(())
}

fn list_inspect_and_remove(context: &Context) -> Result<()> {
    context.cryopod()?;
    let scene = Scene::start(context, Program::native("family"))?;
    let report = scene.checkpoint("web:v1")?;
    let pids = scene.snapshot()?.pids;
    ensure!(
        find(&report, "processes").and_then(Value::as_u64) == Some(pids.len() as u64),
        "{report}"
    );
    let shown = scene.cryopod.json(&["inspect", "web:v1"])?;
    let mut found = Vec::new();
    find_all(&shown, "ppid", &mut found);
    let mut shown_pids: Vec<i64> = found.iter().filter_map(|one| one["pid"].as_i64()).collect();
    shown_pids.sort_unstable();
    ensure!(
        shown_pids
            .iter()
            .copied()
            .eq(pids.iter().map(|pid| i64::from(*pid))),
        "{shown:#}"
    );
    ensure!(
        shown.to_string().contains("family"),
        "no command line in {shown:#}"
    );
    let text = scene.cryopod.run(&["inspect", "web"])?.succeeded()?.stdout;
    ensure!(
        text.contains(&scene.root.to_string()),
        "no process in\n{text}"
    );
    ensure!(listed(&scene.cryopod, &["ls"])? == ["web:v1"], "ls");
    scene.checkpoint("web:v2")?;
    scene.checkpoint("db:v1")?;
    scene.cryopod.json(&["rm", "web:v1", "db"])?;
    ensure!(
        scene.cryopod.stored()? == ["web:v2"],
        "{:?}",
        scene.cryopod.stored()?
    );
    ensure!(
        scene.cryopod.staged()?.is_empty(),
        "something was left in tmp"
    );
    scene.finish()
}

fn broken_ones(context: &Context) -> Result<()> {
    let mut scene = small(context)?;
    let before = scene.checkpoint("web:good")?;
    scene.checkpoint_and_stop("web:bad")?;
    let meta = scene
        .cryopod
        .images("web:bad")?
        .with_file_name("checkpoint.json");
    let whole = fs::read(&meta)?;
    fs::write(&meta, &whole[..whole.len() / 2])?;
    let document = scene.cryopod.list()?;
    ensure!(
        document["broken"]
            .as_array()
            .is_some_and(|broken| broken.len() == 1),
        "{document:#}"
    );
    ensure!(
        document["broken"].to_string().contains("web/bad"),
        "{document:#}"
    );
    ensure!(
        listed(&scene.cryopod, &["ls"])? == ["web:good"],
        "{document:#}"
    );
    scene
        .cryopod
        .fails("corrupt", &["restore", "web:bad", "--detach"])?;
    ensure!(
        !processes::exists(scene.root),
        "half of it is there: {before}"
    );
    scene.cryopod.json(&["rm", "web:bad"])?;
    scene.restore("web:good")?;
    scene.finish()
}

fn a_pid_that_is_taken(context: &Context) -> Result<()> {
    let scene = small(context)?;
    let before = scene.snapshot()?;
    scene.checkpoint("web:taken")?;
    let ran = scene
        .cryopod
        .fails("busy", &["restore", "web:taken", "--detach"])?;
    // Which pid, and who has it.
    ran.says(&scene.root.to_string())?.says("targets")?;
    scene.same_as(&before, "after a restore that failed")?;
    scene.finish()
}

fn a_file_in_the_way(context: &Context) -> Result<()> {
    let scene = small(context)?;
    let before = scene.snapshot()?;
    let pid = scene.root.to_string();
    // The store itself, a directory in it, and the place of the name.
    fs::write(&scene.cryopod.store, "")?;
    let ran = scene.cryopod.run(&["checkpoint", &pid, "web:v1"])?;
    ensure!(!ran.status.success(), "{ran:?}");
    let ran = ran.says("store")?;
    ensure!(
        ran.text().lines().count() < 10,
        "that is a lot of text: {ran:?}"
    );
    fs::remove_file(&scene.cryopod.store)?;
    scene.checkpoint("web:v1")?;
    fs::write(scene.cryopod.store.join("checkpoints/db"), "")?;
    let ran = scene.cryopod.run(&["checkpoint", &pid, "db:v1"])?;
    ensure!(!ran.status.success(), "{ran:?}");
    ran.says("db")?;
    ensure!(
        scene.cryopod.staged()?.is_empty(),
        "something was left in tmp"
    );
    scene.same_as(&before, "after failures")?;
    scene.finish()
}

/// Two checkpoints of one target at the same moment: whoever comes second is told so, or comes later.
fn two_at_once(context: &Context) -> Result<()> {
    context.cryopod()?;
    let scene = Scene::start(context, Program::native("crowd").arg("40"))?;
    let before = scene.snapshot()?;
    let pid = scene.root.to_string();
    for round in 0..10 {
        let start = |who: &str| {
            scene
                .cryopod
                .start(&["checkpoint", &pid, &format!("web:{who}{round}"), "--json"])
        };
        let (one, other) = (start("one")?, start("other")?);
        let mut made = 0;
        for running in [one, other] {
            let ran = running.wait()?;
            if ran.status.success() {
                made += 1;
            } else {
                ran.failed_as_one_of(&["busy", "unsupported"])?;
            }
        }
        ensure!(made > 0, "neither was made in round {round}");
        scene.same_as(&before, "after two checkpoints at once")?;
    }
    scene.finish()
}

fn doctor(context: &Context) -> Result<()> {
    let directory = context.scene_directory()?;
    let cryopod = Cryopod::new(context, &directory);
    cryopod.json(&["doctor"])?;
    cryopod.run(&["doctor"])?.succeeded()?;
    Ok(())
}
