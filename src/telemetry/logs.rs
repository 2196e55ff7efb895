//! Logs to standard error: one line per event, with the ids of the current call.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};

use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt as subscriber};

use super::call;

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Human,
    /// One JSON object per line, for programs.
    Json,
}

/// Why logging cannot be initialized.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log filter is invalid.
    #[error(
        "log filter {filter:?} is not understood: {reason}; expected for example \"info\" or \"halfhitch=debug,warn\""
    )]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with the filter.
        reason: String,
    },
    /// This process has a global logger already.
    #[error("logging is already initialized")]
    Twice,
}

/// Filters for libraries that log every misbehaving client without a rate limit. This program logs such clients itself,
/// at most once a minute per kind.
const TALKATIVE: &str = "h2=error,rustls=error";

/// Initializes logging for this process. `filter` is a level, or targets with levels.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let refused = |reason| LogError::Filter { filter: filter.to_owned(), reason };
    // A single word must be a level: `EnvFilter` would take any other word as a target, which turns all other logs off.
    let mut words = filter.split(',').map(str::trim).filter(|part| !part.is_empty() && !part.contains(['=', '[', ':']));
    if let Some(word) = words.find(|word| word.parse::<LevelFilter>().is_err()) {
        return Err(refused(format!("{word:?} is not a log level")));
    }
    let filter = EnvFilter::try_new(format!("{TALKATIVE},{filter}")).map_err(|error| refused(error.to_string()))?;
    let log = log(format, filter, io::stderr, io::stderr().is_terminal());
    log.try_init().map_err(|_| LogError::Twice)
}

fn log<W>(format: LogFormat, filter: EnvFilter, writer: W, colors: bool) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Human => {
            // `with_ansi` is set on both: the inner format writes to memory, so it cannot detect the terminal.
            let format = Format::default().with_ansi(colors);
            Box::new(builder.with_ansi(colors).event_format(WithIds { format, end: "\n", write: for_people }).finish())
        }
        LogFormat::Json => {
            let format = Format::default().json();
            Box::new(builder.json().event_format(WithIds { format, end: "}\n", write: for_programs }).finish())
        }
    }
}

/// Wraps another format and adds the ids of the current call at the end of each line.
///
/// A `tracing` span would do the same, but costs work for every call, whether or not anything is logged.
struct WithIds<F> {
    format: F,
    /// The end of each line of the inner format; the ids go before it.
    end: &'static str,
    write: fn(&call::CallIds, &mut String) -> fmt::Result,
}

impl<S, N, F> FormatEvent<S, N> for WithIds<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(ids) = call::current() else { return self.format.format_event(context, writer, event) };
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        if line.ends_with(self.end) {
            line.truncate(line.len() - self.end.len());
            (self.write)(&ids, &mut line)?;
            line.push_str(self.end);
        }
        writer.write_str(&line)
    }
}

fn for_people(ids: &call::CallIds, line: &mut String) -> fmt::Result {
    write!(line, " request_id={}", ids.request_id.as_str())?;
    ids.trace_id.map_or(Ok(()), |trace_id| write!(line, " trace_id={trace_id}"))
}

fn for_programs(ids: &call::CallIds, line: &mut String) -> fmt::Result {
    // A caller's id may contain quotes and backslashes.
    let request_id = serde_json::Value::from(ids.request_id.as_str());
    write!(line, ",\"request_id\":{request_id}")?;
    ids.trace_id.map_or(Ok(()), |trace_id| write!(line, ",\"trace_id\":\"{trace_id}\""))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::TraceId;

    use super::*;
    use crate::telemetry::call::{CallIds, Entered, RequestId};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines logged outside of a call, and inside a call with the id `request_id`.
    fn logged(format: LogFormat, request_id: &str) -> [String; 2] {
        let lines = Lines::default();
        let written = lines.clone();
        let log = log(format, EnvFilter::new("info"), move || written.clone(), false);
        tracing::subscriber::with_default(log, || {
            tracing::info!(rows = 3, "outside");
            let request_id = RequestId::parse(request_id.as_bytes()).expect("good");
            let mut ids = Some(Arc::new(CallIds::new(request_id, Some(TraceId::from(0xabc_u128)))));
            let _entered = Entered::new(&mut ids);
            tracing::warn!(rows = 4, "inside");
            tracing::debug!("not wanted");
        });
        let text = String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("text");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.try_into().expect("two lines")
    }

    #[test]
    fn json_lines_contain_the_ids_of_the_call() {
        let [outside, inside] = logged(LogFormat::Json, r#"a"b\c"#)
            .map(|line| serde_json::from_str::<serde_json::Value>(&line).expect("JSON"));
        assert_eq!((outside.get("request_id"), outside.get("trace_id")), (None, None));
        assert_eq!(inside["request_id"], r#"a"b\c"#);
        assert_eq!(inside["trace_id"], "00000000000000000000000000000abc");
        assert_eq!((&inside["fields"]["rows"], &inside["level"]), (&serde_json::json!(4), &serde_json::json!("WARN")));
    }

    #[test]
    fn human_lines_contain_the_ids_of_the_call() {
        let [outside, inside] = logged(LogFormat::Human, "abc");
        assert!(outside.ends_with("outside rows=3"), "{outside}");
        let end = "inside rows=4 request_id=abc trace_id=00000000000000000000000000000abc";
        assert!(inside.ends_with(end), "{inside}");
    }

    #[test]
    fn unknown_log_levels_are_rejected() {
        for filter in ["warning", "verbose", "info,fatal", "halfhitch"] {
            let error = init(LogFormat::Human, filter).expect_err(filter).to_string();
            assert!(error.contains("is not a log level") && error.contains("\"info\""), "{error}");
        }
    }
}
