//! The rules of the house that the compiler does not check.
//!
//! [`arrows`] looks at who depends on whom, [`sources`] at every Rust file. Each finding names the place and the rule,
//! and all are listed, not just the first.

mod arrows;
mod lexer;
mod sources;

use std::fmt;

use anyhow::Result;

use crate::workspace::Workspace;

/// A place where a rule is broken.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Path relative to the checkout.
    path: String,
    /// Counted from 1; 0 when the whole file is meant.
    line: usize,
    /// The rule, in a sentence.
    rule: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.rule),
            line => write!(f, "{}:{line}: {}", self.path, self.rule),
        }
    }
}

/// Checks everything and prints what it finds; tells whether all is well.
pub fn run() -> Result<bool> {
    let workspace = Workspace::load()?;
    let mut findings = arrows::check(&workspace)?;
    let (files, in_sources) = sources::check(&workspace)?;
    findings.extend(in_sources);
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: {files} files, nothing to say");
        return Ok(true);
    }
    println!("tidy: {} findings in {files} files", findings.len());
    Ok(false)
}
