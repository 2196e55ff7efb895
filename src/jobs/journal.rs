//! Journal of a job: its record in a small checksummed form, which the store replaces at every state change.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{EndReason, IdempotencyKey, JobId, JobState, Owner, Priority, Round, ServerFiles};
use crate::model::{ModelKey, TrainingReport, Version};
use crate::training::TrainSpec;

/// Format version of the journals that this software reads and writes.
const FORMAT_VERSION: u32 = 1;
/// Maximum bytes of a journal. No journal is larger, although reports have an entry per epoch.
pub(super) const BYTES_MAX: u64 = 64 << 20;

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
    /// Number of changes in the store since the job was created or read. It only grows. A store may keep it outside of
    /// the journal.
    #[serde(skip)]
    pub(super) sequence: u64,
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
            sequence: 0,
        }
    }

    /// Columns of the rows.
    pub(super) fn columns(&self) -> usize {
        self.columns.or(self.spec.widths.first().copied()).unwrap_or_default()
    }

    /// The bytes of the journal.
    ///
    /// # Errors
    /// If the record has no JSON form.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let job = serde_json::to_value(self)?;
        serde_json::to_vec(&File { crc32: checksum(&job), job })
    }

    /// Reads the bytes of a journal.
    ///
    /// # Errors
    /// What is wrong with the bytes, as a clause.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(bytes)
            .map_err(|error| format!("{error}; expected a journal with a checksum, \"crc32\""))?;
        let expected = checksum(&file.job);
        if file.crc32 != expected {
            return Err(format!("its checksum is {:08x}, its content has {expected:08x}", file.crc32));
        }
        let record: Self = serde_json::from_value(file.job).map_err(|error| error.to_string())?;
        if record.format_version != FORMAT_VERSION {
            return Err(format!("its format version is {}, expected {FORMAT_VERSION}", record.format_version));
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
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let record = record();
        let bytes = record.to_bytes().expect("encodes");
        assert_eq!(Record::from_bytes(&bytes).expect("reads"), record);
        for index in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[index] ^= 1 << (index % 8);
            // A flipped bit may give another spelling of the same content (1e5 for 1E5), but never other content.
            if let Ok(read) = Record::from_bytes(&flipped) {
                assert_eq!(read, record, "byte {index}");
            }
            assert!(Record::from_bytes(&bytes[..index]).is_err(), "cut to {index} bytes");
        }
    }

    #[test]
    fn journals_without_newer_fields_are_read() {
        let record = Record { files: None, ..record() };
        let mut job = serde_json::to_value(&record).expect("writes");
        for newer in ["priority", "files", "imported", "owner"] {
            job.as_object_mut().expect("an object").remove(newer).expect("it is there");
        }
        let file = File { crc32: checksum(&job), job };
        let bytes = serde_json::to_vec(&file).expect("writes");
        assert_eq!(Record::from_bytes(&bytes).expect("reads"), record);
    }
}
