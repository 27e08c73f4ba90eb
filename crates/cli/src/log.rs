//! Events on standard error, for whoever asked.

use tracing_subscriber::EnvFilter;

use crate::args::Global;
use crate::failure::Failure;

/// Starts logging as the options say: warnings by default.
pub(crate) fn start(options: &Global) -> Result<(), Failure> {
    let level = match (&options.log_level, options.verbose) {
        (Some(level), _) => level.as_str(),
        (None, 0) => "warn",
        (None, 1) => "info",
        (None, 2) => "debug",
        (None, _) => "trace",
    };
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|source| Failure::LogLevel {
            level: level.to_owned(),
            source,
        })?;
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .with_target(false)
        .without_time()
        .init();
    Ok(())
}
