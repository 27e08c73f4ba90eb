//! `cryopod track` and `cryopod untrack`.

use std::process::ExitCode;

use cryopod::Target;
use serde_json::json;

use super::Context;
use crate::failure::Failure;

/// Starts a tracker, unless there is one.
pub(crate) fn begin(context: &Context, target: &Target) -> Result<ExitCode, Failure> {
    let tracked = cryopod::track(target)?;
    context
        .output
        .print(&tracked, || tracked.tracker_pid.to_string());
    context.output.note(match tracked.base {
        Some(_) => "the next checkpoint can be incremental",
        None => "the next checkpoint stores everything, later ones can be incremental",
    });
    Ok(ExitCode::SUCCESS)
}

/// Ends a tracker, if there is one.
pub(crate) fn end(context: &Context, target: &Target) -> Result<ExitCode, Failure> {
    let was_tracked = cryopod::untrack(target)?;
    context
        .output
        .print(&json!({ "was_tracked": was_tracked }), String::new);
    if !was_tracked {
        context.output.note("nothing followed what it writes to");
    }
    Ok(ExitCode::SUCCESS)
}
