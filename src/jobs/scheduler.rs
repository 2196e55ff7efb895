//! Scheduler: the queued jobs in order of arrival, and which of them starts next.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::job::Job;
use super::lock::lock;
use super::queue::{self, Waiting};
use super::registry::JobRegistry;
use super::{JobId, JobState};
use crate::model::ModelName;

/// The queue of jobs. Its lock is taken before that of the registry.
#[derive(Debug, Default)]
pub(super) struct Scheduler {
    order: Mutex<Order>,
    wakeup: Notify,
}

#[derive(Debug, Default)]
struct Order {
    /// Queued jobs, in order of arrival.
    waiting: Vec<JobId>,
    /// Jobs that [`Scheduler::next`] returned and that have not stopped.
    started: HashSet<JobId>,
    /// Number of starts so far, and for each model name the number of its last start.
    starts: u64,
    last_start: HashMap<ModelName, u64>,
}

impl Scheduler {
    /// Adds a job to the end of the queue and wakes the runner.
    pub(super) fn enqueue(&self, id: JobId) {
        let mut order = lock(&self.order);
        // A job that was paused and resumed goes to the end.
        order.waiting.retain(|other| *other != id);
        order.waiting.push(id);
        drop(order);
        self.wake();
    }

    /// Adds the jobs of an earlier run to the end of the queue, in this order. It does not wake the runner.
    pub(super) fn restore(&self, ids: impl IntoIterator<Item = JobId>) {
        lock(&self.order).waiting.extend(ids);
    }

    /// Takes the next job to train, in the order of [`queue::next`].
    pub(super) fn next(&self, registry: &JobRegistry) -> Option<Arc<Job>> {
        let mut order = lock(&self.order);
        registry.with_jobs(|by_id| order.next(by_id))
    }

    /// Records that a job from [`Scheduler::next`] no longer runs.
    pub(super) fn has_stopped(&self, id: &JobId) {
        lock(&self.order).started.remove(id);
    }

    /// Forgets the last starts of models that have no job.
    pub(super) fn forget_names(&self, registry: &JobRegistry) {
        let mut order = lock(&self.order);
        registry.with_jobs(|by_id| {
            if order.last_start.len() > by_id.len() {
                order.last_start.retain(|name, _| by_id.values().any(|job| job.spec.spec().model_name == *name));
            }
        });
    }

    /// Removes all queued jobs.
    pub(super) fn clear(&self) {
        lock(&self.order).waiting.clear();
    }

    /// Wakes the runner.
    pub(super) fn wake(&self) {
        self.wakeup.notify_one();
    }

    /// Waits until the runner is woken.
    pub(super) async fn woken(&self) {
        self.wakeup.notified().await;
    }

    /// Whether a job has started and not stopped.
    #[cfg(test)]
    pub(super) fn has_started(&self, id: &JobId) -> bool {
        lock(&self.order).started.contains(id)
    }

    /// Whether any job is queued, or has started and not stopped.
    #[cfg(test)]
    pub(super) fn has_waiting_or_started(&self) -> bool {
        let order = lock(&self.order);
        !order.waiting.is_empty() || !order.started.is_empty()
    }
}

impl Order {
    fn next(&mut self, by_id: &BTreeMap<JobId, Arc<Job>>) -> Option<Arc<Job>> {
        // Some may have been cancelled or paused in the meantime.
        self.waiting.retain(|id| by_id.get(id).is_some_and(|job| job.told_state() == JobState::Queued));
        // A running job may publish the version that a later job of the same model must be better than.
        let runs = |name: &ModelName| {
            self.started.iter().filter_map(|id| by_id.get(id)).any(|job| job.spec.spec().model_name == *name)
        };
        let waits_for_its_name = |job: &Job| {
            let spec = job.spec.spec();
            spec.publish_if_better && runs(&spec.model_name)
        };
        let may_start = |job: &&Arc<Job>| !waits_for_a_round(by_id, job) && !waits_for_its_name(job);
        let candidates: Vec<&Arc<Job>> = self.waiting.iter().filter_map(|id| by_id.get(id)).filter(may_start).collect();
        let place = queue::next(
            candidates.iter().map(|job| Waiting { name: &job.spec.spec().model_name, priority: job.priority }),
            |name| self.last_start.get(name).copied(),
        )?;
        let job = Arc::clone(candidates.get(place)?);
        self.waiting.retain(|id| *id != job.id);
        self.started.insert(job.id.clone());
        self.starts += 1;
        self.last_start.insert(job.spec.spec().model_name.clone(), self.starts);
        Some(job)
    }
}

/// Whether an earlier round of the stream of `job` has not ended: rounds build on each other.
fn waits_for_a_round(by_id: &BTreeMap<JobId, Arc<Job>>, job: &Job) -> bool {
    job.round.is_some() && by_id.values().any(|other| job.is_later_round_than(other) && !other.told_state().has_ended())
}
