//! The testbed: a Debian root with the peers that cryopod is held against, and the way into it.
//!
//! [`make()`] builds it once with debootstrap in a cache directory outside the checkout and reuses it from then on;
//! the directory's name carries a hash of its [`recipe`], so a changed recipe makes a new one. [`Root::run`] enters it
//! through private mount, pid, network and IPC namespaces and `pivot_root`: programs inside see Debian's root, the
//! checkout and cargo's target directory at their usual paths, a `/tmp` and `/run` of their own, a loopback interface
//! and nothing else of any network, and no process from outside.
//! What is to be checkpointed has to live in the same namespaces as who checkpoints it, so whole test programs are
//! run inside, never just the target.

mod make;
mod recipe;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::command;
use crate::workspace::Workspace;

pub use make::make;

const ENTER: &str = include_str!("enter.sh");

/// A finished testbed.
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// The root directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a command inside, with this program's terminal, and passes its exit status on.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<ExitCode> {
        let workspace = Workspace::load()?;
        let status = command::status(self.command(&workspace)?.args(arguments))?;
        Ok(command::exit_code(status))
    }

    /// A command that runs inside whatever is appended to its arguments.
    pub fn command(&self, workspace: &Workspace) -> Result<Command> {
        require_root("entering the testbed")?;
        std::fs::create_dir_all(&workspace.target)
            .with_context(|| format!("cannot create {}", workspace.target.display()))?;
        let current = std::env::current_dir().context("cannot tell the current directory")?;
        let directory = if current.starts_with(&workspace.root) {
            &current
        } else {
            &workspace.root
        };
        // Should this program be killed, everything inside goes with it.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(["--mount", "--pid", "--net", "--ipc", "--fork"])
            .arg("--kill-child")
            .args(["--propagation", "private", "bash", "-c", ENTER, "enter"])
            .arg(&self.path)
            .arg(directory)
            .arg(&workspace.root);
        if !workspace.target.starts_with(&workspace.root) {
            command.arg(&workspace.target);
        }
        command.arg("--");
        Ok(command)
    }
}

/// Where the testbed of this checkout's recipe lies, made or not.
///
/// `CRYOPOD_TESTBED` when set, else `cryopod/testbed-HASH` in the user's cache directory.
pub fn default_path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CRYOPOD_TESTBED") {
        return std::path::absolute(path).context("cannot make CRYOPOD_TESTBED absolute");
    }
    let cache = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => bail!(
            "neither CRYOPOD_TESTBED, XDG_CACHE_HOME nor HOME is set: no place for the testbed"
        ),
    };
    Ok(cache
        .join("cryopod")
        .join(format!("testbed-{:016x}", recipe::hash())))
}

/// Fails with a sentence for people unless this is root.
pub fn require_root(what: &str) -> Result<()> {
    if !is_root() {
        bail!("{what} needs root: run it again as root (for example through sudo -E)");
    }
    Ok(())
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
