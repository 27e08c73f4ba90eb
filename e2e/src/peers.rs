//! The real criu: what cryopod writes it reads, what it writes cryopod reads, and its command line is spoken.
//!
//! criu 4.1.1 cannot take tasks of other users where CAP_SYS_RESOURCE is missing, so the targets are simple ones of root.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::harness::context::needs;
use crate::harness::cryopod::Ran;
use crate::harness::{Context, Program, Scene, Test, processes};

/// Programs that both sides can take.
fn simple() -> Vec<Program> {
    vec![
        Program::native("auxiliary"),
        Program::native("ballast").arg("16"),
        Program::native("pipes"),
        Program::native("crowd").arg("20"),
        Program::native("throng").arg("20"),
        Program::native("shared_memory"),
    ]
}

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("peers::criu_restores_what_cryopod_dumped", |c| {
            each(c, criu_restores)
        }),
        Test::new("peers::cryopod_restores_what_criu_dumped", |c| {
            each(c, cryopod_restores)
        }),
        Test::new("peers::crit_shows_every_image", crit_shows_every_image),
        Test::new("peers::criu_command_line", |c| criu_command_line(c, false)),
        Test::new("peers::criu_command_line_by_name", |c| {
            criu_command_line(c, true)
        }),
        Test::new(
            "peers::criu_restores_what_its_command_line_dumped",
            criu_after_command_line,
        ),
    ]
}

fn each(context: &Context, test: fn(&Context, Program) -> Result<()>) -> Result<()> {
    context.cryopod()?;
    needs("criu")?;
    // The very first run after a boot may fail while it probes the kernel.
    let _ = Command::new("criu")
        .arg("check")
        .stdin(Stdio::null())
        .output()?;
    for program in simple() {
        test(context, program.clone()).with_context(|| format!("{program:?}"))?;
    }
    Ok(())
}

/// A directory beside the target's own files.
fn directory(scene: &Scene, name: &str) -> Result<PathBuf> {
    let path = scene.directory.join(name);
    fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}

/// Runs criu or what speaks its command line; its log is the better part of an error.
fn run(scene: &Scene, mut command: Command, log: &Path) -> Result<()> {
    command.stdin(Stdio::null());
    let ran = scene
        .cryopod
        .start_command(command)?
        .wait()
        .and_then(Ran::succeeded);
    ran.map(drop).with_context(|| {
        let log = fs::read_to_string(log).unwrap_or_default();
        let is_telling = |line: &&str| line.contains("Error") || line.contains("Warn");
        let telling: Vec<&str> = log.lines().filter(is_telling).collect();
        let last = log.lines().count().saturating_sub(20);
        let last: Vec<&str> = log.lines().skip(last).collect();
        format!("{}\n...\n{}", telling.join("\n"), last.join("\n"))
    })
}

/// `PROGRAM dump`, which ends the target.
fn dump(mut command: Command, scene: &Scene, images: &Path) -> Result<()> {
    command.args([
        "dump",
        "--no-default-config",
        "-v4",
        "--log-file",
        "dump.log",
    ]);
    command.arg("--images-dir").arg(images);
    command.arg("--tree").arg(scene.root.to_string());
    run(scene, command, &images.join("dump.log"))?;
    scene.await_nothing_left()
}

/// `PROGRAM restore`, in a work directory of its own.
fn restore(mut command: Command, scene: &mut Scene, images: &Path) -> Result<()> {
    let work = directory(scene, "work")?;
    command.args([
        "restore",
        "--no-default-config",
        "-v4",
        "--log-file",
        "restore.log",
    ]);
    command
        .arg("--restore-detached")
        .arg("--images-dir")
        .arg(images);
    command
        .arg("--work-dir")
        .arg(&work)
        .arg("--pidfile")
        .arg(work.join("pid"));
    run(scene, command, &work.join("restore.log"))?;
    let pid = fs::read_to_string(work.join("pid"))?;
    ensure!(
        pid.trim() == scene.root.to_string(),
        "the pidfile holds {pid:?}"
    );
    scene.note_pids();
    ensure!(
        processes::is_alive(scene.root),
        "pid {} did not come back",
        scene.root
    );
    Ok(())
}

fn criu_restores(context: &Context, program: Program) -> Result<()> {
    let mut scene = Scene::start(context, program)?;
    scene.checkpoint_and_stop("target:for-criu")?;
    let images = scene.cryopod.images("target:for-criu")?;
    restore(Command::new("criu"), &mut scene, &images)?;
    scene.finish()
}

fn cryopod_restores(context: &Context, program: Program) -> Result<()> {
    let mut scene = Scene::start(context, program)?;
    let before = scene.snapshot()?;
    let images = directory(&scene, "images")?;
    dump(Command::new("criu"), &scene, &images)?;
    let images = images.display().to_string();
    scene
        .cryopod
        .json(&["restore", "--dir", &images, "--detach"])?;
    scene.note_pids();
    scene.same_as(&before, "after the restore of criu's images")?;
    scene.finish()
}

fn crit_shows_every_image(context: &Context) -> Result<()> {
    context.cryopod()?;
    needs("crit")?;
    for program in simple().into_iter().chain([
        Program::native("attributes"),
        Program::native("epolls"),
        Program::native("memfds"),
    ]) {
        let mut scene = Scene::start(context, program)?;
        scene.checkpoint_and_stop("target:shown")?;
        let images = scene.cryopod.images("target:shown")?;
        for entry in fs::read_dir(&images)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with("pages-") {
                continue;
            }
            let output = Command::new("crit").arg("show").arg(&path).output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            ensure!(
                output.status.success(),
                "crit show {name}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            let document: serde_json::Value =
                serde_json::from_str(&text).with_context(|| format!("crit show {name}: {text}"))?;
            ensure!(
                document["entries"].is_array(),
                "crit show {name}: {document}"
            );
        }
        scene.restore("target:shown")?;
        scene.finish()?;
    }
    Ok(())
}

/// cryopod as criu: by the subcommand, or by being called so.
fn as_criu(scene: &Scene, by_name: bool) -> Result<Command> {
    let mut command = if by_name {
        let link = scene.directory.join("criu");
        if !link.exists() {
            symlink(scene.context.cryopod()?, &link)?;
        }
        Command::new(link)
    } else {
        let mut command = Command::new(scene.context.cryopod()?);
        command.arg("criu");
        command
    };
    command.env("CRYOPOD_STORE", &scene.cryopod.store);
    Ok(command)
}

fn criu_command_line(context: &Context, by_name: bool) -> Result<()> {
    context.cryopod()?;
    let mut scene = Scene::start(context, Program::native("crowd").arg("20"))?;
    let before = scene.snapshot()?;
    let mut check = as_criu(&scene, by_name)?;
    check.arg("check");
    run(&scene, check, Path::new("/nonexistent"))?;
    let images = directory(&scene, "images")?;
    dump(as_criu(&scene, by_name)?, &scene, &images)?;
    for name in ["inventory.img", "pstree.img", "stats-dump", "dump.log"] {
        ensure!(images.join(name).exists(), "there is no {name}");
    }
    restore(as_criu(&scene, by_name)?, &mut scene, &images)?;
    scene.same_as(&before, "after the restore")?;
    scene.finish()
}

fn criu_after_command_line(context: &Context) -> Result<()> {
    context.cryopod()?;
    needs("criu")?;
    let mut scene = Scene::start(context, Program::native("ballast").arg("4"))?;
    let images = directory(&scene, "images")?;
    dump(as_criu(&scene, false)?, &scene, &images)?;
    restore(Command::new("criu"), &mut scene, &images)?;
    scene.finish()
}
