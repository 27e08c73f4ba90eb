//! Never-arrows: who may depend on whom.
//!
//! The table below is ARCHITECTURE.md's list of dependencies that must not come to be. It is checked over the declared
//! dependencies of every kind, because a dev-dependency is enough to make two crates grow together.

use std::fs;

use anyhow::{Context, Result};

use super::Finding;
use crate::workspace::{Package, Workspace};

/// The only package with `unsafe`, and so with lints of its own.
const UNSAFE: &str = "cryopod-sys";

/// What a package may depend on of ours.
enum Ours {
    /// These packages and no others.
    Only(&'static [&'static str]),
    /// Any library.
    Libraries,
}

/// Programs, which nothing depends on.
const PROGRAMS: &[&str] = &["cryopod-cli", "cryopod-e2e", "xtask"];

/// The only packages that may use an asynchronous runtime.
const ASYNCHRONOUS: &[&str] = &["cryopod-runtime"];

/// Dependencies that bring an asynchronous runtime.
const RUNTIMES: &[&str] = &["tokio", "tonic", "async-std", "smol"];

/// Dependencies that are for talking to a terminal.
const TERMINAL: &[&str] = &[
    "clap",
    "anyhow",
    "indicatif",
    "comfy-table",
    "tracing-subscriber",
];

fn allowed(package: &str) -> Ours {
    match package {
        // They know bytes, formats and system calls, and nothing of each other.
        "cryopod-sys" | "cryopod-image" | "cryopod-store" | "xtask" => Ours::Only(&[]),
        // Engine and runtime do not know each other: they meet in `cryopod`.
        "cryopod-engine" => Ours::Only(&["cryopod-sys", "cryopod-image"]),
        "cryopod-runtime" => Ours::Only(&["cryopod-sys"]),
        "cryopod" => Ours::Only(&[
            "cryopod-sys",
            "cryopod-image",
            "cryopod-engine",
            "cryopod-store",
            "cryopod-runtime",
        ]),
        _ => Ours::Libraries,
    }
}

/// Checks the manifests of the workspace.
pub fn check(workspace: &Workspace) -> Result<Vec<Finding>> {
    let names: Vec<&str> = workspace.packages.iter().map(|p| p.name.as_str()).collect();
    let mut findings = Vec::new();
    for package in &workspace.packages {
        let text = fs::read_to_string(&package.manifest_path)
            .with_context(|| format!("cannot read {}", package.manifest_path.display()))?;
        let path = workspace.relative(&package.manifest_path);
        let manifest = Manifest { path, text };
        findings.extend(dependencies(package, &names, &manifest));
        if !manifest.has_lints(package.name == UNSAFE) {
            findings.push(manifest.finding(0, "lacks `[lints] workspace = true`".to_owned()));
        }
    }
    Ok(findings)
}

fn dependencies(package: &Package, ours: &[&str], manifest: &Manifest) -> Vec<Finding> {
    let mut findings = Vec::new();
    for dependency in &package.dependencies {
        let name = dependency.name.as_str();
        let broken = if ours.contains(&name) || name.starts_with("cryopod") {
            broken_arrow(&package.name, name)
        } else {
            broken_import(&package.name, name, dependency.kind.as_deref())
        };
        if let Some(rule) = broken {
            findings.push(manifest.finding(manifest.line_of(name), rule));
        }
    }
    findings
}

/// The rule that an arrow between two packages of ours breaks.
fn broken_arrow(from: &str, to: &str) -> Option<String> {
    if PROGRAMS.contains(&to) {
        return Some(format!(
            "{to} is a program: nothing depends on it, {from} neither"
        ));
    }
    match allowed(from) {
        Ours::Only(list) if list.contains(&to) => None,
        Ours::Only([]) => Some(format!(
            "{from} depends on nothing of ours, but it names {to}"
        )),
        Ours::Only(list) => Some(format!(
            "{from} may depend on {} only, but it names {to}",
            list.join(", ")
        )),
        Ours::Libraries => None,
    }
}

/// The rule that a dependency on somebody else's package breaks.
fn broken_import(from: &str, to: &str, kind: Option<&str>) -> Option<String> {
    if RUNTIMES.contains(&to) && !ASYNCHRONOUS.contains(&from) {
        return Some(format!(
            "only {} may use {to}: everything else is synchronous",
            ASYNCHRONOUS.join(", ")
        ));
    }
    let library = !PROGRAMS.contains(&from);
    if library && kind.is_none() && TERMINAL.contains(&to) {
        return Some(format!(
            "{to} is for programs: a library returns values and typed errors and emits tracing events"
        ));
    }
    None
}

/// A Cargo.toml as text, to find lines in.
struct Manifest {
    path: String,
    text: String,
}

impl Manifest {
    fn finding(&self, line: usize, rule: String) -> Finding {
        Finding {
            path: self.path.clone(),
            line,
            rule,
        }
    }

    /// The line on which a dependency's name begins, or 0.
    fn line_of(&self, dependency: &str) -> usize {
        let begins = |line: &str| {
            line.trim_start()
                .strip_prefix(dependency)
                .is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
        };
        self.text
            .lines()
            .position(begins)
            .map_or(0, |index| index + 1)
    }

    /// Whether the workspace's lints hold; `own` when the package may have its own instead.
    fn has_lints(&self, own: bool) -> bool {
        let mut lines = self.text.lines().map(str::trim);
        if own {
            return lines.any(|line| line == "[lints.rust]");
        }
        lines.any(|line| line == "[lints]") && lines.next() == Some("workspace = true")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn check(package: &str, dependency: &str, kind: Option<&str>) -> Vec<String> {
        let manifest = Manifest {
            path: "crates/x/Cargo.toml".to_owned(),
            text: format!("[dependencies]\n{dependency}.workspace = true\n"),
        };
        let package = Package {
            name: package.to_owned(),
            manifest_path: "/checkout/crates/x/Cargo.toml".into(),
            dependencies: vec![Dependency {
                name: dependency.to_owned(),
                kind: kind.map(str::to_owned),
            }],
        };
        let ours = ["cryopod-sys", "cryopod-engine", "cryopod", "xtask"];
        dependencies(&package, &ours, &manifest)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn arrows_that_must_not_be() {
        for (from, to, kind) in [
            ("cryopod-sys", "cryopod-image", None),
            ("cryopod-image", "cryopod-sys", None),
            ("cryopod-image", "cryopod-store", Some("dev")),
            ("cryopod-store", "cryopod-image", None),
            ("cryopod-engine", "cryopod-runtime", None),
            ("cryopod-runtime", "cryopod-engine", None),
            ("cryopod-engine", "cryopod-store", None),
            ("cryopod", "cryopod-cli", None),
            ("cryopod-e2e", "xtask", None),
            ("cryopod-engine", "tokio", None),
            ("cryopod-cli", "tokio", None),
            ("cryopod", "anyhow", None),
            ("cryopod-store", "clap", None),
        ] {
            let findings = check(from, to, kind);
            assert_eq!(findings.len(), 1, "{from} -> {to}");
            assert!(
                findings[0].starts_with("crates/x/Cargo.toml:2: "),
                "{findings:?}"
            );
        }
    }

    #[test]
    fn arrows_that_may_be() {
        for (from, to, kind) in [
            ("cryopod-engine", "cryopod-sys", None),
            ("cryopod-engine", "cryopod-image", None),
            ("cryopod", "cryopod-store", None),
            ("cryopod-cli", "cryopod", None),
            ("cryopod-runtime", "tokio", None),
            ("cryopod-cli", "anyhow", None),
            ("cryopod-store", "anyhow", Some("dev")),
            ("cryopod-store", "serde", None),
        ] {
            assert_eq!(
                check(from, to, kind),
                Vec::<String>::new(),
                "{from} -> {to}"
            );
        }
    }

    #[test]
    fn lints_have_to_be_inherited() {
        let manifest = |text: &str| Manifest {
            path: String::new(),
            text: text.to_owned(),
        };
        let own = "[lints.rust]\nunsafe_code = \"allow\"\n";
        assert!(manifest("[lints]\nworkspace = true\n").has_lints(false));
        assert!(!manifest(own).has_lints(false));
        assert!(manifest(own).has_lints(true));
        assert!(!manifest("[package]\n").has_lints(false));
    }
}
