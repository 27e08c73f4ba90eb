//! Programs that nobody wrote for this: python, a shell's pipeline, xz.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::harness::context::needs;
use crate::harness::scene::survives;
use crate::harness::{Context, Program, Scene, Test, poll, processes};

/// Lines that go through the pipeline.
const LINES: usize = 400_000;
/// What xz has to compress, in bytes.
const TEXT_BYTES: usize = 4 << 20;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("programs::python_with_threads_and_subprocesses", python),
        Test::new("programs::python_asyncio", asyncio),
        Test::new("programs::shell_pipeline", shell_pipeline),
        Test::new("programs::xz", |c| xz(c, "--threads=1")),
        Test::new("programs::xz_with_threads", |c| {
            xz(c, "--threads=2 --block-size=1MiB")
        }),
        Test::new("programs::cryopod_demo", demo),
    ]
}

fn python(context: &Context) -> Result<()> {
    needs("python3")?;
    let program = Program::command("python3")
        .arg("-c")
        .arg(include_str!("../programs/world.py"));
    // Its heap lives.
    // A subprocess may still be setting its handlers up when it is first looked at.
    survives(
        context,
        program.ignoring(&["/map ", "/VmLck", "/SigCgt", "/SigIgn"]),
    )
}

/// An event loop that is never at rest: what it looks like cannot be compared, but all of its work has to go on.
fn asyncio(context: &Context) -> Result<()> {
    needs("python3")?;
    let program = Program::command("python3")
        .arg("-c")
        .arg(include_str!("../programs/asynchronous.py"));
    let mut scene = Scene::start(context, program)?;
    works(&scene).context("before anything happened")?;
    if !context.without_checkpoint {
        for round in 0..5 {
            scene.checkpoint(&format!("target:round{round}"))?;
            works(&scene).with_context(|| format!("after checkpoint {round}"))?;
        }
        for round in ["target:first", "target:second"] {
            scene.checkpoint_and_stop(round)?;
            scene
                .restore(round)
                .with_context(|| format!("{round}\n{}", scene.words()))?;
            works(&scene).with_context(|| format!("after the restore of {round}"))?;
        }
    }
    scene.finish()
}

/// Every kind of work of the event loop is done some more times.
fn works(scene: &Scene) -> Result<()> {
    let counts = || -> Vec<u64> {
        let words = scene.file("counts").unwrap_or_default();
        words
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect()
    };
    let before = poll::until("counts of the work", || {
        Ok(Some(counts()).filter(|counts| !counts.is_empty()))
    })?;
    poll::until("all kinds of work to go on", || {
        scene.content()?;
        let now = counts();
        let on = now.len() == before.len()
            && now
                .iter()
                .zip(&before)
                .all(|(now, before)| *now >= before + 3);
        Ok(on.then_some(()))
    })
    .with_context(|| {
        format!(
            "counts were {before:?}, are {:?}\n{}",
            counts(),
            scene.words()
        )
    })
}

/// Four processes that pass numbered lines on: none is lost, none comes twice, whatever happens on the way.
fn shell_pipeline(context: &Context) -> Result<()> {
    let own = std::env::current_exe()?;
    let script = format!(
        "seq 1 {LINES} | sed 's/$/ sheep/' | '{}' target pace \"$DIR\" | cat > \"$DIR/out\"; : > \"$DIR/done\"",
        own.display()
    );
    let mut scene = Scene::start(
        context,
        Program::shell(&script)
            .ignoring(&["/fd ", "/map "])
            .that_writes(),
    )?;
    if !context.without_checkpoint {
        for round in 0..5 {
            scene.checkpoint(&format!("target:round{round}"))?;
        }
    }
    scene.put_through_everything()?;
    let out = scene.directory.join("out");
    let text = || fs::read_to_string(&out).context("the pipeline wrote nothing");
    ensure!(
        text()?.lines().count() < LINES,
        "the pipeline was done before anything happened to it"
    );
    let directory = scene.directory.clone();
    scene.finish()?;
    let text = fs::read_to_string(directory.join("out"))?;
    for (number, line) in (1_usize..).zip(text.lines()) {
        ensure!(
            line == format!("{number} sheep"),
            "line {number} is {line:?}"
        );
    }
    let count = text.lines().count();
    ensure!(count == LINES, "{count} lines came of {LINES}");
    Ok(())
}

/// Text that takes a compressor some time: words in random order.
fn text() -> String {
    let mut text = String::with_capacity(TEXT_BYTES + 32);
    let mut random = 88_172_645_463_325_252_u64;
    while text.len() < TEXT_BYTES {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let _ = write!(text, "{:x} ", random % 50_021);
    }
    text
}

/// A file that is being compressed meanwhile comes out right.
fn xz(context: &Context, options: &str) -> Result<()> {
    needs("xz")?;
    // The shell is the root of the tree, so that there is somebody to tell how it went.
    let script = format!(
        "while ! test -e \"$DIR/input\"; do sleep 0.01; done\n\
         : > \"$DIR/ready\"\n\
         xz {options} -6 -c \"$DIR/input\" > \"$DIR/out\" && : > \"$DIR/done\""
    );
    let text = text();
    let program = Program::shell(&script)
        .ignoring(&["/fd ", "/map ", "/VmLck"])
        .that_writes();
    let mut scene = Scene::start_with(context, program, |command| {
        let directory = command
            .get_envs()
            .find(|(name, _)| *name == "DIR")
            .and_then(|(_, value)| value);
        let directory = std::path::PathBuf::from(directory.context("no directory")?);
        fs::write(directory.join(".input"), &text)?;
        fs::rename(directory.join(".input"), directory.join("input")).context("no input")
    })?;
    let out = scene.directory.join("out");
    let written = || fs::metadata(&out).map_or(0, |metadata| metadata.len());
    poll::until_true("xz to write something", || written() > 0)?;
    scene.note_pids();
    scene.put_through_everything()?;
    ensure!(
        context.without_checkpoint || processes::tree(scene.root).len() > 1,
        "xz was done before everything had happened to it"
    );
    let directory = scene.directory.clone();
    scene.finish()?;
    let unpacked = Command::new("xz")
        .arg("-dc")
        .arg(directory.join("out"))
        .output()?;
    ensure!(
        unpacked.status.success(),
        "xz: {}",
        String::from_utf8_lossy(&unpacked.stderr)
    );
    ensure!(
        unpacked.stdout == text.as_bytes(),
        "what comes out of xz is not what went in"
    );
    Ok(())
}

/// The demonstration that the readme opens with.
fn demo(context: &Context) -> Result<()> {
    let directory = context.scene_directory()?;
    let cryopod = crate::harness::cryopod::Cryopod::new(context, &directory);
    // Nobody here waits for orphans that are not known, as init does.
    let demo = cryopod.command_by(&["adopt".as_ref()], &["demo", "--memory-mib", "64"])?;
    cryopod.start_command(demo)?.wait()?.succeeded()?;
    Ok(())
}
