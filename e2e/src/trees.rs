//! Process trees: relatives, sessions, zombies, stopped tasks, many processes, trees that change all the time.

use std::fs;

use anyhow::{Result, ensure};

use crate::harness::scene::survives;
use crate::harness::{Context, Program, Scene, Test, poll, processes};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("trees::relatives_sessions_and_groups", |c| {
            survives(c, Program::native("family"))
        }),
        Test::new("trees::zombies_keep_how_they_ended", |c| {
            survives(c, Program::native("zombies"))
        }),
        Test::new("trees::stopped_tasks_stay_stopped", |c| {
            survives(c, Program::native("stopped"))
        }),
        Test::new("trees::tables_shared_between_processes", |c| {
            survives(c, Program::native("shared_tables"))
        }),
        Test::new("trees::two_hundred_processes", |c| {
            survives(c, Program::native("crowd").arg("200"))
        }),
        Test::new("trees::leader_that_has_ended", |c| {
            // What has ended has no use for its signal mask, and runs to its end with all signals blocked.
            survives(c, Program::native("leaderless").ignoring(&["/SigBlk"]))
        }),
        Test::new(
            "trees::in_the_session_of_a_shell",
            in_the_session_of_a_shell,
        ),
        Test::new("trees::one_that_never_rests", one_that_never_rests),
        Test::new("trees::always_in_vfork", always_in_vfork),
    ]
}

/// A parent in vfork cannot be stopped before its child has gone its way, and whoever starts programs all the time is
/// never found anywhere else.
fn always_in_vfork(context: &Context) -> Result<()> {
    let mut scene = Scene::start(context, Program::native("vforking"))?;
    if !context.without_checkpoint {
        for round in 0..20 {
            scene.checkpoint(&format!("target:round{round}"))?;
            scene.content()?;
        }
        scene.checkpoint_and_stop("target:stopped")?;
        scene.restore("target:stopped")?;
    }
    scene.finish()
}

/// A program that was started from a shell is in the shell's session; it comes back into that of whoever restores it.
fn in_the_session_of_a_shell(context: &Context) -> Result<()> {
    let program = Program::native("auxiliary").in_same_session().ignoring(&[
        "/session",
        "/process group",
        "/terminal",
    ]);
    survives(context, program)
}

/// Children and threads come and go at every moment, also at that of the freeze.
fn one_that_never_rests(context: &Context) -> Result<()> {
    let mut scene = Scene::start(context, Program::native("restless"))?;
    let live = |scene: &Scene| -> Result<()> {
        // None yet, when the checkpoint was fast.
        let progress = || fs::read(scene.directory.join("progress")).unwrap_or_default();
        let before = progress();
        poll::until("the target to go on", || {
            scene.content()?;
            ensure!(
                processes::is_alive(scene.root),
                "the target has ended\n{}",
                scene.words()
            );
            Ok((progress() != before).then_some(()))
        })
    };
    if !context.without_checkpoint {
        for round in 0..10 {
            scene.checkpoint(&format!("target:running{round}"))?;
            live(&scene)?;
        }
        for round in 0..5 {
            let reference = format!("target:stopped{round}");
            scene.checkpoint_and_stop(&reference)?;
            scene.restore(&reference)?;
            live(&scene)?;
        }
    }
    live(&scene)?;
    scene.finish()
}
