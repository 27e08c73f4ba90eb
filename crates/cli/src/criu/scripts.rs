//! Action scripts: shell commands that criu's callers have run at certain stages, told by their environment where.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use super::parse::Settings;

/// A script that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScriptError {
    /// There is no shell.
    #[error("action script {script:?} ({stage}): cannot be started")]
    Start {
        /// The script.
        script: OsString,
        /// When.
        stage: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// It failed.
    #[error("action script {script:?} ({stage}): {status}")]
    Failed {
        /// The script.
        script: OsString,
        /// When.
        stage: &'static str,
        /// How.
        status: std::process::ExitStatus,
    },
}

/// Runs every script for one stage, in the order of the command line, up to the first that fails.
pub(super) fn run(
    settings: &Settings,
    stage: &'static str,
    root_pid: Option<i32>,
) -> Result<(), ScriptError> {
    // Scripts may be somewhere else, and hand the path on to others that are.
    let images =
        std::path::absolute(&settings.images_dir).unwrap_or_else(|_| settings.images_dir.clone());
    for script in &settings.scripts {
        tracing::debug!("running action script {script:?} for {stage}");
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).stdin(Stdio::null());
        command
            .env("CRTOOLS_SCRIPT_ACTION", stage)
            .env("CRTOOLS_IMAGE_DIR", &images);
        if let Some(pid) = root_pid {
            command.env("CRTOOLS_INIT_PID", pid.to_string());
        }
        let status = command.status().map_err(|source| ScriptError::Start {
            script: script.clone(),
            stage,
            source,
        })?;
        if !status.success() {
            return Err(ScriptError::Failed {
                script: script.clone(),
                stage,
                status,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn settings(dir: &Path, script: &str) -> Settings {
        let mut settings = Settings::default();
        settings.images_dir = dir.to_owned();
        settings.scripts = vec![script.into()];
        settings
    }

    #[test]
    fn a_script_is_told_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo $CRTOOLS_SCRIPT_ACTION $CRTOOLS_INIT_PID > $CRTOOLS_IMAGE_DIR/seen";
        run(&settings(dir.path(), script), "post-dump", Some(41)).unwrap();
        assert_eq!(
            std::fs::read_to_string(dir.path().join("seen")).unwrap(),
            "post-dump 41\n"
        );
    }

    #[test]
    fn a_script_that_fails_is_an_error() {
        let error = run(&settings(Path::new("/"), "exit 3"), "pre-dump", None).unwrap_err();
        assert!(error.to_string().contains("pre-dump"), "{error}");
    }
}
