//! memcached, which runs as a user of its own and hands its connections from one thread to others.

use std::path::Path;

use anyhow::Result;

use super::Server;
use super::connection::{Connection, entries, entry};
use super::load::{Client, Trouble};
use crate::harness::Program;
use crate::harness::context::needs;

pub struct Memcached;

impl Server for Memcached {
    fn prepare(&self, _: &Path, _: u16) -> Result<()> {
        needs("memcached")
    }

    fn program(&self, _: &Path, port: u16) -> Program {
        let port = port.to_string();
        let words = ["-u", "memcache", "-l", "127.0.0.1", "-p", &port, "-t", "4"];
        Program::command("memcached").args(words)
    }

    fn connect(&self, _: &Path, port: u16, client: usize) -> Result<Box<dyn Client>, Trouble> {
        let mut connection = Connection::open(port)?;
        connection.send("version\r\n")?;
        connection.line()?;
        Ok(Box::new(Writer { connection, client }))
    }

    fn verify(&self, _: &Path, port: u16, steps: &[u64]) -> Result<()> {
        let mut connection = Connection::open(port)?;
        for (name, value) in entries(steps) {
            get(&mut connection, &name, &value)?;
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
        let set = format!("set {name} 0 0 {}\r\n{value}\r\n", value.len());
        self.connection.expect(&set, "STORED")?;
        get(&mut self.connection, &name, &value)
    }
}

fn get(connection: &mut Connection, name: &str, value: &str) -> Result<(), Trouble> {
    let head = format!("VALUE {name} 0 {}", value.len());
    connection.expect(&format!("get {name}\r\n"), &head)?;
    connection.expect("", value)?;
    connection.expect("", "END")
}
