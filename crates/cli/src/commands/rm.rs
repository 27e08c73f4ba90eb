//! `cryopod rm`.

use std::process::ExitCode;

use cryopod::{Ref, Removed};
use serde_json::json;

use super::Context;
use crate::failure::Failure;

pub(crate) fn run(context: &Context, references: &[Ref], merge: bool) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let outcomes: Vec<Result<Removed, cryopod::Error>> = match merge {
        true => references
            .iter()
            .map(|reference| cryopod::remove_merging(&store, reference))
            .collect(),
        false => store
            .remove_all(references)
            .into_iter()
            .map(|outcome| outcome.map_err(cryopod::Error::from))
            .collect(),
    };
    let mut removed = Vec::new();
    let mut failures = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(gone) => removed.push(format!("{}:{}", gone.label, gone.name)),
            Err(error) => failures.push(Failure::from(error)),
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
