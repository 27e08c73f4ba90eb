//! A connection over which lines of text go, as in most protocols of old.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use anyhow::Result;

use super::load::{Client, Trouble};
use crate::harness::poll;

/// A connection to a server on this machine.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects. Whoever is not answered for long enough on it gets [`Trouble::Wrong`].
    pub fn open(port: u16) -> Result<Self, Trouble> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(poll::PATIENCE))?;
        stream.set_write_timeout(Some(poll::PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a text.
    pub fn send(&mut self, text: &str) -> Result<(), Trouble> {
        Ok(self.stream.get_mut().write_all(text.as_bytes())?)
    }

    /// The next line, without its end.
    pub fn line(&mut self) -> Result<String, Trouble> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if !line.ends_with('\n') {
            return Err(Trouble::Lost("closed by the server".into()));
        }
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        Ok(line)
    }

    /// So many bytes, as text.
    pub fn text(&mut self, size: usize) -> Result<String, Trouble> {
        let mut bytes = vec![0; size];
        self.stream.read_exact(&mut bytes)?;
        String::from_utf8(bytes).map_err(|error| Trouble::Wrong(error.to_string()))
    }

    /// Sends a text and expects a certain line.
    pub fn expect(&mut self, text: &str, expected: &str) -> Result<(), Trouble> {
        self.send(text)?;
        let answer = self.line()?;
        if answer == expected {
            Ok(())
        } else {
            Err(Trouble::wrong(expected, answer))
        }
    }
}

/// What a client stores in a step, and under which name.
pub fn entry(client: usize, number: u64) -> (String, String) {
    let mut value = String::new();
    let mut mixed = number ^ (client as u64) << 48;
    for _ in 0..6 {
        mixed = mixed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let _ = write!(value, "{mixed:016x}");
    }
    (format!("c{client}:{number}"), value)
}

/// Every entry that so many steps of each client have stored.
pub fn entries(steps: &[u64]) -> impl Iterator<Item = (String, String)> {
    steps
        .iter()
        .enumerate()
        .flat_map(|(client, &steps)| (1..=steps).map(move |number| entry(client, number)))
}

/// A client of the servers that are ours: `set NAME VALUE` is answered by `ok`, `get NAME` by the value.
pub struct Storing {
    connection: Connection,
    client: usize,
}

impl Storing {
    /// Connects.
    pub fn connect(port: u16, client: usize) -> Result<Box<dyn Client>, Trouble> {
        let connection = Connection::open(port)?;
        Ok(Box::new(Self { connection, client }))
    }

    /// Asks for everything that was stored.
    pub fn verify(port: u16, steps: &[u64]) -> Result<()> {
        let mut connection = Connection::open(port)?;
        for (name, value) in entries(steps) {
            connection.expect(&format!("get {name}\n"), &value)?;
        }
        Ok(())
    }
}

impl Client for Storing {
    fn step(&mut self, number: u64) -> Result<(), Trouble> {
        let (name, value) = entry(self.client, number);
        self.connection
            .expect(&format!("set {name} {value}\n"), "ok")?;
        self.connection.expect(&format!("get {name}\n"), &value)
    }
}
