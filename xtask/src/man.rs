//! Man pages and shell completions.
//!
//! `cryopod __generate DIR` writes them from its own definition of its arguments, so they cannot say anything else than
//! the program does; this task calls it and sees that what packages install is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::workspace::{Workspace, cargo};

/// What has to come out, relative to the directory.
const EXPECTED: &[&str] = &[
    "man/cryopod.1",
    "man/cryopod-checkpoint.1",
    "man/cryopod-restore.1",
    "completions/cryopod.bash",
    "completions/_cryopod",
    "completions/cryopod.fish",
];

/// Arguments of `cargo xtask man`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Where to write; by default `generated` in cargo's target directory
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Builds the program and generates.
pub fn run(arguments: &Arguments) -> Result<()> {
    let workspace = Workspace::load()?;
    command::succeed(cargo().args(["build", "--quiet", "--package", "cryopod-cli"]))?;
    let directory = match &arguments.directory {
        Some(directory) => directory.clone(),
        None => workspace.target.join("generated"),
    };
    generate(&workspace.program("debug", "cryopod"), &directory)?;
    println!("{}", directory.display());
    Ok(())
}

/// Generates with a program that is built already, and checks what came out.
pub fn generate(program: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    command::succeed(Command::new(program).arg("__generate").arg(directory))?;
    for name in EXPECTED {
        let path = directory.join(name);
        let length = fs::metadata(&path)
            .with_context(|| format!("`cryopod __generate` did not write {}", path.display()))?
            .len();
        if length == 0 {
            bail!("`cryopod __generate` left {} empty", path.display());
        }
    }
    Ok(())
}
