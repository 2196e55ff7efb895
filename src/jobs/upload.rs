//! Server side of one upload: receives chunks, reorders them and appends them to the spool.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::sync::watch;

use super::blocking::blocking;
use super::job::Job;
use super::lock::lock;
use super::manager::JobManager;
use super::reorder_buffer::ReorderBuffer;
use super::spool::{Chunk, Spool};
use super::{EndReason, JobError, JobSnapshot, JobState, Round, RowRole, held_out};
use crate::model::{Matrix, Missing};

/// Server side of one upload. Dropping it keeps the upload, so that a client can resume it.
#[derive(Debug)]
pub struct Upload {
    open: OpenUpload,
    stream: watch::Receiver<u64>,
    ahead: Arc<Mutex<ReorderBuffer>>,
    _attached: Attached,
}

/// A stream's hold on the upload of a job, until another stream takes over.
#[derive(Clone, Debug)]
struct OpenUpload {
    manager: Arc<JobManager>,
    job: Arc<Job>,
    /// Number of this stream, from 1: each stream that takes over the upload gets the next one.
    number: u64,
}

/// Records when a stream leaves its job.
#[derive(Debug)]
struct Attached(Arc<Job>);

impl Drop for Attached {
    fn drop(&mut self) {
        *lock(&self.0.detached) = SystemTime::now();
    }
}

/// Acknowledgment of a chunk that is durable on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Number of the chunk.
    pub number: u64,
    /// Rows on disk after this chunk, training and test rows together.
    pub rows: u64,
}

impl Upload {
    /// Takes over the upload. The previous stream ends with [`JobError::TakenOver`].
    pub(super) fn take_over(manager: Arc<JobManager>, job: Arc<Job>) -> Self {
        let mut number = 0;
        job.stream.send_modify(|current| {
            *current += 1;
            number = *current;
        });
        Self::new(OpenUpload { manager, job, number })
    }

    /// Takes the upload if no other stream had it before.
    fn take_first(manager: Arc<JobManager>, job: Arc<Job>) -> Result<Self, JobError> {
        let is_first = job.stream.send_if_modified(|current| {
            let is_first = *current == 0;
            *current = (*current).max(1);
            is_first
        });
        if is_first {
            Ok(Self::new(OpenUpload { manager, job, number: 1 }))
        } else {
            Err(JobError::TakenOver(job.id.clone()))
        }
    }

    fn new(open: OpenUpload) -> Self {
        let stream = open.job.stream.subscribe();
        let ahead = Arc::new(Mutex::new(ReorderBuffer::new(open.manager.limits.ahead.clone())));
        let attached = Attached(Arc::clone(&open.job));
        Self { open, stream, ahead, _attached: attached }
    }

    /// Accepts a chunk and returns the newly acknowledged chunks: none if the chunk is ahead of a missing one (it is
    /// buffered, within limits), several if buffered chunks follow it. A chunk that is already on disk with the same
    /// rows is acknowledged again and not stored twice. Dropping the future does not tear a chunk: it is on disk whole,
    /// or not at all.
    pub async fn append(&mut self, number: u64, role: RowRole, rows: Matrix) -> Result<Vec<Acknowledged>, JobError> {
        let (open, ahead) = (self.open.clone(), Arc::clone(&self.ahead));
        blocking(move || {
            let mut spool = lock(&open.job.spool);
            let taken =
                open.usable(spool.as_mut()).and_then(|spool| open.take(spool, &mut lock(&ahead), number, role, rows));
            taken.inspect_err(|error| {
                if matches!(error, JobError::DiskFull { .. }) {
                    open.manager.fail_upload(&open.job, &mut spool, error);
                }
            })
        })
        .await
    }

    /// Ends the upload if the client's counts match those on disk; the job becomes QUEUED.
    pub async fn finish(self, chunks: u64, rows: u64) -> Result<JobSnapshot, JobError> {
        let Self { open, .. } = self;
        blocking(move || {
            let mut guard = lock(&open.job.spool);
            let counts = open.usable(guard.as_mut())?.counts();
            if (chunks, rows) != (counts.chunks, counts.rows()) {
                return Err(JobError::CountsDiffer {
                    chunks,
                    rows,
                    chunks_here: counts.chunks,
                    rows_here: counts.rows(),
                });
            }
            open.manager.queue_upload(&open.job, &mut guard)
        })
        .await
    }

    /// Ends the upload of this round and continues with the next round of the stream, which `self` then uploads to.
    /// Returns the ended job, now QUEUED, and the next round. The next round is created first, so that a crash in
    /// between loses nothing: this round is then ended by the next start, or when the stream resumes.
    ///
    /// # Panics
    /// If the job is not a round.
    pub async fn cut(&mut self) -> Result<(JobSnapshot, Round), JobError> {
        let open = self.open.clone();
        let (ended, next, round) = blocking(move || {
            let OpenUpload { manager, job, .. } = &open;
            let mut guard = lock(&job.spool);
            let counts = open.usable(guard.as_mut())?.counts();
            if counts.training_rows == 0 {
                return Err(JobError::NoTrainingRows);
            }
            let round = job.round.as_ref().expect("a round").next(counts.chunks, counts.rows());
            let rows = held_out::hand_on(job, counts)?;
            let next = manager.next_round(job, &round, &rows)?;
            Ok((manager.queue_upload(job, &mut guard)?, next, round))
        })
        .await?;
        // Another client may have resumed the stream and taken the next round in the meantime; then this one fails.
        *self = Self::take_first(Arc::clone(&self.open.manager), next)?;
        Ok((ended, round))
    }

    /// Cancels a round that received no rows, with the reason [`EndReason::RoundLeft`].
    pub async fn leave(self) -> Result<JobSnapshot, JobError> {
        let Self { open, .. } = self;
        blocking(move || {
            let OpenUpload { manager, job, .. } = &open;
            let mut guard = lock(&job.spool);
            open.usable(guard.as_mut())?;
            job.cancel_unless_running(Some(EndReason::ROUND_LEFT), || {
                *guard = None;
                manager.remove_rows(job);
            })?;
            Ok(job.snapshot())
        })
        .await
    }

    /// Number of chunks on disk.
    pub fn chunks(&self) -> u64 {
        self.open.job.snapshot().chunks
    }

    /// Number of rows on disk, training and test rows together.
    pub fn rows(&self) -> u64 {
        let snapshot = self.open.job.snapshot();
        snapshot.training_rows + snapshot.test_rows
    }

    /// Number of training rows on disk.
    pub fn training_rows(&self) -> u64 {
        self.open.job.snapshot().training_rows
    }

    /// Whether a buffered chunk waits for an earlier one.
    pub fn waits_for_a_chunk(&self) -> bool {
        !lock(&self.ahead).is_empty()
    }

    /// Resolves when another stream takes over this upload, when the job ends, or when the server shuts down.
    pub async fn taken_over(&mut self) -> JobError {
        loop {
            if self.open.manager.is_closing() {
                return JobError::ShuttingDown;
            }
            if self.open.job.state().has_ended() {
                return self.open.job.ended_error();
            }
            if *self.stream.borrow_and_update() != self.open.number {
                return JobError::TakenOver(self.open.job.id.clone());
            }
            if self.stream.changed().await.is_err() {
                return JobError::ShuttingDown;
            }
        }
    }
}

impl OpenUpload {
    /// Buffers, recognizes or stores a chunk, then stores the buffered chunks that follow it. If one of them fails, the
    /// chunks stored before it stay on disk without an acknowledgment. A client that resumes learns of them.
    fn take(
        &self,
        spool: &mut Spool,
        ahead: &mut ReorderBuffer,
        number: u64,
        role: RowRole,
        rows: Matrix,
    ) -> Result<Vec<Acknowledged>, JobError> {
        let next = spool.counts().chunks + 1;
        if number == 0 {
            return Err(JobError::ChunkZero { expected: next });
        }
        if rows.columns() != spool.columns() {
            return Err(JobError::Columns { got: rows.columns(), expected: spool.columns() });
        }
        rows.check_values(Missing::from(self.job.spec.spec().missing_values))?;
        let chunk = Chunk::new(number, role, &rows);
        drop(rows);
        if number > next {
            ahead.keep(chunk, next)?;
            return Ok(Vec::new());
        }
        if number < next {
            return if spool.holds(&chunk)? {
                Ok(vec![Acknowledged { number, rows: spool.counts().rows() }])
            } else {
                Err(JobError::ChunkDiffers { number })
            };
        }
        let mut acknowledged = Vec::new();
        let mut turn = Some(chunk);
        while let Some(chunk) = turn {
            let rows = self.store(spool, &chunk)?;
            acknowledged.push(Acknowledged { number: chunk.number(), rows });
            turn = ahead.take(chunk.number() + 1);
        }
        Ok(acknowledged)
    }

    /// Writes the next chunk to disk, within the limits; returns the total rows on disk.
    fn store(&self, spool: &mut Spool, chunk: &Chunk) -> Result<u64, JobError> {
        let Self { manager, job, .. } = self;
        let (rows, rows_max) = (spool.counts().rows() + chunk.rows(), manager.config.job_rows_max);
        if rows > rows_max {
            return Err(JobError::TooManyRows { rows, rows_max });
        }
        manager.reserve(job, chunk.bytes())?;
        let counts = spool.append(chunk).map_err(|error| {
            manager.limits.quota.release(&job.share, chunk.bytes());
            error.of_job(&job.id)
        })?;
        job.tell_counts(counts, SystemTime::now().checked_add(manager.config.upload_idle_max));
        Ok(counts.rows())
    }

    /// Returns the spool if this stream may still write to it.
    fn usable<'a>(&self, spool: Option<&'a mut Spool>) -> Result<&'a mut Spool, JobError> {
        if self.manager.is_closing() {
            return Err(JobError::ShuttingDown);
        }
        if *self.job.stream.borrow() != self.number {
            return Err(JobError::TakenOver(self.job.id.clone()));
        }
        match spool {
            Some(spool) if self.job.state() == JobState::Uploading => Ok(spool),
            _ => Err(self.job.ended_error()),
        }
    }
}
