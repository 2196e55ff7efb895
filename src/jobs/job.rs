//! One job in memory, and its moves: on disk first, then told.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::journal::{Record, unix_ms};
use super::quota::Share;
use super::reserve::DiskReserve;
use super::spool::{Counts, Spool};
use super::{IllegalMove, JobError, JobId, JobSnapshot, JobState, Owner, Priority, Round, ServerFiles};
use crate::telemetry::measures::TrainingMeasures;
use crate::training::CheckedTrainSpec;

/// A job in memory.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) spec: CheckedTrainSpec,
    /// Width of the rows.
    pub(super) columns: usize,
    pub(super) priority: Priority,
    pub(super) owner: Owner,
    pub(super) round: Option<Round>,
    pub(super) folder: PathBuf,
    /// What it has on disk.
    pub(super) share: Share,
    pub(super) record: Mutex<Record>,
    news: watch::Sender<JobSnapshot>,
    /// Where rows go while it uploads; whoever appends holds it. Locked on threads for disk work alone, so that who holds it has
    /// one, however many wait.
    pub(super) spool: Mutex<Option<Spool>>,
    /// Counts the streams that took the upload over; each holds the number that was its own.
    pub(super) stream: watch::Sender<u64>,
    /// What training is asked for.
    stop_request: AtomicU8,
    /// Whether it comes from before a restart, and may have run then: its version may be published already.
    pub(super) may_be_published: bool,
    /// When the last stream that sent its rows ended, or it was read from the disk.
    pub(super) detached: Mutex<SystemTime>,
    /// Why the last wish to pause could not be written down.
    pause_refused: Mutex<Option<JobError>>,
    pub(super) shared: Shared,
}

/// What all jobs of a server have together. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) measures: Arc<TrainingMeasures>,
    pub(super) reserve: Arc<DiskReserve>,
}

/// What became of a wish to pause when training had stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PauseOutcome {
    /// It is on the disk that the job is paused.
    Paused,
    /// The job is to be cancelled.
    Cancelled,
    /// The disk refuses: the job goes on, and the callers get the reason.
    Refused,
}

/// What whoever trains a job is asked to do, at the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum StopRequest {
    /// Go on.
    GoOn,
    /// Stop, and let it wait.
    Pause,
    /// Stop for good.
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
        folder: PathBuf,
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
            folder,
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

    /// The state that everybody was told of: waits for no disk.
    pub(super) fn told_state(&self) -> JobState {
        self.news.borrow().state
    }

    pub(super) fn state(&self) -> JobState {
        lock(&self.record).state
    }

    /// What its training is asked for.
    pub(super) fn stop_request(&self) -> StopRequest {
        match self.stop_request.load(Ordering::Acquire) {
            stop_request if stop_request == StopRequest::GoOn as u8 => StopRequest::GoOn,
            stop_request if stop_request == StopRequest::Pause as u8 => StopRequest::Pause,
            _ => StopRequest::Cancel,
        }
    }

    /// Asks its training to stop. Who cancels is stronger than who pauses.
    fn ask(&self, stop_request: StopRequest) {
        self.stop_request.fetch_max(stop_request as u8, Ordering::AcqRel);
    }

    /// Tells what is not worth waking watchers for: they see it with the next change.
    pub(super) fn tell_quietly(&self, change: impl FnOnce(&mut JobSnapshot)) {
        self.news.send_if_modified(|snapshot| {
            change(snapshot);
            snapshot.updated = SystemTime::now();
            false
        });
    }

    /// Tells watchers of a change that needs no journal.
    pub(super) fn tell(&self, change: impl FnOnce(&mut JobSnapshot)) {
        self.news.send_modify(|snapshot| {
            change(snapshot);
            snapshot.updated = SystemTime::now();
        });
    }

    /// What is on disk now, for watchers.
    pub(super) fn tell_counts(&self, counts: Counts, expires: Option<SystemTime>) {
        self.tell(|snapshot| {
            snapshot.chunks = counts.chunks;
            snapshot.training_rows = counts.training_rows;
            snapshot.test_rows = counts.test_rows;
            snapshot.upload_expires = expires;
        });
    }

    /// The files whose rows are not all in the spool yet.
    pub(super) fn files_to_import(&self) -> Option<ServerFiles> {
        let record = lock(&self.record);
        if record.waits_for_import() { record.files.clone() } else { None }
    }

    /// Writes down that the rows of its files are in the spool, the names of their columns, and `notes` on how they were read:
    /// after this, no crash makes it look at the files again.
    pub(super) fn settle_import(&self, counts: Counts, names: Vec<String>, notes: Vec<String>) -> Result<(), JobError> {
        let mut record = lock(&self.record);
        let mut changed = record.clone();
        changed.imported = true;
        changed.file_notes = notes;
        changed.column_names = names;
        changed.chunks = counts.chunks;
        changed.training_rows = counts.training_rows;
        changed.test_rows = counts.test_rows;
        self.write(&changed)?;
        *record = changed;
        drop(record);
        self.tell_counts(counts, None);
        Ok(())
    }

    /// Moves to another state: refused if there is no such move, else on disk before anybody hears of it.
    pub(super) fn go(&self, next: JobState, change: impl FnOnce(&mut Record)) -> Result<JobSnapshot, JobError> {
        self.go_from(lock(&self.record), next, change, Durable::Yes, || ())
    }

    /// Ends the job: on disk first, then `remove_rows` runs, then everybody hears of it. A crash in between leaves rows of a job
    /// that has ended, which the next start removes.
    pub(super) fn end(
        &self,
        next: JobState,
        change: impl FnOnce(&mut Record),
        remove_rows: impl FnOnce(),
    ) -> Result<JobSnapshot, JobError> {
        self.go_from(lock(&self.record), next, change, Durable::Yes, remove_rows)
    }

    /// Lets a job that waits begin to train. A journal that says that it waits means the same to the next start: where the disk
    /// refuses, it trains all the same.
    pub(super) fn start(&self) -> Result<(), JobError> {
        match self.go(JobState::Running, |_| ()) {
            Err(JobError::Store(error)) => {
                tracing::warn!(job = %self.id, %error, "it cannot be written down that a job trains: it trains all the same");
                self.go_from(lock(&self.record), JobState::Running, |_| (), Durable::No, || ()).map(|_| ())
            }
            other => other.map(|_| ()),
        }
    }

    /// Writes a journal, from the reserve where the disk is full.
    fn write(&self, record: &Record) -> Result<(), JobError> {
        self.shared.reserve.spend(|| record.write(&self.folder))
    }

    /// Writes down what was found out while it runs: on disk when this returns.
    pub(super) fn write_down(&self, change: impl FnOnce(&mut Record)) -> Result<(), JobError> {
        let mut record = lock(&self.record);
        let mut changed = record.clone();
        change(&mut changed);
        self.write(&changed)?;
        *record = changed;
        Ok(())
    }

    /// Lets a job that was caught while it ran wait again. Its journal may say that it runs: the next start understands the
    /// same, and a disk that is full keeps no server from starting.
    pub(super) fn put_back(&self) {
        // There is such a move.
        let _ = self.go_from(lock(&self.record), JobState::Queued, |_| (), Durable::No, || ());
    }

    /// Cancels a job that does not train, and says whether it did: one that trains is stopped by its training. `remove_rows`
    /// as in [`Job::end`].
    pub(super) fn cancel_unless_running(
        &self,
        reason: Option<String>,
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

    /// Cancels a job that is paused since before `since`, and says whether it did. `remove_rows` as in [`Job::end`].
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
        let change = |record: &mut Record| record.failure = Some(reason);
        self.go_from(record, JobState::Cancelled, change, Durable::Yes, remove_rows).map(|_| true)
    }

    /// Pauses a job that waits, and says whether it did: one that trains is told to stop.
    pub(super) fn pause(&self) -> Result<bool, JobError> {
        let record = lock(&self.record);
        if record.state == JobState::Running {
            *lock(&self.pause_refused) = None;
            self.ask(StopRequest::Pause);
            return Ok(false);
        }
        self.go_from(record, JobState::Paused, |_| (), Durable::Yes, || ()).map(|_| true)
    }

    /// Why the last wish to pause was refused, if it was.
    pub(super) fn pause_refused(&self) -> Option<JobError> {
        lock(&self.pause_refused).clone()
    }

    /// Lets a paused job wait for its turn.
    pub(super) fn resume(&self) -> Result<JobSnapshot, JobError> {
        let record = lock(&self.record);
        if record.state != JobState::Paused {
            return Err(IllegalMove { from: record.state, to: JobState::Queued }.into());
        }
        // Whoever cancels holds the lock too: what is forgotten here is that it was paused.
        self.stop_request.store(StopRequest::GoOn as u8, Ordering::Release);
        self.go_from(record, JobState::Queued, |_| (), Durable::Yes, || ())
    }

    /// Ends a job whose end cannot be written down: those who wait are told, and a restart settles it again.
    pub(super) fn end_in_memory(&self, next: JobState, failure: String) {
        // Refused only if it has ended.
        let change = |record: &mut Record| record.failure = Some(failure);
        let _ = self.go_from(lock(&self.record), next, change, Durable::No, || ());
    }

    /// Writes down that a job whose training was stopped waits until it is resumed. Where the disk refuses, the job is not
    /// paused: it goes on, and the callers get the reason.
    pub(super) fn settle_as_paused(&self) -> PauseOutcome {
        let record = lock(&self.record);
        if self.stop_request() == StopRequest::Cancel {
            return PauseOutcome::Cancelled;
        }
        let Err(error) = self.go_from(record, JobState::Paused, |_| (), Durable::Yes, || ()) else {
            tracing::info!(job = %self.id, "paused");
            return PauseOutcome::Paused;
        };
        tracing::error!(job = %self.id, %error, "a job cannot be paused: its journal cannot be written, and it goes on");
        *lock(&self.pause_refused) = Some(error);
        let (asked, none) = (StopRequest::Pause as u8, StopRequest::GoOn as u8);
        // A concurrent cancel wins.
        let _ = self.stop_request.compare_exchange(asked, none, Ordering::AcqRel, Ordering::Acquire);
        // Wakes those who wait for the pause.
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
            self.write(&changed)?;
        }
        *record = changed;
        before_told();
        // Before anybody is told: who hears that a job has ended finds it counted.
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
            // Wakes a stream that still uploads.
            self.stream.send_modify(|_| ());
        }
        Ok(self.snapshot())
    }

    /// That it has, or had, all its rows, or that none was wanted.
    pub(super) fn check_not_cut_off(&self) -> Result<(), JobError> {
        let record = lock(&self.record);
        // Counted when the upload ends.
        let had_rows = record.training_rows > 0;
        if had_rows || record.failure.as_deref() == Some(Round::LEFT) {
            return Ok(());
        }
        drop(record);
        Err(self.ended_error())
    }

    /// Why a stream cannot go on with this upload.
    pub(super) fn ended_error(&self) -> JobError {
        let snapshot = self.snapshot();
        JobError::Ended { id: self.id.clone(), how: snapshot.state.ended_as(), reason: snapshot.failure }
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

/// Locks, whatever became of those who held it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held but for a fault of ours, and what is behind it stays consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
