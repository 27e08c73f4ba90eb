//! What cannot be checkpointed is refused before anything has happened to it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::cryopod::find;
use crate::harness::scene::survives_or_is_refused;
use crate::harness::{Context, Program, Scene, Test, processes};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "refused::everything_unsupported_in_one_list",
            everything_in_one_list,
        ),
        Test::new("refused::other_namespaces", other_namespaces),
        Test::new("refused::lock_that_is_not_asked_for", lock_not_asked_for),
        Test::new("refused::seccomp_filter", |c| {
            survives_or_is_refused(c, Program::native("filtered"))
        }),
        Test::new("refused::seccomp_filters_of_threads", |c| {
            survives_or_is_refused(c, Program::native("filtered_threads"))
        }),
        Test::new("refused::seccomp_filters_that_differ", |c| {
            survives_or_is_refused(c, Program::native("filtered_threads").arg("differ"))
        }),
        Test::new("refused::segment_that_others_use", |c| {
            let scene = Scene::start(c, Program::native("sysvipc_shared"))?;
            refused(&scene)?;
            scene.finish()
        }),
        Test::new("refused::message_queue_that_others_use", |c| {
            let scene = Scene::start(c, Program::native("mqueue_shared"))?;
            let document = refused(&scene)?.to_string();
            ensure!(document.contains("outside of the tree"), "{document}");
            scene.finish()
        }),
        Test::new("refused::bpf_map_that_gives_nothing_back", |c| {
            let scene = Scene::start(c, Program::native("bpf_queue"))?;
            let document = refused(&scene)?.to_string();
            ensure!(document.contains("BPF map of type 22"), "{document}");
            scene.finish()
        }),
        Test::new("refused::parent_in_vfork", parent_in_vfork),
        Test::new("refused::traced_by_somebody", traced_by_somebody),
        Test::new(
            "refused::targets_that_make_no_sense",
            targets_that_make_no_sense,
        ),
        Test::new("refused::tree_with_cryopod_in_it", tree_with_cryopod_in_it),
    ]
}

/// The target must be refused as unsupported. Gives the document that was printed.
fn refused(scene: &Scene) -> Result<Value> {
    let before = scene.snapshot()?;
    let pid = scene.root.to_string();
    let ran = scene.cryopod.fails(
        "unsupported",
        &["checkpoint", &pid, "target:never", "--stop"],
    )?;
    scene.same_as(&before, "after a refusal")?;
    ensure!(
        scene.cryopod.stored()?.is_empty() && scene.cryopod.staged()?.is_empty(),
        "something was stored"
    );
    ran.document()
}

fn everything_in_one_list(context: &Context) -> Result<()> {
    context.cryopod()?;
    let scene = Scene::start(context, Program::native("unsupported"))?;
    let document = refused(&scene)?;
    let list = find(&document, "unsupported")
        .and_then(Value::as_array)
        .context("no list")?;
    let found: BTreeSet<(i64, i64)> = list
        .iter()
        .filter_map(|one| Some((one["pid"].as_i64()?, one["fd"].as_i64()?)))
        .collect();
    for line in scene.file("expected").unwrap_or_default().lines() {
        let (pid, fd) = line.split_once(' ').context("a strange line")?;
        ensure!(
            found.contains(&(pid.parse()?, fd.parse()?)),
            "pid {pid} fd {fd} is not in {document:#}"
        );
    }
    // People are told the same.
    let ran = scene
        .cryopod
        .run(&["checkpoint", &scene.root.to_string()])?;
    let text = ran.text();
    for (pid, fd) in &found {
        ensure!(
            text.contains(&format!("pid {pid} fd {fd}:")),
            "pid {pid} fd {fd} is not in\n{text}"
        );
    }
    scene.finish()
}

fn other_namespaces(context: &Context) -> Result<()> {
    context.cryopod()?;
    let scene = Scene::start(context, Program::native("other_namespaces"))?;
    let document = refused(&scene)?.to_string();
    let expected = scene.file("expected").unwrap_or_default();
    let pid = expected.split(' ').next().unwrap_or_default();
    ensure!(document.contains(pid), "pid {pid} is not in {document}");
    scene.finish()
}

/// Locks are taken along only when asked for; otherwise the refusal names file, holder and option.
fn lock_not_asked_for(context: &Context) -> Result<()> {
    context.cryopod()?;
    let scene = Scene::start(context, Program::native("locks"))?;
    let document = refused(&scene)?.to_string();
    for word in [
        "/shared-lock",
        "--file-locks",
        &format!("pid {}", scene.root),
    ] {
        ensure!(document.contains(word), "{word:?} is not in {document}");
    }
    scene.finish()
}

/// A parent that waits in vfork(2) cannot be stopped by anybody. Whatever comes of it: in the end all is as before.
fn parent_in_vfork(context: &Context) -> Result<()> {
    context.cryopod()?;
    let scene = Scene::start(context, Program::native("vforked"))?;
    let before = scene.snapshot()?;
    let ran = scene.cryopod.run(&[
        "checkpoint",
        &scene.root.to_string(),
        "target:vfork",
        "--json",
    ])?;
    ensure!(
        ran.status.success() || ran.text().contains(&scene.root.to_string()),
        "who is it? {ran:?}"
    );
    scene.same_as(&before, "after an attempt")?;
    scene.finish()
}

fn traced_by_somebody(context: &Context) -> Result<()> {
    context.cryopod()?;
    let mut scene = Scene::start(context, Program::native("traced"))?;
    let before = scene.snapshot()?;
    let ran = scene.cryopod.run(&[
        "checkpoint",
        &scene.root.to_string(),
        "target:traced",
        "--json",
    ])?;
    let ran = ran.failed_as_one_of(&["busy", "unsupported"])?;
    // The child and who has it.
    for pid in &before.pids {
        ensure!(
            ran.text().contains(&pid.to_string()),
            "pid {pid} is not in {ran:?}"
        );
    }
    let after = scene.snapshot()?;
    let differences = before.differences(&after, &[]);
    ensure!(differences.is_empty(), "{differences:#?}");
    scene.note_pids();
    scene.finish()
}

fn targets_that_make_no_sense(context: &Context) -> Result<()> {
    let directory = context.scene_directory()?;
    let cryopod = crate::harness::cryopod::Cryopod::new(context, &directory);
    for (kind, target) in [
        ("invalid_input", "abc"),
        ("invalid_input", "0"),
        ("invalid_input", "pid:"),
        ("invalid_input", "99999999999999999999"),
        ("unsupported", "docker:web"),
        ("not_found", "4194303"),
        ("not_found", "pid:2147483647"),
    ] {
        cryopod
            .fails(kind, &["checkpoint", target])
            .with_context(|| format!("target {target:?}"))?;
    }
    // A thread is no process.
    let scene = Scene::start(context, Program::native("robust_lists"))?;
    let tasks = processes::numbers_in(&format!("/proc/{}/task", scene.root))?;
    let thread = tasks
        .iter()
        .find(|task| **task != scene.root)
        .context("no thread")?;
    scene
        .cryopod
        .fails("invalid_input", &["checkpoint", &thread.to_string()])?
        .says(&scene.root.to_string())?;
    // What has ended is not there.
    processes::signal(scene.root, Signal::KILL)?;
    processes::wait_for_end(scene.root)?;
    scene
        .cryopod
        .fails("not_found", &["checkpoint", &scene.root.to_string()])?;
    Ok(())
}

/// A shell that asks for a checkpoint of itself is told that this cannot be.
fn tree_with_cryopod_in_it(context: &Context) -> Result<()> {
    let directory = context.scene_directory()?;
    let cryopod = crate::harness::cryopod::Cryopod::new(context, &directory);
    let binary = context.cryopod()?.display().to_string();
    let mut command = std::process::Command::new("sh");
    command
        .arg("-c")
        .arg(format!("'{binary}' checkpoint $$ --json; exit $?"))
        .env("CRYOPOD_STORE", &cryopod.store);
    let ran = cryopod.start_command(command)?.wait()?;
    ran.failed("invalid_input")?;
    Ok(())
}
