//! Control groups: tasks come back to theirs, and those that are gone are made again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::harness::context::skip;
use crate::harness::{Context, Program, Scene, Test};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("cgroups::still_there", |c| there_or_gone(c, false)),
        Test::new("cgroups::made_again", |c| there_or_gone(c, true)),
        Test::new("cgroups::ignored", ignored),
        Test::new("cgroups::unified_still_there", |c| unified(c, false)),
        Test::new("cgroups::unified_made_again", |c| unified(c, true)),
    ]
}

/// A hierarchy, mounted beside the files of a target; its groups go with it.
struct Hierarchy {
    path: PathBuf,
}

impl Hierarchy {
    fn mount(directory: &Path, name: &str) -> Result<Self> {
        let path = directory.join("seen");
        fs::create_dir(&path)?;
        let options = format!("none,name={name}");
        let status = Command::new("mount")
            .args(["-t", "cgroup", "-o", &options, "none"])
            .arg(&path)
            .status()?;
        ensure!(status.success(), "cannot mount {name}");
        Ok(Self { path })
    }

    fn remove_groups(&self) {
        for group in ["outer/inner", "outer/thread", "outer/empty", "outer"] {
            let _is_gone = fs::remove_dir(self.path.join(group));
        }
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        self.remove_groups();
        let _unmounted = Command::new("umount").arg(&self.path).status();
    }
}

fn start<'a>(context: &'a Context, name: &str) -> Result<Scene<'a>> {
    context.cryopod()?;
    Scene::start(context, Program::native("cgroups").arg(name))
}

fn there_or_gone(context: &Context, gone: bool) -> Result<()> {
    let name = format!("cryopod-{}-{gone}", std::process::id());
    let mut scene = start(context, &name)?;
    let hierarchy = Hierarchy::mount(&scene.directory, &name)?;
    scene.checkpoint_and_stop("target:grouped")?;
    if gone {
        hierarchy.remove_groups();
        ensure!(!hierarchy.path.join("outer").exists(), "a group is in use");
    }
    scene.restore("target:grouped")?;
    let empty = fs::metadata(hierarchy.path.join("outer/empty")).context("no empty group")?;
    ensure!(empty.permissions().mode() & 0o777 == 0o711, "another mode");
    scene.finish()
}

/// Groups of version 2, of one name, in the hierarchy that everybody is in.
struct Unified {
    mount: PathBuf,
    name: String,
}

impl Unified {
    fn find(name: String) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut lines = mounts.lines().map(|line| line.split(' '));
        let found = lines.find_map(|mut words| {
            let point = words.nth(1)?;
            (words.next() == Some("cgroup2")).then(|| PathBuf::from(point))
        });
        match found {
            Some(mount) => Ok(Self { mount, name }),
            None => skip("version 2 of control groups is not mounted"),
        }
    }

    fn group(&self, group: &str) -> PathBuf {
        self.mount.join(format!("{}-{group}", self.name))
    }

    fn remove_groups(&self) {
        for group in ["outer/threads", "outer", "other"] {
            let _is_gone = fs::remove_dir(self.group(group));
        }
    }
}

impl Drop for Unified {
    fn drop(&mut self) {
        self.remove_groups();
    }
}

fn unified(context: &Context, gone: bool) -> Result<()> {
    context.cryopod()?;
    let name = format!("cryopod-{}-unified-{gone}", std::process::id());
    let groups = Unified::find(name)?;
    let program = Program::native("cgroups_unified").arg(&groups.name);
    let mount = groups.mount.display().to_string();
    let mut scene = Scene::start(context, program.arg(mount))?;
    scene.checkpoint_and_stop("target:grouped")?;
    if gone {
        groups.remove_groups();
        ensure!(!groups.group("outer").exists(), "a group is in use");
    }
    scene.restore("target:grouped")?;
    let other = fs::metadata(groups.group("other")).context("no group for the child")?;
    ensure!(other.permissions().mode() & 0o777 == 0o711, "another mode");
    scene.finish()
}

/// Told to ignore groups, a restore makes none.
fn ignored(context: &Context) -> Result<()> {
    let name = format!("cryopod-{}-ignored", std::process::id());
    let mut scene = start(context, &name)?;
    let hierarchy = Hierarchy::mount(&scene.directory, &name)?;
    scene.checkpoint_and_stop("target:grouped")?;
    hierarchy.remove_groups();
    scene.cryopod.json(&[
        "restore",
        "target:grouped",
        "--detach",
        "--manage-cgroups=ignore",
    ])?;
    scene.note_pids();
    ensure!(!hierarchy.path.join("outer").exists(), "a group was made");
    Ok(())
}
