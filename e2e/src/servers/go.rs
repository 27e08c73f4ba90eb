//! A server in Go, whose runtime interrupts its own threads by signals all the time.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::Server;
use super::connection::Storing;
use super::load::{Client, Trouble};
use crate::harness::Program;
use crate::harness::context::needs;

pub struct Go;

impl Server for Go {
    /// Compiles it. What belongs to Go itself is compiled once, and kept beside this program.
    fn prepare(&self, directory: &Path, _: u16) -> Result<()> {
        needs("go")?;
        let source = directory.join("server.go");
        std::fs::write(&source, include_str!("../../programs/server.go"))?;
        let output = Command::new("go")
            .args(["build", "-o", "server", "server.go"])
            .current_dir(directory)
            .env(
                "GOCACHE",
                std::env::current_exe()?.with_file_name("cryopod-e2e-go"),
            )
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0")
            .env("HOME", directory)
            .stdin(Stdio::null())
            .output()
            .context("cannot run go")?;
        ensure!(
            output.status.success(),
            "go build: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn program(&self, directory: &Path, port: u16) -> Program {
        let server = directory.join("server").display().to_string();
        // It listens with MPTCP where the kernel has it.
        Program::command(&server).arg(port.to_string())
    }

    fn connect(&self, _: &Path, port: u16, client: usize) -> Result<Box<dyn Client>, Trouble> {
        Storing::connect(port, client)
    }

    fn verify(&self, _: &Path, port: u16, steps: &[u64]) -> Result<()> {
        Storing::verify(port, steps)
    }
}
