//! `cryopod rm`.

use std::process::ExitCode;

use cryopod::Ref;
use serde_json::json;

use super::Context;
use crate::failure::Failure;

pub(crate) fn run(context: &Context, references: &[Ref]) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let mut removed = Vec::new();
    let mut failures = Vec::new();
    for outcome in store.remove_all(references) {
        match outcome {
            Ok(gone) => removed.push(format!("{}:{}", gone.label, gone.name)),
            Err(error) => failures.push(Failure::from(cryopod::Error::from(error))),
        }
    }
    let failed = failures.len();
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else {
        context
            .output
            .print(&json!({ "removed": removed }), || removed.join("\n"));
        return Ok(ExitCode::SUCCESS);
    };
    // One document at most: with --json it is the error, which names the first failure as its cause.
    if !context.output.json {
        context.output.print(&(), || removed.join("\n"));
        for failure in failures {
            failure.report(false);
        }
    }
    Err(if references.len() == 1 {
        first
    } else {
        Failure::Several {
            failed,
            of: references.len(),
            source: Box::new(first),
        }
    })
}
