//! The process that the benchmark checkpoints: it holds memory, says so, and lives on.
//!
//! Once its memory is filled it prints one line, [`Ready`], and closes its standard output; from then on it has
//! descriptors for `/dev/null` only, so that either side can checkpoint it, and adds one to a counter now and then.
//! Whoever can read its memory can tell from the outside whether it still runs and whether its memory is intact.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long the counter stands still between two steps.
const STEP: Duration = Duration::from_millis(1);

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Arguments of `cargo xtask hold`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Mebibytes of private memory to fill with what does not compress
    #[arg(long)]
    mib: usize,
    /// Percent of it that are written to every second, without a change of what is in it
    #[arg(long, default_value_t = 0)]
    rewrite_percent: u64,
}

/// What the process says when its memory is filled: addresses in its own address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Where the counter is, a native 64-bit number.
    pub counter: u64,
    /// Where the memory begins.
    pub memory: u64,
    /// How many 64-bit words it has.
    pub words: u64,
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ready {} {} {}", self.counter, self.memory, self.words)
    }
}

impl FromStr for Ready {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Ready> {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("ready") {
            bail!("not a ready line: {line:?}");
        }
        let mut number = || -> Result<u64> {
            let word = words
                .next()
                .with_context(|| format!("cut short: {line:?}"))?;
            word.parse()
                .with_context(|| format!("not a number: {word:?}"))
        };
        Ok(Ready {
            counter: number()?,
            memory: number()?,
            words: number()?,
        })
    }
}

/// The word at `index` of the memory: a mixed counter (SplitMix64), so any of it can be checked by itself.
pub fn word(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills memory, says so, and counts until it is killed.
pub fn run(arguments: &Arguments) -> Result<()> {
    let words = (arguments.mib << 20) / size_of::<u64>();
    let mut memory: Vec<u64> = (0..words as u64).map(word).collect();
    let ready = Ready {
        counter: COUNTER.as_ptr().addr() as u64,
        memory: memory.as_ptr().addr() as u64,
        words: words as u64,
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{ready}").context("cannot say that the memory is ready")?;
    out.flush().context("cannot say that the memory is ready")?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("cannot open /dev/null")?;
    rustix::stdio::dup2_stdout(&null).context("cannot close the standard output")?;
    drop(null);
    let mut rewriter = Rewriter::new(words, arguments.rewrite_percent);
    loop {
        COUNTER.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(STEP);
        rewriter.catch_up(&mut memory);
        std::hint::black_box(&memory);
    }
}

/// Writes to pages here and there, so many a second.
struct Rewriter {
    pages: usize,
    pages_per_second: f64,
    written: u64,
    began: Instant,
}

impl Rewriter {
    const WORDS_PER_PAGE: usize = 4096 / size_of::<u64>();

    fn new(words: usize, percent: u64) -> Self {
        let pages = words / Self::WORDS_PER_PAGE;
        Self {
            pages,
            pages_per_second: pages as f64 * percent as f64 / 100.0,
            written: 0,
            began: Instant::now(),
        }
    }

    /// Every page has its turn before one has its second: the stride has no factor in common with any power of two.
    fn catch_up(&mut self, memory: &mut [u64]) {
        const STRIDE: u64 = 0x9e37_79b1;
        let due = (self.began.elapsed().as_secs_f64() * self.pages_per_second) as u64;
        while self.written < due && self.pages > 0 {
            let page = self.written.wrapping_mul(STRIDE) as usize % self.pages;
            let index = page * Self::WORDS_PER_PAGE;
            memory[index] = std::hint::black_box(word(index as u64));
            self.written += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_line_round_trip() {
        let ready = Ready {
            counter: 1,
            memory: u64::MAX,
            words: 3,
        };
        assert_eq!(ready.to_string().parse::<Ready>().unwrap(), ready);
        for line in ["", "ready", "ready 1 2", "ready 1 x 3", "error 1 2 3"] {
            assert!(line.parse::<Ready>().is_err(), "{line:?}");
        }
    }
}
