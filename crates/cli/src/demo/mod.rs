//! placeholder
use crate::commands::Context;
use crate::failure::Failure;
use std::ffi::OsString;
use std::process::ExitCode;
/// The hidden first argument of a worker.
pub(crate) const WORKER: &str = "__demo-worker";
pub(crate) fn worker(_arguments: &[OsString]) -> ExitCode {
    ExitCode::FAILURE
}
pub(crate) fn run(_context: &Context, _memory_bytes: u64) -> Result<ExitCode, Failure> {
    Err(Failure::NeedsRoot {
        what: "the demonstration",
    })
}
