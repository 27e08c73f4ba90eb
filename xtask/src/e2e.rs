//! The end-to-end tests, inside the testbed.
//!
//! The tests' program runs in there as a whole: cryopod checkpoints processes of its own namespaces only. It finds the
//! program under test by `CRYOPOD_BIN`.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::command;
use crate::testbed;
use crate::workspace::{Workspace, cargo};

/// Arguments of `cargo xtask e2e`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Given to the tests' program as they are: names to run, --list, --ignored, --nocapture, ...
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds both programs and runs the tests.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    testbed::require_root("running the end-to-end tests")?;
    build_cli()?;
    let mut tests = tests(&Workspace::load()?)?;
    let status = command::status(tests.args(&arguments.arguments))?;
    Ok(command::exit_code(status))
}

/// Builds the program under test, the way it is released.
pub fn build_cli() -> Result<()> {
    command::succeed(cargo().args(["build", "--release", "--package", "cryopod-cli"]))
}

/// Builds the tests and gives the command that runs them inside the testbed.
pub fn tests(workspace: &Workspace) -> Result<Command> {
    command::succeed(cargo().args(["build", "--package", "cryopod-e2e"]))?;
    let mut command = testbed::make()?.command(workspace)?;
    command
        .arg(workspace.program("debug", "cryopod-e2e"))
        .env("CRYOPOD_BIN", workspace.program("release", "cryopod"));
    Ok(command)
}
