//! criu's log files: one line per event, each with the time since the start.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::Error;
use super::parse::Settings;

/// Whether what is logged can be seen on standard error.
static ON_STDERR: AtomicBool = AtomicBool::new(false);

/// Whether the log is on standard error.
pub(super) fn is_on_stderr() -> bool {
    ON_STDERR.load(Ordering::Relaxed)
}

/// Starts the log: in the file that was asked for, on standard error otherwise.
pub(super) fn start(settings: &Settings) -> Result<(), Error> {
    let level = match settings.verbosity {
        0 => LevelFilter::OFF,
        1 => LevelFilter::ERROR,
        2 => LevelFilter::WARN,
        3 => LevelFilter::INFO,
        4 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let format = Lines {
        start: Instant::now(),
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .event_format(format);
    match settings.log_file() {
        Some(path) => {
            let file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(&path);
            let file = file.map_err(|source| Error::File {
                operation: "open the log file",
                path: path.display().to_string(),
                source,
            })?;
            builder.with_writer(Mutex::new(file)).init();
        }
        None => {
            ON_STDERR.store(settings.verbosity > 0, Ordering::Relaxed);
            builder.with_writer(std::io::stderr).init();
        }
    }
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    tracing::info!(
        "Version: {} (cryopod {})",
        super::CRIU_VERSION,
        env!("CARGO_PKG_VERSION")
    );
    tracing::info!("Running on Linux {}", kernel.trim_end());
    Ok(())
}

/// `(00.012345) Error (cryopod_engine::freeze): ...`
struct Lines {
    start: Instant,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let elapsed = self.start.elapsed();
        write!(
            writer,
            "({:02}.{:06}) ",
            elapsed.as_secs(),
            elapsed.subsec_micros()
        )?;
        let meta = event.metadata();
        match *meta.level() {
            Level::ERROR => write!(writer, "Error ({}): ", meta.target())?,
            Level::WARN => write!(writer, "Warn  ({}): ", meta.target())?,
            _ => {}
        }
        context
            .field_format()
            .format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
