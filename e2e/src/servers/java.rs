//! A server on the Java virtual machine: compiled code, a garbage collector's threads, signals that are part of normal
//! life, and a socket family that is not what the clients use (IPv4 over IPv6).

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::Server;
use super::connection::Storing;
use super::load::{Client, Trouble};
use crate::harness::Program;
use crate::harness::context::needs;

/// The signal of a requested end, on top of which the virtual machine puts its exit code.
const TERMINATED: i32 = 128 + 15;

pub struct Java;

impl Server for Java {
    fn prepare(&self, directory: &Path, _: u16) -> Result<()> {
        needs("java")?;
        std::fs::write(
            directory.join("Server.java"),
            include_str!("../../programs/Server.java"),
        )?;
        let output = Command::new("java")
            .args(["--module", "jdk.compiler/com.sun.tools.javac.Main"])
            .arg("Server.java")
            .current_dir(directory)
            .stdin(Stdio::null())
            .output()
            .context("cannot run java")?;
        ensure!(
            output.status.success(),
            "javac: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn program(&self, directory: &Path, port: u16) -> Program {
        Program::command("java")
            .args(["-Xmx96m", "-cp"])
            .arg(directory.display().to_string())
            .arg("Server")
            .arg(port.to_string())
    }

    fn connect(&self, _: &Path, port: u16, client: usize) -> Result<Box<dyn Client>, Trouble> {
        Storing::connect(port, client)
    }

    fn verify(&self, _: &Path, port: u16, steps: &[u64]) -> Result<()> {
        Storing::verify(port, steps)
    }

    fn farewell(&self) -> (rustix::process::Signal, i32) {
        (rustix::process::Signal::TERM, TERMINATED)
    }
}
