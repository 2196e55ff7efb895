//! Traces of calls, to an OpenTelemetry collector.
//!
//! Calls wait in a bounded line for a task that sends them on. A collector that is slow or not there costs spans and nothing
//! else.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{timeout, timeout_at};

use super::collector::HttpExporterClient;
pub use super::spans::{BatchTrace, CallTrace, Part, count};
use super::{call, ids};

/// Calls that wait to be exported; further ones are dropped. About 2 KiB each.
const CALLS_WAITING_MAX: usize = 1024;
/// Calls of one export, of up to 7 spans each: well below the 4 MiB that a collector takes at once.
const CALLS_OF_EXPORT_MAX: usize = 256;
/// A call waits this long for others to be exported with.
const GATHERED_FOR: Duration = Duration::from_millis(500);
/// Batches whose span is known to be out: calls of one batch end within moments of each other.
const BATCHES_KNOWN_MAX: usize = 4096;
/// Most traces a second that can be asked for.
pub const TRACES_PER_SECOND_MAX: u32 = 100_000;

/// How traces are sent to a collector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    #[default]
    Grpc,
    /// OTLP over HTTP, in protobuf.
    HttpProtobuf,
}

/// What is traced, and who is told.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesConfig {
    /// URL of the collector, with its path over HTTP; none: nothing is traced.
    pub otlp_endpoint: Option<String>,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// One export, tries and all.
    pub export_timeout: Duration,
    /// What traces say of this service beside its name.
    pub attributes: Vec<(String, String)>,
    /// Share of the calls without a `traceparent` that are, 0 to 1.
    pub trace_ratio: f64,
    /// Calls a second that are, at most, whoever asks for it; 1 to [`TRACES_PER_SECOND_MAX`].
    pub traces_per_second_max: u32,
    /// What this service is called.
    pub service_name: String,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            protocol: Protocol::default(),
            export_timeout: Duration::from_secs(5),
            attributes: Vec::new(),
            trace_ratio: 0.01,
            traces_per_second_max: 100,
            service_name: env!("CARGO_PKG_NAME").to_owned(),
        }
    }
}

/// Why nothing can be traced.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be exported to {endpoint:?}: {reason}")]
pub struct BadTraces {
    /// What is set.
    pub endpoint: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What became of what was to be traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceCounts {
    /// Spans that a collector took.
    pub exported: u64,
    /// Spans that none took: the collector was away, or too slow. (Of a call that found no room: one.)
    pub dropped: u64,
    /// Calls that were to be traced, but for `traces_per_second_max`.
    pub limited: u64,
}

#[derive(Debug, Default)]
struct Counters {
    exported: AtomicU64,
    dropped: AtomicU64,
    limited: AtomicU64,
}

/// Where calls go to be traced. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    ratio: f64,
    rate: Rate,
    calls: mpsc::Sender<Box<CallTrace>>,
    stop: Arc<Notify>,
    counters: Arc<Counters>,
    /// None once it was waited for.
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Traces {
    /// Starts to export, if a collector is named. It need not be there.
    ///
    /// # Errors
    /// If its name is none.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(config: &TracesConfig) -> Result<Self, BadTraces> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(Self(None)) };
        let timeout = config.export_timeout;
        let bad = |error: opentelemetry_otlp::ExporterBuildError| BadTraces {
            endpoint: endpoint.clone(),
            reason: error.to_string(),
        };
        // Headers and compression are what the standard's variables say: the library reads these itself.
        let mut exporter = match config.protocol {
            Protocol::Grpc => OtlpExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .with_timeout(timeout)
                .build()
                .map_err(bad)?,
            Protocol::HttpProtobuf => {
                let unusable = |reason: String| BadTraces { endpoint: endpoint.clone(), reason };
                let client = HttpExporterClient::new(endpoint).map_err(unusable)?;
                let exporter = OtlpExporter::builder().with_http().with_http_client(client);
                let exporter = exporter.with_protocol(opentelemetry_otlp::Protocol::HttpBinary);
                exporter.with_endpoint(endpoint).with_timeout(timeout).build().map_err(bad)?
            }
        };
        let attributes = config.attributes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        let resource = Resource::builder_empty()
            .with_attributes(attributes)
            .with_service_name(config.service_name.clone())
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", call::RequestId::unique().as_str().to_owned()),
            ]);
        exporter.set_resource(&resource.build());
        Ok(Self::over(exporter, config))
    }

    fn over(exporter: impl SpanExporter + 'static, config: &TracesConfig) -> Self {
        let (calls, waiting) = mpsc::channel(CALLS_WAITING_MAX);
        let (stop, counters) = (Arc::new(Notify::new()), Arc::new(Counters::default()));
        let timeout = config.export_timeout;
        let task = tokio::spawn(export(waiting, exporter, timeout, Arc::clone(&stop), Arc::clone(&counters)));
        Self(Some(Arc::new(Inner {
            ratio: config.trace_ratio,
            rate: Rate::new(config.traces_per_second_max),
            calls,
            stop,
            counters,
            task: Mutex::new(Some(task)),
        })))
    }

    /// Whether a call is traced: one whose caller says so, or one of many whose caller says nothing, and either only within
    /// the rate.
    pub fn samples(&self, callers_word: Option<bool>) -> bool {
        let Some(inner) = &self.0 else { return false };
        let wanted = callers_word.unwrap_or_else(|| is_drawn(inner.ratio, ids::unique()));
        if !wanted || inner.rate.admits(Instant::now()) {
            return wanted;
        }
        inner.counters.limited.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Hands a call on, if there is room.
    pub fn record(&self, call: CallTrace) {
        let Some(inner) = &self.0 else { return };
        if inner.calls.try_send(Box::new(call)).is_err() {
            inner.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What became of them.
    pub fn counts(&self) -> TraceCounts {
        let Some(inner) = &self.0 else { return TraceCounts::default() };
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { exported, dropped, limited } = &*inner.counters;
        TraceCounts { exported: of(exported), dropped: of(dropped), limited: of(limited) }
    }

    /// Exports what waits, for `at_most` so long; takes nothing more.
    pub async fn shut_down(&self, at_most: Duration) {
        let Some(inner) = &self.0 else { return };
        inner.stop.notify_one();
        let task = inner.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && timeout(at_most, &mut task).await.is_err()
        {
            task.abort();
            tracing::warn!(waited = ?at_most, "the collector did not take the last traces in time");
        }
    }
}

/// Whether a number, one of all of 64 bits, is among that share of them.
fn is_drawn(ratio: f64, number: u64) -> bool {
    (number as f64) < ratio * 2_f64.powi(64) || ratio >= 1.0
}

/// So many a second, and after a pause as many at once: the generic cell rate algorithm (ITU-T I.371).
#[derive(Debug)]
struct Rate {
    begun: Instant,
    apart_ns: u64,
    /// When those that were admitted would be through, had they come evenly.
    through_ns: AtomicU64,
}

impl Rate {
    fn new(per_second: u32) -> Self {
        let apart_ns = 1_000_000_000 / u64::from(per_second.clamp(1, TRACES_PER_SECOND_MAX));
        Self { begun: Instant::now(), apart_ns, through_ns: AtomicU64::new(0) }
    }

    fn admits(&self, now: Instant) -> bool {
        let now_ns = u64::try_from(now.saturating_duration_since(self.begun).as_nanos()).unwrap_or(u64::MAX / 2);
        let next = |through_ns: u64| {
            let through_ns = through_ns.max(now_ns) + self.apart_ns;
            (through_ns <= now_ns + 1_000_000_000).then_some(through_ns)
        };
        self.through_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

/// Batches whose spans are made, as far back as matters.
#[derive(Debug, Default)]
struct Batches {
    known: HashSet<u64>,
    in_order: VecDeque<u64>,
}

impl Batches {
    /// Whether it is new.
    fn insert(&mut self, number: u64) -> bool {
        if !self.known.insert(number) {
            return false;
        }
        self.in_order.push_back(number);
        if self.in_order.len() > BATCHES_KNOWN_MAX
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// Exports calls until there will be no more.
async fn export(
    mut calls: mpsc::Receiver<Box<CallTrace>>,
    exporter: impl SpanExporter,
    export_timeout: Duration,
    stop: Arc<Notify>,
    counters: Arc<Counters>,
) {
    let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME")).with_version(env!("CARGO_PKG_VERSION")).build();
    let mut batches = Batches::default();
    let mut told = false;
    loop {
        let gathered = gather(&mut calls, &stop).await;
        if gathered.is_empty() {
            return;
        }
        let spans: Vec<SpanData> = gathered
            .iter()
            .flat_map(|call| {
                let is_new = call.batch.as_ref().is_some_and(|batch| batches.insert(batch.number));
                let batch = if is_new { call.batch_span(&scope) } else { None };
                call.spans(&scope).into_iter().chain(batch)
            })
            .collect();
        let count = spans.len() as u64;
        let failure = match timeout(export_timeout, exporter.export(spans)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {export_timeout:?}")),
        };
        let Some(failure) = failure else {
            counters.exported.fetch_add(count, Ordering::Relaxed);
            if told {
                let dropped = counters.dropped.load(Ordering::Relaxed);
                tracing::info!(spans_dropped_so_far = dropped, "the collector takes traces again");
            }
            told = false;
            continue;
        };
        let dropped = counters.dropped.fetch_add(count, Ordering::Relaxed) + count;
        // Once until it is over: the same collector fails the same way again and again.
        if !told {
            let error = failure;
            tracing::warn!(error, spans_dropped_so_far = dropped, "traces cannot be exported; calls go on without");
        }
        told = true;
    }
}

/// The next calls to export together; none if there will be no more.
async fn gather(calls: &mut mpsc::Receiver<Box<CallTrace>>, stop: &Notify) -> Vec<Box<CallTrace>> {
    let mut gathered = Vec::new();
    let mut until = None;
    while gathered.len() < CALLS_OF_EXPORT_MAX {
        let room = CALLS_OF_EXPORT_MAX - gathered.len();
        let more = async {
            tokio::select! {
                biased;
                () = stop.notified() => None,
                count = calls.recv_many(&mut gathered, room) => Some(count),
            }
        };
        let more = match until {
            None => Ok(more.await),
            Some(until) => timeout_at(until, more).await,
        };
        match more {
            // Long enough, or nobody is left who could send more.
            Err(_) | Ok(Some(0)) => break,
            Ok(Some(_)) => until = until.or_else(|| Some(tokio::time::Instant::now() + GATHERED_FOR)),
            // What is there still goes out, and then there is none.
            Ok(None) => calls.close(),
        }
    }
    gathered
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use opentelemetry::trace::{SpanId, TraceId};
    use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Collector {
        taken: Arc<Mutex<Vec<SpanData>>>,
        /// How it fails: at once, or by never answering.
        fails: bool,
        hangs: bool,
    }

    impl SpanExporter for Collector {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            if self.fails {
                return Err(OTelSdkError::InternalFailure("it is down".to_owned()));
            }
            self.taken.lock().expect("no panic").extend(batch);
            Ok(())
        }
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn of_batch(number: u64) -> CallTrace {
        let (model, operation) = ("m@1".to_owned(), "Encode".to_owned());
        let batch = BatchTrace { number, rows: 5, requests: 2, model, operation, from: ms(1), until: ms(2) };
        CallTrace {
            trace_id: TraceId::from(1),
            span_id: ids::span_id(),
            parent: SpanId::INVALID,
            service: "s".to_owned(),
            method: "m".to_owned(),
            code: 0,
            fault: None,
            began: SystemTime::UNIX_EPOCH,
            took: ms(3),
            attributes: vec![],
            parts: vec![Part { name: "compute", from: ms(1), until: ms(2), in_batch: true }],
            batch: Some(batch),
        }
    }

    #[tokio::test]
    async fn what_waits_is_out_before_the_end_and_a_batch_once() {
        let collector = Collector::default();
        let traces = Traces::over(collector.clone(), &TracesConfig::default());
        for number in [1, 2, 1, 1] {
            traces.record(of_batch(number));
        }
        traces.shut_down(Duration::from_mins(1)).await;
        let taken = collector.taken.lock().expect("no panic").clone();
        let batches = taken.iter().filter(|span| span.name == "batch").count();
        assert_eq!((taken.len(), batches), (4 * 2 + 2, 2));
        assert_eq!(traces.counts(), TraceCounts { exported: 10, ..TraceCounts::default() });
        // Nothing is taken any more, and nobody is hurt.
        traces.record(of_batch(3));
        traces.shut_down(Duration::from_mins(1)).await;
    }

    #[tokio::test]
    async fn a_collector_that_fails_costs_its_spans() {
        let traces = Traces::over(Collector { fails: true, ..Collector::default() }, &TracesConfig::default());
        traces.record(of_batch(1));
        traces.shut_down(Duration::from_mins(1)).await;
        assert_eq!(traces.counts(), TraceCounts { dropped: 3, ..TraceCounts::default() });
    }

    #[tokio::test]
    async fn one_that_never_answers_costs_what_does_not_fit_and_is_not_waited_for() {
        let traces = Traces::over(Collector { hangs: true, ..Collector::default() }, &TracesConfig::default());
        let sent = 10 * CALLS_WAITING_MAX as u64;
        for number in 0..sent {
            traces.record(of_batch(number));
        }
        assert_eq!(traces.counts().dropped, sent - CALLS_WAITING_MAX as u64);
        traces.shut_down(ms(10)).await;
        assert_eq!(traces.counts().exported, 0);
    }

    #[test]
    fn the_rate_is_kept_and_a_pause_earns_no_more_than_a_second() {
        let rate = Rate::new(10);
        let admitted = |at: Instant| (0..100).filter(|_| rate.admits(at)).count();
        let begun = rate.begun;
        assert_eq!(admitted(begun), 10);
        assert_eq!(admitted(begun + ms(250)), 2);
        assert_eq!(admitted(begun + ms(1250)), 10);
        assert_eq!(admitted(begun + Duration::from_hours(24)), 10);
    }

    #[test]
    fn a_share_is_drawn() {
        let drawn = |ratio| (0..10_000).filter(|_| is_drawn(ratio, ids::unique())).count();
        assert_eq!((drawn(0.0), drawn(1.0)), (0, 10_000));
        // The standard deviation is 40 of 10,000.
        assert!((1_700..2_300).contains(&drawn(0.2)), "{}", drawn(0.2));
    }

    #[tokio::test]
    async fn nothing_is_sampled_where_nothing_is_exported_or_the_caller_says_no() {
        assert!(!Traces::default().samples(Some(true)));
        let config = TracesConfig { trace_ratio: 1.0, traces_per_second_max: 2, ..TracesConfig::default() };
        let traces = Traces::over(Collector::default(), &config);
        assert!(!traces.samples(Some(false)));
        assert!(traces.samples(None) && traces.samples(Some(true)));
        assert!((0..10).any(|_| !traces.samples(Some(true))), "two a second");
        assert!(traces.counts().limited > 0);
    }
}
