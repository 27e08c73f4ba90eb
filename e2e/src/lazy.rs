//! Lazy restores: programs run while their memory still comes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::cryopod::find;
use crate::harness::{Context, Program, Scene, Test, poll, processes};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("lazy::nothing_remains", nothing_remains),
        Test::new("lazy::criu_images", criu_images),
        Test::new("lazy::while_the_program_works", |c| {
            works(c, Program::native("lazy_busy").arg("256"), 3)
        }),
        Test::new("lazy::a_tree", |c| {
            works(c, Program::native("lazy_tree").arg("96"), 3)
        }),
        Test::new("lazy::what_is_shared_stays_shared", |c| {
            works(c, Program::native("cow").arg("64").arg("4"), 1)
        }),
        Test::new("lazy::killed_helper", killed_helper),
        Test::new("lazy::a_page_that_is_not_what_it_was", flipped_byte),
        Test::new("lazy::nobody_waits_for_the_helper", nobody_waits),
    ]
}

/// Brings a target back lazily. Gives the helper's pid.
fn restore(scene: &mut Scene, reference: &str) -> Result<i32> {
    let report = scene
        .cryopod
        .json(&["restore", reference, "--detach", "--lazy"])?;
    scene.note_pids();
    helper_of(&report)
}

fn helper_of(report: &Value) -> Result<i32> {
    let pid = find(report, "helper_pid").and_then(Value::as_i64);
    Ok(i32::try_from(
        pid.context("nothing was left for a helper")?,
    )?)
}

/// Waits until the helper has left. It is an orphan, and orphans come to us.
fn await_helper(helper: i32) -> Result<()> {
    poll::until_true("the helper to leave", || {
        processes::reap_all(&BTreeSet::from([helper]));
        !processes::is_alive(helper)
    })
}

/// A target that was stopped under `target:lazy`.
fn stopped(context: &Context, program: Program) -> Result<Scene<'_>> {
    context.cryopod()?;
    let mut scene = Scene::start(context, program)?;
    scene.checkpoint_and_stop("target:lazy")?;
    Ok(scene)
}

/// When all is there, the tree looks as if it had been restored at once: mappings, their flags, descriptors, children.
fn nothing_remains(context: &Context) -> Result<()> {
    context.cryopod()?;
    let mut scene = Scene::start(context, Program::native("ballast").arg("256"))?;
    let before = scene.snapshot()?;
    for round in ["target:first", "target:second"] {
        scene.checkpoint_and_stop(round)?;
        let helper = restore(&mut scene, round)?;
        await_helper(helper)?;
        scene.same_as(&before, "after the fill")?;
    }
    scene.finish()
}

/// A directory of images without checksums.
fn criu_images(context: &Context) -> Result<()> {
    context.cryopod()?;
    let mut scene = Scene::start(context, Program::native("ballast").arg("128"))?;
    let before = scene.snapshot()?;
    scene.checkpoint_and_stop("target:lazy")?;
    let images = scene.cryopod.images("target:lazy")?;
    let images = images.to_str().context("not a text")?;
    let report = scene
        .cryopod
        .json(&["restore", "--dir", images, "--detach", "--lazy"])?;
    scene.note_pids();
    await_helper(helper_of(&report)?)?;
    scene.same_as(&before, "after the fill")?;
    scene.finish()
}

/// The program is told to go before it is restored, so that it does all it does while its memory is being filled.
fn works(context: &Context, program: Program, rounds: u32) -> Result<()> {
    for _ in 0..rounds {
        let mut scene = stopped(context, program.clone())?;
        scene.tell_to_go()?;
        let report = scene
            .cryopod
            .json(&["restore", "target:lazy", "--detach", "--lazy"])?;
        scene.note_pids();
        scene.await_file("done")?;
        processes::wait_for_end(scene.root)?;
        scene.content()?;
        if let Ok(helper) = helper_of(&report) {
            await_helper(helper)?;
        }
    }
    Ok(())
}

/// Whoever kills the helper too early kills the program. It never sees a page that did not come.
fn killed_helper(context: &Context) -> Result<()> {
    let mut scene = stopped(context, Program::native("lazy_tree").arg("192"))?;
    scene.tell_to_go()?;
    let helper = restore(&mut scene, "target:lazy")?;
    processes::signal(helper, Signal::KILL)?;
    await_helper(helper)?;
    scene.await_nothing_left()?;
    // Its complaints would be here. (Whether it got to its end before the helper was killed does not matter.)
    scene.content()
}

/// A byte that has changed in the checkpoint and that comes late: the program is ended, and it is told why.
fn flipped_byte(context: &Context) -> Result<()> {
    let mut scene = stopped(context, Program::native("ballast").arg("256"))?;
    let pages = scene.cryopod.images("target:lazy")?.join("pages-1.img");
    let file = fs::OpenOptions::new().read(true).write(true).open(&pages)?;
    let place = file.metadata()?.len() / 4 * 3;
    let mut byte = [0];
    file.read_exact_at(&mut byte, place)?;
    file.write_all_at(&[byte[0] ^ 4], place)?;
    let ran = scene
        .cryopod
        .run(&["restore", "target:lazy", "--lazy"])?
        .says("pages-1.img")?;
    ensure!(
        ran.status.code() == Some(8),
        "exit code {:?}, signal {:?}: {ran:?}",
        ran.status.code(),
        ran.status.signal()
    );
    scene.await_nothing_left()?;
    file.write_all_at(&byte, place)?;
    let helper = restore(&mut scene, "target:lazy")?;
    await_helper(helper)?;
    scene.finish()
}

/// Whoever reads what a detached restore prints comes to an end at once, and not when the helper leaves.
fn nobody_waits(context: &Context) -> Result<()> {
    let mut scene = stopped(context, Program::native("ballast").arg("256"))?;
    let mut command =
        scene
            .cryopod
            .command(&["restore", "target:lazy", "--detach", "--lazy", "--json"])?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut text, mut words) = (String::new(), String::new());
    let mut stdout = stdout.context("no pipe")?;
    let pipe = fs::read_link(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&stdout)
    ))?;
    stdout.read_to_string(&mut text)?;
    stderr.context("no pipe")?.read_to_string(&mut words)?;
    ensure!(child.wait()?.success(), "it failed: {text}{words}");
    scene.note_pids();
    let helper = helper_of(&serde_json::from_str(&text)?)?;
    for process in processes::tree(helper) {
        let holds = |fd: &i32| {
            fs::read_link(format!("/proc/{process}/fd/{fd}")).is_ok_and(|link| link == pipe)
        };
        let fds = processes::numbers_in(&format!("/proc/{process}/fd")).unwrap_or_default();
        ensure!(!fds.iter().any(holds), "pid {process} holds the pipe open");
    }
    await_helper(helper)?;
    scene.finish()
}
