//! The receiving end of one upload.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::spool::Spool;
use super::table::{Job, Table};
use super::{JobError, JobSnapshot, JobState, RowRole, blocking};
use crate::model::Matrix;

/// The receiving end of one upload. Dropping it leaves the upload to be resumed.
#[derive(Debug)]
pub struct Upload {
    table: Arc<Table>,
    job: Arc<Job>,
    /// The number of this stream among those that took the upload over.
    number: u64,
    stream: watch::Receiver<u64>,
}

impl Upload {
    /// Makes the stream that had the upload before end with [`JobError::TakenOver`].
    pub(super) fn take_over(table: Arc<Table>, job: Arc<Job>) -> Self {
        let mut number = 0;
        job.stream.send_modify(|current| {
            *current += 1;
            number = *current;
        });
        let stream = job.stream.subscribe();
        Self { table, job, number, stream }
    }

    /// Appends a chunk and returns once it is on disk: the rows on disk, of both roles. A chunk that is there already is
    /// not stored twice. Dropping the future does not tear the chunk: it is on disk whole, or not at all.
    pub async fn append(&mut self, number: u64, role: RowRole, rows: Matrix) -> Result<u64, JobError> {
        let (table, job, stream) = (Arc::clone(&self.table), Arc::clone(&self.job), self.number);
        let mut guard = Arc::clone(&job.spool).lock_owned().await;
        blocking(move || {
            let spool = usable(&table, &job, stream, guard.as_mut())?;
            let counts = spool.counts();
            if number >= 1 && number <= counts.chunks {
                return Ok(counts.rows());
            }
            if number != counts.chunks + 1 {
                return Err(JobError::ChunkOrder { got: number, expected: counts.chunks + 1 });
            }
            if rows.columns() != spool.columns() {
                return Err(JobError::Columns { got: rows.columns(), expected: spool.columns() });
            }
            rows.check_finite()?;
            let bytes = Spool::chunk_bytes(&rows);
            table.reserve(bytes)?;
            let counts = spool.append(role, &rows).inspect_err(|_| table.release(bytes))?;
            job.tell_counts(counts, SystemTime::now().checked_add(table.config.upload_idle_max));
            Ok(counts.rows())
        })
        .await
    }

    /// Ends the upload if the counts agree; the job is QUEUED.
    pub async fn finish(self, chunks: u64, rows: u64) -> Result<JobSnapshot, JobError> {
        let Self { table, job, number, .. } = self;
        let mut guard = Arc::clone(&job.spool).lock_owned().await;
        blocking(move || {
            let counts = usable(&table, &job, number, guard.as_mut())?.counts();
            if (chunks, rows) != (counts.chunks, counts.rows()) {
                return Err(JobError::CountsDiffer {
                    chunks,
                    rows,
                    chunks_here: counts.chunks,
                    rows_here: counts.rows(),
                });
            }
            if counts.training_rows == 0 {
                return Err(JobError::NoTrainingRows);
            }
            let snapshot = job.go(JobState::Queued, |record| {
                record.chunks = counts.chunks;
                record.training_rows = counts.training_rows;
                record.test_rows = counts.test_rows;
            })?;
            // Nothing more is written: the file is closed.
            *guard = None;
            table.enqueue(job.id.clone());
            Ok(snapshot)
        })
        .await
    }

    /// Resolves when another stream takes this upload over, when the job ends, or when the server stops.
    pub async fn taken_over(&mut self) -> JobError {
        loop {
            if self.table.is_closing() {
                return JobError::ShuttingDown;
            }
            if self.job.state().has_ended() {
                return self.job.ended_error();
            }
            if *self.stream.borrow_and_update() != self.number {
                return JobError::TakenOver(self.job.id.clone());
            }
            if self.stream.changed().await.is_err() {
                return JobError::ShuttingDown;
            }
        }
    }
}

/// The spool, if this stream may still write to it.
fn usable<'a>(table: &Table, job: &Job, number: u64, spool: Option<&'a mut Spool>) -> Result<&'a mut Spool, JobError> {
    if table.is_closing() {
        return Err(JobError::ShuttingDown);
    }
    if *job.stream.borrow() != number {
        return Err(JobError::TakenOver(job.id.clone()));
    }
    match spool {
        Some(spool) if job.state() == JobState::Uploading => Ok(spool),
        _ => Err(job.ended_error()),
    }
}
