//! Whole runs of cryopod against criu, in pairs, on the same kind of process.
//!
//! [`run`] builds the programs, measures inside the testbed ([`run_inside`]) and writes raw numbers and a summary, with
//! date and machine, under `docs/benchmarks/`. The two sides take turns within each round and swap who is first from
//! round to round; each gets a fresh process ([`crate::hold`]) and is held to a working restore: the restored process
//! has to go on counting and its memory is sampled. Like is compared with like: see [`plan::Pair`].

mod machine;
mod measure;
mod plan;
mod redis;
mod report;
mod stats;
mod target;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::workspace::{Workspace, cargo};
use crate::{command, e2e, testbed};

use machine::Machine;
use measure::Measurement;
use plan::{Load, Pair, Place, Plan};

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    plan: PlanArguments,
    /// Where to write; by default docs/benchmarks in the checkout
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Arguments of the measuring half.
#[derive(clap::Args)]
pub struct InsideArguments {
    #[command(flatten)]
    plan: PlanArguments,
    /// The cryopod to measure
    #[arg(long)]
    cryopod: PathBuf,
    /// File to write the raw results to
    #[arg(long)]
    raw: PathBuf,
}

/// What to measure.
#[derive(clap::Args)]
struct PlanArguments {
    /// Sizes of the process's memory, in mebibytes; other loads than `plain` have the largest, up to their own limit
    #[arg(long, value_delimiter = ',', default_values_t = [256, 2048, 8192])]
    mib: Vec<u64>,
    /// What the processes do
    #[arg(long, value_delimiter = ',', default_values_t = [Load::Plain, Load::Tree, Load::Dirty1, Load::Dirty10, Load::Redis])]
    loads: Vec<Load>,
    /// Rounds; each side runs once per round
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Where the images go
    #[arg(long, value_delimiter = ',', default_values_t = [Place::Disk, Place::Tmpfs])]
    places: Vec<Place>,
    /// What is compared
    #[arg(long, value_delimiter = ',', default_values_t = [Pair::DropIn, Pair::Stop, Pair::Live, Pair::Lazy])]
    pairs: Vec<Pair>,
}

impl PlanArguments {
    fn plan(&self) -> Result<Plan> {
        if self.rounds == 0 || self.mib.is_empty() || self.mib.contains(&0) {
            bail!("nothing to measure: rounds and sizes have to be at least 1");
        }
        Ok(Plan {
            sizes_mib: self.mib.clone(),
            loads: self.loads.clone(),
            rounds: self.rounds,
            places: self.places.clone(),
            pairs: self.pairs.clone(),
        })
    }

    /// The same again for the measuring half.
    fn to_options(&self) -> Vec<String> {
        let join = |items: Vec<String>| items.join(",");
        vec![
            format!(
                "--mib={}",
                join(self.mib.iter().map(u64::to_string).collect())
            ),
            format!(
                "--loads={}",
                join(self.loads.iter().map(Load::to_string).collect())
            ),
            format!("--rounds={}", self.rounds),
            format!(
                "--places={}",
                join(self.places.iter().map(Place::to_string).collect())
            ),
            format!(
                "--pairs={}",
                join(self.pairs.iter().map(Pair::to_string).collect())
            ),
        ]
    }
}

/// Everything that one run found out, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Results {
    /// Day of the run (UTC), as in 2026-01-31.
    date: String,
    machine: Machine,
    measurements: Vec<Measurement>,
}

/// Builds, measures inside the testbed, and writes the results down.
pub fn run(arguments: &Arguments) -> Result<()> {
    testbed::require_root("the benchmark")?;
    arguments.plan.plan()?;
    e2e::build_cli()?;
    command::succeed(cargo().args(["build", "--package", "xtask"]))?;
    let workspace = Workspace::load()?;
    let raw = workspace.target.join("bench-results.json");
    let mut inside = testbed::make()?.command(&workspace)?;
    inside
        .arg(std::env::current_exe().context("cannot tell this program's own path")?)
        .arg("bench-inside")
        .args(arguments.plan.to_options())
        .arg("--cryopod")
        .arg(workspace.program("release", "cryopod"))
        .arg("--raw")
        .arg(&raw);
    command::succeed(&mut inside)?;
    let json = fs::read(&raw).with_context(|| format!("cannot read {}", raw.display()))?;
    let results: Results = serde_json::from_slice(&json)
        .with_context(|| format!("cannot make sense of {}", raw.display()))?;
    let directory = match &arguments.out {
        Some(directory) => directory.clone(),
        None => workspace.root.join("docs/benchmarks"),
    };
    let markdown = report::markdown(&results);
    write_down(&directory, &results, &markdown)?;
    println!("{markdown}");
    Ok(())
}

/// Writes `DATE.json` and `DATE.md`, or `DATE-2...` when there are results of that day already.
fn write_down(directory: &Path, results: &Results, markdown: &str) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let stem = (1..)
        .map(|number| match number {
            1 => results.date.clone(),
            number => format!("{}-{number}", results.date),
        })
        .find(|stem| !directory.join(format!("{stem}.json")).exists())
        .context("no name left for the results")?;
    let json = serde_json::to_string_pretty(results).context("cannot encode the results")?;
    for (extension, text) in [("json", json.as_str()), ("md", markdown)] {
        let path = directory.join(format!("{stem}.{extension}"));
        fs::write(&path, format!("{}\n", text.trim_end()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

/// Measures; runs inside the testbed.
pub fn run_inside(arguments: &InsideArguments) -> Result<()> {
    let plan = arguments.plan.plan()?;
    // Restored processes become children of this one, and so do those of a tree whose first process was killed.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("cannot take in orphans")?;
    let mut results = Results {
        date: command::stdout(Command::new("date").args(["-u", "+%Y-%m-%d"]))?
            .trim()
            .to_owned(),
        machine: Machine::describe(&plan, &arguments.cryopod)?,
        measurements: Vec::new(),
    };
    for run in plan.warm_up() {
        measure::measure(&run, &arguments.cryopod).with_context(|| format!("warming up: {run}"))?;
    }
    for run in plan.runs() {
        let measurement = measure::measure(&run, &arguments.cryopod)
            .with_context(|| format!("{run} did not work"))?;
        eprintln!("{run}: {measurement}");
        results.measurements.push(measurement);
    }
    let json = serde_json::to_vec(&results).context("cannot encode the results")?;
    fs::write(&arguments.raw, json)
        .with_context(|| format!("cannot write {}", arguments.raw.display()))
}
