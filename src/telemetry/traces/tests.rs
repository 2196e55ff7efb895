use std::time::SystemTime;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::SpanData;

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
