//! Developer tasks, run as `cargo xtask TASK`.
//!
//! - [`testbed`]: a Debian root with real peers (criu, crit, ...) in a cache directory, and the way into it;
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

mod command;
mod testbed;
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
    /// Make the Debian root that the end-to-end tests run in, or run a command in it
    Testbed {
        #[command(subcommand)]
        action: Option<TestbedAction>,
    },
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
    }
    Ok(ExitCode::SUCCESS)
}
