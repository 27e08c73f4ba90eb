//! Redis: every acknowledged write is there, in memory and in its log on disk.
//!
//! It forks all the time meanwhile, to save its memory, and it has threads.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::Server;
use super::connection::{Connection, entries, entry};
use super::load::{Client, Trouble};
use crate::harness::Program;
use crate::harness::context::needs;

pub struct Redis;

impl Server for Redis {
    fn prepare(&self, _: &Path, _: u16) -> Result<()> {
        needs("redis-server")
    }

    fn program(&self, directory: &Path, port: u16) -> Program {
        let directory = directory.display().to_string();
        let port = port.to_string();
        let options = [
            ["--port", &port],
            ["--bind", "127.0.0.1"],
            ["--dir", &directory],
            ["--appendonly", "yes"],
            ["--appendfsync", "always"],
            // A child saves everything once a second.
            ["--save", "1 1"],
        ];
        Program::command("redis-server").args(options.iter().flatten())
    }

    fn connect(&self, _: &Path, port: u16, client: usize) -> Result<Box<dyn Client>, Trouble> {
        let mut connection = Connection::open(port)?;
        connection.expect("PING\r\n", "+PONG")?;
        Ok(Box::new(Writer {
            connection,
            client,
            counted: 0,
        }))
    }

    fn verify(&self, _: &Path, port: u16, steps: &[u64]) -> Result<()> {
        let mut connection = Connection::open(port)?;
        for (name, value) in entries(steps) {
            let size = format!("${}", value.len());
            connection
                .expect(&format!("GET {name}\r\n"), &size)
                .with_context(|| format!("{name} was acknowledged"))?;
            ensure!(connection.line()? == value, "{name} is wrong");
        }
        for (client, &steps) in steps.iter().enumerate() {
            connection.send(&format!("GET count:{client}\r\n"))?;
            connection.line()?;
            let count: u64 = connection.line()?.parse()?;
            ensure!(
                count >= steps,
                "client {client} was told of {steps} steps, of which {count} were counted"
            );
        }
        Ok(())
    }

    fn is_durable(&self) -> bool {
        true
    }
}

struct Writer {
    connection: Connection,
    client: usize,
    /// The last count that was seen on this connection.
    counted: u64,
}

impl Client for Writer {
    fn step(&mut self, number: u64) -> Result<(), Trouble> {
        let (name, value) = entry(self.client, number);
        self.connection
            .send(&format!("INCR count:{}\r\n", self.client))?;
        let answer = self.connection.line()?;
        let count = answer
            .strip_prefix(':')
            .and_then(|count| count.parse().ok());
        match count {
            // Nothing that was counted is forgotten, and nothing counted twice.
            Some(count) if self.counted == 0 || count == self.counted + 1 => self.counted = count,
            _ => return Err(Trouble::wrong(self.counted + 1, answer)),
        }
        self.connection
            .expect(&format!("SET {name} {value}\r\n"), "+OK")
    }
}
