//! Logs, to standard error: a line each, with the ids of the call that it is about.

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

/// These tell of every client that misbehaves, as often as it does; this program says it itself, and seldom.
const TALKATIVE: &str = "h2=error,rustls=error";

/// Sets up the log of this process. `filter` is a level, or targets with levels.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let refused = |reason| LogError::Filter { filter: filter.to_owned(), reason };
    // A word alone is a level: any other would be a target that nothing has, and turn everything else off.
    let mut words = filter.split(',').map(str::trim).filter(|part| !part.is_empty() && !part.contains(['=', '[', ':']));
    if let Some(word) = words.find(|word| word.parse::<LevelFilter>().is_err()) {
        return Err(refused(format!("{word:?} is no level")));
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
            // Said twice: a line is written to memory first, which is no terminal.
            let format = Format::default().with_ansi(colors);
            Box::new(builder.with_ansi(colors).event_format(WithIds { format, end: "\n", write: for_people }).finish())
        }
        LogFormat::Json => {
            let format = Format::default().json();
            Box::new(builder.json().event_format(WithIds { format, end: "}\n", write: for_programs }).finish())
        }
    }
}

/// Lines of another format, and before their end the ids of the call that they are about.
///
/// A span of `tracing` would do the same, but it is written down for each call, whether or not anything is logged.
struct WithIds<F> {
    format: F,
    /// What each line of the format ends with.
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
    // A caller's id may have quotes and backslashes.
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

    /// What is logged outside of a call, and inside of one that is called `request_id`.
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
    fn programs_read_the_ids_of_the_call_that_a_line_is_about() {
        let [outside, inside] = logged(LogFormat::Json, r#"a"b\c"#)
            .map(|line| serde_json::from_str::<serde_json::Value>(&line).expect("JSON"));
        assert_eq!((outside.get("request_id"), outside.get("trace_id")), (None, None));
        assert_eq!(inside["request_id"], r#"a"b\c"#);
        assert_eq!(inside["trace_id"], "00000000000000000000000000000abc");
        assert_eq!((&inside["fields"]["rows"], &inside["level"]), (&serde_json::json!(4), &serde_json::json!("WARN")));
    }

    #[test]
    fn people_do_too() {
        let [outside, inside] = logged(LogFormat::Human, "abc");
        assert!(outside.ends_with("outside rows=3"), "{outside}");
        let end = "inside rows=4 request_id=abc trace_id=00000000000000000000000000000abc";
        assert!(inside.ends_with(end), "{inside}");
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for filter in ["warning", "verbose", "info,fatal", "halfhitch"] {
            let error = init(LogFormat::Human, filter).expect_err(filter).to_string();
            assert!(error.contains("is no level") && error.contains("\"info\""), "{error}");
        }
    }
}
