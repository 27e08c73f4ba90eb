//! Everything a change has to pass, in order, from the cheapest to the dearest.
//!
//! A step's output goes straight to the terminal. The first step that fails ends the run and is named; a summary of all
//! steps with their times comes last either way.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::command;
use crate::workspace::{Workspace, cargo};
use crate::{e2e, man, testbed, tidy};

/// Arguments of `cargo xtask ci`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run these steps only
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave these steps out
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    skip: Vec<String>,
    /// Print the steps' names and what they do
    #[arg(long)]
    list: bool,
}

struct Step {
    name: &'static str,
    about: &'static str,
    needs_root: bool,
    run: fn() -> Result<()>,
}

const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        about: "the formatting is rustfmt's",
        needs_root: false,
        run: || command::succeed(cargo().args(["fmt", "--all", "--check"])),
    },
    Step {
        name: "clippy",
        about: "no warnings anywhere",
        needs_root: false,
        run: || {
            let options = ["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"];
            command::succeed(cargo().args(options))
        },
    },
    Step {
        name: "test",
        about: "the crates' own tests",
        needs_root: false,
        run: || command::succeed(cargo().arg("test")),
    },
    Step {
        name: "test-xtask",
        about: "the tests of the developers' tasks",
        needs_root: false,
        run: || command::succeed(cargo().args(["test", "--package", "xtask"])),
    },
    Step {
        name: "tidy",
        about: "the rules of the house that the compiler does not check",
        needs_root: false,
        run: || {
            ensure!(tidy::run()?, "see the findings above");
            Ok(())
        },
    },
    Step {
        name: "build",
        about: "the program as it is released",
        needs_root: false,
        run: e2e::build_cli,
    },
    Step {
        name: "man",
        about: "man pages and shell completions can be generated",
        needs_root: false,
        run: generate,
    },
    Step {
        name: "e2e",
        about: "end-to-end tests in the testbed, with real peers",
        needs_root: true,
        run: || command::succeed(&mut e2e::tests(&Workspace::load()?)?),
    },
];

/// How a step ended.
enum Outcome {
    Passed(Duration),
    Failed(Duration),
    NotRun(&'static str),
}

/// Runs the steps.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.list {
        for step in STEPS {
            let root = if step.needs_root { " (needs root)" } else { "" };
            println!("{:12}{}{root}", step.name, step.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = choose(&arguments.only, &arguments.skip)?;
    let is_root = testbed::is_root();
    let mut outcomes = Vec::new();
    let mut failed = None;
    for step in chosen {
        let outcome = if failed.is_some() {
            Outcome::NotRun("not reached")
        } else if step.needs_root && !is_root {
            Outcome::NotRun("needs root")
        } else {
            run_step(step)
        };
        if matches!(outcome, Outcome::Failed(_)) {
            failed = Some(step.name);
        }
        outcomes.push((step.name, outcome));
    }
    summarise(&outcomes);
    finish(&outcomes, failed)
}

fn choose(only: &[String], skip: &[String]) -> Result<Vec<&'static Step>> {
    for name in only.iter().chain(skip) {
        if !STEPS.iter().any(|step| step.name == name) {
            bail!("there is no step {name:?}; `cargo xtask ci --list` lists them");
        }
    }
    let named = |list: &[String], step: &Step| list.iter().any(|name| name == step.name);
    Ok(STEPS
        .iter()
        .filter(|step| (only.is_empty() || named(only, step)) && !named(skip, step))
        .collect())
}

fn run_step(step: &Step) -> Outcome {
    println!("==> {}: {}", step.name, step.about);
    let start = Instant::now();
    let result = (step.run)();
    let elapsed = start.elapsed();
    match result {
        Ok(()) => {
            println!("==> {}: ok, {:.1} s", step.name, elapsed.as_secs_f64());
            Outcome::Passed(elapsed)
        }
        Err(error) => {
            println!(
                "==> {}: FAILED, {:.1} s: {error:#}",
                step.name,
                elapsed.as_secs_f64()
            );
            Outcome::Failed(elapsed)
        }
    }
}

fn summarise(outcomes: &[(&str, Outcome)]) {
    println!("\nsummary");
    let mut total = Duration::ZERO;
    for (name, outcome) in outcomes {
        match outcome {
            Outcome::Passed(time) | Outcome::Failed(time) => {
                let word = if matches!(outcome, Outcome::Passed(_)) {
                    "ok"
                } else {
                    "FAILED"
                };
                println!("  {name:12}{word:8}{:8.1} s", time.as_secs_f64());
                total += *time;
            }
            Outcome::NotRun(why) => println!("  {name:12}{why}"),
        }
    }
    println!("  {:12}{:8}{:8.1} s", "all", "", total.as_secs_f64());
}

fn finish(outcomes: &[(&str, Outcome)], failed: Option<&str>) -> Result<ExitCode> {
    if let Some(name) = failed {
        println!("ci: step {name} failed");
        return Ok(ExitCode::FAILURE);
    }
    let not_run: Vec<&str> = outcomes
        .iter()
        .filter(|(_, outcome)| matches!(outcome, Outcome::NotRun(_)))
        .map(|(name, _)| *name)
        .collect();
    if not_run.is_empty() {
        println!("ci: ok");
        return Ok(ExitCode::SUCCESS);
    }
    let list = not_run.join(",");
    println!(
        "ci: incomplete: {list} needs root; run it as root, or leave it out with --skip {list}"
    );
    Ok(ExitCode::FAILURE)
}

fn generate() -> Result<()> {
    let workspace = Workspace::load()?;
    let directory = workspace.target.join("generated");
    man::generate(&workspace.program("release", "cryopod"), &directory)
        .with_context(|| format!("cannot generate {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[track_caller]
    fn check(only: &[&str], skip: &[&str], expected: &[&str]) {
        let owned = |list: &[&str]| -> Vec<String> { list.iter().map(|&s| s.to_owned()).collect() };
        let names: Vec<&str> = choose(&owned(only), &owned(skip))
            .unwrap()
            .iter()
            .map(|step| step.name)
            .collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn steps_can_be_chosen() {
        check(&["e2e", "fmt"], &[], &["fmt", "e2e"]);
        check(&["fmt", "tidy"], &["fmt"], &["tidy"]);
        assert!(choose(&["nope".to_owned()], &[]).is_err());
    }
}
