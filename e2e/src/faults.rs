//! What must not go wrong when something goes wrong: cryopod is killed or interrupted, the disk is full, images are
//! damaged.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::Signal;

use crate::harness::context::skip;
use crate::harness::cryopod::{Cryopod, Running};
use crate::harness::snapshot::Snapshot;
use crate::harness::{Context, Program, Scene, Test, poll, processes};
use crate::targets;

/// Moments of a checkpoint at which cryopod is killed.
const KILLED_CHECKPOINTS: u32 = 200;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "faults::killed_while_it_takes_a_checkpoint",
            killed_while_it_takes_a_checkpoint,
        ),
        Test::new("faults::interrupted_by_sigint", |c| {
            interrupted(c, Signal::INT)
        }),
        Test::new("faults::interrupted_by_sigterm", |c| {
            interrupted(c, Signal::TERM)
        }),
        Test::new("faults::full_disk", full_disk),
        Test::new("faults::flipped_bytes", flipped_bytes),
        Test::new(
            "faults::missing_and_truncated_images",
            missing_and_truncated_images,
        ),
    ]
}

/// Random numbers; the seed is told when something fails.
struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    fn new() -> Self {
        let seed = RandomState::new().build_hasher().finish() | 1;
        Self { seed, state: seed }
    }

    /// A number below the limit.
    fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) % limit.max(1)
    }

    /// A moment in a stretch of time.
    fn within(&mut self, stretch: Duration) -> Duration {
        Duration::from_nanos(self.below(u64::try_from(stretch.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The computing target: its files come and go, its heap lives.
fn computing(context: &Context) -> Result<Scene<'_>> {
    context.cryopod()?;
    Scene::start(
        context,
        Program::own("checksum").ignoring(&["/fd ", "/map ", "/VmLck", "/state"]),
    )
}

/// Every thread of the computing target must go on, and what it computes must be right.
fn computes(scene: &Scene) -> Result<()> {
    let before = targets::read_counters(&scene.directory)?;
    poll::until("every thread of the target to go on", || {
        scene.content()?;
        let now = targets::read_counters(&scene.directory)?;
        let all = advanced(&before, &now);
        ensure!(
            processes::is_alive(scene.root),
            "the target has ended\n{}",
            scene.words()
        );
        Ok(all.then_some(()))
    })
    .with_context(|| format!("counters were {before:?}; {}", states(scene)))
}

/// Whether every thread of the computing target has gone on.
fn advanced(before: &[u64], now: &[u64]) -> bool {
    now.len() as u64 == targets::COUNTERS
        && now.iter().zip(before).all(|(now, before)| now > before)
}

/// What the tasks of a target are doing, for an error.
fn states(scene: &Scene) -> String {
    let mut states = Vec::new();
    for pid in processes::tree(scene.root) {
        for task in processes::numbers_in(&format!("/proc/{pid}/task")).unwrap_or_default() {
            let state = processes::Stat::read(&format!("{pid}/task/{task}"))
                .map_or("-".into(), |stat| stat.state().to_owned());
            states.push(format!("{pid}/{task} {state}"));
        }
    }
    states.join(", ")
}

fn kill_after(running: Running, delay: Duration) -> Result<()> {
    thread::sleep(delay);
    // It may have ended.
    let _ = processes::signal(running.pid(), Signal::KILL);
    let mut running = running;
    running.child.wait()?;
    Ok(())
}

/// How long the longest of some calls takes: the stretch in which to be killed.
fn longest(rounds: u32, mut call: impl FnMut(u32) -> Result<()>) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let started = Instant::now();
        call(round)?;
        longest = longest.max(started.elapsed());
    }
    Ok(longest)
}

fn killed_while_it_takes_a_checkpoint(context: &Context) -> Result<()> {
    let mut scene = computing(context)?;
    let before = scene.snapshot()?;
    let pid = scene.root.to_string();
    let stretch = longest(4, |_| {
        scene
            .cryopod
            .json(&["checkpoint", &pid, "target:kept", "--replace"])?;
        Ok(())
    })?;
    let mut random = Random::new();
    for round in 0..KILLED_CHECKPOINTS {
        let delay = random.within(stretch);
        let what = format!(
            "round {round}, killed after {delay:?} of {stretch:?}, seed {}",
            random.seed
        );
        // Half of them are to take the place of one that is there.
        let name = format!("target:round{round}");
        let arguments = match round % 2 {
            0 => ["checkpoint", &pid, "target:kept", "--replace"],
            _ => ["checkpoint", &pid, &name, "--json"],
        };
        kill_after(scene.cryopod.start(&arguments)?, delay)?;
        unharmed(&scene, &before, round % 10 == 0).context(what)?;
    }
    // Whatever is listed is whole, and nothing is left of what was not finished.
    let listed = scene.cryopod.list()?;
    ensure!(
        listed["broken"].as_array().is_some_and(Vec::is_empty),
        "broken: {listed:#}"
    );
    ensure!(
        scene.cryopod.staged()?.is_empty(),
        "left in tmp: {:?}",
        scene.cryopod.staged()?
    );
    let stored = scene.cryopod.stored()?;
    ensure!(
        stored.contains(&"target:kept".to_owned()),
        "the one that was to be replaced is gone: {stored:?}"
    );
    for reference in &stored {
        scene.cryopod.json(&["inspect", reference])?;
    }
    // A checkpoint that is left alone has collected what others left behind.
    scene.checkpoint("target:alone")?;
    let copies = processes::tree(scene.root)
        .into_iter()
        .filter(|pid| processes::is_ended_copy(*pid))
        .count();
    ensure!(copies == 0, "{copies} ended copies are left");
    scene.checkpoint_and_stop("target:last")?;
    scene.restore("target:last")?;
    unharmed(&scene, &before, true)?;
    scene.finish()
}

/// The target goes on, nobody traces it, and now and then everything about it is compared.
fn unharmed(scene: &Scene, before: &Snapshot, thoroughly: bool) -> Result<()> {
    poll::until("the target to be let go", || {
        let now = scene.snapshot()?;
        Ok(now.traced().is_empty().then_some(()))
    })?;
    computes(scene)?;
    if thoroughly {
        scene.same_as(before, "after cryopod was killed")?;
    }
    Ok(())
}

/// In the middle of writing, a signal asks for an end: everything is as before.
fn interrupted(context: &Context, by: Signal) -> Result<()> {
    context.cryopod()?;
    let scene = Scene::start(context, Program::native("ballast").arg("512"))?;
    let before = scene.snapshot()?;
    let pid = scene.root.to_string();
    let mut running =
        scene
            .cryopod
            .start(&["checkpoint", &pid, "target:never", "--stop", "--json"])?;
    let staging = scene.cryopod.store.join("tmp");
    poll::until("some pages to be written", || {
        ensure!(
            running.child.try_wait()?.is_none(),
            "it was done before anybody could interrupt it"
        );
        Ok((largest_below(&staging) > 1 << 20).then_some(()))
    })?;
    processes::signal(running.pid(), by)?;
    running.wait()?.failed("external")?.says("interrupted")?;
    scene.same_as(&before, "after the interruption")?;
    ensure!(scene.cryopod.stored()?.is_empty(), "something was stored");
    ensure!(
        scene.cryopod.staged()?.is_empty(),
        "something was left in tmp"
    );
    scene.finish()
}

/// The size of the largest file below a directory.
fn largest_below(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => largest_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .max()
        .unwrap_or(0)
}

/// A small file system in memory, for as long as this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path)?;
        match rustix::mount::mount("tmpfs", &path, "tmpfs", MountFlags::NODEV, Some(c"size=4m")) {
            Ok(()) => Ok(Self(path)),
            Err(error) => skip(format!("cannot mount a tmpfs: {error}")),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn full_disk(context: &Context) -> Result<()> {
    context.cryopod()?;
    let mut scene = Scene::start(context, Program::native("ballast").arg("16"))?;
    let before = scene.snapshot()?;
    let disk = SmallDisk::mount(scene.directory.join("disk"))?;
    let elsewhere = std::mem::replace(&mut scene.cryopod.store, disk.0.join("store"));
    let pid = scene.root.to_string();
    for stop in [
        &["checkpoint", &pid, "target:never"][..],
        &["checkpoint", &pid, "target:never", "--stop"],
    ] {
        scene.cryopod.fails("external", stop)?.says("space")?;
        scene.same_as(&before, "after the disk was full")?;
        ensure!(
            scene.cryopod.stored()?.is_empty() && scene.cryopod.staged()?.is_empty(),
            "something is left"
        );
    }
    // It is the disk and nothing else.
    scene.cryopod.store = elsewhere;
    drop(disk);
    scene.checkpoint_and_stop("target:elsewhere")?;
    scene.restore("target:elsewhere")?;
    scene.finish()
}

/// The images that a restore reads whatever the target is like.
fn essential_images(images: &Path) -> Result<Vec<PathBuf>> {
    let essential = [
        "pages-",
        "pagemap-",
        "core-",
        "mm-",
        "fdinfo-",
        "files.img",
        "pstree.img",
        "inventory.img",
    ];
    let mut found = Vec::new();
    for entry in fs::read_dir(images)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let size = fs::metadata(&path)?.len();
        if size > 0 && essential.iter().any(|start| name.starts_with(start)) {
            found.push(path);
        }
    }
    ensure!(found.len() >= essential.len(), "only {found:?}");
    found.sort();
    Ok(found)
}

/// A target that was stopped, with the pids it had.
fn stopped(context: &Context) -> Result<(Scene<'_>, Vec<i32>)> {
    context.cryopod()?;
    let mut scene = Scene::start(context, Program::native("cow").arg("8").arg("2"))?;
    let pids = scene.snapshot()?.pids;
    scene.checkpoint_and_stop("target:damaged")?;
    Ok((scene, pids))
}

/// A restore of damaged images fails, and no process is there.
fn restore_fails(cryopod: &Cryopod, pids: &[i32], what: &str) -> Result<()> {
    cryopod
        .fails("corrupt", &["restore", "target:damaged", "--detach"])
        .with_context(|| what.to_owned())?;
    for pid in pids {
        ensure!(!processes::is_alive(*pid), "{what}: pid {pid} is there");
    }
    processes::reap_all(&pids.iter().copied().collect());
    Ok(())
}

fn flipped_bytes(context: &Context) -> Result<()> {
    let (mut scene, pids) = stopped(context)?;
    let mut random = Random::new();
    for path in essential_images(&scene.cryopod.images("target:damaged")?)? {
        let file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
        let size = file.metadata()?.len();
        for place in [0, random.below(size), random.below(size), size - 1] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, place)?;
            file.write_all_at(&[byte[0] ^ 1 << random.below(8)], place)?;
            let what = format!("byte {place} of {} (seed {})", path.display(), random.seed);
            restore_fails(&scene.cryopod, &pids, &what)?;
            file.write_all_at(&byte, place)?;
        }
    }
    // With every byte back in its place it works.
    scene.restore("target:damaged")?;
    scene.finish()
}

fn missing_and_truncated_images(context: &Context) -> Result<()> {
    let (mut scene, pids) = stopped(context)?;
    for path in essential_images(&scene.cryopod.images("target:damaged")?)? {
        let whole = fs::read(&path)?;
        for length in [0, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length])?;
            restore_fails(
                &scene.cryopod,
                &pids,
                &format!("{length} bytes of {}", path.display()),
            )?;
        }
        let longer: Vec<u8> = whole.iter().copied().chain([0]).collect();
        fs::write(&path, longer)?;
        restore_fails(
            &scene.cryopod,
            &pids,
            &format!("one byte more of {}", path.display()),
        )?;
        fs::remove_file(&path)?;
        restore_fails(&scene.cryopod, &pids, &format!("no {}", path.display()))?;
        fs::write(&path, &whole)?;
    }
    scene.restore("target:damaged")?;
    scene.finish()
}
