//! One run of the tests.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// The target programs, as `build.rs` compiled them; empty where there was no compiler.
const NATIVE_PROGRAMS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/targets"));

/// Why a test cannot be run here. Returned as an error, it makes the test a skipped one.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Skips a test.
pub fn skip<T>(reason: impl Into<String>) -> Result<T> {
    Err(Skip(reason.into()).into())
}

type Body = Box<dyn Fn(&Context) -> Result<()> + Send + 'static>;

/// One test.
pub struct Test {
    pub name: &'static str,
    pub body: Body,
}

impl Test {
    /// A test with a body.
    pub fn new(name: &'static str, body: impl Fn(&Context) -> Result<()> + Send + 'static) -> Self {
        Self {
            name,
            body: Box::new(body),
        }
    }
}

/// Where things are, for all tests of a run.
#[derive(Debug)]
pub struct Context {
    /// The command under test.
    cryopod: Option<PathBuf>,
    /// Run the targets without doing anything to them.
    pub without_checkpoint: bool,
    directory: TempDir,
    skipped: AtomicUsize,
    scenes: AtomicUsize,
}

impl Context {
    /// Finds or makes everything that the tests share.
    pub fn new(without_checkpoint: bool) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!(
                "the end-to-end tests need root: run them again as root (for example through sudo -E)"
            );
        }
        // What a target leaves behind must come here, where it can be waited for, and not to a far-away init.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("cannot become a subreaper")?;
        let cryopod = if without_checkpoint {
            None
        } else {
            Some(find_cryopod()?)
        };
        let directory = tempfile::Builder::new()
            .prefix("cryopod-e2e-")
            .tempdir()
            .context("no temporary directory")?;
        // Some targets are no longer root.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let programs = directory.path().join("targets");
        fs::write(&programs, NATIVE_PROGRAMS)
            .with_context(|| format!("cannot write {}", programs.display()))?;
        fs::set_permissions(&programs, fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            cryopod,
            without_checkpoint,
            directory,
            skipped: AtomicUsize::new(0),
            scenes: AtomicUsize::new(0),
        })
    }

    /// The command under test.
    pub fn cryopod(&self) -> Result<&Path> {
        match &self.cryopod {
            Some(path) => Ok(path),
            None => skip("it is about cryopod itself"),
        }
    }

    /// The program that holds all native targets.
    pub fn native_programs(&self) -> Result<PathBuf> {
        if NATIVE_PROGRAMS.is_empty() {
            return skip(
                "the target programs were not compiled (no C compiler with a static C library)",
            );
        }
        Ok(self.directory.path().join("targets"))
    }

    /// A fresh directory that every user may write to.
    pub fn scene_directory(&self) -> Result<PathBuf> {
        let number = self.scenes.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.path().join(format!("scene{number}"));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        Ok(path)
    }

    /// Runs one test and tells of it when it was skipped.
    pub fn run(&self, test: &Test) -> Result<()> {
        let result = (test.body)(self);
        if let Err(error) = &result
            && let Some(reason) = error.downcast_ref::<Skip>()
        {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            println!("skipped: {}: {reason}", test.name);
            return Ok(());
        }
        result
    }

    /// How many tests were skipped.
    pub fn skipped(&self) -> usize {
        self.skipped.load(Ordering::Relaxed)
    }
}

/// `CRYOPOD_BIN`, or the command that lies beside this program.
fn find_cryopod() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CRYOPOD_BIN") {
        let path = PathBuf::from(path);
        return path
            .canonicalize()
            .with_context(|| format!("CRYOPOD_BIN: {}", path.display()));
    }
    let path = std::env::current_exe()?.with_file_name("cryopod");
    if !path.exists() {
        bail!(
            "there is no {}: build the command first, or name it in CRYOPOD_BIN",
            path.display()
        );
    }
    Ok(path)
}

/// Whether a program can be found.
pub fn has_program(name: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$0\" >/dev/null", name])
        .status();
    found.is_ok_and(|status| status.success())
}

/// Skips a test that needs a program which is not installed.
pub fn needs(name: &str) -> Result<()> {
    if has_program(name) {
        Ok(())
    } else {
        skip(format!("{name} is not installed"))
    }
}
