//! Storage of jobs. [`JobStore`] is the interface for the rest of the module; [`JobsFolder`] keeps the jobs in a
//! folder:
//!
//! ```text
//! <folder>/<id>/job.json    the record of a job (`journal.rs`)
//! <folder>/<id>/rows.spool  its rows, until the job ends (`spool.rs`)
//! <folder>/<id>/checkpoint  its training state, until the job ends (`blob.rs`)
//! <folder>/<id>/held_out    held-out rows from earlier rounds, until the job ends (`blob.rs`)
//! <folder>/../.reserve      space for records on a full disk (`reserve.rs`)
//! ```

pub(super) mod blob;
#[cfg(test)]
#[macro_use]
mod conformance;
mod folder;
mod reserve;

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::time::SystemTime;

#[cfg(all(test, target_os = "linux"))]
pub(super) use self::folder::FolderRows;
pub(super) use self::folder::JobsFolder;
#[cfg(test)]
pub(super) use self::folder::Step;
#[cfg(test)]
pub(super) use self::reserve::RESERVE_BYTES;
use super::journal::Record;
use super::{JobError, JobId};

/// Content of a job that is read and replaced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blob {
    /// The training state.
    Checkpoint,
    /// Held-out rows of earlier rounds.
    HeldOut,
}

/// Rows of a job that are open for appending. They are a sequence of bytes; `spool.rs` gives them a form.
pub(super) trait RowLog: fmt::Debug + Send {
    /// Appends bytes, which survive a crash when this returns. If it fails, none of them stays.
    fn append(&mut self, bytes: &[u8]) -> Result<(), JobError>;
    /// Appends bytes, which survive a crash only after [`RowLog::sync`]. If it fails, none of them stays.
    fn put(&mut self, bytes: &[u8]) -> Result<(), JobError>;
    /// Makes all bytes durable.
    fn sync(&mut self) -> Result<(), JobError>;
    /// Reads the bytes at `offset`.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), JobError>;
    /// When the rows last changed, if known.
    fn modified(&self) -> Option<SystemTime>;
}

/// Rows of a job in a local file that is open for reading. A store on another machine copies the rows to such a file.
#[derive(Debug)]
pub(super) struct RowsFile {
    /// The file, at its start.
    pub(super) file: File,
    /// Its path, for errors.
    pub(super) path: PathBuf,
}

/// Storage of jobs: the record, the rows and the blobs of each job.
///
/// Methods block on disk: async callers use `executor::blocking`. When a method that writes returns, its change
/// survives a crash, unless its text says otherwise. If it fails, what it would have replaced stays, except if only the
/// last step failed, which makes the new content durable. A crash may undo a removal.
pub(super) trait JobStore: fmt::Debug + Send + Sync {
    /// Prepares the store. Called once this server may write, before any other method.
    fn open(&self) -> Result<(), JobError>;
    /// Does periodic housekeeping. Called about twice a second.
    fn look_after(&self);
    /// Ids of all jobs, in any order. A job whose creation was interrupted may be among them.
    fn list(&self) -> Result<Vec<JobId>, JobError>;
    /// Reads the record of a job after a start, and removes the remains of interrupted writes. `None`: the creation of
    /// the job was interrupted, and nothing of it stays.
    fn recover(&self, id: &JobId) -> Result<Option<Record>, JobError>;
    /// Begins the creation of a job. Its first rows and blobs follow, then [`JobStore::create`]. A crash before that
    /// undoes all of it.
    fn begin(&self, id: &JobId) -> Result<(), JobError>;
    /// Writes the first record of a job: from now on, a start finds the job.
    ///
    /// # Errors
    /// [`JobError::Changed`] if the job has a record; [`JobStore::begin`] may have failed for the same reason.
    fn create(&self, record: &Record) -> Result<(), JobError>;
    /// Replaces the record of a job, if the stored one is its predecessor: its `sequence` is one less.
    ///
    /// # Errors
    /// [`JobError::Changed`] if the stored record is another one, or if there is none.
    fn replace(&self, record: &Record) -> Result<(), JobError>;
    /// Creates the rows of a job, which begin with the bytes of `head`. They survive a crash once the record of the job
    /// is written again.
    ///
    /// # Errors
    /// Those of the disk, also if the job has rows.
    fn create_rows(&self, id: &JobId, head: &[u8]) -> Result<Box<dyn RowLog>, JobError>;
    /// Opens the rows of a job for appending after their first `length` bytes. Bytes after these are removed: they are
    /// the torn end of an append that a crash interrupted.
    fn append_rows(&self, id: &JobId, length: u64) -> Result<Box<dyn RowLog>, JobError>;
    /// Opens the rows of a job for reading.
    ///
    /// # Errors
    /// Those of the disk. If there are no rows, [`JobError::is_missing`] of the error is true.
    fn read_rows(&self, id: &JobId) -> Result<RowsFile, JobError>;
    /// Removes the rows of a job. Missing rows are not an error.
    fn remove_rows(&self, id: &JobId) -> Result<(), JobError>;
    /// Replaces a blob. Returns the bytes that the previous one took, 0 if there was none. The new one takes
    /// [`blob::bytes_on_disk`].
    fn write_blob(&self, id: &JobId, blob: Blob, bytes: &[u8]) -> Result<u64, JobError>;
    /// Reads a blob, if the job has it.
    ///
    /// # Errors
    /// [`JobError::Damaged`] if it is not as it was written.
    fn read_blob(&self, id: &JobId, blob: Blob) -> Result<Option<Vec<u8>>, JobError>;
    /// Bytes of the rows and blobs of a job.
    fn bytes(&self, id: &JobId) -> u64;
    /// Removes the rows and blobs of a job. Its record stays.
    fn clear(&self, id: &JobId) -> Result<(), JobError>;
    /// Removes a job. A missing job is not an error.
    fn delete(&self, id: &JobId) -> Result<(), JobError>;
}
