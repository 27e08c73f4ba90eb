//! What is to be checkpointed: a process, and with it all its descendants.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A process tree, by where it comes from. Containers will be further variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The process with this pid and all its descendants.
    Process(i32),
}

impl FromStr for Target {
    type Err = Error;

    /// Reads `1234` or `pid:1234`.
    fn from_str(value: &str) -> Result<Self> {
        let bad = |problem| Error::BadTarget {
            value: value.to_owned(),
            problem,
        };
        let digits = match value.split_once(':') {
            None => value,
            Some(("pid", digits)) => digits,
            Some((scheme, _)) => {
                return Err(Error::UnknownScheme {
                    value: value.to_owned(),
                    scheme: scheme.to_owned(),
                });
            }
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad("not a process id"));
        }
        match digits.parse() {
            Ok(0) | Err(_) => Err(bad("no process has that id")),
            Ok(pid) => Ok(Self::Process(pid)),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "pid:{pid}"),
        }
    }
}

impl Target {
    /// The pid of the tree's root, after checking that it is one that can be frozen from here.
    pub(crate) fn resolve(self) -> Result<i32> {
        let Self::Process(root) = self;
        let status = match std::fs::read_to_string(format!("/proc/{root}/status")) {
            Ok(status) => status,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(cryopod_engine::Error::NoProcess { pid: root }.into());
            }
            Err(source) => {
                return Err(Error::Path {
                    operation: "read",
                    path: format!("/proc/{root}/status").into(),
                    source,
                });
            }
        };
        if let Some(process) = number(&status, "Tgid:")
            && process != root
        {
            return Err(Error::NotAProcess { pid: root, process });
        }
        let own = rustix::process::getpid().as_raw_nonzero().get();
        if is_below(own, root) {
            return Err(Error::SelfInTree { root });
        }
        Ok(root)
    }
}

/// Whether `pid` is `root` or one of its descendants.
fn is_below(mut pid: i32, root: i32) -> bool {
    // Deeper trees than this do not exist: there are not more pids.
    for _ in 0..4_194_304 {
        if pid == root {
            return true;
        }
        let parent = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .ok()
            .and_then(|status| number(&status, "PPid:"));
        match parent {
            Some(parent) if parent > 0 => pid = parent,
            _ => return false,
        }
    }
    false
}

/// The number behind `key` in a /proc/PID/status, proc_pid_status(5).
fn number(status: &str, key: &str) -> Option<i32> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_pid_is_written_in_two_ways() {
        assert_eq!("1234".parse::<Target>().unwrap(), Target::Process(1234));
        assert_eq!("pid:1234".parse::<Target>().unwrap(), Target::Process(1234));
        assert_eq!(
            "pid:1234".parse::<Target>().unwrap().to_string(),
            "pid:1234"
        );
    }

    #[track_caller]
    fn refused(value: &str, kind: ErrorKind) {
        let error = value.parse::<Target>().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("pid:1234")));
    }

    #[test]
    fn what_is_not_a_pid_is_refused() {
        for bad in [
            "",
            "pid:",
            "0",
            "-1",
            "+1",
            "1.5",
            "web",
            "99999999999",
            " 12",
        ] {
            refused(bad, ErrorKind::InvalidInput);
        }
        refused("docker:web", ErrorKind::Unsupported);
        refused("PID:12", ErrorKind::Unsupported);
    }

    #[test]
    fn a_tree_with_cryopod_in_it_is_refused() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        assert!(matches!(
            Target::Process(own).resolve(),
            Err(Error::SelfInTree { .. })
        ));
        assert!(
            matches!(
                Target::Process(1).resolve(),
                Err(Error::SelfInTree { root: 1 })
            ) || !is_below(own, 1)
        );
    }
}
