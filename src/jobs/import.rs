//! Import of server files: copies their rows to the job's spool. Training then uses checksummed rows that stay the same
//! after a restart, even if the files change.
//!
//! The journal records a complete import. An interrupted import starts again, because the files may have changed.

use super::base;
use super::files::ServerFiles;
use super::job::Job;
use super::manager::JobManager;
use super::spool::{self, Chunk, Counts, Spool};
use super::{JobError, RowRole, ServerFilesError};
use crate::files::{narrow, needs_f64};
use crate::model::{Matrix, Values};

/// Bytes of values in a chunk, counted as binary32: large enough for full disk speed, small enough to undo.
const CHUNK_BYTES: usize = 1 << 20;
/// Number of chunks between two syncs of the file. It bounds how long a cancel waits for the disk.
const UNSYNCED_CHUNKS_MAX: u64 = 32;

/// Maximum number of notes on files that a job keeps.
const NOTES_MAX: usize = 20;

/// Copies the rows of the job's files to its spool, within the limits, unless that is already done. If `go_on` returns
/// false in the meantime, it removes the partial copy and returns false.
pub(super) fn import(manager: &JobManager, job: &Job, go_on: &dyn Fn() -> bool) -> Result<bool, JobError> {
    let Some(files) = job.files_to_import() else { return Ok(true) };
    forget(manager, job)?;
    tracing::info!(job = %job.id, files = files.paths.len() + files.test_paths.len(), "copying rows from files");
    match copy(manager, job, &files, go_on)? {
        Some(Copied { counts, names, notes }) => {
            job.settle_import(counts, names, notes)?;
            tracing::info!(job = %job.id, rows = counts.rows(), "copied rows from files");
            Ok(true)
        }
        None => {
            forget(manager, job)?;
            tracing::info!(job = %job.id, "stopped before all rows were copied; the copy starts again with the job");
            Ok(false)
        }
    }
}

/// Removes the remains of an interrupted import.
fn forget(manager: &JobManager, job: &Job) -> Result<(), JobError> {
    job.store().remove_rows(&job.id)?;
    manager.limits.quota.release_all(&job.share);
    job.tell_counts(Counts::default(), None);
    Ok(())
}

/// Result of a complete import.
struct Copied {
    counts: Counts,
    /// Column names, in the order of the spool's columns; empty if neither the base, the specification nor a file has
    /// names.
    names: Vec<String>,
    /// What the readers of the files detected automatically.
    notes: Vec<String>,
}

/// Copies all rows; `None` if `go_on` returned false.
fn copy(
    manager: &JobManager,
    job: &Job,
    files: &ServerFiles,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<Copied>, JobError> {
    let mut notes = Notes::default();
    let folder = manager.config.train_folder.as_deref();
    let columns = job.columns;
    let mut features = base::feature_names(&manager.models, job)?;
    let mut copying = Copying::new(manager, job)?;
    for (role, asked) in files.each() {
        copying.turn_to(role)?;
        let mut reader = files.open(folder, asked, columns, &mut features)?;
        notes.add(job, asked, reader.notes());
        loop {
            if !go_on() {
                return Ok(None);
            }
            let rows_max = copying.rows_free();
            let read = reader.next_rows(&mut copying.values, rows_max).map_err(ServerFilesError::from)?;
            if read < rows_max {
                notes.add(job, asked, &reader.notes_at_end());
                break;
            }
            copying.put()?;
        }
    }
    let counts = copying.finish()?;
    Ok(Some(Copied { counts, names: features, notes: notes.kept }))
}

/// Notes of the file readers, each once, with the first file that it is about.
#[derive(Default)]
struct Notes {
    seen: std::collections::HashSet<String>,
    kept: Vec<String>,
}

impl Notes {
    fn add(&mut self, job: &Job, asked: &str, notes: &[String]) {
        for note in notes {
            if self.kept.len() < NOTES_MAX && self.seen.insert(note.clone()) {
                tracing::info!(job = %job.id, file = asked, note, "a file is not read as plain CSV");
                self.kept.push(format!("file {asked}: {note}"));
            }
        }
    }
}

/// A spool and the rows that do not fill a chunk yet. A chunk may contain rows of several files, but of one role only.
struct Copying<'a> {
    manager: &'a JobManager,
    job: &'a Job,
    spool: Spool,
    columns: usize,
    chunk_rows: usize,
    role: RowRole,
    values: Vec<f64>,
}

impl<'a> Copying<'a> {
    fn new(manager: &'a JobManager, job: &'a Job) -> Result<Self, JobError> {
        let columns = job.columns;
        manager.reserve(job, spool::HEAD_BYTES)?;
        let spool = Spool::create(job.store(), &job.id, columns)?;
        let chunk_rows = (CHUNK_BYTES / (4 * columns)).max(1);
        let values = Vec::with_capacity(chunk_rows * columns);
        Ok(Self { manager, job, spool, columns, chunk_rows, role: RowRole::Training, values })
    }

    fn rows_free(&self) -> usize {
        self.chunk_rows - self.values.len() / self.columns
    }

    /// Sets the role of the following rows; rows of the previous role are written as a chunk first.
    fn turn_to(&mut self, role: RowRole) -> Result<(), JobError> {
        if self.role != role {
            self.put()?;
            self.role = role;
        }
        Ok(())
    }

    /// Writes the collected rows as a chunk.
    fn put(&mut self) -> Result<(), JobError> {
        if self.values.is_empty() {
            return Ok(());
        }
        let Self { manager, job, spool, columns, .. } = self;
        let rows = self.values.len() / *columns;
        let all = spool.counts().rows() + rows as u64;
        if all > manager.config.job_rows_max {
            return Err(JobError::TooManyRows { rows: all, rows_max: manager.config.job_rows_max });
        }
        let full =
            if needs_f64(&self.values) { Values::from_f64(&self.values) } else { Values::Floats(narrow(&self.values)) };
        self.values.clear();
        let matrix = Matrix::new(rows as u32, *columns as u32, full)?;
        let chunk = Chunk::new(spool.counts().chunks + 1, self.role, &matrix);
        manager.reserve(job, chunk.bytes())?;
        let counts = spool.put(&chunk)?;
        if counts.chunks.is_multiple_of(UNSYNCED_CHUNKS_MAX) {
            spool.sync()?;
        }
        job.tell_counts(counts, None);
        Ok(())
    }

    /// Writes and syncs the remaining rows. The spool survives a crash only once the record of the job is written.
    fn finish(mut self) -> Result<Counts, JobError> {
        self.put()?;
        self.spool.sync()?;
        let counts = self.spool.counts();
        if counts.training_rows == 0 {
            return Err(JobError::NoTrainingRows);
        }
        Ok(counts)
    }
}
