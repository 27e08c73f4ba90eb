//! Checkpoints that hold only what was written since the last one: whatever a program does to its memory, each of a chain
//! brings back the memory of its moment.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::cryopod::find;
use crate::harness::{Context, Program, Scene, Test, poll, processes};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("incremental::a_chain_of_ten_live", |c| chain(c, "live", 1)),
        Test::new("incremental::a_chain_of_ten_standing_still", |c| {
            chain(c, "stop", 2)
        }),
        Test::new("incremental::tracker_killed", tracker_killed),
        Test::new("incremental::killed_in_between", killed_in_between),
        Test::new("incremental::after_a_restore", after_a_restore),
        Test::new("incremental::only_what_was_written", only_what_was_written),
        Test::new(
            "incremental::the_store_keeps_what_is_needed",
            kept_by_the_store,
        ),
        Test::new("incremental::folding", folding),
        Test::new("incremental::another_parent", another_parent),
        Test::new("incremental::nothing_remains_of_tracking", nothing_remains),
        Test::new("incremental::pre_dumps", pre_dumps),
    ]
}

/// How many checkpoints build on one another.
const STEPS: u32 = 10;

/// What is in memory: a number for the areas of each process.
type Digest = BTreeMap<i32, u64>;

fn churn<'c>(context: &'c Context, seed: u32) -> Result<Scene<'c>> {
    context.cryopod()?;
    // What the target does is another thing each time; the seed is told when something fails.
    let seed = format!(
        "{:#x}",
        u64::from(std::process::id()) << 8 | u64::from(seed)
    );
    Scene::start(context, Program::native("churn").arg(&seed))
        .with_context(|| format!("seed {seed}"))
}

/// Has the target do a step.
fn step(scene: &Scene, number: u32) -> Result<()> {
    let order = scene.directory.join(format!("step-{number}"));
    File::create(&order)?;
    scene.await_file(&format!("stepped-{number}-{}", scene.root))?;
    // One that is brought back must not find it there.
    fs::remove_file(order)?;
    let complaints = scene.file("complaints").unwrap_or_default();
    ensure!(complaints.is_empty(), "{complaints}");
    Ok(())
}

/// What is in the areas that the target counts.
fn digest(scene: &Scene) -> Result<Digest> {
    let told = |pid: i32| scene.file(&format!("areas-{pid}")).is_some();
    // Where cryopod was killed, a copy may be on its way to its end.
    poll::until_true("every process to have told its areas", || {
        let pids = processes::tree(scene.root);
        let mut rest = pids.into_iter().filter(|pid| !told(*pid));
        rest.all(processes::is_ended_copy)
    })?;
    let mut digest = Digest::new();
    for pid in processes::tree(scene.root) {
        if processes::is_ended_copy(pid) {
            continue;
        }
        let areas = scene.file(&format!("areas-{pid}"));
        let areas = areas.with_context(|| format!("pid {pid} has told nothing"))?;
        digest.insert(pid, digest_of(pid, &areas)?);
    }
    Ok(digest)
}

fn digest_of(pid: i32, areas: &str) -> Result<u64> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut hasher = DefaultHasher::new();
    for line in areas.lines() {
        let (start, end) = line.split_once(' ').context("not two addresses")?;
        let (start, end) = (
            u64::from_str_radix(start, 16)?,
            u64::from_str_radix(end, 16)?,
        );
        let mut bytes = vec![0; usize::try_from(end - start)?];
        memory
            .read_exact_at(&mut bytes, start)
            .with_context(|| format!("pid {pid}: cannot read {start:x}-{end:x}"))?;
        hasher.write(&bytes);
    }
    Ok(hasher.finish())
}

/// A checkpoint of a moment, with what was in memory then and what the target had told of it.
struct Moment {
    reference: String,
    digest: Digest,
    areas: BTreeMap<i32, String>,
}

/// Takes one. Gives it with the report.
fn moment(scene: &mut Scene, name: &str, options: &[&str]) -> Result<(Moment, Value)> {
    let digest = digest(scene)?;
    let areas = digest
        .keys()
        .filter_map(|pid| Some((*pid, scene.file(&format!("areas-{pid}"))?)))
        .collect();
    let reference = format!("target:{name}");
    let report = scene.checkpoint_with(&reference, options)?;
    scene.note_pids();
    Ok((
        Moment {
            reference,
            digest,
            areas,
        },
        report,
    ))
}

/// Brings a moment back and compares.
fn brings_back(scene: &mut Scene, moment: &Moment) -> Result<()> {
    for (pid, areas) in &moment.areas {
        fs::write(scene.directory.join(format!("areas-{pid}")), areas)?;
    }
    scene
        .restore(&moment.reference)
        .with_context(|| moment.reference.clone())?;
    let now = digest(scene)?;
    ensure!(
        now == moment.digest,
        "{}: memory is not what it was: {:?} instead of {:?}",
        moment.reference,
        now,
        moment.digest
    );
    Ok(())
}

fn parent_of(report: &Value) -> Option<&str> {
    find(report, "parent").and_then(Value::as_str)
}

fn chain(context: &Context, freeze: &str, seed: u32) -> Result<()> {
    let mut scene = churn(context, seed)?;
    let mut moments: Vec<Moment> = Vec::new();
    for number in 1..=STEPS {
        step(&scene, number)?;
        let options = ["--incremental", "--freeze", freeze];
        let (taken, report) = moment(&mut scene, &format!("step{number}"), &options)?;
        let parent = moments.last().map(|last| last.reference.as_str());
        ensure!(parent_of(&report) == parent, "{report}");
        moments.push(taken);
    }
    for moment in moments.iter().rev() {
        scene.end()?;
        brings_back(&mut scene, moment)?;
    }
    scene.finish()
}

fn tracker_pid(scene: &Scene) -> Result<i32> {
    let report = scene.cryopod.json(&["track", &scene.root.to_string()])?;
    let pid = find(&report, "tracker_pid").and_then(Value::as_i64);
    Ok(i32::try_from(pid.context("no tracker")?)?)
}

/// With the tracker goes the knowledge, and the next checkpoint is a full one.
fn tracker_killed(context: &Context) -> Result<()> {
    let mut scene = churn(context, 3)?;
    let mut moments = Vec::new();
    for number in 1..=6 {
        step(&scene, number)?;
        if number == 3 {
            let tracker = tracker_pid(&scene)?;
            processes::signal(tracker, Signal::KILL)?;
            poll::until_true("the tracker's end", || !processes::is_alive(tracker))?;
        }
        if number == 5 {
            scene.cryopod.json(&["untrack", &scene.root.to_string()])?;
        }
        let name = format!("step{number}");
        let (taken, report) = moment(&mut scene, &name, &["--incremental"])?;
        let stands_alone = [1, 3, 5].contains(&number);
        ensure!(
            parent_of(&report).is_none() == stands_alone,
            "{number}: {report}"
        );
        moments.push(taken);
    }
    for moment in &moments {
        scene.end()?;
        brings_back(&mut scene, moment)?;
    }
    scene.finish()
}

/// Whenever cryopod is killed, the next checkpoint lacks nothing.
fn killed_in_between(context: &Context) -> Result<()> {
    let mut scene = churn(context, 4)?;
    let mut number = 0;
    for round in 0..12_u64 {
        number += 1;
        step(&scene, number)?;
        let root = scene.root.to_string();
        let killed = format!("target:killed{round}");
        let running = scene
            .cryopod
            .start(&["checkpoint", &root, &killed, "--incremental"])?;
        // Whatever it is doing then; it may be done.
        thread::sleep(Duration::from_millis(round * 6));
        let _ = processes::signal(running.pid(), Signal::KILL);
        running.wait()?;
        number += 1;
        step(&scene, number)?;
        let (taken, _) = moment(&mut scene, &format!("round{round}"), &["--incremental"])?;
        if round % 4 == 3 {
            scene.end()?;
            brings_back(&mut scene, &taken)?;
        }
    }
    scene.finish()
}

/// What is restored is another address space: it begins with a full one, and a parent of before is none.
fn after_a_restore(context: &Context) -> Result<()> {
    let mut scene = churn(context, 5)?;
    let mut number = 0;
    for round in ["first", "second"] {
        let mut last = None;
        for place in ["a", "b", "c"] {
            number += 1;
            step(&scene, number)?;
            let (taken, report) =
                moment(&mut scene, &format!("{round}-{place}"), &["--incremental"])?;
            let parent = last.as_ref().map(|last: &Moment| last.reference.as_str());
            ensure!(parent_of(&report) == parent, "{report}");
            last = Some(taken);
        }
        scene.end()?;
        brings_back(&mut scene, &last.context("there were three")?)?;
    }
    scene.finish()
}

fn size_bytes(report: &Value) -> u64 {
    find(report, "size_bytes")
        .and_then(Value::as_u64)
        .unwrap_or(0)
}

fn only_what_was_written(context: &Context) -> Result<()> {
    context.cryopod()?;
    let mut scene = Scene::start(context, Program::native("ballast").arg("64"))?;
    let before = scene.snapshot()?;
    let full = scene.checkpoint_with("target:full", &["--incremental"])?;
    let small = scene.checkpoint_with("target:small", &["--incremental"])?;
    ensure!(size_bytes(&full) > 64 << 20, "{full}");
    ensure!(size_bytes(&small) < 1 << 20, "{small}");
    let kept = find(&small, "parent_bytes").and_then(Value::as_u64);
    ensure!(kept >= Some(64 << 20), "{small}");
    scene.end()?;
    scene.restore("target:small")?;
    scene.same_as(&before, "after the restore")?;
    scene.end()?;
    scene.restore_with("target:small", &["--lazy"])?;
    scene.tell_to_go()?;
    scene.await_file("done")?;
    processes::wait_for_end(scene.root)?;
    scene.content()
}

/// Three checkpoints that build on one another.
fn three(context: &Context, seed: u32) -> Result<(Scene<'_>, Vec<Moment>)> {
    let mut scene = churn(context, seed)?;
    let mut moments = Vec::new();
    for number in 1..=3 {
        step(&scene, number)?;
        moments.push(moment(&mut scene, &format!("step{number}"), &["--incremental"])?.0);
    }
    Ok((scene, moments))
}

fn kept_by_the_store(context: &Context) -> Result<()> {
    let (mut scene, moments) = three(context, 6)?;
    let cryopod = scene.cryopod.clone();
    for needed in ["target:step1", "target:step2"] {
        let refused = cryopod.fails("busy", &["rm", needed])?;
        let child = if needed == "target:step1" {
            "target:step2"
        } else {
            "target:step3"
        };
        ensure!(refused.stdout.contains(child), "{refused:?}");
    }
    let root = scene.root.to_string();
    cryopod.fails("busy", &["checkpoint", &root, "target:step1", "--replace"])?;
    let listed = cryopod.list()?.to_string();
    ensure!(listed.contains(r#""parent":"target:step2""#), "{listed}");
    // A store may be moved, with all that is in it.
    scene.end()?;
    let moved = scene.directory.join("moved");
    fs::rename(&scene.cryopod.store, &moved)?;
    scene.cryopod.store = moved;
    for moment in &moments {
        brings_back(&mut scene, moment)?;
        scene.end()?;
    }
    // A page of the first that is not what it was is noticed in the last.
    for entry in fs::read_dir(scene.cryopod.images("target:step1")?)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("pages-") {
            flip_all(&entry.path())?;
        }
    }
    scene
        .cryopod
        .fails("corrupt", &["restore", "target:step3", "--detach"])?;
    scene
        .cryopod
        .json(&["rm", "target:step1", "target:step3", "target:step2"])?;
    ensure!(scene.cryopod.stored()?.is_empty(), "something is left");
    Ok(())
}

/// Changes a byte of every page.
fn flip_all(path: &Path) -> Result<()> {
    let mut bytes = fs::read(path)?;
    bytes.iter_mut().step_by(4096).for_each(|byte| *byte ^= 1);
    Ok(fs::write(path, bytes)?)
}

fn folding(context: &Context) -> Result<()> {
    let (mut scene, moments) = three(context, 7)?;
    scene.end()?;
    for (gone, left) in [("target:step2", 2), ("target:step1", 1)] {
        scene.cryopod.json(&["rm", "--merge", gone])?;
        ensure!(scene.cryopod.stored()?.len() == left);
        brings_back(&mut scene, &moments[2])?;
        scene.end()?;
    }
    let shown = scene.cryopod.json(&["inspect", "target:step3"])?;
    ensure!(parent_of(&shown).is_none(), "{shown}");
    ensure!(
        scene.cryopod.staged()?.is_empty(),
        "something was left behind"
    );
    Ok(())
}

/// What is no parent is none: everything is stored, and it says why.
fn another_parent(context: &Context) -> Result<()> {
    let (mut scene, _) = three(context, 8)?;
    step(&scene, 4)?;
    let (taken, report) = moment(&mut scene, "other", &["--parent", "target:step1"])?;
    ensure!(parent_of(&report).is_none(), "{report}");
    let why = find(&report, "alone_because").and_then(Value::as_str);
    ensure!(
        why.is_some_and(|why| why.contains("target:step1")),
        "{report}"
    );
    // One that replaces its own parent.
    step(&scene, 5)?;
    let (taken_again, report) = moment(&mut scene, "other", &["--incremental", "--replace"])?;
    ensure!(parent_of(&report).is_none(), "{report}");
    drop(taken);
    step(&scene, 6)?;
    let (last, report) = moment(&mut scene, "last", &["--parent", "target:other"])?;
    ensure!(parent_of(&report) == Some("target:other"), "{report}");
    for moment in [taken_again, last] {
        scene.end()?;
        brings_back(&mut scene, &moment)?;
    }
    scene.finish()
}

/// Tracking begins and ends without a trace, and the tracker leaves with the target.
fn nothing_remains(context: &Context) -> Result<()> {
    context.cryopod()?;
    let mut scene = Scene::start(context, Program::native("ballast").arg("32"))?;
    let before = scene.snapshot()?;
    scene.checkpoint_with("target:one", &["--incremental"])?;
    let tracker = tracker_pid(&scene)?;
    let root = scene.root.to_string();
    scene.cryopod.json(&["untrack", &root])?;
    poll::until_true("the tracker's end", || !processes::is_alive(tracker))?;
    scene.same_as(&before, "after untrack")?;
    scene.checkpoint_with("target:two", &["--incremental"])?;
    let tracker = tracker_pid(&scene)?;
    scene.end()?;
    poll::until_true("the tracker's end", || !processes::is_alive(tracker))
}

/// criu's command line: passes over memory first, then a dump on top of them.
fn pre_dumps(context: &Context) -> Result<()> {
    let mut scene = churn(context, 9)?;
    let images = scene.directory.join("images");
    for number in 1..=3_u32 {
        step(&scene, number)?;
        let own = images.join(number.to_string());
        fs::create_dir_all(&own)?;
        let verb = if number < 3 { "pre-dump" } else { "dump" };
        let root = scene.root.to_string();
        let mut words = vec!["criu", verb, "-t", &root, "--track-mem", "-D"];
        let (path, parent) = (
            own.to_string_lossy().into_owned(),
            format!("../{}", number - 1),
        );
        words.push(&path);
        if number > 1 {
            words.extend(["--prev-images-dir", &parent]);
        }
        words.push("-j");
        scene.note_pids();
        let memory = digest(&scene)?;
        scene.cryopod.run(&words)?.succeeded()?;
        if number == 3 {
            scene.await_nothing_left()?;
            let restored = ["restore", "--dir", &path, "--detach"];
            scene.cryopod.json(&restored)?;
            scene.note_pids();
            ensure!(digest(&scene)? == memory, "memory is not what it was");
        }
    }
    let pages = |number: u32| -> Result<u64> {
        let mut size = 0;
        for entry in fs::read_dir(images.join(number.to_string()))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("pages-") {
                size += entry.metadata()?.len();
            }
        }
        Ok(size)
    };
    ensure!(pages(1)? > 0 && images.join("3/parent").is_symlink());
    scene.finish()
}
