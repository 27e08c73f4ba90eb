//! Target programs in Rust: ordinary programs of an ordinary language, with its runtime, its allocator and its threads.
//!
//! They keep to the conversation of `targets/common.h`.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Processes of the checksum target, and what each has of threads.
const PROCESSES: u64 = 3;
const THREADS: u64 = 3;
/// Counters in DIR/progress: one for each thread.
pub const COUNTERS: u64 = PROCESSES * THREADS;

/// Runs `target NAME DIR ...`.
pub fn run(arguments: &[String]) -> ExitCode {
    let (Some(name), Some(directory)) = (arguments.first(), arguments.get(1)) else {
        eprintln!("usage: cryopod-e2e target NAME DIR ...");
        return ExitCode::from(64);
    };
    let stage = Stage {
        directory: directory.into(),
    };
    let result = match name.as_str() {
        "checksum" => checksum(&stage),
        "checksum-worker" => checksum_worker(&stage, arguments.get(2).map_or("", String::as_str)),
        "pace" => pace(&stage),
        _ => Err(anyhow::anyhow!("no target {name:?}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stage.complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Where a target talks with its test.
#[derive(Clone)]
struct Stage {
    directory: PathBuf,
}

impl Stage {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn make(&self, name: &str) -> Result<()> {
        let staging = self.path(&format!(".{name}"));
        fs::write(&staging, format!("{}\n", std::process::id()))?;
        fs::rename(&staging, self.path(name)).with_context(|| format!("cannot make {name}"))
    }

    fn go(&self) -> bool {
        self.path("go").exists()
    }

    fn complain(&self, what: &str) {
        let line = format!("[pid {}] {what}\n", std::process::id());
        let file = OpenOptions::new()
            .append(true)
            .open(self.path("complaints"));
        if file
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .is_err()
        {
            std::process::abort();
        }
    }
}

/// A tree of processes with threads, all of which compute without end and verify what they have computed.
fn checksum(stage: &Stage) -> Result<()> {
    let progress = File::create(stage.path("progress"))?;
    progress.set_len(COUNTERS * 8)?;
    let mut children = Vec::new();
    for index in 1..PROCESSES {
        children.push(
            Command::new(std::env::current_exe()?)
                .args(["target", "checksum-worker"])
                .arg(&stage.directory)
                .arg(index.to_string())
                .stdin(Stdio::piped())
                .spawn()?,
        );
    }
    let talker = thread::spawn({
        let stage = stage.clone();
        move || talk(&stage, children)
    });
    let workers = start_workers(stage, 0);
    while read_counters(&stage.directory)?.contains(&0) {
        thread::sleep(Duration::from_millis(1));
    }
    stage.make("ready")?;
    for worker in workers {
        ensure!(worker.join().is_ok(), "a thread panicked");
    }
    match talker.join() {
        Ok(result) => result?,
        Err(_) => bail!("the talking thread panicked"),
    }
    stage.make("done")
}

/// Sends the children numbers in order, until it is time to end.
fn talk(stage: &Stage, mut children: Vec<Child>) -> Result<()> {
    let mut number = 0_u64;
    while !stage.go() {
        for child in &mut children {
            let pipe = child.stdin.as_mut().context("a child has no pipe")?;
            pipe.write_all(&number.to_le_bytes())
                .context("cannot write to a child")?;
        }
        number += 1;
        thread::sleep(Duration::from_millis(1));
    }
    for mut child in children {
        drop(child.stdin.take());
        let status = child.wait()?;
        ensure!(status.success(), "a child ended with {status}");
    }
    Ok(())
}

/// One of the processes below: hears numbers on its standard input while its threads compute.
fn checksum_worker(stage: &Stage, index: &str) -> Result<()> {
    let workers = start_workers(stage, index.parse()?);
    let mut input = std::io::stdin().lock();
    let mut expected = 0_u64;
    let mut bytes = [0; 8];
    loop {
        match input.read_exact(&mut bytes) {
            Ok(()) => {
                let number = u64::from_le_bytes(bytes);
                ensure!(number == expected, "heard {number} instead of {expected}");
                expected += 1;
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error).context("cannot read the next number"),
        }
    }
    ensure!(stage.go(), "the numbers ended early");
    for worker in workers {
        ensure!(worker.join().is_ok(), "a thread panicked");
    }
    Ok(())
}

/// The threads of one process: a busy one (in the first process), one that sleeps between its steps, and one that is
/// driven by another thread.
fn start_workers(stage: &Stage, process: u64) -> Vec<thread::JoinHandle<()>> {
    let worker = |index| Worker {
        stage: stage.clone(),
        slot: process * THREADS + index,
    };
    let (sender, receiver) = mpsc::sync_channel(1);
    let (busy, driving, driven) = (worker(0), worker(1), worker(2));
    vec![
        thread::spawn(move || busy.compute(process == 0, None)),
        thread::spawn(move || driving.compute(false, Some(sender))),
        thread::spawn(move || driven.compute_when_told(&receiver)),
    ]
}

struct Worker {
    stage: Stage,
    slot: u64,
}

impl Worker {
    fn compute(&self, busy: bool, driven: Option<mpsc::SyncSender<u64>>) {
        let mut sheet = Sheet::new(self.slot);
        while !self.stage.go() {
            self.step(&mut sheet);
            if let Some(driven) = &driven
                && driven.send(sheet.round).is_err()
            {
                self.stage.complain("the driven thread has gone");
                return;
            }
            if !busy {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn compute_when_told(&self, rounds: &mpsc::Receiver<u64>) {
        let mut sheet = Sheet::new(self.slot);
        for round in rounds {
            self.step(&mut sheet);
            if sheet.round != round {
                self.stage
                    .complain(&format!("told of round {round} in round {}", sheet.round));
            }
        }
    }

    /// Verifies, computes, and counts where everybody can see it.
    fn step(&self, sheet: &mut Sheet) {
        if let Err(problem) = sheet.advance() {
            self.stage
                .complain(&format!("thread {}: {problem}", self.slot));
        }
        let counted = OpenOptions::new()
            .write(true)
            .open(self.stage.path("progress"))
            .and_then(|file| file.write_all_at(&sheet.round.to_le_bytes(), self.slot * 8));
        if let Err(error) = counted {
            self.stage.complain(&format!("cannot count: {error}"));
        }
    }
}

/// Numbers of which each is a function of its place and the round, and the sum of all sums so far.
struct Sheet {
    seed: u64,
    round: u64,
    words: Vec<u64>,
    checksum: u64,
}

impl Sheet {
    const WORDS: usize = 4096;

    fn new(seed: u64) -> Self {
        let words = (0..Self::WORDS as u64)
            .map(|place| mix(seed, 0, place))
            .collect();
        Self {
            seed,
            round: 0,
            words,
            checksum: 0,
        }
    }

    fn advance(&mut self) -> Result<(), String> {
        let mut sum = 0_u64;
        let mut wrong = None;
        for (place, word) in (0_u64..).zip(&mut self.words) {
            if *word != mix(self.seed, self.round, place) {
                wrong = Some(place);
            }
            sum = sum.wrapping_add(*word);
            *word = mix(self.seed, self.round + 1, place);
        }
        self.checksum ^= sum.rotate_left((self.round % 64) as u32);
        self.round += 1;
        match wrong {
            Some(place) => Err(format!(
                "word {place} was wrong in round {}",
                self.round - 1
            )),
            None => Ok(()),
        }
    }
}

fn mix(seed: u64, round: u64, place: u64) -> u64 {
    let x = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round).wrapping_add(place << 20);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// The counters of a checksum target.
pub fn read_counters(directory: &Path) -> Result<Vec<u64>> {
    let bytes = fs::read(directory.join("progress")).context("the target counts nothing")?;
    Ok(bytes
        .chunks_exact(8)
        .map(|chunk| {
            chunk
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte))
        })
        .collect())
}

/// A filter that passes lines on slowly until it is told to go, and at full speed from then on: whatever comes before
/// it in a pipeline stands with full pipes meanwhile.
fn pace(stage: &Stage) -> Result<()> {
    let input = std::io::stdin().lock();
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    let mut fast = false;
    for (number, line) in input.split(b'\n').enumerate() {
        output.write_all(&line?)?;
        output.write_all(b"\n")?;
        if !fast {
            output.flush()?;
            if number == 100 {
                stage.make("ready")?;
            }
            thread::sleep(Duration::from_millis(1));
            fast = stage.go();
        }
    }
    output.flush()?;
    Ok(())
}
