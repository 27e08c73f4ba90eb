//! End-to-end tests: real programs are checkpointed, ended and restored by the real command, and asked whether their
//! world is intact.
//!
//! `cryopod-e2e [FILTER] [--list] [--test-threads N] ...` takes the options of `cargo test`'s own harness. Root is
//! needed; the command under test is `CRYOPOD_BIN`, or the `cryopod` beside this program. What a test needs and does not
//! find makes it a skipped one, with the reason.
//!
//! `--without-checkpoint` runs the target programs without doing anything to them: what fails then is a mistake in a
//! target, not in cryopod.
//!
//! `cryopod-e2e target NAME DIR ...` is one of the target programs itself (see [`targets`]; most others are C, in
//! `targets/`).
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test runner talks to its terminal"
)]

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

mod attributes;
mod cgroups;
mod faults;
mod files;
mod harness;
mod incremental;
mod inet;
mod lazy;
mod live;
mod memory;
mod peers;
mod programs;
mod refused;
mod servers;
mod signals;
mod sockets;
mod stdio;
mod store;
mod targets;
mod terminals;
mod threads;
mod timers;
mod tmux;
mod trees;

use harness::{Context, Test};

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|word| word == "target") {
        return targets::run(&arguments[2..]);
    }
    let all = arguments.len();
    arguments.retain(|word| word != "--without-checkpoint");
    let without_checkpoint = arguments.len() < all;
    match run(&Arguments::from_iter(arguments), without_checkpoint) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// An error with what led to it, a line for each.
fn told(error: &anyhow::Error) -> String {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    causes.join("\n  because: ")
}

/// Every test, by topic.
fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    tests.extend(trees::tests());
    tests.extend(threads::tests());
    tests.extend(live::tests());
    tests.extend(signals::tests());
    tests.extend(timers::tests());
    tests.extend(attributes::tests());
    tests.extend(memory::tests());
    tests.extend(lazy::tests());
    tests.extend(incremental::tests());
    tests.extend(cgroups::tests());
    tests.extend(files::tests());
    tests.extend(sockets::tests());
    tests.extend(inet::tests());
    tests.extend(stdio::tests());
    tests.extend(terminals::tests());
    tests.extend(programs::tests());
    tests.extend(servers::tests());
    tests.extend(tmux::tests());
    tests.extend(refused::tests());
    tests.extend(store::tests());
    tests.extend(peers::tests());
    tests.extend(faults::tests());
    tests
}

fn run(arguments: &Arguments, without_checkpoint: bool) -> Result<ExitCode> {
    if arguments.list {
        let trials = tests()
            .into_iter()
            .map(|test| Trial::test(test.name, || Ok(())))
            .collect();
        return Ok(libtest_mimic::run(arguments, trials).exit_code());
    }
    let context = Arc::new(Context::new(without_checkpoint)?);
    let trials = tests()
        .into_iter()
        .map(|test| {
            let context = Arc::clone(&context);
            Trial::test(test.name, move || {
                context
                    .run(&test)
                    .map_err(|error| Failed::from(told(&error)))
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(arguments, trials);
    let skipped = context.skipped();
    println!(
        "{} passed, {} failed, {skipped} skipped",
        conclusion
            .num_passed
            .saturating_sub(u64::try_from(skipped)?),
        conclusion.num_failed
    );
    Ok(conclusion.exit_code())
}
