//! One job in memory, and its state changes. Each change is written to disk before watchers are notified.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use tokio::sync::watch;

use super::journal::{Record, unix_ms};
use super::lock::lock;
use super::quota::Share;
use super::spool::{Counts, Spool};
use super::store::JobStore;
use super::{EndReason, IllegalMove, JobError, JobId, JobSnapshot, JobState, Owner, Priority, Round, ServerFiles};
use crate::telemetry::measures::TrainingMeasures;
use crate::training::CheckedTrainSpec;

/// A job in memory.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) spec: CheckedTrainSpec,
    /// Columns of the rows.
    pub(super) columns: usize,
    pub(super) priority: Priority,
    pub(super) owner: Owner,
    pub(super) round: Option<Round>,
    /// Bytes that the job has on disk.
    pub(super) share: Share,
    pub(super) record: Mutex<Record>,
    news: watch::Sender<JobSnapshot>,
    /// The spool, while the job uploads. Appending holds the lock. It is locked only on threads for disk work, so
    /// its holder already has a thread, however many other threads wait for it.
    pub(super) spool: Mutex<Option<Spool>>,
    /// Number of streams that have taken over the upload so far. Each stream keeps its own number, to see that a later
    /// one took over.
    pub(super) stream: watch::Sender<u64>,
    /// A [`StopRequest`] as a number.
    stop_request: AtomicU8,
    /// Whether the job was read from disk and may have run before the restart. Its version may then be published
    /// already.
    pub(super) may_be_published: bool,
    /// When the last stream that sent rows ended, or when the job was created or read from disk.
    pub(super) detached: Mutex<SystemTime>,
    /// Why the last pause request could not be persisted.
    pause_refused: Mutex<Option<JobError>>,
    pub(super) shared: Shared,
}

/// State that all jobs of a server share. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) measures: Arc<TrainingMeasures>,
    pub(super) store: Arc<dyn JobStore>,
}

/// Result of a pause request after training stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PauseOutcome {
    /// The job is paused, and its journal says so.
    Paused,
    /// A cancel request came in the meantime.
    Cancelled,
    /// The journal cannot be written: the job continues, and the callers get the reason.
    Refused,
}

/// Request to a running job. Training checks it at every step. A greater value takes precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum StopRequest {
    /// No request: keep training.
    GoOn,
    /// Save a checkpoint, stop, and become PAUSED.
    Pause,
    /// Stop and become CANCELLED.
    Cancel,
}

#[derive(Clone, Copy, PartialEq)]
enum Durable {
    Yes,
    No,
}

impl Job {
    pub(super) fn new(
        record: Record,
        spool: Option<Spool>,
        may_be_published: bool,
        shared: Shared,
    ) -> Result<Self, JobError> {
        let spec = record.spec.clone().check()?;
        let snapshot = snapshot(&record);
        Ok(Self {
            id: record.id.clone(),
            spec,
            columns: record.columns(),
            priority: record.priority,
            owner: record.owner.clone(),
            round: record.round.clone(),
            share: Share::default(),
            record: Mutex::new(record),
            news: watch::Sender::new(snapshot),
            spool: Mutex::new(spool),
            stream: watch::Sender::new(0),
            stop_request: AtomicU8::new(StopRequest::GoOn as u8),
            may_be_published,
            detached: Mutex::new(SystemTime::now()),
            pause_refused: Mutex::default(),
            shared,
        })
    }

    pub(super) fn snapshot(&self) -> JobSnapshot {
        self.news.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<JobSnapshot> {
        self.news.subscribe()
    }

    /// The published state. Unlike [`Job::state`], it does not wait for a journal write in progress.
    pub(super) fn told_state(&self) -> JobState {
        self.news.borrow().state
    }

    pub(super) fn state(&self) -> JobState {
        lock(&self.record).state
    }

    /// The pending request to the training loop.
    pub(super) fn stop_request(&self) -> StopRequest {
        match self.stop_request.load(Ordering::Acquire) {
            stop_request if stop_request == StopRequest::GoOn as u8 => StopRequest::GoOn,
            stop_request if stop_request == StopRequest::Pause as u8 => StopRequest::Pause,
            _ => StopRequest::Cancel,
        }
    }

    /// Asks training to stop. A cancel overrides a pause.
    fn ask(&self, stop_request: StopRequest) {
        self.stop_request.fetch_max(stop_request as u8, Ordering::AcqRel);
    }

    /// Updates the snapshot without waking watchers; they see the change with the next update.
    pub(super) fn tell_quietly(&self, change: impl FnOnce(&mut JobSnapshot)) {
        self.news.send_if_modified(|snapshot| {
            change(snapshot);
            snapshot.updated = SystemTime::now();
            false
        });
    }

    /// Updates the snapshot and wakes watchers, without writing the journal.
    pub(super) fn tell(&self, change: impl FnOnce(&mut JobSnapshot)) {
        self.news.send_modify(|snapshot| {
            change(snapshot);
            snapshot.updated = SystemTime::now();
        });
    }

    /// Publishes the counts on disk and the new expiry time.
    pub(super) fn tell_counts(&self, counts: Counts, expires: Option<SystemTime>) {
        self.tell(|snapshot| {
            snapshot.chunks = counts.chunks;
            snapshot.training_rows = counts.training_rows;
            snapshot.test_rows = counts.test_rows;
            snapshot.upload_expires = expires;
        });
    }

    /// The server files to import, if their rows are not all in the spool yet.
    pub(super) fn files_to_import(&self) -> Option<ServerFiles> {
        let record = lock(&self.record);
        if record.waits_for_import() { record.files.clone() } else { None }
    }

    /// Records in the journal that all rows of the files are in the spool, with the column names and the `notes` of the
    /// readers. After this, a restart does not read the files again.
    pub(super) fn settle_import(&self, counts: Counts, names: Vec<String>, notes: Vec<String>) -> Result<(), JobError> {
        let mut record = lock(&self.record);
        let mut changed = record.clone();
        changed.imported = true;
        changed.file_notes = notes;
        changed.column_names = names;
        changed.chunks = counts.chunks;
        changed.training_rows = counts.training_rows;
        changed.test_rows = counts.test_rows;
        self.write(&mut changed)?;
        *record = changed;
        drop(record);
        self.tell_counts(counts, None);
        Ok(())
    }

    /// Changes the state: writes the journal, then notifies watchers. Fails if the state machine does not allow the
    /// change.
    pub(super) fn go(&self, next: JobState, change: impl FnOnce(&mut Record)) -> Result<JobSnapshot, JobError> {
        self.go_from(lock(&self.record), next, change, Durable::Yes, || ())
    }

    /// Ends the job: writes the journal, runs `remove_rows`, then notifies watchers. If a crash leaves rows of an ended
    /// job, the next start removes them.
    pub(super) fn end(
        &self,
        next: JobState,
        change: impl FnOnce(&mut Record),
        remove_rows: impl FnOnce(),
    ) -> Result<JobSnapshot, JobError> {
        self.go_from(lock(&self.record), next, change, Durable::Yes, remove_rows)
    }

    /// Sets a queued job to RUNNING. If the journal cannot be written, the job runs anyway: a restart treats QUEUED and
    /// RUNNING alike.
    pub(super) fn start(&self) -> Result<(), JobError> {
        match self.go(JobState::Running, |_| ()) {
            Err(JobError::Store(error)) => {
                tracing::warn!(job = %self.id, %error, "cannot persist that a job is running; it runs anyway");
                self.go_from(lock(&self.record), JobState::Running, |_| (), Durable::No, || ()).map(|_| ())
            }
            other => other.map(|_| ()),
        }
    }

    /// The storage of the job.
    pub(super) fn store(&self) -> &dyn JobStore {
        self.shared.store.as_ref()
    }

    /// Writes the journal as the successor of the stored one.
    fn write(&self, record: &mut Record) -> Result<(), JobError> {
        record.sequence += 1;
        self.store().replace(record)
    }

    /// Changes the journal of a running job. The change is on disk when this returns.
    pub(super) fn write_down(&self, change: impl FnOnce(&mut Record)) -> Result<(), JobError> {
        let mut record = lock(&self.record);
        let mut changed = record.clone();
        change(&mut changed);
        self.write(&mut changed)?;
        *record = changed;
        Ok(())
    }

    /// Sets a job that was RUNNING when the server stopped back to QUEUED, in memory only. The journal may still say
    /// RUNNING: the next start treats it alike, and a full disk cannot prevent a start.
    pub(super) fn put_back(&self) {
        // RUNNING to QUEUED is always allowed.
        let _ = self.go_from(lock(&self.record), JobState::Queued, |_| (), Durable::No, || ());
    }

    /// Cancels a job that is not running and returns true. For a running job it only requests the stop and returns
    /// false. `remove_rows` is as in [`Job::end`].
    pub(super) fn cancel_unless_running(
        &self,
        reason: Option<EndReason>,
        remove_rows: impl FnOnce(),
    ) -> Result<bool, JobError> {
        let record = lock(&self.record);
        if record.state == JobState::Running {
            self.ask(StopRequest::Cancel);
            return Ok(false);
        }
        let change = |record: &mut Record| record.failure = reason;
        self.go_from(record, JobState::Cancelled, change, Durable::Yes, remove_rows).map(|_| true)
    }

    /// Cancels a job that has been paused since `since` or earlier. Returns whether it did. `remove_rows` is as in
    /// [`Job::end`].
    pub(super) fn cancel_if_paused_before(
        &self,
        since: SystemTime,
        reason: String,
        remove_rows: impl FnOnce(),
    ) -> Result<bool, JobError> {
        let record = lock(&self.record);
        if record.state != JobState::Paused || record.updated() > since {
            return Ok(false);
        }
        let change = |record: &mut Record| record.failure = Some(EndReason::Other(reason));
        self.go_from(record, JobState::Cancelled, change, Durable::Yes, remove_rows).map(|_| true)
    }

    /// Pauses a queued job and returns true. For a running job it only requests the pause and returns false.
    pub(super) fn pause(&self) -> Result<bool, JobError> {
        let record = lock(&self.record);
        if record.state == JobState::Running {
            *lock(&self.pause_refused) = None;
            self.ask(StopRequest::Pause);
            return Ok(false);
        }
        self.go_from(record, JobState::Paused, |_| (), Durable::Yes, || ()).map(|_| true)
    }

    /// Why the last pause request failed, if it did.
    pub(super) fn pause_refused(&self) -> Option<JobError> {
        lock(&self.pause_refused).clone()
    }

    /// Sets a paused job back to QUEUED.
    pub(super) fn resume(&self) -> Result<JobSnapshot, JobError> {
        let record = lock(&self.record);
        if record.state != JobState::Paused {
            return Err(IllegalMove { from: record.state, to: JobState::Queued }.into());
        }
        // A cancel takes the same lock, so this can only clear a pause request.
        self.stop_request.store(StopRequest::GoOn as u8, Ordering::Release);
        self.go_from(record, JobState::Queued, |_| (), Durable::Yes, || ())
    }

    /// Ends a job in memory when its journal cannot be written: watchers are notified, and a restart settles the job
    /// again.
    pub(super) fn end_in_memory(&self, next: JobState, failure: String) {
        // This fails only if the job has already ended.
        let change = |record: &mut Record| record.failure = Some(EndReason::Other(failure));
        let _ = self.go_from(lock(&self.record), next, change, Durable::No, || ());
    }

    /// Sets a job to PAUSED after its training has stopped. If the journal cannot be written, the job is not paused: it
    /// continues, and the callers get the reason.
    pub(super) fn settle_as_paused(&self) -> PauseOutcome {
        let record = lock(&self.record);
        if self.stop_request() == StopRequest::Cancel {
            return PauseOutcome::Cancelled;
        }
        let Err(error) = self.go_from(record, JobState::Paused, |_| (), Durable::Yes, || ()) else {
            tracing::info!(job = %self.id, "paused");
            return PauseOutcome::Paused;
        };
        tracing::error!(job = %self.id, %error, "cannot pause a job: cannot write its journal; training continues");
        *lock(&self.pause_refused) = Some(error);
        let (asked, none) = (StopRequest::Pause as u8, StopRequest::GoOn as u8);
        // A concurrent cancel wins.
        let _ = self.stop_request.compare_exchange(asked, none, Ordering::AcqRel, Ordering::Acquire);
        // Wakes the callers that wait for the pause.
        self.news.send_modify(|_| ());
        PauseOutcome::Refused
    }

    fn go_from(
        &self,
        mut record: MutexGuard<'_, Record>,
        next: JobState,
        change: impl FnOnce(&mut Record),
        durable: Durable,
        before_told: impl FnOnce(),
    ) -> Result<JobSnapshot, JobError> {
        let mut changed = record.clone();
        changed.state = record.state.to(next)?;
        changed.updated_unix_ms = unix_ms(SystemTime::now());
        change(&mut changed);
        if durable == Durable::Yes {
            self.write(&mut changed)?;
        }
        *record = changed;
        before_told();
        // Count before notifying: a caller that sees the job ended must also see it counted.
        let TrainingMeasures { succeeded, failed, cancelled, .. } = &*self.shared.measures;
        let counter = match next {
            JobState::Succeeded => Some(succeeded),
            JobState::Failed => Some(failed),
            JobState::Cancelled => Some(cancelled),
            JobState::Uploading | JobState::Queued | JobState::Running | JobState::Paused => None,
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let mut told = snapshot(&record);
        self.news.send_modify(|current| {
            if !next.has_ended() && told.chunks == 0 {
                (told.chunks, told.training_rows, told.test_rows) =
                    (current.chunks, current.training_rows, current.test_rows);
            }
            told.progress = current.progress.take();
            *current = told;
        });
        drop(record);
        if next.has_ended() {
            // Wakes a stream that is still uploading.
            self.stream.send_modify(|_| ());
        }
        Ok(self.snapshot())
    }

    /// Whether this is a later round than `earlier` of the same stream and owner.
    pub(super) fn is_later_round_than(&self, earlier: &Self) -> bool {
        match (&self.round, &earlier.round) {
            (Some(round), Some(before)) => self.owner.scope() == earlier.owner.scope() && round.is_after(before),
            _ => false,
        }
    }

    /// Checks that the job received all its rows, or that its round ended without rows as intended.
    ///
    /// # Errors
    /// [`JobError::Ended`] if the job ended before its upload was complete.
    pub(super) fn check_not_cut_off(&self) -> Result<(), JobError> {
        let record = lock(&self.record);
        // The journal has the row counts only once the upload is complete.
        let had_rows = record.training_rows > 0;
        if had_rows || record.failure.as_ref().is_some_and(EndReason::is_round_left) {
            return Ok(());
        }
        drop(record);
        Err(self.ended_error())
    }

    /// The error for a stream that can no longer upload to this job.
    pub(super) fn ended_error(&self) -> JobError {
        let snapshot = self.snapshot();
        JobError::Ended {
            id: self.id.clone(),
            how: snapshot.state.ended_as(),
            reason: snapshot.failure.map(String::from),
        }
    }
}

fn snapshot(record: &Record) -> JobSnapshot {
    JobSnapshot {
        id: record.id.clone(),
        model_name: record.spec.model_name.clone(),
        state: record.state,
        created: record.created(),
        updated: record.updated(),
        priority: record.priority,
        upload_expires: None,
        chunks: record.chunks,
        training_rows: record.training_rows,
        test_rows: record.test_rows,
        progress: None,
        version: record.version,
        report: record.report.clone().map(Arc::new),
        failure: record.failure.clone(),
        data_lost: record.data_lost,
        kept_back: record.kept_back.clone(),
        idempotency_key: record.key.clone(),
        round: record.round.clone(),
    }
}
