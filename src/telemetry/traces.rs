//! Exports traces of calls to an OpenTelemetry collector.
//!
//! Calls wait in a bounded queue for a task that exports them. A slow or unreachable collector loses spans, but never
//! delays calls.

mod export;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::export::{Counters, export};
use super::collector::HttpExporterClient;
use super::rate_limit::{Rate, RateLimit};
pub use super::spans::{BatchTrace, CallTrace, Part, count};
use super::{call, ids};

/// Most calls that wait for export, of about 2 KiB each; further calls are dropped.
const CALLS_WAITING_MAX: usize = 1024;
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

#[cfg(test)]
mod tests;
