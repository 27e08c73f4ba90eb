//! Clients that keep a server busy.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::harness::poll;

/// Between two steps of a client: what is acknowledged has to be looked at again in the end.
const PAUSE: Duration = Duration::from_millis(1);

/// One connection to a server.
pub trait Client: Send {
    /// Does the step of that number, from 1 on. A step whose connection was lost is done again on another one.
    fn step(&mut self, number: u64) -> Result<(), Trouble>;
}

/// What a client can meet.
#[derive(Debug)]
pub enum Trouble {
    /// The connection is gone.
    Lost(String),
    /// There is none to be had: nobody listens between the end of a server and its restore.
    Refused(String),
    /// An answer that should not be, or none at all: whatever is done to a server, this must not happen.
    Wrong(String),
}

impl Trouble {
    /// An answer that is not the expected one.
    pub fn wrong(expected: impl fmt::Debug, answer: impl fmt::Debug) -> Self {
        Self::Wrong(format!("the answer is {answer:?}, not {expected:?}"))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(what) => write!(f, "connection lost: {what}"),
            Self::Refused(what) => write!(f, "no connection: {what}"),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Trouble {}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Wrong(format!(
                "no answer for {} s ({error})",
                poll::PATIENCE.as_secs()
            )),
            io::ErrorKind::ConnectionRefused => Self::Refused(error.to_string()),
            _ => Self::Lost(error.to_string()),
        }
    }
}

/// What the clients have come to.
pub struct Tally {
    /// Acknowledged steps of each client.
    pub acknowledged: Vec<u64>,
    /// The connections that were lost, of all clients.
    pub lost: Vec<String>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: Vec<AtomicU64>,
    lost: Mutex<Vec<String>>,
    /// What the clients that gave up have to say.
    complaints: Mutex<Vec<String>>,
}

/// Clients at work, each in a thread. They end with this.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Sets `clients` to work; `connect` is given the client's number.
    pub fn start<C>(clients: usize, connect: C) -> Self
    where
        C: Fn(usize) -> Result<Box<dyn Client>, Trouble> + Send + Sync + 'static,
    {
        let shared = Arc::new(Shared {
            acknowledged: (0..clients).map(|_| AtomicU64::new(0)).collect(),
            ..Shared::default()
        });
        let connect = Arc::new(connect);
        let threads = (0..clients)
            .map(|client| {
                let (shared, connect) = (Arc::clone(&shared), Arc::clone(&connect));
                thread::spawn(move || {
                    if let Err(trouble) = work(&shared, client, &*connect) {
                        shared.complain(format!("client {client}: {trouble}"));
                    }
                })
            })
            .collect();
        Self { shared, threads }
    }

    /// Waits until every client has taken so many steps more.
    pub fn advance(&self, steps: u64) -> Result<()> {
        let before = self.shared.steps();
        poll::until("every client to get on", || {
            self.shared.content()?;
            let now = self.shared.steps();
            let on = now
                .iter()
                .zip(&before)
                .all(|(now, old)| *now >= old + steps);
            Ok(on.then_some(()))
        })
        .with_context(|| format!("steps were {before:?}, are {:?}", self.shared.steps()))
    }

    /// Ends the work.
    pub fn finish(mut self) -> Result<Tally> {
        self.stop()?;
        self.shared.content()?;
        Ok(Tally {
            acknowledged: self.shared.steps(),
            lost: self
                .shared
                .lost
                .lock()
                .map_err(|_| anyhow!("a client panicked"))?
                .clone(),
        })
    }

    fn stop(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().map_err(|_| anyhow!("a client panicked"))?;
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

impl Shared {
    fn steps(&self) -> Vec<u64> {
        self.acknowledged
            .iter()
            .map(|steps| steps.load(Ordering::Acquire))
            .collect()
    }

    fn complain(&self, what: String) {
        if let Ok(mut complaints) = self.complaints.lock() {
            complaints.push(what);
        }
    }

    fn lose(&self, what: String) {
        if let Ok(mut lost) = self.lost.lock() {
            lost.push(what);
        }
    }

    /// No client has anything to complain about.
    fn content(&self) -> Result<()> {
        let complaints = self
            .complaints
            .lock()
            .map_err(|_| anyhow!("a client panicked"))?;
        ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
        Ok(())
    }
}

/// One client: connects, and does steps until it is told to stop. Only a wrong answer ends it before.
fn work(
    shared: &Shared,
    client: usize,
    connect: &(dyn Fn(usize) -> Result<Box<dyn Client>, Trouble> + Send + Sync),
) -> Result<(), Trouble> {
    let mut connection: Option<Box<dyn Client>> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let number = shared.acknowledged[client].load(Ordering::Relaxed) + 1;
        let outcome = match &mut connection {
            Some(connection) => connection.step(number),
            None => match connect(client) {
                Ok(new) => {
                    connection = Some(new);
                    continue;
                }
                Err(trouble) => Err(trouble),
            },
        };
        match outcome {
            Ok(()) => shared.acknowledged[client].store(number, Ordering::Release),
            Err(Trouble::Lost(what)) => {
                shared.lose(format!("client {client}: {what}"));
                connection = None;
            }
            Err(Trouble::Refused(_)) => connection = None,
            Err(wrong) => return Err(wrong),
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
