//! The `/metrics` page: reads all counters when it is requested.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::process;
use crate::batching::{Batcher, Operation};
use crate::jobs::{JobState, Jobs};
use crate::registry::Registry;
use crate::service::{Lifecycle, Readiness};
use crate::telemetry::measures::{Calls, Cause, ModelMeasures, ServerMeasures, TrainingMeasures};
use crate::telemetry::metrics::{self as all, Page};
use crate::telemetry::traces::{TraceCounts, Traces};

/// Sources of all metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) registry: Registry,
    pub(super) batcher: Batcher,
    pub(super) jobs: Jobs,
    pub(super) lifecycle: Lifecycle,
    pub(super) server: Arc<ServerMeasures>,
    pub(super) traces: Traces,
}

const READINESSES: [Readiness; 4] = [Readiness::Starting, Readiness::Ready, Readiness::Draining, Readiness::Stopping];

impl Figures {
    /// Builds the page from the current values.
    pub(super) fn page(&self) -> Page {
        let mut page = Page::default();
        self.calls(&mut page);
        self.queue(&mut page);
        self.sockets(&mut page);
        self.training(&mut page);
        self.models(&mut page);
        let TraceCounts { exported, dropped, limited } = self.traces.counts();
        page.add(&all::EXPORTED_SPANS, &[], exported as f64);
        page.add(&all::DROPPED_SPANS, &[], dropped as f64);
        page.add(&all::LIMITED_TRACES, &[], limited as f64);
        for readiness in READINESSES {
            let is_now = u8::from(self.lifecycle.now() == readiness);
            page.add(&all::READINESS, &[("state", word(readiness))], is_now.into());
        }
        page.add(&all::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        process::add(&mut page);
        page
    }

    fn calls(&self, page: &mut Page) {
        let measures = self.registry.all_measures();
        let mut calls = |model: &str, calls: &Calls| {
            for (method, code, count) in calls.counts() {
                page.add(&all::CALLS, &[("model", model), ("method", method), ("code", code)], count as f64);
            }
        };
        calls("", &self.server.calls);
        for (name, model) in &measures {
            calls(name.as_str(), &model.calls);
        }
        for cause in Cause::ALL {
            page.add(&all::REFUSALS, &[("cause", cause.word())], self.server.refusals(cause) as f64);
        }
        for (name, model) in &measures {
            histograms(page, name.as_str(), model);
        }
    }

    fn queue(&self, page: &mut Page) {
        let stats = self.batcher.stats();
        page.add(&all::QUEUED_ROWS, &[], stats.waiting_rows as f64);
        page.add(&all::QUEUED_BYTES, &[], stats.waiting_bytes as f64);
        page.add(&all::QUEUE_OLDEST_SECONDS, &[], stats.oldest.as_secs_f64());
        page.add(&all::CANCELLED_ROWS, &[], stats.cancelled_rows as f64);
        page.add(&all::EXPIRED_ROWS, &[], stats.expired_rows as f64);
    }

    fn sockets(&self, page: &mut Page) {
        let ServerMeasures { received_bytes, sent_bytes, accepted, closed, .. } = &*self.server;
        page.add(&all::RECEIVED_BYTES, &[], of(received_bytes));
        page.add(&all::SENT_BYTES, &[], of(sent_bytes));
        let closed = of(closed);
        let accepted = of(accepted);
        page.add(&all::ACCEPTED_CONNECTIONS, &[], accepted);
        page.add(&all::OPEN_CONNECTIONS, &[], (accepted - closed).max(0.0));
    }

    fn training(&self, page: &mut Page) {
        let jobs = self.jobs.list();
        for state in JobState::ALL {
            let count = jobs.iter().filter(|job| job.state == state).count();
            page.add(&all::JOBS, &[("state", state.name())], count as f64);
        }
        let TrainingMeasures { rows, succeeded, failed, cancelled } = self.jobs.measures();
        for (state, count) in
            [(JobState::Succeeded, succeeded), (JobState::Failed, failed), (JobState::Cancelled, cancelled)]
        {
            page.add(&all::ENDED_JOBS, &[("outcome", state.name())], of(count));
        }
        page.add(&all::TRAINED_ROWS, &[], of(rows));
        // If a model has several running jobs, the newest one counts.
        let running: BTreeMap<&str, _> = jobs
            .iter()
            .rev()
            .filter(|job| job.state == JobState::Running)
            .filter_map(|job| Some((job.model_name.as_str(), job.progress.as_ref()?)))
            .collect();
        for (model, progress) in &running {
            page.add(&all::TRAINING_ROWS_PER_SECOND, &[("model", model)], progress.rows_per_second);
        }
        for (model, progress) in &running {
            page.add(&all::TRAINING_LOSS, &[("model", model)], progress.training_loss);
        }
        for (model, progress) in &running {
            if let Some(loss) = progress.validation_loss {
                page.add(&all::VALIDATION_LOSS, &[("model", model)], loss);
            }
        }
        for (model, progress) in &running {
            if let Some(loss) = progress.best_validation_loss {
                page.add(&all::BEST_VALIDATION_LOSS, &[("model", model)], loss);
            }
        }
    }

    fn models(&self, page: &mut Page) {
        let resident = self.registry.resident_models();
        page.add(&all::RESIDENT_MODELS, &[], resident.len() as f64);
        page.add(&all::RESIDENT_BYTES, &[], resident.iter().map(|model| model.tensor_bytes as f64).sum());
        let store = self.registry.store();
        for model in store.entries() {
            page.add(&all::VERSIONS, &[("model", model.name.as_str())], model.versions.len() as f64);
        }
        page.add(&all::STORE_WRITABLE, &[], u8::from(store.is_writable()).into());
    }
}

fn of(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}

/// Adds the histograms of the operations that were called on a model.
fn histograms(page: &mut Page, name: &str, model: &ModelMeasures) {
    for operation in Operation::ALL {
        let measures = &model.kinds[operation as usize];
        let labels = [("model", name), ("operation", operation.word())];
        for (metric, histogram) in [
            (&all::REQUEST_SECONDS, &measures.request),
            (&all::QUEUE_SECONDS, &measures.queue),
            (&all::ASSEMBLY_SECONDS, &measures.assembly),
            (&all::COMPUTE_SECONDS, &measures.compute),
            (&all::BATCH_ROWS, &measures.batch_rows),
        ] {
            let counts = histogram.counts();
            if counts.count > 0 {
                page.add_histogram(metric, &labels, &counts);
            }
        }
    }
}

/// Name of a state, for probes and metric labels.
pub(super) fn word(readiness: Readiness) -> &'static str {
    match readiness {
        Readiness::Starting => "starting",
        Readiness::Ready => "ready",
        Readiness::Draining => "draining",
        Readiness::Stopping => "stopping",
    }
}
