//! Redis as what is measured: a server with data, and clients that keep it busy and know how long an answer takes.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::plan::Side;
use super::target::PATIENCE;

/// How many clients there are.
const CLIENTS: usize = 4;

/// How long they work before the checkpoint, for comparison.
const BEFORE: Duration = Duration::from_secs(2);

/// Size of a value.
const VALUE_BYTES: u64 = 1024;

/// Where a server listens. criu 4.1 cannot checkpoint a TCP socket on Linux 6.16 or later (SO_PASSCRED is refused there).
#[derive(Debug, Clone)]
pub enum Address {
    /// On a port of this machine.
    Port(u16),
    /// On a unix socket.
    Path(PathBuf),
}

trait Stream: std::io::Read + Write + Send {}

impl Stream for TcpStream {}
impl Stream for UnixStream {}

impl Address {
    /// Where the server of a side shall listen.
    pub fn of(side: Side, directory: &Path) -> Result<Address> {
        if side == Side::Criu {
            return Ok(Address::Path(directory.join("redis.sock")));
        }
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
        Ok(Address::Port(free.local_addr()?.port()))
    }

    /// The command of a server there.
    pub fn server(&self, directory: &Path) -> Command {
        let mut command = Command::new("setsid");
        command.args(["redis-server", "--save", "", "--appendonly", "no"]);
        command.args(["--enable-debug-command", "yes", "--dir"]);
        command.arg(directory);
        match self {
            Address::Port(port) => {
                command.args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            }
            Address::Path(path) => command.args(["--port", "0", "--unixsocket"]).arg(path),
        };
        command
    }

    fn connect(&self) -> Result<Connection> {
        let stream: Box<dyn Stream> = match self {
            Address::Port(port) => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
            Address::Path(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
        };
        Ok(Connection(BufReader::new(stream)))
    }

    /// Waits until the server answers.
    pub fn await_answer(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let answer = self.connect().and_then(|mut one| one.ask("PING"));
            match answer {
                Ok(answer) if answer == "+PONG" => return Ok(()),
                answer if start.elapsed() > PATIENCE => bail!("redis does not answer: {answer:?}"),
                _ => thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    /// Fills the server.
    pub fn populate(&self, size_mib: u64) -> Result<()> {
        self.await_answer()?;
        let count = (size_mib << 20) / VALUE_BYTES;
        let answer = self
            .connect()?
            .ask(&format!("DEBUG POPULATE {count} key {VALUE_BYTES}"))?;
        ensure!(answer == "+OK", "redis cannot be filled: {answer}");
        Ok(())
    }

    /// Whether the data are there.
    pub fn check(&self, size_mib: u64) -> Result<()> {
        let count = (size_mib << 20) / VALUE_BYTES;
        let answer = self.connect()?.ask("DBSIZE")?;
        ensure!(
            answer == format!(":{count}"),
            "redis has {answer} values of {count}"
        );
        Ok(())
    }
}

struct Connection(BufReader<Box<dyn Stream>>);

impl Connection {
    fn ask(&mut self, question: &str) -> Result<String> {
        self.0
            .get_mut()
            .write_all(format!("{question}\r\n").as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "the connection was closed");
        Ok(line.trim_end().to_owned())
    }
}

/// How long answers took, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// 99 of 100 took no longer before the checkpoint.
    pub p99_before_us: u64,
    /// The same during the checkpoint.
    pub p99_during_us: u64,
    /// The longest during the checkpoint.
    pub longest_us: u64,
}

/// When something was asked, and how long the answer took.
type Answer = (Instant, Duration);

/// Clients at work.
pub struct Clients {
    stop: Arc<AtomicBool>,
    began: Instant,
    threads: Vec<JoinHandle<Result<Vec<Answer>>>>,
}

impl Clients {
    /// Sets them to work and lets them for a while.
    pub fn start(address: &Address, size_mib: u64) -> Result<Clients> {
        let stop = Arc::new(AtomicBool::new(false));
        let keys = (size_mib << 20) / VALUE_BYTES;
        let mut threads = Vec::new();
        for client in 0..CLIENTS as u64 {
            let (mut connection, stop) = (address.connect()?, Arc::clone(&stop));
            threads.push(thread::spawn(move || {
                let value = "v".repeat(VALUE_BYTES as usize);
                let mut answers = Vec::new();
                let mut step = client;
                while !stop.load(Ordering::Relaxed) {
                    step = crate::hold::word(step);
                    let asked = Instant::now();
                    let answer = connection.ask(&format!("SET key:{} {value}", step % keys))?;
                    ensure!(answer == "+OK", "redis says {answer}");
                    answers.push((asked, asked.elapsed()));
                }
                Ok(answers)
            }));
        }
        thread::sleep(BEFORE);
        Ok(Clients {
            stop,
            began: Instant::now(),
            threads,
        })
    }

    /// Ends them; what they saw since [`Clients::start`] returned is what was during the checkpoint.
    pub fn end(self) -> Result<Latency> {
        self.stop.store(true, Ordering::Relaxed);
        let (mut before, mut during) = (Vec::new(), Vec::new());
        for client in self.threads {
            let answers = client
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))?;
            for (asked, took) in answers.context("a client was not served")? {
                let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                if asked + took < self.began {
                    before.push(us);
                } else {
                    during.push(us);
                }
            }
        }
        Ok(Latency {
            p99_before_us: percentile_99(&mut before),
            p99_during_us: percentile_99(&mut during),
            longest_us: during.last().copied().unwrap_or(0),
        })
    }
}

/// Sorts, and gives what 99 of 100 are not above.
fn percentile_99(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    let index = (values.len() * 99).div_ceil(100).saturating_sub(1);
    values.get(index).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let mut values: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(percentile_99(&mut values), 198);
        assert_eq!(percentile_99(&mut [7]), 7);
        assert_eq!(percentile_99(&mut []), 0);
    }
}
