//! What is measured, and in which order.

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// This project.
    Cryopod,
    /// The peer.
    Criu,
}

/// What is compared with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pair {
    /// `cryopod criu dump` and `criu dump`: the same command line, neither syncs
    DropIn,
    /// `cryopod checkpoint --stop`, which is on disk when it returns, and `criu dump` followed by a sync of the file system
    Stop,
    /// `cryopod checkpoint`, after which the process goes on, and `criu dump --leave-running` followed by a sync
    Live,
    /// The same by criu's command line, where cryopod stands still like criu; neither syncs
    LiveDropIn,
    /// Like `stop`, restored by `cryopod restore --lazy` and `criu restore`, until the process answers
    Lazy,
}

impl Pair {
    /// Whether the process goes on after its checkpoint.
    pub fn leaves_running(self) -> bool {
        matches!(self, Pair::Live | Pair::LiveDropIn)
    }

    /// Whether both sides are used by criu's command line.
    pub fn is_drop_in(self) -> bool {
        matches!(self, Pair::DropIn | Pair::LiveDropIn)
    }
}

/// What the process does, or the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// One process that holds memory
    Plain,
    /// Eight processes, half of whose memory is shared copy-on-write
    Tree,
    /// One process that writes to 1% of its memory every second
    Dirty1,
    /// One process that writes to 10% of its memory every second
    Dirty10,
    /// Redis with half as much data, and clients that keep it busy
    Redis,
}

impl Load {
    /// The largest size that it is measured with; smaller ones are for trying the benchmark out.
    fn largest_mib(self) -> u64 {
        match self {
            Load::Plain => u64::MAX,
            Load::Tree | Load::Dirty1 | Load::Dirty10 => 2048,
            Load::Redis => 1024,
        }
    }

    /// What about it is worth a comparison.
    fn wants(self, pair: Pair) -> bool {
        match self {
            Load::Plain | Load::Tree => true,
            Load::Dirty1 | Load::Dirty10 | Load::Redis => {
                matches!(pair, Pair::Live | Pair::LiveDropIn)
            }
        }
    }
}

/// Where the images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The file system that the testbed lies on
    Disk,
    /// Memory
    Tmpfs,
}

/// All that is to be measured.
pub struct Plan {
    /// Sizes of the process's memory.
    pub sizes_mib: Vec<u64>,
    /// What the processes do.
    pub loads: Vec<Load>,
    /// How often each side runs per case.
    pub rounds: u32,
    /// Where the images go.
    pub places: Vec<Place>,
    /// What is compared.
    pub pairs: Vec<Pair>,
}

/// What both sides are put through alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Case {
    /// What is compared.
    pub pair: Pair,
    /// Where the images go.
    pub place: Place,
    /// What the process does.
    pub load: Load,
    /// Size of the process's memory.
    pub size_mib: u64,
}

/// One checkpoint and restore by one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// What for.
    pub case: Case,
    /// Counted from 0.
    pub round: u32,
    /// By whom.
    pub side: Side,
}

impl Plan {
    /// One small run by each side whose times do not count: the first one after a boot probes the kernel.
    pub fn warm_up(&self) -> Vec<Run> {
        let small = Plan {
            sizes_mib: vec![1],
            loads: vec![Load::Plain],
            rounds: 1,
            places: vec![Place::Tmpfs],
            pairs: self.pairs.clone(),
        };
        small.runs()
    }

    /// The runs in their order: the sides take turns, and who is first changes from round to round.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        for case in self.cases() {
            for round in 0..self.rounds {
                let mut sides = [Side::Cryopod, Side::Criu];
                if round % 2 == 1 {
                    sides.reverse();
                }
                runs.extend(sides.map(|side| Run { case, round, side }));
            }
        }
        runs
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for &load in &self.loads {
            for size_mib in self.sizes_of(load) {
                for &place in &self.places {
                    let pairs = self.pairs.iter().filter(|&&pair| load.wants(pair));
                    cases.extend(pairs.map(|&pair| Case {
                        pair,
                        place,
                        load,
                        size_mib,
                    }));
                }
            }
        }
        cases
    }

    /// All sizes for a plain process; one for the others.
    fn sizes_of(&self, load: Load) -> Vec<u64> {
        let largest = self.sizes_mib.iter().copied().max().unwrap_or(0);
        match load {
            Load::Plain => self.sizes_mib.clone(),
            _ => vec![largest.min(load.largest_mib())],
        }
    }
}

impl Place {
    /// The directory inside the testbed under which each run makes its own: `/tmp` there is a tmpfs, the rest is the
    /// testbed's disk.
    pub fn directory(self) -> PathBuf {
        match self {
            Place::Disk => "/var/tmp".into(),
            Place::Tmpfs => "/tmp".into(),
        }
    }
}

/// The name as it is typed.
fn value_name(value: &impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&value_name(self))
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&value_name(self))
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&value_name(self))
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Cryopod => "cryopod",
            Side::Criu => "criu",
        })
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case {
            pair,
            place,
            load,
            size_mib,
        } = self.case;
        let round = self.round + 1;
        write!(
            f,
            "{load}, {size_mib} MiB, {place}, {pair}, round {round}, {}",
            self.side
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_take_turns() {
        let plan = Plan {
            sizes_mib: vec![1, 2],
            loads: vec![Load::Plain],
            rounds: 2,
            places: vec![Place::Tmpfs],
            pairs: vec![Pair::Stop],
        };
        let runs: Vec<String> = plan.runs().iter().map(Run::to_string).collect();
        assert_eq!(runs.len(), 8);
        assert_eq!(
            runs[..4],
            [
                "plain, 1 MiB, tmpfs, stop, round 1, cryopod",
                "plain, 1 MiB, tmpfs, stop, round 1, criu",
                "plain, 1 MiB, tmpfs, stop, round 2, criu",
                "plain, 1 MiB, tmpfs, stop, round 2, cryopod",
            ]
        );
    }

    #[test]
    fn loads_have_one_size_and_what_is_worth_it() {
        let plan = Plan {
            sizes_mib: vec![256, 8192],
            loads: vec![Load::Plain, Load::Tree, Load::Redis],
            rounds: 1,
            places: vec![Place::Disk],
            pairs: vec![Pair::Stop, Pair::Live],
        };
        let cases: Vec<(Load, u64, Pair)> = (plan.cases().iter())
            .map(|case| (case.load, case.size_mib, case.pair))
            .collect();
        let expected = [
            (Load::Plain, 256, Pair::Stop),
            (Load::Plain, 256, Pair::Live),
            (Load::Plain, 8192, Pair::Stop),
            (Load::Plain, 8192, Pair::Live),
            (Load::Tree, 2048, Pair::Stop),
            (Load::Tree, 2048, Pair::Live),
            (Load::Redis, 1024, Pair::Live),
        ];
        assert_eq!(cases, expected);
    }
}
