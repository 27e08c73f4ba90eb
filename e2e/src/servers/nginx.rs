//! nginx: a master, and workers of another user that share its listening socket. What it serves are files.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::Server;
use super::connection::{Connection, entry};
use super::http;
use super::load::{Client, Trouble};
use crate::harness::Program;
use crate::harness::context::needs;

/// Files to be asked for.
const FILES: u64 = 16;

pub struct Nginx;

fn configuration(directory: &Path, port: u16) -> String {
    let directory = directory.display();
    format!(
        "daemon off;
         worker_processes 2;
         pid {directory}/nginx.pid;
         error_log {directory}/log;
         events {{ }}
         http {{
             access_log {directory}/access;
             keepalive_requests 1000000;
             client_body_temp_path {directory}/body;
             server {{
                 listen 127.0.0.1:{port};
                 root {directory}/files;
             }}
         }}\n"
    )
}

impl Server for Nginx {
    fn prepare(&self, directory: &Path, port: u16) -> Result<()> {
        needs("nginx")?;
        fs::write(directory.join("nginx.conf"), configuration(directory, port))?;
        fs::create_dir(directory.join("files"))?;
        for number in 0..FILES {
            let (_, text) = entry(0, number);
            let file = directory.join("files").join(number.to_string());
            fs::write(file, text.repeat(200))?;
        }
        Ok(())
    }

    fn program(&self, directory: &Path, _: u16) -> Program {
        let directory = directory.display();
        Program::command("nginx")
            .arg("-e")
            .arg(format!("{directory}/log"))
            .arg("-c")
            .arg(format!("{directory}/nginx.conf"))
    }

    fn connect(&self, _: &Path, port: u16, _: usize) -> Result<Box<dyn Client>, Trouble> {
        let mut connection = Connection::open(port)?;
        http::get(&mut connection, "/0")?;
        Ok(Box::new(Reader { connection }))
    }

    /// Everything that was answered is in the log.
    fn verify(&self, directory: &Path, port: u16, steps: &[u64]) -> Result<()> {
        self.connect(directory, port, 0)?.step(1)?;
        let answered: u64 = steps.iter().sum();
        let logged = fs::read_to_string(directory.join("access"))?
            .lines()
            .filter(|line| line.contains("\" 200 "))
            .count();
        ensure!(
            logged as u64 >= answered,
            "{answered} requests were answered, {logged} logged"
        );
        Ok(())
    }

    fn farewell(&self) -> (Signal, i32) {
        (Signal::QUIT, 0)
    }
}

struct Reader {
    connection: Connection,
}

impl Client for Reader {
    fn step(&mut self, number: u64) -> Result<(), Trouble> {
        let (_, text) = entry(0, number % FILES);
        let body = http::get(&mut self.connection, &format!("/{}", number % FILES))?;
        if body == text.repeat(200) {
            Ok(())
        } else {
            Err(Trouble::wrong(text, body))
        }
    }
}
