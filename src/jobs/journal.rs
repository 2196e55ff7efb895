//! What is known of a job across restarts: one small checksummed file, replaced atomically at every change of state.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{IdempotencyKey, JobError, JobId, JobState, Owner, Priority, Round, ServerFiles};
use crate::model::{ModelKey, TrainingReport, Version};
use crate::store::StoreError;
use crate::store::disk::{Bounded, failed, read_bounded, sync_folder, temporary_in, write_new};
use crate::store::role::role;
use crate::training::TrainSpec;

/// The format that this software writes.
const FORMAT_VERSION: u32 = 1;
/// Larger than any journal of ours: reports have a line per epoch.
const BYTES_MAX: u64 = 64 << 20;

/// What training began with, settled once: a crash changes nothing of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Beginning {
    /// Its base had no version yet.
    Fresh,
    /// This version.
    From(ModelKey),
}

/// What is known of a job across restarts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) format_version: u32,
    pub(super) id: JobId,
    pub(super) state: JobState,
    pub(super) spec: TrainSpec,
    pub(super) key: Option<IdempotencyKey>,
    /// Whose it is: the scope of `key`.
    #[serde(default)]
    pub(super) owner: Owner,
    /// Journals of before there were priorities have none.
    #[serde(default)]
    pub(super) priority: Priority,
    /// Where its rows come from, unless they are uploaded.
    #[serde(default)]
    pub(super) files: Option<ServerFiles>,
    /// Whether the rows of `files` are all in the spool.
    #[serde(default)]
    pub(super) imported: bool,
    /// What the readers of `files` decided on their own: it goes to the report.
    #[serde(default)]
    pub(super) file_notes: Vec<String>,
    /// Names of the columns of its rows, in their order, where the specification, the base or its files name them.
    #[serde(default)]
    pub(super) column_names: Vec<String>,
    pub(super) created_unix_ms: u64,
    pub(super) updated_unix_ms: u64,
    /// Counted when the upload was finished, or the import.
    pub(super) chunks: u64,
    pub(super) training_rows: u64,
    pub(super) test_rows: u64,
    pub(super) version: Option<Version>,
    pub(super) report: Option<TrainingReport>,
    pub(super) failure: Option<String>,
    /// Whether it failed because a file of it is damaged or gone.
    #[serde(default)]
    pub(super) data_lost: bool,
    /// Width of the rows, where the specification leaves it to the base.
    #[serde(default)]
    pub(super) columns: Option<usize>,
    /// Where the specification names a base, and training has begun.
    #[serde(default)]
    pub(super) beginning: Option<Beginning>,
    /// Why there is no version, of one that is no better than its base.
    #[serde(default)]
    pub(super) kept_back: Option<String>,
    /// Of a stream.
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
            // Nobody is waited for where the server reads the rows.
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

    /// Width of the rows.
    pub(super) fn columns(&self) -> usize {
        self.columns.or(self.spec.widths.first().copied()).unwrap_or_default()
    }

    /// Writes `job.json` in `folder`: after this, it survives any crash.
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
                // What was half written is of no use; the old journal stays.
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
            return Err(damaged(format!("format version {got}, this software knows {FORMAT_VERSION}")));
        }
        Ok(record)
    }

    /// Whether its rows have yet to be copied from files.
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

/// The moments of a change between which a crash leaves something different behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A journal of this size in bytes is about to be written.
    JournalBegun(u64),
    /// It is on the disk.
    JournalWritten,
    /// The rows of a job that has ended are gone; its checkpoint and what was held out are not.
    RowsRemoved,
    /// All of them are gone.
    FilesRemoved,
}

/// A moment at which a test may let a change of the job in `folder` crash or fail.
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

/// Of the canonical form: sorted keys, no white space.
fn checksum(job: &Value) -> u32 {
    crc32fast::hash(job.to_string().as_bytes())
}

/// Milliseconds since 1970; 0 for a clock before that.
pub(super) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Whether an error says that there is nothing, rather than something broken.
pub(super) fn is_missing(error: &JobError) -> bool {
    matches!(error, JobError::Store(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound)
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
    fn it_comes_back_as_it_went() {
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
            // A flip may spell the same content otherwise (1e5 for 1E5); it may never become another content.
            if let Ok(read) = Record::read(folder.path()) {
                assert_eq!(read, record, "byte {index}");
            }
            std::fs::write(&path, &bytes[..index]).expect("writes");
            assert!(Record::read(folder.path()).is_err(), "cut to {index} bytes");
        }
    }

    #[test]
    fn a_journal_of_before_there_were_priorities_and_files_is_read() {
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
    fn a_missing_journal_is_told_from_a_broken_one() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(is_missing(&Record::read(folder.path()).expect_err("nothing there")));
        std::fs::write(folder.path().join("job.json"), "{}").expect("writes");
        assert!(!is_missing(&Record::read(folder.path()).expect_err("broken")));
    }
}
