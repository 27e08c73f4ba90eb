//! PostgreSQL: no acknowledged transaction is lost, and what belongs together stays together.
//!
//! Half of the clients insert row after row (psql); the others are pgbench, whose transactions move money between
//! tables: their sums must agree. The server and all its processes run as another user.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::Server;
use super::connection::entry;
use super::load::{Client, Trouble};
use crate::harness::context::skip;
use crate::harness::{Program, poll};

/// Where Debian has the programs of this release.
const PROGRAMS: &str = "/usr/lib/postgresql/17/bin";
const USER: &str = "postgres";
/// The clients from here on are pgbench.
const FIRST_PGBENCH: usize = 2;
/// Transactions of one run of pgbench, which is one step.
const TRANSACTIONS: u64 = 20;

const SCHEMA: &str =
    "CREATE TABLE kept (client int, number int, value text, PRIMARY KEY (client, number));";

/// Balances that are the same by pgbench's rules, whichever way they are added up.
const BALANCES: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), \
     (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0) FROM pgbench_history);";

pub struct Postgres;

fn program(name: &str) -> String {
    format!("{PROGRAMS}/{name}")
}

/// As the user that owns the server.
fn as_user() -> [&'static str; 5] {
    ["--reuid", USER, "--regid", USER, "--init-groups"]
}

/// A program of PostgreSQL's with options that lead it to the server.
fn client(name: &str, port: u16) -> Command {
    let mut command = Command::new(program(name));
    command
        .args(["--host", "127.0.0.1", "--username", USER, "--port"])
        .arg(port.to_string())
        .env("PGCONNECT_TIMEOUT", poll::PATIENCE.as_secs().to_string())
        .env("PGDATABASE", "postgres")
        .stderr(Stdio::null());
    command
}

fn psql(port: u16) -> Command {
    let mut command = client("psql", port);
    command
        .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only"])
        .args(["--set", "ON_ERROR_STOP=1"]);
    command
}

/// Runs a program of PostgreSQL's as the server's user.
fn run(name: &str, words: &[&str]) -> Result<()> {
    let output = Command::new("setpriv")
        .args(as_user())
        .arg(program(name))
        .args(words)
        .current_dir("/")
        .stdin(Stdio::null())
        // A server that was started would keep a pipe open.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot run setpriv")?;
    ensure!(output.success(), "{name} {words:?}: {output}");
    Ok(())
}

/// What the server answers to a query.
fn query(port: u16, query: &str) -> Result<String> {
    let output = psql(port)
        .args(["--command", query])
        .stdin(Stdio::null())
        .output()
        .context("cannot run psql")?;
    ensure!(output.status.success(), "psql {query}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

impl Server for Postgres {
    fn prepare(&self, directory: &Path, port: u16) -> Result<()> {
        if !Path::new(&program("postgres")).exists() {
            return skip(format!("there is no PostgreSQL in {PROGRAMS}"));
        }
        let directory = directory.display().to_string();
        let cluster = format!("{directory}/cluster");
        let words = ["--auth", "trust", "--no-locale", "--no-sync", "--pgdata"];
        run("initdb", &[&words[..], &[&cluster]].concat())?;
        let options = format!("-h 127.0.0.1 -p {port} -k {directory}");
        run(
            "pg_ctl",
            &["start", "--wait", "-D", &cluster, "-o", &options],
        )?;
        query(port, SCHEMA)?;
        let made = client("pgbench", port)
            .args(["--initialize", "--quiet"])
            .status()?;
        ensure!(made.success(), "pgbench --initialize: {made}");
        run("pg_ctl", &["stop", "--wait", "-D", &cluster])
    }

    fn program(&self, directory: &Path, port: u16) -> Program {
        let directory = directory.display();
        Program::command("setpriv")
            .args(as_user())
            .arg(program("postgres"))
            .args(["-h", "127.0.0.1", "-p", &port.to_string()])
            .args(["-D", &format!("{directory}/cluster")])
            .args(["-k", &format!("{directory}")])
            .args(["-c", "shared_buffers=16MB", "-c", "jit=off"])
    }

    fn connect(&self, _: &Path, port: u16, client: usize) -> Result<Box<dyn Client>, Trouble> {
        if client >= FIRST_PGBENCH {
            return Ok(Box::new(Pgbench { port }));
        }
        let mut psql = Psql::start(port, client)?;
        match psql.ask("SELECT 'hello';", "hello") {
            Ok(()) => Ok(Box::new(psql)),
            Err(Trouble::Lost(what)) => Err(Trouble::Refused(what)),
            Err(trouble) => Err(trouble),
        }
    }

    fn verify(&self, _: &Path, port: u16, steps: &[u64]) -> Result<()> {
        let rows = query(port, "SELECT client, number, value FROM kept;")?;
        let rows: std::collections::HashSet<&str> = rows.lines().collect();
        for (client, &steps) in steps.iter().enumerate().take(FIRST_PGBENCH) {
            for number in 1..=steps {
                let row = format!("{client}|{number}|{}", entry(client, number).1);
                ensure!(rows.contains(row.as_str()), "{row:?} was acknowledged");
            }
        }
        let balances = query(port, BALANCES)?;
        let mut sums = balances.split('|');
        let first = sums.next();
        ensure!(
            sums.all(|sum| Some(sum) == first),
            "balances are {balances}"
        );
        let count: u64 = query(port, "SELECT count(*) FROM pgbench_history;")?.parse()?;
        let acknowledged = steps.iter().skip(FIRST_PGBENCH).sum::<u64>() * TRANSACTIONS;
        ensure!(
            count >= acknowledged,
            "{acknowledged} transactions were acknowledged, {count} are there"
        );
        Ok(())
    }

    fn farewell(&self) -> (Signal, i32) {
        (Signal::INT, 0)
    }

    fn is_durable(&self) -> bool {
        true
    }
}

/// A psql that is fed with statements.
struct Psql {
    child: Child,
    statements: ChildStdin,
    answers: BufReader<UnixStream>,
    client: usize,
}

impl Psql {
    fn start(port: u16, client: usize) -> Result<Self, Trouble> {
        // A socket can be read with a time limit.
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(poll::PATIENCE))?;
        let mut child = psql(port)
            .stdin(Stdio::piped())
            .stdout(OwnedFd::from(theirs))
            .spawn()?;
        let statements = child
            .stdin
            .take()
            .ok_or_else(|| Trouble::Wrong("psql has no standard input".into()))?;
        Ok(Self {
            child,
            statements,
            answers: BufReader::new(ours),
            client,
        })
    }

    fn ask(&mut self, statement: &str, expected: &str) -> Result<(), Trouble> {
        writeln!(self.statements, "{statement}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match answer.strip_suffix('\n') {
            Some(answer) if answer == expected => Ok(()),
            Some(answer) => Err(Trouble::wrong(expected, answer)),
            None => Err(Trouble::Lost("psql has ended".into())),
        }
    }
}

impl Client for Psql {
    fn step(&mut self, number: u64) -> Result<(), Trouble> {
        let (client, (_, value)) = (self.client, entry(self.client, number));
        // It may be there already, unacknowledged.
        let statement = format!(
            "INSERT INTO kept VALUES ({client}, {number}, '{value}') \
             ON CONFLICT (client, number) DO UPDATE SET value = excluded.value RETURNING number;"
        );
        self.ask(&statement, &number.to_string())
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A run of pgbench for each step.
struct Pgbench {
    port: u16,
}

impl Client for Pgbench {
    fn step(&mut self, _: u64) -> Result<(), Trouble> {
        let mut child = client("pgbench", self.port)
            .args(["--no-vacuum", "--transactions", &TRANSACTIONS.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        match poll::until("pgbench to end", || Ok(child.try_wait()?)) {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                let mut words = String::new();
                if let Some(mut errors) = child.stderr.take() {
                    errors.read_to_string(&mut words)?;
                }
                // It connects in each step.
                Err(if words.contains("Connection refused") {
                    Trouble::Refused(words)
                } else {
                    Trouble::Lost(format!("pgbench: {status}: {words}"))
                })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(Trouble::Wrong(format!("{error:#}")))
            }
        }
    }
}
