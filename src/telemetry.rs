//! Logs: JSON for machines, text for people. Secrets have no `Display` and no `Debug` that shows
//! them, so none can get here.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// JSON if standard error is not a terminal.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// Text.
    Text,
}

/// Begins to log to standard error, at the level of `RUST_LOG` (default `info`).
pub fn init(format: LogFormat) {
    use std::io::IsTerminal;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        // They log every error that we log too, with our object's name, once more.
        EnvFilter::new("info,kube_runtime=off,kube_client=off")
    });
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(SystemTime)
        .with_writer(std::io::stderr);
    if json {
        logs.json().flatten_event(true).with_target(false).init();
    } else {
        logs.with_target(false).init();
    }
}
