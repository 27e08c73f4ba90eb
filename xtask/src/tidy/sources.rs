//! Rules about each Rust file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Finding;
use super::lexer::{Code, begins_word, contains_word};
use crate::workspace::Workspace;

/// More lines than this and a file has a second noun.
const LINES_MAX: usize = 700;

/// Directories that hold no source of ours.
const SKIPPED_DIRECTORIES: &[&str] = &["target", "corpus", "artifacts", "snapshots"];

/// What a rule looks at.
struct File<'a> {
    /// Path relative to the checkout, with `/`.
    path: &'a str,
    source: &'a str,
    code: Code,
}

/// Checks every file; gives their number as well.
pub fn check(workspace: &Workspace) -> Result<(usize, Vec<Finding>)> {
    let mut paths = Vec::new();
    for package in &workspace.packages {
        collect(package.directory(), &mut paths)?;
    }
    // Not a member of the workspace: fuzz targets are built by their own tool.
    let fuzz = workspace.root.join("fuzz");
    if fuzz.is_dir() {
        collect(&fuzz, &mut paths)?;
    }
    paths.sort();
    paths.dedup();
    let mut findings = Vec::new();
    for path in &paths {
        let source =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        findings.extend(check_file(&workspace.relative(path), &source));
    }
    Ok((paths.len(), findings))
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let read = || format!("cannot read {}", directory.display());
    for entry in fs::read_dir(directory).with_context(read)? {
        let entry = entry.with_context(read)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let kind = entry.file_type().with_context(read)?;
        if kind.is_dir() && !name.starts_with('.') && !SKIPPED_DIRECTORIES.contains(&&*name) {
            collect(&entry.path(), paths)?;
        } else if kind.is_file() && name.ends_with(".rs") {
            paths.push(entry.path());
        }
    }
    Ok(())
}

fn check_file(path: &str, source: &str) -> Vec<Finding> {
    let file = File {
        path,
        source,
        code: Code::new(source),
    };
    let mut findings = Vec::new();
    for rule in [length, overview, safety, leftovers, environment, errors] {
        findings.extend(rule(&file).into_iter().map(|(line, rule)| Finding {
            path: path.to_owned(),
            line,
            rule,
        }));
    }
    findings
}

/// Line numbers and broken rules.
type Broken = Vec<(usize, String)>;

fn length(file: &File) -> Broken {
    let lines = file.source.lines().count();
    if lines <= LINES_MAX {
        return Vec::new();
    }
    let rule =
        format!("{lines} lines: a file of more than {LINES_MAX} holds a second noun; split it");
    vec![(0, rule)]
}

fn overview(file: &File) -> Broken {
    let first = file
        .source
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with("#!["));
    if first.is_some_and(|line| line.starts_with("//!")) {
        return Vec::new();
    }
    vec![(1, "a module begins with a `//!` overview".to_owned())]
}

fn safety(file: &File) -> Broken {
    if file.path.starts_with("crates/sys/") {
        return Vec::new();
    }
    lines_with(file.code.lines(), "unsafe", |line| {
        contains_word(line, "unsafe")
    })
    .map(|(line, word)| (line, format!("`{word}` belongs in crates/sys only")))
    .collect()
}

fn leftovers(file: &File) -> Broken {
    ["todo!", "unimplemented!", "dbg!"]
        .into_iter()
        .flat_map(|name| {
            lines_with(file.code.lines(), name, move |line| {
                contains_word(line, &name[..name.len() - 1]) && line.contains(name)
            })
        })
        .map(|(line, name)| (line, format!("`{name}` is not for finished code")))
        .collect()
}

/// What only programs do, as paths begin; `println!` and its kin are left to the compiler's lints.
const FOR_PROGRAMS: &[&str] = &[
    "env::var",
    "env::args",
    "env::set_var",
    "env::current_dir",
    "env::temp_dir",
    "io::stdin",
    "io::stdout",
    "io::stderr",
];

fn environment(file: &File) -> Broken {
    if !is_library(file.path) {
        return Vec::new();
    }
    FOR_PROGRAMS
        .iter()
        .flat_map(|&name| {
            lines_with(file.code.lines_outside_tests(), name, move |line| {
                begins_word(line, name)
            })
        })
        .map(|(line, name)| {
            let rule =
                format!("`{name}` in a library: only programs read the environment and print");
            (line, rule)
        })
        .collect()
}

fn errors(file: &File) -> Broken {
    if !is_library(file.path) {
        return Vec::new();
    }
    let mut broken = Vec::new();
    let mut in_error = false;
    for (number, line) in file.code.lines() {
        if let Some((_, rest)) = line.split_once("enum ") {
            let name = rest.split(|c: char| !c.is_alphanumeric()).next();
            in_error = name.is_some_and(|name| name.ends_with("Error"));
        }
        let lazy = [
            "Other(String)",
            "#[from] io::Error",
            "#[from] std::io::Error",
        ];
        let found = lazy.into_iter().find(|lazy| line.contains(lazy));
        if let Some(name) = found.filter(|_| in_error) {
            let rule = format!("`{name}`: an error variant names the operation and its object");
            broken.push((number, rule));
        }
    }
    broken
}

/// The numbers of lines that `matches`, each with `what` it was looked at for.
fn lines_with<'a>(
    lines: impl Iterator<Item = (usize, &'a str)>,
    what: &'static str,
    matches: impl Fn(&str) -> bool,
) -> impl Iterator<Item = (usize, &'static str)> {
    lines
        .filter(move |(_, line)| matches(line))
        .map(move |(number, _)| (number, what))
}

/// Whether this is a library's own code: not a program, a test, an example, a benchmark, a fuzz target or a build
/// script, nor a module of tests.
fn is_library(path: &str) -> bool {
    let Some((package, rest)) = path
        .strip_prefix("crates/")
        .and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    package != "cli"
        && rest.starts_with("src/")
        && !rest.ends_with("/tests.rs")
        && !rest.contains("/tests/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, source: &str) -> Vec<String> {
        check_file(path, source)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[track_caller]
    fn one(path: &str, source: &str, expected: &str) {
        let findings = check(path, source);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].starts_with(expected), "{findings:?}");
    }

    #[test]
    fn a_tidy_file_has_no_findings() {
        let source =
            "#![deny(x)]\n\n//! Overview.\n// unsafe todo!()\nfn f() { g(\"unsafe std::env\") }\n";
        assert_eq!(
            check("crates/store/src/lib.rs", source),
            Vec::<String>::new()
        );
    }

    #[test]
    fn long_files_are_listed() {
        let lines = |n: usize| format!("//! Overview.\n{}", "// x\n".repeat(n - 1));
        assert!(check("crates/store/src/a.rs", &lines(LINES_MAX)).is_empty());
        one(
            "crates/store/src/a.rs",
            &lines(LINES_MAX + 1),
            "crates/store/src/a.rs: 701 lines",
        );
    }

    #[test]
    fn modules_have_an_overview() {
        one(
            "e2e/src/main.rs",
            "fn main() {}\n",
            "e2e/src/main.rs:1: a module begins",
        );
        one(
            "crates/sys/src/a.rs",
            "/// Not of the module.\nfn f() {}\n",
            "crates/sys/src/a.rs:1: ",
        );
        one("crates/sys/src/a.rs", "", "crates/sys/src/a.rs:1: ");
    }

    #[test]
    fn unsafe_is_for_sys() {
        let source = "//! Overview.\n#[allow(unsafe_code)]\nfn f() { unsafe { g() } }\n";
        one(
            "crates/engine/src/a.rs",
            source,
            "crates/engine/src/a.rs:3: `unsafe`",
        );
        one("xtask/src/a.rs", source, "xtask/src/a.rs:3: `unsafe`");
        assert!(check("crates/sys/src/a.rs", source).is_empty());
    }

    #[test]
    fn leftovers_are_found() {
        one(
            "crates/cli/src/a.rs",
            "//! O.\nfn f() {\n  todo!()\n}\n",
            "crates/cli/src/a.rs:3: `todo!`",
        );
        assert!(check("crates/cli/src/a.rs", "//! O.\nfn todo() {}\n").is_empty());
    }

    #[test]
    fn libraries_do_not_read_the_environment() {
        let source = "//! O.\nconst A: &str = std::env::consts::ARCH; use rustix::stdio::stdin;\n\
                      fn f() { env::var_os(\"X\"); }\n\
                      #[cfg(test)]\nmod tests {\n use std::env::temp_dir;\n}\n";
        one(
            "crates/store/src/a.rs",
            source,
            "crates/store/src/a.rs:3: `env::var`",
        );
        for path in [
            "crates/cli/src/a.rs",
            "crates/store/tests/a.rs",
            "crates/store/build.rs",
            "e2e/src/a.rs",
        ] {
            assert!(check(path, source).is_empty(), "{path}");
        }
    }

    #[test]
    fn errors_name_what_failed() {
        let source = "//! O.\nenum Error {\n Io(#[from] std::io::Error),\n Other(String),\n}\n\
                      enum Kind {\n Other(String),\n}\n";
        assert_eq!(check("crates/store/src/a.rs", source).len(), 2);
    }
}
