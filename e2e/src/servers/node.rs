//! A server on node: libuv's event loop, its pool of threads, and the timers and threads of V8.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::Server;
use super::connection::{Connection, entries, entry};
use super::http;
use super::load::{Client, Trouble};
use crate::harness::Program;
use crate::harness::context::needs;

pub struct Node;

impl Server for Node {
    fn prepare(&self, _: &Path, _: u16) -> Result<()> {
        needs("node")
    }

    fn program(&self, _: &Path, port: u16) -> Program {
        Program::command("node")
            .arg("--eval")
            .arg(include_str!("../../programs/server.js"))
            .arg(port.to_string())
    }

    fn connect(&self, _: &Path, port: u16, client: usize) -> Result<Box<dyn Client>, Trouble> {
        let connection = Connection::open(port)?;
        Ok(Box::new(Writer { connection, client }))
    }

    fn verify(&self, _: &Path, port: u16, steps: &[u64]) -> Result<()> {
        let mut connection = Connection::open(port)?;
        for (name, value) in entries(steps) {
            let body = http::get(&mut connection, &format!("/{name}")).context(name.clone())?;
            ensure!(body == value, "{name} is {body:?}");
        }
        Ok(())
    }
}

struct Writer {
    connection: Connection,
    client: usize,
}

impl Client for Writer {
    fn step(&mut self, number: u64) -> Result<(), Trouble> {
        let (name, value) = entry(self.client, number);
        let path = format!("/{name}");
        let answer = http::put(&mut self.connection, &path, &value)?;
        if answer != "stored" {
            return Err(Trouble::wrong("stored", answer));
        }
        let answer = http::get(&mut self.connection, &path)?;
        if answer != value {
            return Err(Trouble::wrong(value, answer));
        }
        Ok(())
    }
}
