//! The task that exports calls.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::sync::{Notify, mpsc};
use tokio::time::{timeout, timeout_at};

use super::super::spans::CallTrace;

/// Most calls of one export, of up to 7 spans each: well below the 4 MiB that a collector accepts at once.
const CALLS_OF_EXPORT_MAX: usize = 256;
/// Longest wait of a call for other calls to export with.
const GATHERED_FOR: Duration = Duration::from_millis(500);
/// Most remembered batches whose span was built. Calls of one batch end almost together, so older batches can be
/// forgotten.
const BATCHES_KNOWN_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) exported: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) limited: AtomicU64,
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
pub(super) async fn export(
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
