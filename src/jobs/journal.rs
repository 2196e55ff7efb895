//! Journal of a job, `job.json`: one small checksummed file, replaced atomically at every state change.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{EndReason, IdempotencyKey, JobError, JobId, JobState, Owner, Priority, Round, ServerFiles};
use crate::model::{ModelKey, TrainingReport, Version};
use crate::store::StoreError;
use crate::store::disk::{Bounded, failed, read_bounded, sync_folder, temporary_in, write_new};
use crate::store::role::role;
use crate::training::TrainSpec;

/// Format version of the journals that this software reads and writes.
const FORMAT_VERSION: u32 = 1;
/// Maximum bytes of a journal. No journal is larger, although reports have an entry per epoch.
const BYTES_MAX: u64 = 64 << 20;

/// What training starts from. It is resolved once and recorded, so that a restart uses the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Beginning {
    /// Random initialization: the base had no version yet.
    Fresh,
    /// This base version.
    From(ModelKey),
}

/// Content of a job's journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) format_version: u32,
    pub(super) id: JobId,
    pub(super) state: JobState,
    pub(super) spec: TrainSpec,
    pub(super) key: Option<IdempotencyKey>,
    /// Owner of the job, which gives `key` its scope.
    #[serde(default)]
    pub(super) owner: Owner,
    /// Older journals have none and get the default.
    #[serde(default)]
    pub(super) priority: Priority,
    /// The server files that the rows come from; `None` if they are uploaded.
    #[serde(default)]
    pub(super) files: Option<ServerFiles>,
    /// Whether all rows of `files` are in the spool.
    #[serde(default)]
    pub(super) imported: bool,
    /// What the readers of `files` detected automatically; it goes to the report.
    #[serde(default)]
    pub(super) file_notes: Vec<String>,
    /// Column names of the rows, in order, if the specification, the base or the files give names; else empty.
    #[serde(default)]
    pub(super) column_names: Vec<String>,
    pub(super) created_unix_ms: u64,
    pub(super) updated_unix_ms: u64,
    /// Counted when the upload or the import is complete; the row counts likewise.
    pub(super) chunks: u64,
    pub(super) training_rows: u64,
    pub(super) test_rows: u64,
    pub(super) version: Option<Version>,
    pub(super) report: Option<TrainingReport>,
    pub(super) failure: Option<EndReason>,
    /// Whether the job failed because one of its files is damaged or missing.
    #[serde(default)]
    pub(super) data_lost: bool,
    /// Columns of the rows. The specification may leave them to the base. `None` in older journals.
    #[serde(default)]
    pub(super) columns: Option<usize>,
    /// Set once training starts, if the specification names a base.
    #[serde(default)]
    pub(super) beginning: Option<Beginning>,
    /// Why no version was published, if the model is not better than its base.
    #[serde(default)]
    pub(super) kept_back: Option<String>,
    /// Position in a stream, if the job is a round of one.
    #[serde(default)]
    pub(super) round: Option<Round>,
}

#[derive(Serialize, Deserialize)]
struct File {
    crc32: u32,
    job: Value,
}

impl Record {
    pub(super) fn new(
        id: JobId,
        spec: TrainSpec,
        files: Option<ServerFiles>,
        key: Option<IdempotencyKey>,
        priority: Priority,
        now: SystemTime,
    ) -> Self {
        let now = unix_ms(now);
        Self {
            format_version: FORMAT_VERSION,
            id,
            // Rows from server files need no upload.
            state: if files.is_some() { JobState::Queued } else { JobState::Uploading },
            spec,
            key,
            owner: Owner::default(),
            priority,
            files,
            imported: false,
            file_notes: Vec::new(),
            column_names: Vec::new(),
            created_unix_ms: now,
            updated_unix_ms: now,
            chunks: 0,
            training_rows: 0,
            test_rows: 0,
            version: None,
            report: None,
            failure: None,
            data_lost: false,
            columns: None,
            beginning: None,
            kept_back: None,
            round: None,
        }
    }

    /// Columns of the rows.
    pub(super) fn columns(&self) -> usize {
        self.columns.or(self.spec.widths.first().copied()).unwrap_or_default()
    }

    /// Writes `job.json` in `folder`. When this returns, the journal survives a crash.
    pub(super) fn write(&self, folder: &Path) -> Result<(), JobError> {
        let path = path(folder);
        let encode = |error: serde_json::Error| JobError::Damaged {
            role: role(&path),
            reason: format!("it cannot be written: {error}"),
        };
        let job = serde_json::to_value(self).map_err(encode)?;
        let file = File { crc32: checksum(&job), job };
        let bytes = serde_json::to_vec(&file).map_err(encode)?;
        let temporary = temporary_in(folder);
        at(folder, Step::JournalBegun(bytes.len() as u64))
            .and_then(|()| write_new(&temporary, &bytes))
            .and_then(|()| std::fs::rename(&temporary, &path).map_err(failed("cannot replace", &path)))
            .inspect_err(|_| {
                // Remove the incomplete file; the old journal stays.
                let _ = std::fs::remove_file(&temporary);
            })?;
        sync_folder(folder)?;
        Ok(at(folder, Step::JournalWritten)?)
    }

    /// Reads the journal in `folder`.
    pub(super) fn read(folder: &Path) -> Result<Self, JobError> {
        let path = path(folder);
        let damaged = |reason: String| JobError::Damaged { role: role(&path), reason };
        let bytes = match read_bounded(&path, BYTES_MAX).map_err(failed("cannot read", &path))? {
            Bounded::Bytes(bytes) => bytes,
            Bounded::TooLarge(bytes) => return Err(damaged(format!("{bytes} bytes, expected at most {BYTES_MAX}"))),
        };
        let file: File = serde_json::from_slice(&bytes)
            .map_err(|error| damaged(format!("{error}; expected a journal with a checksum, \"crc32\"")))?;
        let expected = checksum(&file.job);
        if file.crc32 != expected {
            return Err(damaged(format!("its checksum is {:08x}, its content has {expected:08x}", file.crc32)));
        }
        let record: Self = serde_json::from_value(file.job).map_err(|error| damaged(error.to_string()))?;
        if record.format_version != FORMAT_VERSION {
            let got = record.format_version;
            return Err(damaged(format!("its format version is {got}, expected {FORMAT_VERSION}")));
        }
        Ok(record)
    }

    /// Whether the rows must still be copied from server files.
    pub(super) fn waits_for_import(&self) -> bool {
        self.files.is_some() && !self.imported
    }

    pub(super) fn created(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.created_unix_ms)
    }

    pub(super) fn updated(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.updated_unix_ms)
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("job.json")
}

/// Steps of a state change. A crash before or after each of them leaves a different state on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A journal of this size in bytes is about to be written.
    JournalBegun(u64),
    /// The journal is on disk.
    JournalWritten,
    /// The rows of an ended job are removed; its checkpoint and held-out rows are not.
    RowsRemoved,
    /// Rows, checkpoint and held-out rows are removed.
    FilesRemoved,
}

/// Hook at which a test can make a change of the job in `folder` crash or fail.
#[cfg(test)]
pub(super) fn at(folder: &Path, step: Step) -> Result<(), StoreError> {
    super::tests::faults::at(folder, step)
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "tests make it fail")]
#[inline]
pub(super) fn at(_folder: &Path, _step: Step) -> Result<(), StoreError> {
    Ok(())
}

/// CRC-32 of the canonical JSON: sorted keys, no white space.
fn checksum(job: &Value) -> u32 {
    crc32fast::hash(job.to_string().as_bytes())
}

/// Milliseconds since 1970; 0 for earlier times.
pub(super) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let spec = TrainSpec::new("digits".parse().expect("a name"), vec![64, 8]);
        let files = ServerFiles {
            paths: vec!["a.csv".to_owned(), "deep/b.npy".to_owned()],
            test_paths: Vec::new(),
            options: crate::files::ReadOptions { header: Some(true), ..Default::default() },
        };
        let mut record = Record::new(
            JobId::new(),
            spec,
            Some(files),
            Some("key".parse().expect("a key")),
            Priority::default(),
            SystemTime::now(),
        );
        record.report = Some(TrainingReport { learning_rate: 0.1, ..TrainingReport::default() });
        record
    }

    #[test]
    fn a_journal_is_read_back_unchanged() {
        let folder = tempfile::tempdir().expect("a folder");
        let record = record();
        record.write(folder.path()).expect("writes");
        record.write(folder.path()).expect("replaces");
        assert_eq!(Record::read(folder.path()).expect("reads"), record);
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1, "nothing temporary stays");
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let record = record();
        record.write(folder.path()).expect("writes");
        let path = folder.path().join("job.json");
        let bytes = std::fs::read(&path).expect("reads");
        for index in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[index] ^= 1 << (index % 8);
            std::fs::write(&path, &flipped).expect("writes");
            // A flipped bit may give another spelling of the same content (1e5 for 1E5), but never other content.
            if let Ok(read) = Record::read(folder.path()) {
                assert_eq!(read, record, "byte {index}");
            }
            std::fs::write(&path, &bytes[..index]).expect("writes");
            assert!(Record::read(folder.path()).is_err(), "cut to {index} bytes");
        }
    }

    #[test]
    fn journals_without_newer_fields_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let record = Record { files: None, ..record() };
        let mut job = serde_json::to_value(&record).expect("writes");
        for newer in ["priority", "files", "imported", "owner"] {
            job.as_object_mut().expect("an object").remove(newer).expect("it is there");
        }
        let file = File { crc32: checksum(&job), job };
        std::fs::write(path(folder.path()), serde_json::to_vec(&file).expect("writes")).expect("writes");
        assert_eq!(Record::read(folder.path()).expect("reads"), record);
    }

    #[test]
    fn missing_and_broken_journals_are_distinguished() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(Record::read(folder.path()).expect_err("nothing there").is_missing());
        std::fs::write(folder.path().join("job.json"), "{}").expect("writes");
        assert!(!Record::read(folder.path()).expect_err("broken").is_missing());
    }
}
