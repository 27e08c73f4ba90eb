//! Servers that people run, checkpointed while clients outside of the tree keep them busy.
//!
//! - [`load`]: clients, each of which does one step after the other and counts those that were acknowledged;
//! - [`connection`]: lines of text over TCP, and the simplest of protocols, which our own servers speak; [`http`];
//! - `redis`, `memcached`, `postgres`, `nginx`, `node`, `java`, `go`: one server each.
//!
//! Each server goes through the three ways of a checkpoint, see [`Way`]. What was acknowledged to a client must be there
//! afterwards, always.

mod connection;
mod go;
mod http;
mod java;
mod load;
mod memcached;
mod nginx;
mod node;
mod postgres;
mod redis;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use self::load::{Client, Load, Tally, Trouble};
use crate::harness::{Context, Program, Scene, Test, processes};

/// Clients of a server at a time.
const CLIENTS: usize = 4;
/// Steps that every client has to take before and after whatever happens to the server.
const STEPS: u64 = 40;
/// Checkpoints in a row of a server that is left running.
const ROUNDS: usize = 5;

/// The port of the next server. Ports below those that the kernel hands out: nobody takes one while its server is gone.
static PORT: AtomicU16 = AtomicU16::new(20_000);

fn next_port() -> u16 {
    PORT.fetch_add(1, Ordering::Relaxed)
}

/// What is done to a server, and what its clients may see of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Checkpoints that leave it running: no client sees anything.
    LeftRunning,
    /// Stopped and restored with its connections: no client sees anything but that it has to wait.
    Established,
    /// Stopped and restored without its connections: clients have to connect again.
    Closed,
}

impl Way {
    /// The options of checkpoint and restore.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::LeftRunning | Self::Established => &["--tcp-established"],
            Self::Closed => &["--tcp-close"],
        }
    }
}

/// A server and what its clients ask of it.
trait Server: Send + Sync {
    /// Skips the test where the server is not installed, and makes what it needs in the directory.
    fn prepare(&self, directory: &Path, port: u16) -> Result<()>;

    /// The command that starts it.
    fn program(&self, directory: &Path, port: u16) -> Program;

    /// A new connection for the client of that number, over which the server has answered.
    fn connect(
        &self,
        directory: &Path,
        port: u16,
        client: usize,
    ) -> Result<Box<dyn Client>, Trouble>;

    /// Looks for everything that was acknowledged: `steps[client]` of them.
    fn verify(&self, directory: &Path, port: u16, steps: &[u64]) -> Result<()>;

    /// The signal that asks it to end, and the exit code it then has.
    fn farewell(&self) -> (Signal, i32) {
        (Signal::TERM, 0)
    }

    /// Whether another one, started in the same directory, has everything that was acknowledged.
    fn is_durable(&self) -> bool {
        false
    }
}

/// The tests of one server, each with the way it goes.
macro_rules! three_ways {
    ($server:expr, $name:literal) => {
        vec![
            Test::new(concat!("servers::", $name, "_left_running"), |c| {
                under_load(c, $server, Way::LeftRunning)
            }),
            Test::new(concat!("servers::", $name, "_with_connections"), |c| {
                under_load(c, $server, Way::Established)
            }),
            Test::new(concat!("servers::", $name, "_without_connections"), |c| {
                under_load(c, $server, Way::Closed)
            }),
        ]
    };
}

pub fn tests() -> Vec<Test> {
    [
        three_ways!(redis::Redis, "redis"),
        three_ways!(memcached::Memcached, "memcached"),
        three_ways!(postgres::Postgres, "postgres"),
        three_ways!(nginx::Nginx, "nginx"),
        three_ways!(node::Node, "node"),
        three_ways!(java::Java, "java"),
        three_ways!(go::Go, "go"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The whole story of one server.
fn under_load(context: &Context, server: impl Server + 'static, way: Way) -> Result<()> {
    let server = Arc::new(server);
    let directory = context.scene_directory()?;
    let port = next_port();
    server.prepare(&directory, port)?;
    let mut scene = start(context, &*server, &directory, port)?;
    let load = Load::start(CLIENTS, {
        let (server, directory) = (Arc::clone(&server), directory.clone());
        move |client| server.connect(&directory, port, client)
    });
    put_through(&mut scene, &load, way).with_context(|| scene.words())?;
    let tally = load.finish().with_context(|| scene.words())?;
    ensure!(
        way == Way::Closed || tally.lost.is_empty(),
        "connections were lost: {:?}\n{}",
        tally.lost,
        scene.words()
    );
    verify_and_end(scene, &*server, port, &tally)?;
    if server.is_durable() {
        let scene = start(context, &*server, &directory, port)?;
        verify_and_end(scene, &*server, port, &tally).context("what is on disk")?;
    }
    Ok(())
}

fn start<'c>(
    context: &'c Context,
    server: &dyn Server,
    directory: &Path,
    port: u16,
) -> Result<Scene<'c>> {
    let program = server.program(directory, port);
    Scene::start_in(context, program, directory.to_owned(), || {
        server.connect(directory, port, 0).is_ok()
    })
}

fn verify_and_end(scene: Scene, server: &dyn Server, port: u16, tally: &Tally) -> Result<()> {
    server
        .verify(&scene.directory, port, &tally.acknowledged)
        .with_context(|| scene.words())?;
    let (signal, code) = server.farewell();
    processes::signal(scene.root, signal)?;
    let ended = processes::wait_for_end(scene.root)?;
    ensure!(ended == code, "it ended with {ended}\n{}", scene.words());
    Ok(())
}

fn put_through(scene: &mut Scene, load: &Load, way: Way) -> Result<()> {
    load.advance(STEPS).context("before anything happened")?;
    if scene.context.without_checkpoint {
        return Ok(());
    }
    let options = way.options();
    if way == Way::LeftRunning {
        for round in 0..ROUNDS {
            let reference = format!("server:round{round}");
            scene.checkpoint_with(&reference, options)?;
            load.advance(STEPS)
                .with_context(|| format!("after checkpoint {round}"))?;
        }
        return Ok(());
    }
    for round in ["server:first", "server:second"] {
        scene
            .checkpoint_and_stop_with(round, options)
            .with_context(|| round.to_owned())?;
        scene
            .restore_with(round, options)
            .with_context(|| round.to_owned())?;
        load.advance(STEPS)
            .with_context(|| format!("after the restore of {round}"))?;
    }
    Ok(())
}
