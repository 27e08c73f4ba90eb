//! Address spaces: contents, flags, sharing, and what they cost.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::harness::scene::survives;
use crate::harness::{Context, Program, Scene, Test, processes};

const MIB: u64 = 1 << 20;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("memory::anonymous", |c| {
            survives(c, Program::native("anonymous"))
        }),
        Test::new("memory::growing_down", |c| {
            survives(c, Program::native("growing_down"))
        }),
        Test::new("memory::file_mappings", |c| {
            survives(c, Program::native("file_mappings"))
        }),
        Test::new("memory::shared", |c| {
            survives(c, Program::native("shared_memory"))
        }),
        Test::new("memory::private_view_of_shared", |c| {
            survives(c, Program::native("private_view"))
        }),
        Test::new("memory::guards", |c| survives(c, Program::native("guards"))),
        Test::new("memory::huge_pages", |c| {
            survives(c, Program::native("huge_pages"))
        }),
        Test::new("memory::system_v_ipc", |c| {
            survives(c, Program::native("sysvipc"))
        }),
        Test::new("memory::asynchronous_io", |c| {
            survives(c, Program::native("aio"))
        }),
        Test::new("memory::advice_and_locks", |c| {
            survives(c, Program::native("advice"))
        }),
        Test::new("memory::wiped_in_children", |c| {
            survives(c, Program::native("wiped"))
        }),
        Test::new("memory::not_for_children", |c| {
            survives(c, Program::native("unforked"))
        }),
        Test::new("memory::heaps_that_grew_apart", heaps_that_grew_apart),
        Test::new("memory::all_locked", |c| {
            survives(c, Program::native("all_locked"))
        }),
        Test::new("memory::auxiliary_vector", |c| {
            survives(c, Program::native("auxiliary"))
        }),
        Test::new("memory::a_quarter_gigabyte", |c| {
            survives(c, Program::native("ballast").arg("256"))
        }),
        Test::new("memory::copy_on_write_is_kept", copy_on_write_is_kept),
        Test::new("memory::zero_pages_cost_nothing", zero_pages_cost_nothing),
        Test::new(
            "memory::cryopod_itself_stays_small",
            cryopod_itself_stays_small,
        ),
    ]
}

/// The proportional set size of a whole tree: what it really takes, shared pages counted once.
fn proportional_bytes(scene: &Scene) -> Result<u64> {
    let mut total = 0;
    for pid in processes::tree(scene.root) {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Pss:"))
            .context("no Pss")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        total += kib * 1024;
    }
    Ok(total)
}

/// Five processes that share most of 64 MiB take little more than that, before and after.
fn copy_on_write_is_kept(context: &Context) -> Result<()> {
    let mut scene = Scene::start(context, Program::native("cow").arg("64").arg("4"))?;
    let before = proportional_bytes(&scene)?;
    ensure!(
        before < 96 * MIB,
        "the target itself takes {} MiB",
        before / MIB
    );
    scene.put_through_everything()?;
    let after = proportional_bytes(&scene)?;
    ensure!(
        after < before + 8 * MIB,
        "the tree took {} MiB and takes {} MiB",
        before / MIB,
        after / MIB
    );
    scene.finish()
}

/// A child shares what is left of the heap it was born with, also when its own or its parent's is longer by now.
fn heaps_that_grew_apart(context: &Context) -> Result<()> {
    let mut scene = Scene::start(context, Program::native("heaps").arg("24"))?;
    let before = proportional_bytes(&scene)?;
    scene.put_through_everything()?;
    let after = proportional_bytes(&scene)?;
    ensure!(
        after < before + 8 * MIB,
        "the tree took {} MiB and takes {} MiB",
        before / MIB,
        after / MIB
    );
    scene.finish()
}

/// What the files of a directory take on the disk.
pub fn size_on_disk(directory: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?
    {
        total += entry?.metadata()?.blocks() * 512;
    }
    Ok(total)
}

/// A gigabyte of zeroes, read, written or neither, is neither stored nor brought back.
fn zero_pages_cost_nothing(context: &Context) -> Result<()> {
    let mut scene = Scene::start(context, Program::native("zeroes").arg("256"))?;
    scene.put_through_everything()?;
    if !context.without_checkpoint {
        let stored = size_on_disk(&scene.cryopod.images("target:first")?)?;
        ensure!(
            stored < 4 * MIB,
            "{} KiB are stored of nothing",
            stored / 1024
        );
        let taken = proportional_bytes(&scene)?;
        ensure!(
            taken < 16 * MIB,
            "after the restore nothing takes {} MiB",
            taken / MIB
        );
    }
    scene.finish()
}

/// Whatever the size of the target, cryopod needs less than 128 MiB.
fn cryopod_itself_stays_small(context: &Context) -> Result<()> {
    context.cryopod()?;
    let mut scene = Scene::start(context, Program::native("ballast").arg("512"))?;
    let before = scene.snapshot()?;
    let pid = scene.root.to_string();
    measured(
        &scene,
        &["checkpoint", &pid, "target:large", "--stop", "--json"],
    )?;
    scene.await_nothing_left()?;
    measured(&scene, &["restore", "target:large", "--detach", "--json"])?;
    scene.note_pids();
    scene.same_as(&before, "after the restore")?;
    scene.finish()
}

/// Runs the command, which must succeed, and looks at its greatest resident set.
fn measured(scene: &Scene, arguments: &[&str]) -> Result<()> {
    let report = scene.directory.join("measured");
    let helper = ["measure".as_ref(), report.as_os_str()];
    let command = scene.cryopod.command_by(&helper, arguments)?;
    scene.cryopod.start_command(command)?.wait()?.succeeded()?;
    let kib: u64 = fs::read_to_string(&report)?.trim().parse()?;
    ensure!(
        kib < 128 * 1024,
        "cryopod {} took {} MiB",
        arguments[0],
        kib / 1024
    );
    Ok(())
}
