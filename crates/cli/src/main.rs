//! The command `cryopod`.
//!
//! Arguments are read in two steps: [`args`] is what was typed, [`request`] what it means. [`commands`] does it, and
//! [`failure`] tells what went wrong. Called as `criu`, or as `cryopod criu`, it speaks criu's command line ([`criu`]).
//!
//! Nothing here may start a thread before a restore: a restored tree begins as a copy of this process.

mod args;
mod commands;
mod criu;
mod demo;
mod failure;
mod format;
mod log;
mod output;
mod pidfile;
mod progress;
mod request;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    if Path::new(&program).file_name() == Some(OsStr::new("criu")) {
        return criu::main(arguments);
    }
    match arguments.split_first() {
        // Not through clap: criu's options are not ours, and criu's are not read as clap reads options.
        Some((first, rest)) if first == "criu" => criu::main(rest.to_vec()),
        Some((first, rest)) if first == commands::run::STARTER => {
            commands::run::become_command(rest)
        }
        Some((first, rest)) if first == demo::WORKER => demo::worker(rest),
        _ => commands::main(program, arguments),
    }
}
