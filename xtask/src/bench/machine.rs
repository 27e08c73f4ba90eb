//! The machine and the programs that results are from.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::command;

/// What has a bearing on the numbers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// How many of them.
    pub processors: usize,
    /// Memory.
    pub memory_mib: u64,
    /// Linux version, without what distributions append.
    pub kernel: String,
    /// Setting of transparent huge pages.
    pub huge_pages: String,
    /// File systems by place.
    pub file_systems: Vec<(String, String)>,
    /// What `cryopod --version` says.
    pub cryopod: String,
    /// What `criu --version` says.
    pub criu: String,
}

impl Machine {
    /// Describes this machine.
    pub fn describe(plan: &Plan, cryopod: &Path) -> Result<Machine> {
        let mut file_systems = Vec::new();
        for place in &plan.places {
            let mut stat = Command::new("stat");
            stat.args(["-f", "-c", "%T"]).arg(place.directory());
            file_systems.push((place.to_string(), first_line(&mut stat)?));
        }
        let processors = std::thread::available_parallelism();
        Ok(Machine {
            processor: value_of(&read("/proc/cpuinfo")?, "model name").unwrap_or_default(),
            processors: processors.context("cannot tell the processors")?.get(),
            memory_mib: memory_mib(&read("/proc/meminfo")?),
            kernel: version_of(&read("/proc/sys/kernel/osrelease")?),
            huge_pages: fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
                .ok()
                .and_then(|text| chosen(&text))
                .unwrap_or_else(|| "not available".to_owned()),
            file_systems,
            cryopod: first_line(Command::new(cryopod).arg("--version"))?,
            criu: first_line(Command::new("criu").arg("--version"))?,
        })
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

fn first_line(command: &mut Command) -> Result<String> {
    Ok(command::stdout(command)?
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// The value of the first line `NAME : VALUE`.
fn value_of(text: &str, name: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
}

fn memory_mib(meminfo: &str) -> u64 {
    value_of(meminfo, "MemTotal")
        .and_then(|value| value.split(' ').next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024)
}

/// `6.1.0-rc3-foo` is 6.1.0 to whoever compares.
fn version_of(release: &str) -> String {
    release
        .trim()
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect()
}

/// The word in brackets of `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    Some(word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_read() {
        assert_eq!(version_of("6.1.0-rc3-foo\n"), "6.1.0");
        assert_eq!(
            chosen("always [madvise] never\n").as_deref(),
            Some("madvise")
        );
        assert_eq!(chosen("none"), None);
        assert_eq!(memory_mib("MemTotal:        2048 kB\nMemFree: 1 kB\n"), 2);
        let cpuinfo = "processor\t: 0\nmodel name\t: A B\n";
        assert_eq!(value_of(cpuinfo, "model name").as_deref(), Some("A B"));
    }
}
