//! The agent's own log: lines on standard error, as text or JSON.
//!
//! What a task is made of (arguments, environment, request bodies, output) is never logged.

use std::io;

use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Config, LogFormat};

/// Starts logging for the whole process. Fails when something else did so before.
pub fn init(config: &Config) -> Result<(), TryInitError> {
    // The subscriber would use `eprintln!` when standard error is closed, and that panics.
    let lines = tracing_subscriber::fmt::layer()
        .log_internal_errors(false)
        .with_writer(io::stderr);
    match config.log_format {
        LogFormat::Text => install(config, lines.with_ansi(false))?,
        LogFormat::Json => install(config, lines.json().flatten_event(true))?,
    }
    if !config.ignored_flags.is_empty() {
        let flags = config.ignored_flags.join(", ");
        tracing::info!(
            flags,
            "flags without effect: the agent logs to standard error"
        );
    }
    Ok(())
}

fn install<L>(config: &Config, lines: L) -> Result<(), TryInitError>
where
    L: Layer<tracing_subscriber::Registry> + Send + Sync + 'static,
    tracing_subscriber::Registry: for<'span> LookupSpan<'span>,
{
    let filtered = lines.with_filter(config.log_level.targets().clone());
    tracing_subscriber::registry().with(filtered).try_init()
}
