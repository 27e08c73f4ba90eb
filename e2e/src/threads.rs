//! Threads and registers.

use anyhow::Result;

use crate::harness::scene::survives;
use crate::harness::{Context, Program, Test};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("threads::attributes", |c| {
            survives(c, Program::native("threads"))
        }),
        Test::new("threads::five_hundred", |c| {
            survives(c, Program::native("throng").arg("500"))
        }),
        Test::new("threads::robust_lists", |c| {
            survives(c, Program::native("robust_lists"))
        }),
        Test::new("threads::restartable_sequences", |c| {
            survives(c, Program::native("rseq"))
        }),
        Test::new("threads::registers", |c| {
            survives(c, Program::native("registers"))
        }),
        Test::new("threads::amx_tiles", |c| {
            survives(c, Program::native("amx"))
        }),
        Test::new("threads::of_another_language", of_another_language),
    ]
}

/// Rust's threads, channels and pipes, under load.
fn of_another_language(context: &Context) -> Result<()> {
    // Their stacks and heaps grow, and they open and close files all the time.
    survives(
        context,
        Program::own("checksum").ignoring(&["/fd ", "/map ", "/VmLck", "/state"]),
    )
}
