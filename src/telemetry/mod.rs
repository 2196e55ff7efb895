//! Logs, to standard error. (Metrics come with a later release.)

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line, for programs.
    Json,
}

/// Why logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter.
    #[error(
        "log filter {filter:?} is not understood: {reason}; expected for example \"info\" or \"halfhitch=debug,warn\""
    )]
    Filter {
        /// What came.
        filter: String,
        /// What is wrong.
        reason: String,
    },
    /// Something logs already.
    #[error("logs are set up already")]
    Twice,
}

/// Sets up the log of this process. `filter` is a level, or targets with levels.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), reason: error.to_string() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let set = match format {
        LogFormat::Human => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    set.map_err(|_| LogError::Twice)
}
