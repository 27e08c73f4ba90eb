//! What is measured, from the outside.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::plan::{Case, Load, Side};
use super::redis::Address;
use crate::hold::Ready;

/// How long anything may take that is not measured.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How many words of the memory are looked at.
const SAMPLES: u64 = 4096;

/// How many processes a tree has.
const PROCESSES: u32 = 8;

/// A word of somebody's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    pid: u32,
    address: u64,
    value: u64,
}

/// How it tells that it runs.
enum Sign {
    /// It counts, at this address of the first process.
    Counter(u64),
    /// It answers, and has so much data.
    Redis(Address, u64),
}

/// A running [`hold`](crate::hold) process, a tree of processes, or a server.
pub struct Target {
    child: Child,
    /// All processes but the first.
    others: Vec<u32>,
    sign: Sign,
    samples: Vec<Sample>,
}

impl Target {
    /// Starts one in a session of its own and waits until its memory is filled.
    pub fn start(case: &Case, side: Side, directory: &Path) -> Result<Target> {
        if case.load == Load::Redis {
            return Self::redis(case.size_mib, side, directory);
        }
        let mut command = Command::new("setsid");
        let size = case.size_mib.to_string();
        if case.load == Load::Tree {
            let program = include_str!("tree.py");
            command.args(["python3", "-c", program, &size, &PROCESSES.to_string()]);
        } else {
            let program = std::env::current_exe().context("cannot tell this program's own path")?;
            let percent = match case.load {
                Load::Dirty1 => "1",
                Load::Dirty10 => "10",
                _ => "0",
            };
            command.arg(program).args(["hold", "--mib", &size]);
            command.args(["--rewrite-percent", percent]);
        }
        let mut child = command
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
        let (counter, regions) = regions(&line, child.id())?;
        // It closes its end once it has descriptors for /dev/null only.
        out.read_to_string(&mut line)
            .context("cannot read from the process")?;
        let mut others: Vec<u32> = regions.iter().map(|one| one.pid).collect();
        others.retain(|&pid| pid != child.id());
        others.dedup();
        let mut target = Target {
            child,
            others,
            sign: Sign::Counter(counter),
            samples: Vec::new(),
        };
        for region in &regions {
            target.samples.extend(region.samples(regions.len() as u64)?);
        }
        Ok(target)
    }

    fn redis(size_mib: u64, side: Side, directory: &Path) -> Result<Target> {
        let address = Address::of(side, directory)?;
        let child = address
            .server(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start redis-server")?;
        let target = Target {
            child,
            others: Vec::new(),
            sign: Sign::Redis(address.clone(), size_mib),
            samples: Vec::new(),
        };
        address.populate(size_mib)?;
        Ok(target)
    }

    /// Where its server listens, where it is one.
    pub fn server(&self) -> Option<&Address> {
        match &self.sign {
            Sign::Redis(address, _) => Some(address),
            Sign::Counter(_) => None,
        }
    }

    /// Its pid, also after it was restored.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reaps the processes that the checkpoint has ended.
    pub fn wait_gone(&mut self) -> Result<()> {
        use std::os::unix::process::ExitStatusExt;

        let status = self.child.wait().context("cannot wait for the process")?;
        ensure!(
            status.signal() == Some(Signal::KILL.as_raw()),
            "the process was to be killed, but: {status}"
        );
        self.others.iter().try_for_each(|&pid| await_end(pid))
    }

    /// Kills and reaps the originals.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("cannot kill the process")?;
        self.child.wait().context("cannot wait for the process")?;
        self.others.iter().try_for_each(|&pid| end(pid))
    }

    /// Waits until it does what it is there for.
    pub fn await_answer(&self) -> Result<()> {
        let counter = match &self.sign {
            Sign::Counter(address) => *address,
            Sign::Redis(address, _) => return address.await_answer(),
        };
        let start = Instant::now();
        let memory = memory_of(self.pid())?;
        let before = word(&memory, counter)?;
        while word(&memory, counter)? == before {
            if start.elapsed() > PATIENCE {
                bail!("the process is there but does not run");
            }
            thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Sees that it runs and that its memory is what it was.
    pub fn check_alive(&self) -> Result<()> {
        if let Sign::Redis(address, size_mib) = &self.sign {
            address.check(*size_mib)?;
        }
        for one in &self.samples {
            let found = word(&memory_of(one.pid)?, one.address)?;
            ensure!(
                found == one.value,
                "the word at {:#x} of pid {} is not what it was",
                one.address,
                one.pid
            );
        }
        self.await_answer()
    }

    /// Kills the restored processes, and waits until they are gone.
    pub fn kill_restored(&self) -> Result<()> {
        end(self.pid())?;
        self.others.iter().try_for_each(|&pid| end(pid))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Reaped already, or the run failed half way: nothing to add to its error.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for &pid in &self.others {
            let _ = end(pid);
        }
    }
}

/// A piece of somebody's memory.
struct Region {
    pid: u32,
    address: u64,
    bytes: u64,
}

impl Region {
    /// Its share of the samples.
    fn samples(&self, regions: u64) -> Result<Vec<Sample>> {
        let memory = memory_of(self.pid)?;
        let words = self.bytes / 8;
        let stride = (words * regions / SAMPLES).max(1);
        (0..words)
            .step_by(usize::try_from(stride)?)
            .map(|index| {
                let address = self.address + index * 8;
                Ok(Sample {
                    pid: self.pid,
                    address,
                    value: word(&memory, address)?,
                })
            })
            .collect()
    }
}

/// What a target's first line tells: where it counts, and its memory.
fn regions(line: &str, pid: u32) -> Result<(u64, Vec<Region>)> {
    let Some(rest) = line.strip_prefix("tree ") else {
        let ready: Ready = line.parse().context("the process did not get ready")?;
        let region = Region {
            pid,
            address: ready.memory,
            bytes: ready.words * 8,
        };
        return Ok((ready.counter, vec![region]));
    };
    let numbers: Vec<u64> = rest
        .split_ascii_whitespace()
        .map(|word| {
            word.parse()
                .with_context(|| format!("not a number: {word:?}"))
        })
        .collect::<Result<_>>()?;
    let (counter, rest) = numbers.split_first().context("no counter")?;
    let region = |words: &[u64]| -> Result<Region> {
        Ok(Region {
            pid: u32::try_from(words[0])?,
            address: words[1],
            bytes: words[2],
        })
    };
    let regions = rest.chunks_exact(3).map(region).collect::<Result<_>>()?;
    Ok((*counter, regions))
}

fn memory_of(pid: u32) -> Result<File> {
    let path = format!("/proc/{pid}/mem");
    File::open(&path).with_context(|| format!("cannot open {path}"))
}

fn word(memory: &File, address: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    memory
        .read_exact_at(&mut bytes, address)
        .with_context(|| format!("cannot read memory at {address:#x}"))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Kills a process that became this one's child (it takes in orphans), and waits until it is gone.
fn end(pid: u32) -> Result<()> {
    let raw = i32::try_from(pid)?;
    let process = Pid::from_raw(raw).context("no pid")?;
    match kill_process(process, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => await_end(pid),
        Err(errno) => Err(errno).with_context(|| format!("cannot kill pid {pid}")),
    }
}

/// Waits until a process is gone that was killed, and collects it where it is a child.
pub fn await_end(pid: u32) -> Result<()> {
    let start = Instant::now();
    let process = Pid::from_raw(i32::try_from(pid)?).context("no pid")?;
    let path = format!("/proc/{pid}");
    while Path::new(&path).exists() {
        // Whoever is no child yet becomes one when its parent is gone.
        let _ = waitpid(Some(process), WaitOptions::NOHANG);
        ensure!(start.elapsed() < PATIENCE, "pid {pid} does not go");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_are_understood() {
        let (counter, one) = regions("ready 5 4096 3\n", 7).unwrap();
        assert_eq!(
            (counter, one.len(), one[0].pid, one[0].bytes),
            (5, 1, 7, 24)
        );
        let (counter, two) = regions("tree 5 7 4096 8 9 8192 16\n", 7).unwrap();
        assert_eq!(counter, 5);
        let found: Vec<_> = (two.iter())
            .map(|one| (one.pid, one.address, one.bytes))
            .collect();
        assert_eq!(found, [(7, 4096, 8), (9, 8192, 16)]);
        assert!(regions("no", 7).is_err());
    }
}
