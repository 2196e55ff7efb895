//! The jobs folder: the storage of jobs on the server's disk. The lock of the model store keeps other servers away.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::reserve::DiskReserve;
use super::{Blob, JobStore, RowLog, RowsFile, blob};
use crate::jobs::journal::{BYTES_MAX, Record};
use crate::jobs::lock::lock;
use crate::jobs::{JobError, JobId, spool};
use crate::store::StoreError;
use crate::store::disk::{
    Access, Bounded, ensure_folder, failed, open_regular, read_bounded, remove, sync_folder, temporary_in, write_new,
};
use crate::store::role::role;

/// Names of the files of a job.
const RECORD: &str = "job.json";
const ROWS: &str = "rows.spool";
const CHECKPOINT: &str = "checkpoint";
const HELD_OUT: &str = "held_out";

/// The jobs folder. It implements [`JobStore`].
#[derive(Debug)]
pub(in crate::jobs) struct JobsFolder {
    folder: PathBuf,
    reserve: DiskReserve,
    /// Sequences of the records that this server created, recovered or replaced. The file does not store them: no other
    /// server writes, so they start at 0. Each is locked while its record is written. `None`: the job is deleted.
    sequences: Mutex<HashMap<JobId, Arc<Mutex<Option<u64>>>>>,
}

impl JobsFolder {
    /// The jobs in `folder`, next to the models. [`JobStore::open`] creates the folder.
    pub(in crate::jobs) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), reserve: DiskReserve::new(folder), sequences: Mutex::default() }
    }

    /// Folder of a job.
    fn folder_of(&self, id: &JobId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    fn path_of(&self, id: &JobId, blob: Blob) -> PathBuf {
        self.folder_of(id).join(match blob {
            Blob::Checkpoint => CHECKPOINT,
            Blob::HeldOut => HELD_OUT,
        })
    }

    /// Writes a record in the folder of its job.
    fn write(&self, record: &Record) -> Result<(), JobError> {
        let folder = self.folder_of(&record.id);
        let path = folder.join(RECORD);
        let bytes = record.to_bytes().map_err(|error| JobError::Damaged {
            role: role(&path),
            reason: format!("it cannot be written: {error}"),
        })?;
        let temporary = temporary_in(&folder);
        at(&folder, Step::JournalBegun(bytes.len() as u64))
            .and_then(|()| write_new(&temporary, &bytes))
            .and_then(|()| std::fs::rename(&temporary, &path).map_err(failed("cannot replace", &path)))
            .inspect_err(|_| {
                // Remove the incomplete file; the old journal stays.
                let _ = std::fs::remove_file(&temporary);
            })?;
        sync_folder(&folder)?;
        Ok(at(&folder, Step::JournalWritten)?)
    }

    /// Remembers the sequence of a stored record.
    fn remember(&self, record: &Record) {
        lock(&self.sequences).insert(record.id.clone(), Arc::new(Mutex::new(Some(record.sequence))));
    }
}

impl JobStore for JobsFolder {
    fn open(&self) -> Result<(), JobError> {
        ensure_folder(&self.folder)?;
        // The folder's name must survive a crash, too.
        self.folder.parent().map_or(Ok(()), sync_folder)?;
        self.reserve.fill();
        Ok(())
    }

    fn look_after(&self) {
        self.reserve.fill();
    }

    fn list(&self) -> Result<Vec<JobId>, JobError> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(failed("cannot list", &self.folder))? {
            let path = entry.map_err(failed("cannot list", &self.folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            // Another spelling of an id, such as in upper case, would be read as another folder.
            match name.and_then(|name| name.parse::<JobId>().ok().filter(|id| id.as_str() == name)) {
                Some(id) => ids.push(id),
                None => tracing::warn!(path = %path.display(), "not a job folder: ignored"),
            }
        }
        Ok(ids)
    }

    fn recover(&self, id: &JobId) -> Result<Option<Record>, JobError> {
        let folder = self.folder_of(id);
        let record = match read(&folder.join(RECORD)) {
            Ok(record) => record,
            // The journal is written before the first chunk. Rows without a journal are unexpected, so do not remove
            // them.
            Err(error) if error.is_missing() && length(&folder.join(ROWS)) <= spool::HEAD_BYTES => {
                remove(&folder)?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if record.id != *id {
            let reason = format!("it is the journal of job {}", record.id);
            return Err(JobError::Damaged { role: role(&folder), reason });
        }
        for entry in std::fs::read_dir(&folder).map_err(failed("cannot list", &folder))? {
            let path = entry.map_err(failed("cannot list", &folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if ![RECORD, ROWS, CHECKPOINT, HELD_OUT].contains(&name) {
                remove(&path)?;
            }
        }
        self.remember(&record);
        Ok(Some(record))
    }

    fn begin(&self, id: &JobId) -> Result<(), JobError> {
        let folder = self.folder_of(id);
        Ok(std::fs::create_dir(&folder).map_err(failed("cannot create the folder", &folder))?)
    }

    fn create(&self, record: &Record) -> Result<(), JobError> {
        if lock(&self.sequences).contains_key(&record.id) || self.folder_of(&record.id).join(RECORD).exists() {
            return Err(JobError::Changed(record.id.clone()));
        }
        self.write(record)?;
        sync_folder(&self.folder)?;
        self.remember(record);
        Ok(())
    }

    fn replace(&self, record: &Record) -> Result<(), JobError> {
        let changed = || JobError::Changed(record.id.clone());
        let stored = lock(&self.sequences).get(&record.id).cloned().ok_or_else(changed)?;
        let mut stored = lock(&stored);
        if stored.is_none_or(|stored| record.sequence != stored + 1) {
            return Err(changed());
        }
        self.reserve.spend(|| self.write(record))?;
        *stored = Some(record.sequence);
        Ok(())
    }

    fn create_rows(&self, id: &JobId, head: &[u8]) -> Result<Box<dyn RowLog>, JobError> {
        let path = self.folder_of(id).join(ROWS);
        let opened = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let mut file = opened.map_err(failed("cannot create", &path))?;
        // The name of the file is durable once the record is written, which syncs the folder.
        file.write_all(head).and_then(|()| file.sync_all()).map_err(failed("cannot write", &path))?;
        Ok(Box::new(FolderRows { path, file, length: head.len() as u64 }))
    }

    fn append_rows(&self, id: &JobId, length: u64) -> Result<Box<dyn RowLog>, JobError> {
        let path = self.folder_of(id).join(ROWS);
        let mut file = open_regular(&path, Access::ReadWrite).map_err(failed("cannot open", &path))?;
        file.set_len(length)
            .and_then(|()| file.sync_all())
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .map_err(failed("cannot repair", &path))?;
        Ok(Box::new(FolderRows { path, file, length }))
    }

    fn read_rows(&self, id: &JobId) -> Result<RowsFile, JobError> {
        let path = self.folder_of(id).join(ROWS);
        let file = open_regular(&path, Access::Read).map_err(failed("cannot open", &path))?;
        Ok(RowsFile { file, path })
    }

    fn remove_rows(&self, id: &JobId) -> Result<(), JobError> {
        Ok(remove(&self.folder_of(id).join(ROWS))?)
    }

    fn write_blob(&self, id: &JobId, blob: Blob, bytes: &[u8]) -> Result<u64, JobError> {
        let path = self.path_of(id, blob);
        let before = length(&path);
        blob::write(&self.folder_of(id), &path, bytes)?;
        Ok(before)
    }

    fn read_blob(&self, id: &JobId, blob: Blob) -> Result<Option<Vec<u8>>, JobError> {
        blob::read(&self.path_of(id, blob))
    }

    fn bytes(&self, id: &JobId) -> u64 {
        [ROWS, CHECKPOINT, HELD_OUT].into_iter().map(|file| length(&self.folder_of(id).join(file))).sum()
    }

    fn clear(&self, id: &JobId) -> Result<(), JobError> {
        let folder = self.folder_of(id);
        remove(&folder.join(ROWS))?;
        at(&folder, Step::RowsRemoved)?;
        remove(&folder.join(CHECKPOINT))?;
        remove(&folder.join(HELD_OUT))?;
        Ok(at(&folder, Step::FilesRemoved)?)
    }

    fn delete(&self, id: &JobId) -> Result<(), JobError> {
        let stored = lock(&self.sequences).get(id).cloned();
        // A change that waits for its turn meanwhile finds that the job is gone.
        let mut stored = stored.as_deref().map(lock);
        remove(&self.folder_of(id))?;
        if let Some(stored) = &mut stored {
            **stored = None;
        }
        lock(&self.sequences).remove(id);
        Ok(())
    }
}

/// Rows of a job in its folder.
#[derive(Debug)]
pub(in crate::jobs) struct FolderRows {
    path: PathBuf,
    file: File,
    length: u64,
}

impl FolderRows {
    /// Rows in another file.
    #[cfg(all(test, target_os = "linux"))]
    pub(in crate::jobs) fn of(file: File) -> Self {
        Self { path: ROWS.into(), file, length: 0 }
    }

    fn write(&mut self, bytes: &[u8], sync: fn(&File) -> io::Result<()>) -> Result<(), JobError> {
        if let Err(error) = self.file.write_all(bytes).and_then(|()| sync(&self.file)) {
            // Truncate to the last whole chunk, so that the next append does not follow half a chunk.
            let _ = self.file.set_len(self.length);
            let _ = self.file.seek(SeekFrom::Start(self.length));
            return Err(failed("cannot write", &self.path)(error).into());
        }
        self.length += bytes.len() as u64;
        Ok(())
    }
}

impl RowLog for FolderRows {
    fn append(&mut self, bytes: &[u8]) -> Result<(), JobError> {
        self.write(bytes, File::sync_data)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), JobError> {
        self.write(bytes, |_| Ok(()))
    }

    fn sync(&mut self) -> Result<(), JobError> {
        Ok(self.file.sync_data().map_err(failed("cannot make durable", &self.path))?)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), JobError> {
        Ok(spool::read_exact_at(&self.file, bytes, offset).map_err(failed("cannot read", &self.path))?)
    }

    fn modified(&self) -> Option<SystemTime> {
        self.file.metadata().and_then(|data| data.modified()).ok()
    }
}

/// Reads the record at `path`.
fn read(path: &Path) -> Result<Record, JobError> {
    let damaged = |reason: String| JobError::Damaged { role: role(path), reason };
    match read_bounded(path, BYTES_MAX).map_err(failed("cannot read", path))? {
        Bounded::Bytes(bytes) => Record::from_bytes(&bytes).map_err(damaged),
        Bounded::TooLarge(bytes) => Err(damaged(format!("{bytes} bytes, expected at most {BYTES_MAX}"))),
    }
}

/// Bytes of a file; 0 if there is none.
fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |data| data.len())
}

/// Steps of a state change. A crash before or after each of them leaves a different state on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::jobs) enum Step {
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
fn at(folder: &Path, step: Step) -> Result<(), StoreError> {
    crate::jobs::tests::faults::at(folder, step)
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "tests make it fail")]
#[inline]
fn at(_folder: &Path, _step: Step) -> Result<(), StoreError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::conformance::Fixture;
    use super::*;
    use crate::jobs::Priority;
    use crate::training::TrainSpec;

    struct Folder {
        folder: tempfile::TempDir,
        store: JobsFolder,
    }

    impl Folder {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let store = Self::open(folder.path());
            Self { folder, store }
        }

        fn open(folder: &Path) -> JobsFolder {
            let store = JobsFolder::new(&folder.join("jobs"));
            store.open().expect("opens");
            store
        }
    }

    impl Fixture for Folder {
        fn store(&self) -> &dyn JobStore {
            &self.store
        }
        fn reopen(&mut self) {
            self.store = Self::open(self.folder.path());
        }
    }

    conformance!(Folder::new());

    /// A new job.
    fn stored(store: &JobsFolder) -> Record {
        let spec = TrainSpec::new("digits".parse().expect("a name"), vec![64, 8]);
        let record = Record::new(JobId::new(), spec, None, None, Priority::default(), SystemTime::now());
        store.begin(&record.id).expect("begins");
        store.create(&record).expect("creates");
        record
    }

    #[test]
    fn a_journal_is_read_back_unchanged() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = JobsFolder::new(folder.path());
        let record = stored(&store);
        store.replace(&Record { sequence: 1, ..record.clone() }).expect("replaces");
        let folder = store.folder_of(&record.id);
        assert_eq!(read(&folder.join(RECORD)).expect("reads"), record);
        assert_eq!(std::fs::read_dir(folder).expect("lists").count(), 1, "nothing temporary stays");
    }

    #[test]
    fn a_folder_with_another_spelling_of_an_id_is_no_job() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = JobsFolder::new(folder.path());
        let id = stored(&store).id;
        for name in [format!("{{{id}}}"), id.as_str().replace('-', "")] {
            std::fs::create_dir(folder.path().join(name)).expect("creates");
        }
        assert_eq!(store.list().expect("lists"), [id]);
    }

    #[test]
    fn damaged_journals_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = JobsFolder::new(folder.path());
        let path = store.folder_of(&stored(&store).id).join(RECORD);
        let bytes = std::fs::read(&path).expect("reads");
        for index in (0..bytes.len()).step_by(7) {
            std::fs::write(&path, &bytes[..index]).expect("writes");
            let error = read(&path).expect_err("damaged");
            assert!(matches!(error, JobError::Damaged { .. }), "cut to {index} bytes: {error}");
        }
    }

    #[test]
    fn missing_and_broken_journals_are_distinguished() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(RECORD);
        assert!(read(&path).expect_err("nothing there").is_missing());
        std::fs::write(&path, "{}").expect("writes");
        assert!(!read(&path).expect_err("broken").is_missing());
    }
}
