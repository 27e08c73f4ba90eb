//! Events on standard error, for whoever asked.

use tracing_subscriber::EnvFilter;

use crate::args::Global;
use crate::failure::Failure;

/// Starts logging as the options say: warnings by default.
pub(crate) fn start(options: &Global) -> Result<(), Failure> {
    let level = match (options.verbose, &options.log_level) {
        (0, Some(level)) => level.as_str(),
        (0, None) => "warn",
        (1, _) => "info",
        (2, _) => "debug",
        _ => "trace",
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
