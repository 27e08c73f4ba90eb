//! The process under measurement, from the outside.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::hold::{self, Ready};

/// How long anything may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many words of the memory are looked at.
const SAMPLES: u64 = 4096;

/// A running [`hold`] process.
pub struct Target {
    child: Child,
    ready: Ready,
}

impl Target {
    /// Starts one in a session of its own and waits until its memory is filled.
    pub fn start(size_mib: u64) -> Result<Target> {
        let program = std::env::current_exe().context("cannot tell this program's own path")?;
        let mut child = Command::new("setsid")
            .arg(program)
            .args(["hold", "--mib"])
            .arg(size_mib.to_string())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the process to measure")?;
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().context("no pipe from the process")?);
        out.read_line(&mut line)
            .context("cannot read from the process")?;
        let ready = line.parse().context("the process did not get ready")?;
        // It closes its end once it has descriptors for /dev/null only.
        out.read_to_string(&mut line)
            .context("cannot read from the process")?;
        Ok(Target { child, ready })
    }

    /// Its pid, also after it was restored.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reaps the process that the checkpoint has ended.
    pub fn wait_gone(&mut self) -> Result<()> {
        use std::os::unix::process::ExitStatusExt;

        let status = self.child.wait().context("cannot wait for the process")?;
        ensure!(
            status.signal() == Some(Signal::KILL.as_raw()),
            "the process was to be killed, but: {status}"
        );
        Ok(())
    }

    /// Kills and reaps the original.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("cannot kill the process")?;
        self.child.wait().context("cannot wait for the process")?;
        Ok(())
    }

    /// Sees that the process counts and that its memory is what it was.
    pub fn check_alive(&self) -> Result<()> {
        let path = format!("/proc/{}/mem", self.pid());
        let memory = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        let word = |address: u64| -> Result<u64> {
            let mut bytes = [0; 8];
            memory
                .read_exact_at(&mut bytes, address)
                .with_context(|| format!("cannot read {path} at {address:#x}"))?;
            Ok(u64::from_ne_bytes(bytes))
        };
        let stride = (self.ready.words / SAMPLES).max(1);
        for index in (0..self.ready.words).step_by(usize::try_from(stride)?) {
            let found = word(self.ready.memory + index * 8)?;
            ensure!(
                found == hold::word(index),
                "word {index} of the memory is not what it was"
            );
        }
        let start = Instant::now();
        let before = word(self.ready.counter)?;
        while word(self.ready.counter)? == before {
            if start.elapsed() > PATIENCE {
                bail!("the process is there but does not run");
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Kills the restored process, which is nobody's child here, and waits until it is gone.
    pub fn kill_restored(&self) -> Result<()> {
        let pid = i32::try_from(self.pid())?;
        let pid = Pid::from_raw(pid).context("no pid")?;
        let descriptor =
            pidfd_open(pid, PidfdFlags::empty()).context("cannot watch the process")?;
        kill_process(pid, Signal::KILL).context("cannot kill the process")?;
        let timeout = Timespec::try_from(PATIENCE)?;
        let mut descriptors = [PollFd::new(&descriptor, PollFlags::IN)];
        let ready =
            poll(&mut descriptors, Some(&timeout)).context("cannot wait for the process")?;
        ensure!(ready == 1, "the killed process does not go");
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Reaped already, or the run failed half way: nothing to add to its error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
