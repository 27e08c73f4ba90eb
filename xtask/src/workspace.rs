//! Where things lie: the checkout, the target directory, and what cargo knows about the packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command;

/// The part of `cargo metadata --no-deps` that the tasks use.
#[derive(Debug, Deserialize)]
pub struct Workspace {
    /// Root of the checkout.
    #[serde(rename = "workspace_root")]
    pub root: PathBuf,
    /// Where cargo builds.
    #[serde(rename = "target_directory")]
    pub target: PathBuf,
    /// The workspace's own packages.
    pub packages: Vec<Package>,
}

/// One package of the workspace.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Name as in Cargo.toml.
    pub name: String,
    /// Path of its Cargo.toml.
    pub manifest_path: PathBuf,
    /// Declared dependencies of every kind.
    pub dependencies: Vec<Dependency>,
}

/// One declared dependency.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    /// Name of the package depended upon.
    pub name: String,
    /// `None` for a normal one, else "dev" or "build".
    pub kind: Option<String>,
}

impl Workspace {
    /// Asks cargo.
    pub fn load() -> Result<Workspace> {
        let json = command::stdout(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
        serde_json::from_str(&json).context("cannot read the output of `cargo metadata`")
    }

    /// `path` relative to the checkout, for messages.
    pub fn relative(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        path.to_string_lossy().into_owned()
    }

    /// Path of a program that cargo built.
    pub fn program(&self, profile: &str, name: &str) -> PathBuf {
        self.target.join(profile).join(name)
    }
}

impl Package {
    /// The package's directory.
    pub fn directory(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }
}

/// A command that runs the same cargo that runs this program.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(manifest_root());
    command
}

/// Root of the checkout this program was built from.
fn manifest_root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent().map_or(here.clone(), Path::to_path_buf)
}
