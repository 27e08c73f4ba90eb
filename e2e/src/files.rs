//! Descriptors of every kind that is supported.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::harness::cryopod::find;
use crate::harness::scene::{survives, survives_or_is_refused};
use crate::harness::{Context, Program, Scene, Test};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("files::flags_and_positions", |c| {
            survives(c, Program::native("files"))
        }),
        Test::new("files::shared_descriptions", |c| {
            survives(c, Program::native("shared_files"))
        }),
        Test::new("files::owners_and_signals", |c| {
            survives(c, Program::native("owners"))
        }),
        Test::new("files::pipes", |c| survives(c, Program::native("pipes"))),
        Test::new("files::pipes_with_packets", |c| {
            survives(c, Program::native("packets"))
        }),
        Test::new("files::pipes_that_somebody_left", |c| {
            survives(c, Program::native("left_pipes"))
        }),
        Test::new("files::fifos", |c| survives(c, Program::native("fifos"))),
        Test::new("files::numbers_through_three_processes", |c| {
            survives(c, Program::native("relay"))
        }),
        Test::new("files::eventfd", |c| {
            survives(c, Program::native("eventfds"))
        }),
        Test::new("files::signalfd", |c| {
            survives(c, Program::native("signalfds"))
        }),
        Test::new("files::timerfd", |c| {
            survives(c, Program::native("timerfds"))
        }),
        Test::new("files::message_queues", |c| {
            // Those that have no name come back as other inodes.
            let program = Program::native("mqueues").ignoring(&["/fd 6", "/fd 8", "/fd 9"]);
            survives(c, program)
        }),
        Test::new("files::bpf_maps", |c| {
            // Another map has another number.
            survives(c, Program::native("bpf_maps").ignoring(&["/fd "]))
        }),
        Test::new("files::epoll", |c| survives(c, Program::native("epolls"))),
        Test::new("files::epoll_of_a_file_under_another_number", |c| {
            survives(c, Program::native("epoll_of_a_copy"))
        }),
        Test::new("files::memfd", |c| survives(c, Program::native("memfds"))),
        Test::new("files::locks", |c| {
            // Two descriptors lead to a deleted file, which comes back as another inode.
            let program = Program::native("locks").ignoring(&["/fd 11", "/fd 12"]);
            survives(c, program.checkpointed_with(&["--file-locks"]))
        }),
        Test::new("files::leases", |c| {
            survives(
                c,
                Program::native("leases").checkpointed_with(&["--file-locks"]),
            )
        }),
        Test::new("files::inotify", |c| {
            // The order of the watches in fdinfo is that of their making.
            survives(c, Program::native("inotify").ignoring(&["/fd "]))
        }),
        Test::new("files::fanotify", |c| {
            survives(c, Program::native("fanotify"))
        }),
        Test::new("files::pidfds", |c| {
            // Inodes of processes are new with the processes.
            survives(c, Program::native("pidfds").ignoring(&["/fd "]))
        }),
        Test::new("files::lost_names", |c| {
            // A name that was made again is one without "(deleted)".
            let program = Program::native("renamed").ignoring(&["/fd ", "/map "]);
            survives(c, program.checkpointed_with(&["--link-remap"]))
        }),
        Test::new("files::lost_names_that_are_not_asked_for", |c| {
            survives_or_is_refused(c, Program::native("renamed"))
        }),
        Test::new("files::of_a_dead_process", |c| {
            // The inodes are those of the moment.
            let program = Program::native("dead_process").ignoring(&["/fd "]);
            survives(c, program)
        }),
        Test::new("files::file_that_changed", file_that_changed),
        Test::new("files::no_standard_streams", |c| {
            survives(c, Program::native("silent"))
        }),
    ]
}

/// A file that is not what it was is named, and opened only when that is asked for.
fn file_that_changed(context: &Context) -> Result<()> {
    context.cryopod()?;
    let mut scene = Scene::start(
        context,
        Program::native("renamed").checkpointed_with(&["--link-remap"]),
    )?;
    scene.checkpoint_and_stop("target:changed")?;
    // The size is what is compared; the program looks at the beginning only.
    let file = scene.directory.join("also");
    let mut content = std::fs::read(&file)?;
    content.extend(b"more");
    std::fs::write(&file, content)?;
    scene
        .cryopod
        .fails("external", &["restore", "target:changed", "--detach"])?
        .says("/back")?
        .says("--force-files")?;
    let report = scene
        .cryopod
        .json(&["restore", "target:changed", "--detach", "--force-files"])?;
    ensure!(
        find(&report, "root_pid").and_then(Value::as_i64) == Some(scene.root.into()),
        "not the same root: {report}"
    );
    scene.note_pids();
    scene.finish()
}
