//! Developer tasks, run as `cargo xtask TASK`.
//!
//! - [`ci`]: everything a change has to pass, in order;
//! - [`testbed`]: a Debian root with real peers (criu, crit, ...) in a cache directory, and the way into it;
//! - [`e2e`]: the end-to-end tests, inside the testbed;
//! - [`tidy`]: the rules of the house that the compiler does not check;
//! - [`bench`]: whole runs of cryopod against criu, with dated results under `docs/benchmarks/`;
//! - [`man`]: man pages and shell completions;
//! - [`hold`]: the process that the benchmark checkpoints.
//!
//! This is a program for people at a terminal, so it prints; nothing depends on it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a developer's command line tool talks to its terminal"
)]

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod ci;
mod command;
mod e2e;
mod hold;
mod man;
mod testbed;
mod tidy;
mod workspace;

/// Developer tasks of cryopod.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run everything a change has to pass; needs root for the last step
    Ci(ci::Arguments),
    /// Make the Debian root that the end-to-end tests run in, or run a command in it
    Testbed {
        #[command(subcommand)]
        action: Option<TestbedAction>,
    },
    /// Run the end-to-end tests in the testbed; needs root
    E2e(e2e::Arguments),
    /// Check the rules of the house that the compiler does not check
    Tidy,
    /// Compare whole runs of cryopod and criu, and write the results down; needs root
    Bench(bench::Arguments),
    /// Generate man pages and shell completions
    Man(man::Arguments),
    /// Hold memory, say so, and live on (what `bench` checkpoints)
    #[command(hide = true)]
    Hold(hold::Arguments),
    /// The measuring half of `bench`, already inside the testbed
    #[command(hide = true)]
    BenchInside(bench::InsideArguments),
}

#[derive(Subcommand)]
enum TestbedAction {
    /// Run a command inside the testbed
    Run {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Print the path of the testbed's root directory, made or not
    Path,
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Ci(arguments) => return ci::run(&arguments),
        Task::Testbed { action: None } => {
            let root = testbed::make()?;
            println!("{}", root.path().display());
        }
        Task::Testbed {
            action: Some(TestbedAction::Path),
        } => println!("{}", testbed::default_path()?.display()),
        Task::Testbed {
            action: Some(TestbedAction::Run { command }),
        } => return testbed::make()?.run(&command),
        Task::E2e(arguments) => return e2e::run(&arguments),
        Task::Tidy => {
            if !tidy::run()? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Task::Bench(arguments) => bench::run(&arguments)?,
        Task::BenchInside(arguments) => bench::run_inside(&arguments)?,
        Task::Man(arguments) => man::run(&arguments)?,
        Task::Hold(arguments) => hold::run(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}
