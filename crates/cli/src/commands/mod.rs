//! One module per command.

pub(crate) mod checkpoint;
mod doctor;
mod generate;
mod inspect;
mod ls;
mod restore;
mod rm;
pub(crate) mod run;
mod track;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use cryopod::Store;

use crate::args::Args;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::progress::Bars;
use crate::request::{self, Request};
use crate::{criu, demo, log};

/// What every command gets.
#[derive(Debug)]
pub(crate) struct Context {
    /// The store's directory.
    pub(crate) store_dir: PathBuf,
    /// How to print.
    pub(crate) output: Output,
}

impl Context {
    /// Opens the store.
    pub(crate) fn store(&self) -> Result<Store, Failure> {
        Ok(Store::open(&self.store_dir).map_err(cryopod::Error::from)?)
    }

    /// Progress bars, where somebody can see them.
    pub(crate) fn bars(&self) -> Bars {
        Bars::new(!self.output.json && std::io::stderr().is_terminal())
    }
}

/// Runs one command line.
pub(crate) fn main(program: OsString, arguments: Vec<OsString>) -> ExitCode {
    let wants_json = arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument == "--json");
    let args = match Args::try_parse_from(std::iter::once(program).chain(arguments)) {
        Ok(args) => args,
        Err(error) => return usage(&error, wants_json),
    };
    let json = args.global.json;
    let outcome = log::start(&args.global)
        .and_then(|()| request::understand(args.command))
        .and_then(|request| {
            run(
                request,
                &Context {
                    store_dir: args.global.store,
                    output: Output { json },
                },
            )
        });
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            failure.report(json);
            failure.exit_code()
        }
    }
}

fn run(request: Request, context: &Context) -> Result<ExitCode, Failure> {
    match request {
        Request::Checkpoint { target, options } => checkpoint::run(context, &target, &options),
        Request::Restore(restore) => restore::run(context, &restore),
        Request::List { label } => ls::run(context, label.as_ref()),
        Request::Inspect {
            reference,
            descriptors,
        } => inspect::run(context, &reference, descriptors),
        Request::Remove { references, merge } => rm::run(context, &references, merge),
        Request::Track { target } => track::begin(context, &target),
        Request::Untrack { target } => track::end(context, &target),
        Request::Doctor => doctor::run(context),
        Request::Run { command, parent } => run::run(context, &command, &parent),
        Request::Criu { arguments } => Ok(criu::main(arguments)),
        Request::Demo { memory_bytes } => demo::run(context, memory_bytes),
        Request::Generate { dir } => generate::run(&dir),
    }
}

/// A command line that clap refuses, or that asks for help.
fn usage(error: &clap::Error, json: bool) -> ExitCode {
    /// What clap exits with itself.
    const USAGE: u8 = 2;
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if json {
        let text = error.to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text);
        output::document(&serde_json::json!({
            "error": {
                "kind": "usage",
                "message": message.lines().next().unwrap_or_default(),
                "causes": [],
                "hint": "see `cryopod --help`",
                "unsupported": [],
            }
        }));
    } else {
        let _ = error.print();
    }
    ExitCode::from(USAGE)
}
