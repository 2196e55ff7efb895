//! Logs: to standard error, for people or for programs. (Metrics come with a later release.)

use std::io::IsTerminal;
use std::str::FromStr;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text, coloured on a terminal.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// As it is written in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

impl FromStr for LogFormat {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, TelemetryError> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            other => Err(TelemetryError::Format(other.to_owned())),
        }
    }
}

/// Why logging cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TelemetryError {
    /// Not a [`LogFormat`].
    #[error("log format is {0:?}, expected \"human\" or \"json\"")]
    Format(String),
    /// Not a filter.
    #[error("log filter is {filter:?}, expected levels like \"info\" or \"warn,halfhitch=debug\": {reason}")]
    Filter {
        /// What came.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// [`init`] ran before.
    #[error("logging was started before, it starts once")]
    Started,
}

/// Starts logging to standard error, panics included; once in a process. `filter` is a level, or levels by module:
/// `info`, `warn,halfhitch=debug`.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let colour = std::io::stderr().is_terminal();
    let subscriber = subscriber(format, filter, colour, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Started)?;
    // The standard hook writes several lines of text, which a reader of JSON cannot take.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let location = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(thread = thread.name(), location, message, "panic");
    }));
    Ok(())
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    colour: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let parsed = EnvFilter::try_new(filter)
        .map_err(|error| TelemetryError::Filter { filter: filter.to_owned(), reason: error.to_string() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(writer).with_ansi(colour);
    Ok(match format {
        LogFormat::Human => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, events: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = subscriber(format, filter, false, move || writer.clone()).expect("a filter");
        tracing::subscriber::with_default(subscriber, events);
        let bytes = buffer.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(LogFormat::Json, "info", || {
            tracing::info!(model = "digits", rows = 3, "loaded");
            tracing::error!("line one\nline two");
        });
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["message"], &lines[0]["rows"]), (&"loaded".into(), &3.into()));
    }

    #[test]
    fn the_filter_decides_what_is_written() {
        let text = logged(LogFormat::Human, "warn", || {
            tracing::info!("quiet");
            tracing::warn!("loud");
        });
        assert!(text.contains("loud") && !text.contains("quiet"), "{text:?}");
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let refused = subscriber(LogFormat::Human, "halfhitch=shout", false, io::sink).err().expect("refused");
        assert!(refused.to_string().contains("\"halfhitch=shout\""), "{refused}");
    }

    #[test]
    fn formats_have_names() {
        for format in [LogFormat::Human, LogFormat::Json] {
            assert_eq!(format.name().parse(), Ok(format));
        }
        let refused = "xml".parse::<LogFormat>().expect_err("refused");
        assert_eq!(refused.to_string(), "log format is \"xml\", expected \"human\" or \"json\"");
    }
}
