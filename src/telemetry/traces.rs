//! Exports traces of calls to an OpenTelemetry collector.
//!
//! Calls wait in a bounded queue for a task that exports them. A slow or unreachable collector loses spans, but never
//! delays calls.

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
use super::rate_limit::{Rate, RateLimit};
pub use super::spans::{BatchTrace, CallTrace, Part, count};
use super::{call, ids};

/// Most calls that wait for export, of about 2 KiB each; further calls are dropped.
const CALLS_WAITING_MAX: usize = 1024;
/// Most calls of one export, of up to 7 spans each: well below the 4 MiB that a collector accepts at once.
const CALLS_OF_EXPORT_MAX: usize = 256;
/// Longest wait of a call for other calls to export with.
const GATHERED_FOR: Duration = Duration::from_millis(500);
/// Most remembered batches whose span was built. Calls of one batch end almost together, so older batches can be
/// forgotten.
const BATCHES_KNOWN_MAX: usize = 4096;
/// Largest value of [`TracesConfig::traces_per_second_max`].
pub const TRACES_PER_SECOND_MAX: u32 = 100_000;

/// Protocol of the trace export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    #[default]
    Grpc,
    /// OTLP over HTTP, in protobuf.
    HttpProtobuf,
}

/// Settings of the trace export.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesConfig {
    /// URL of the collector, over HTTP with its path. Without it, nothing is traced.
    pub otlp_endpoint: Option<String>,
    /// Protocol of the collector.
    pub protocol: Protocol,
    /// Timeout of one export, including retries.
    pub export_timeout: Duration,
    /// Resource attributes of this service beside its name.
    pub attributes: Vec<(String, String)>,
    /// Share of the calls without a `traceparent` that are traced, 0 to 1.
    pub trace_ratio: f64,
    /// Most calls traced per second, including calls whose caller asks for a trace; 1 to [`TRACES_PER_SECOND_MAX`].
    pub traces_per_second_max: u32,
    /// Name of this service in traces.
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

/// The trace exporter cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be exported to {endpoint:?}: {reason}")]
pub struct BadTraces {
    /// The configured URL.
    pub endpoint: String,
    /// What is wrong with the URL.
    pub reason: String,
}

/// Counts of exported, dropped and rate-limited traces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceCounts {
    /// Spans that the collector accepted.
    pub exported: u64,
    /// Spans lost because the collector was unreachable or too slow. A call that finds the queue full counts as one
    /// span.
    pub dropped: u64,
    /// Calls that were sampled but not traced because of `traces_per_second_max`.
    pub limited: u64,
}

#[derive(Debug, Default)]
struct Counters {
    exported: AtomicU64,
    dropped: AtomicU64,
    limited: AtomicU64,
}

/// Queue of calls to export; records nothing without a collector. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    ratio: f64,
    /// The limit of `traces_per_second_max`; its clock counts from `begun`.
    rate: Rate,
    rate_limit: RateLimit,
    begun: Instant,
    calls: mpsc::Sender<Box<CallTrace>>,
    stop: Arc<Notify>,
    counters: Arc<Counters>,
    /// The export task; `None` after [`Traces::shut_down`] has taken it.
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Inner {
    fn admits(&self) -> bool {
        let now_ns = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX / 2);
        self.rate_limit.admit(self.rate, now_ns).is_ok()
    }
}

impl Traces {
    /// Starts the export task, if an endpoint is configured. The collector need not be reachable yet.
    ///
    /// # Errors
    /// If the endpoint is not usable.
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
        // The library itself reads headers and compression from the standard `OTEL_` variables.
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
            rate: Rate::per_second(config.traces_per_second_max.clamp(1, TRACES_PER_SECOND_MAX).into()),
            rate_limit: RateLimit::new(),
            begun: Instant::now(),
            calls,
            stop,
            counters,
            task: Mutex::new(Some(task)),
        })))
    }

    /// Whether a call is traced. The caller's decision counts if there is one, else `trace_ratio` draws; both only
    /// within the rate limit.
    pub fn samples(&self, callers_word: Option<bool>) -> bool {
        let Some(inner) = &self.0 else { return false };
        let wanted = callers_word.unwrap_or_else(|| is_drawn(inner.ratio, ids::unique()));
        if !wanted || inner.admits() {
            return wanted;
        }
        inner.counters.limited.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Queues a call for export; drops and counts it if the queue is full.
    pub fn record(&self, call: CallTrace) {
        let Some(inner) = &self.0 else { return };
        if inner.calls.try_send(Box::new(call)).is_err() {
            inner.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts since the start.
    pub fn counts(&self) -> TraceCounts {
        let Some(inner) = &self.0 else { return TraceCounts::default() };
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { exported, dropped, limited } = &*inner.counters;
        TraceCounts { exported: of(exported), dropped: of(dropped), limited: of(limited) }
    }

    /// Closes the queue and exports the waiting calls, for at most `at_most`.
    pub async fn shut_down(&self, at_most: Duration) {
        let Some(inner) = &self.0 else { return };
        inner.stop.notify_one();
        let task = inner.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && timeout(at_most, &mut task).await.is_err()
        {
            task.abort();
            tracing::warn!(waited = ?at_most, "the last traces were not exported in time");
        }
    }
}

/// Whether a uniformly drawn 64-bit number falls into the lowest `ratio` of its range.
fn is_drawn(ratio: f64, number: u64) -> bool {
    (number as f64) < ratio * 2_f64.powi(64) || ratio >= 1.0
}

/// The latest batches whose span was built; at most [`BATCHES_KNOWN_MAX`].
#[derive(Debug, Default)]
struct Batches {
    known: HashSet<u64>,
    in_order: VecDeque<u64>,
}

impl Batches {
    /// Adds a batch; true if it is new.
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

/// Exports calls until the queue is closed and empty.
async fn export(
    mut calls: mpsc::Receiver<Box<CallTrace>>,
    exporter: impl SpanExporter,
    export_timeout: Duration,
    stop: Arc<Notify>,
    counters: Arc<Counters>,
) {
    let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME")).with_version(env!("CARGO_PKG_VERSION")).build();
    let mut batches = Batches::default();
    let mut is_failing = false;
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
            Err(_) => Some(format!("no response within {export_timeout:?}")),
        };
        let Some(failure) = failure else {
            counters.exported.fetch_add(count, Ordering::Relaxed);
            if is_failing {
                let dropped = counters.dropped.load(Ordering::Relaxed);
                tracing::info!(spans_dropped_so_far = dropped, "trace export works again");
            }
            is_failing = false;
            continue;
        };
        let dropped = counters.dropped.fetch_add(count, Ordering::Relaxed) + count;
        // Logs only the first failure of a series: the same collector fails repeatedly in the same way.
        if !is_failing {
            let error = failure;
            tracing::warn!(error, spans_dropped_so_far = dropped, "traces cannot be exported; calls continue");
        }
        is_failing = true;
    }
}

/// The next calls to export together; empty if the queue is closed and empty.
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
            // The wait is over, or the queue is closed and empty.
            Err(_) | Ok(Some(0)) => break,
            Ok(Some(_)) => until = until.or_else(|| Some(tokio::time::Instant::now() + GATHERED_FOR)),
            // Waiting calls are still exported; new calls are rejected.
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
        /// `fails`: exports fail at once; `hangs`: they never end.
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
    async fn shutdown_exports_waiting_spans_and_each_batch_once() {
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
        // Recording and shutting down again after the shutdown are harmless.
        traces.record(of_batch(3));
        traces.shut_down(Duration::from_mins(1)).await;
    }

    #[tokio::test]
    async fn spans_are_dropped_when_the_collector_fails() {
        let traces = Traces::over(Collector { fails: true, ..Collector::default() }, &TracesConfig::default());
        traces.record(of_batch(1));
        traces.shut_down(Duration::from_mins(1)).await;
        assert_eq!(traces.counts(), TraceCounts { dropped: 3, ..TraceCounts::default() });
    }

    #[tokio::test]
    async fn a_hanging_collector_drops_spans_and_delays_nothing() {
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
    fn sampling_draws_the_given_share() {
        let drawn = |ratio| (0..10_000).filter(|_| is_drawn(ratio, ids::unique())).count();
        assert_eq!((drawn(0.0), drawn(1.0)), (0, 10_000));
        // The standard deviation is 40 of 10,000.
        assert!((1_700..2_300).contains(&drawn(0.2)), "{}", drawn(0.2));
    }

    #[tokio::test]
    async fn unexported_or_declined_traces_are_not_sampled() {
        assert!(!Traces::default().samples(Some(true)));
        let config = TracesConfig { trace_ratio: 1.0, traces_per_second_max: 2, ..TracesConfig::default() };
        let traces = Traces::over(Collector::default(), &config);
        assert!(!traces.samples(Some(false)));
        assert!(traces.samples(None) && traces.samples(Some(true)));
        assert!((0..10).any(|_| !traces.samples(Some(true))), "two a second");
        assert!(traces.counts().limited > 0);
    }
}
