//! Conformance suite of every [`JobStore`]. It is called with an expression that makes an empty, open store.
//!
//! `conformance!(MyFixture::new())` makes one test of each behavior.

use std::io::Read;
use std::time::SystemTime;

use super::{Blob, JobStore, blob};
use crate::jobs::journal::Record;
use crate::jobs::spool::{Chunk, HEAD_BYTES, Spool};
use crate::jobs::{JobError, JobId, Priority, RowRole};
use crate::model::{Matrix, Values};
use crate::training::TrainSpec;

/// An empty store, and its resources.
pub(super) trait Fixture {
    /// The store.
    fn store(&self) -> &dyn JobStore;
    /// The same store after a restart, open.
    fn reopen(&mut self);
}

/// One `#[test]` for each behavior of the suite.
macro_rules! conformance {
    ($fixture:expr, $($behavior:ident),+ $(,)?) => {
        $(#[test]
        fn $behavior() {
            $crate::jobs::store::conformance::$behavior(&mut $fixture);
        })+
    };
    ($fixture:expr) => {
        conformance!(
            $fixture,
            an_empty_store_has_no_jobs,
            a_job_comes_back_after_a_restart,
            a_job_is_created_once,
            an_interrupted_creation_leaves_nothing,
            a_stale_change_is_refused,
            one_of_racing_changes_wins,
            appended_rows_survive_a_restart,
            a_torn_tail_is_cut_and_the_upload_goes_on,
            rows_are_created_once_unless_they_are_removed,
            a_blob_is_replaced_as_a_whole,
            a_reader_sees_whole_blobs_only,
            a_cleared_job_keeps_only_its_record,
            deletion_leaves_nothing,
        );
    };
}

const COLUMNS: usize = 2;

fn record() -> Record {
    let spec = TrainSpec::new("digits".parse().expect("a name"), vec![COLUMNS, 1]);
    Record::new(JobId::new(), spec, None, None, Priority::default(), SystemTime::now())
}

fn create(store: &dyn JobStore, record: &Record) -> Result<(), JobError> {
    store.begin(&record.id)?;
    store.create(record)
}

fn created(store: &dyn JobStore) -> Record {
    let record = record();
    create(store, &record).expect("creates");
    record
}

/// A new job with an empty spool.
fn uploading(store: &dyn JobStore) -> (JobId, Spool) {
    let record = record();
    store.begin(&record.id).expect("begins");
    let spool = Spool::create(store, &record.id, COLUMNS).expect("creates");
    store.create(&record).expect("creates");
    (record.id, spool)
}

/// The successor of `record`, with another number of chunks.
fn after(record: &Record, chunks: u64) -> Record {
    Record { sequence: record.sequence + 1, chunks, ..record.clone() }
}

/// The record of a job as a start reads it.
fn recovered(store: &dyn JobStore, id: &JobId) -> Record {
    store.recover(id).expect("reads").expect("a record")
}

/// Chunk `number`, of 3 rows.
fn chunk(number: u64) -> Chunk {
    let values = (0..3 * COLUMNS).map(|i| number as f32 + i as f32).collect();
    Chunk::new(number, RowRole::Training, &Matrix::new(3, COLUMNS as u32, Values::Floats(values)).expect("whole rows"))
}

/// All bytes of the rows of a job.
fn rows(store: &dyn JobStore, id: &JobId) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.read_rows(id).expect("opens").file.read_to_end(&mut bytes).expect("reads");
    bytes
}

pub(super) fn an_empty_store_has_no_jobs(fixture: &mut dyn Fixture) {
    assert!(fixture.store().list().expect("lists").is_empty());
    fixture.reopen();
    let (store, id) = (fixture.store(), JobId::new());
    assert!(store.list().expect("lists").is_empty());
    assert_eq!(store.recover(&id).expect("reads"), None);
    assert_eq!(store.bytes(&id), 0);
    let error = store.replace(&after(&record(), 1)).expect_err("no such job");
    assert!(matches!(error, JobError::Changed(_)), "{error}");
}

pub(super) fn a_job_comes_back_after_a_restart(fixture: &mut dyn Fixture) {
    let (first, second) = (created(fixture.store()), created(fixture.store()));
    let changed = after(&second, 7);
    fixture.store().replace(&changed).expect("replaces");
    fixture.reopen();
    let store = fixture.store();
    let mut ids = store.list().expect("lists");
    ids.sort();
    let mut expected = [first.id.clone(), second.id.clone()];
    expected.sort();
    assert_eq!(ids, expected);
    for record in [first, changed] {
        let read = recovered(store, &record.id);
        assert_eq!(read, Record { sequence: read.sequence, ..record });
    }
}

pub(super) fn a_job_is_created_once(fixture: &mut dyn Fixture) {
    let record = created(fixture.store());
    let other = Record { chunks: 7, ..record.clone() };
    create(fixture.store(), &other).expect_err("it exists");
    fixture.reopen();
    create(fixture.store(), &other).expect_err("it exists");
    fixture.store().create(&other).expect_err("it has a record, even before it is recovered");
    assert_eq!(recovered(fixture.store(), &record.id).chunks, 0, "the first one stays");
    let error = fixture.store().create(&other).expect_err("it has a record");
    assert!(matches!(error, JobError::Changed(_)), "{error}");
}

pub(super) fn an_interrupted_creation_leaves_nothing(fixture: &mut dyn Fixture) {
    let id = JobId::new();
    fixture.store().begin(&id).expect("begins");
    Spool::create(fixture.store(), &id, COLUMNS).expect("creates");
    fixture.store().write_blob(&id, Blob::HeldOut, b"rows").expect("writes");
    fixture.reopen();
    let store = fixture.store();
    assert_eq!(store.recover(&id).expect("reads"), None);
    assert_eq!((store.list().expect("lists"), store.bytes(&id)), (Vec::new(), 0));
}

pub(super) fn a_stale_change_is_refused(fixture: &mut dyn Fixture) {
    let first = created(fixture.store());
    let second = after(&first, 2);
    fixture.store().replace(&second).expect("is the successor");
    for stale in [first.clone(), after(&first, 3), second.clone(), after(&after(&second, 3), 4)] {
        let error = fixture.store().replace(&stale).expect_err("is not the successor");
        assert!(matches!(error, JobError::Changed(_)), "{error}");
    }
    fixture.reopen();
    let read = recovered(fixture.store(), &first.id);
    assert_eq!(read.chunks, 2, "refused changes are not stored");
    fixture.store().replace(&after(&read, 3)).expect("is the successor");
    fixture.store().replace(&after(&read, 4)).expect_err("is stale");
    fixture.reopen();
    assert_eq!(recovered(fixture.store(), &first.id).chunks, 3);
}

pub(super) fn one_of_racing_changes_wins(fixture: &mut dyn Fixture) {
    let record = created(fixture.store());
    let store = fixture.store();
    let won: Vec<u64> = std::thread::scope(|scope| {
        let racers: Vec<_> = (1..=8)
            .map(|chunks| {
                let change = after(&record, chunks);
                scope.spawn(move || store.replace(&change).is_ok().then_some(chunks))
            })
            .collect();
        racers.into_iter().filter_map(|racer| racer.join().expect("no panic")).collect()
    });
    fixture.reopen();
    assert_eq!(won, [recovered(fixture.store(), &record.id).chunks]);
}

pub(super) fn appended_rows_survive_a_restart(fixture: &mut dyn Fixture) {
    let (id, mut spool) = uploading(fixture.store());
    spool.append(&chunk(1)).expect("appends");
    spool.put(&chunk(2)).expect("appends");
    let counts = spool.put(&chunk(3)).expect("appends");
    spool.sync().expect("syncs");
    drop(spool);
    fixture.reopen();
    let store = fixture.store();
    recovered(store, &id);
    let spool = Spool::recover(store, &id, COLUMNS).expect("recovers");
    assert_eq!(spool.counts(), counts);
    assert_eq!((store.bytes(&id), rows(store, &id).len() as u64), (counts.bytes, counts.bytes));
    for number in 1..=3 {
        assert!(spool.holds(&chunk(number)).expect("reads"), "chunk {number}");
    }
}

pub(super) fn a_torn_tail_is_cut_and_the_upload_goes_on(fixture: &mut dyn Fixture) {
    let (id, mut spool) = uploading(fixture.store());
    let counts = spool.append(&chunk(1)).expect("appends");
    drop(spool);
    let whole = rows(fixture.store(), &id);
    let chunk_bytes = &whole[HEAD_BYTES as usize..];
    for length in [1, chunk_bytes.len() / 2, chunk_bytes.len() - 1] {
        let mut log = fixture.store().append_rows(&id, counts.bytes).expect("opens");
        log.append(&chunk_bytes[..length]).expect("appends");
        drop(log);
        fixture.reopen();
        recovered(fixture.store(), &id);
        let spool = Spool::recover(fixture.store(), &id, COLUMNS).expect("recovers");
        assert_eq!(spool.counts(), counts, "{length} bytes");
        assert_eq!(rows(fixture.store(), &id), whole, "{length} bytes");
    }
    let mut spool = Spool::recover(fixture.store(), &id, COLUMNS).expect("recovers");
    let counts = spool.append(&chunk(2)).expect("appends");
    drop(spool);
    let spool = Spool::recover(fixture.store(), &id, COLUMNS).expect("recovers");
    assert_eq!(spool.counts(), counts);
    assert!(spool.holds(&chunk(1)).expect("reads") && spool.holds(&chunk(2)).expect("reads"));
}

pub(super) fn rows_are_created_once_unless_they_are_removed(fixture: &mut dyn Fixture) {
    let (id, mut spool) = uploading(fixture.store());
    spool.append(&chunk(1)).expect("appends");
    drop(spool);
    let store = fixture.store();
    Spool::create(store, &id, COLUMNS).expect_err("the job has rows");
    for _ in 0..2 {
        store.remove_rows(&id).expect("removes");
        assert!(store.read_rows(&id).expect_err("no rows").is_missing());
    }
    let spool = Spool::create(store, &id, COLUMNS).expect("creates");
    assert_eq!(spool.counts().chunks, 0);
}

pub(super) fn a_blob_is_replaced_as_a_whole(fixture: &mut dyn Fixture) {
    let id = created(fixture.store()).id;
    let store = fixture.store();
    assert_eq!(store.read_blob(&id, Blob::Checkpoint).expect("reads"), None);
    let (mut before, long) = (0, vec![7; 100_000]);
    for bytes in [&b"first"[..], b"", &long, b"last"] {
        assert_eq!(store.write_blob(&id, Blob::Checkpoint, bytes).expect("writes"), before);
        assert_eq!(store.read_blob(&id, Blob::Checkpoint).expect("reads").as_deref(), Some(bytes));
        before = blob::bytes_on_disk(bytes);
        assert_eq!(store.bytes(&id), before);
    }
    assert_eq!(store.read_blob(&id, Blob::HeldOut).expect("reads"), None);
    store.write_blob(&id, Blob::HeldOut, b"rows").expect("writes");
    fixture.reopen();
    let store = fixture.store();
    recovered(store, &id);
    let read = |blob| store.read_blob(&id, blob).expect("reads");
    assert_eq!((read(Blob::Checkpoint), read(Blob::HeldOut)), (Some(b"last".to_vec()), Some(b"rows".to_vec())));
}

pub(super) fn a_reader_sees_whole_blobs_only(fixture: &mut dyn Fixture) {
    let id = created(fixture.store()).id;
    let store = fixture.store();
    let write = |value: u8| store.write_blob(&id, Blob::Checkpoint, &vec![value; 100_000]).expect("writes");
    write(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (1..=20).map(write).sum::<u64>());
        while !writer.is_finished() {
            let read = store.read_blob(&id, Blob::Checkpoint).expect("whole").expect("there");
            assert!(read.len() == 100_000 && read.iter().all(|value| *value == read[0]));
        }
    });
}

pub(super) fn a_cleared_job_keeps_only_its_record(fixture: &mut dyn Fixture) {
    let (id, spool) = uploading(fixture.store());
    drop(spool);
    let other = created(fixture.store()).id;
    for id in [&id, &other] {
        for blob in [Blob::Checkpoint, Blob::HeldOut] {
            fixture.store().write_blob(id, blob, b"content").expect("writes");
        }
    }
    for _ in 0..2 {
        fixture.store().clear(&id).expect("removes");
        let store = fixture.store();
        assert_eq!(store.bytes(&id), 0);
        assert!(store.read_rows(&id).expect_err("no rows").is_missing());
        for blob in [Blob::Checkpoint, Blob::HeldOut] {
            assert_eq!(store.read_blob(&id, blob).expect("reads"), None);
            assert!(store.read_blob(&other, blob).expect("reads").is_some());
        }
        fixture.reopen();
        recovered(fixture.store(), &id);
    }
}

pub(super) fn deletion_leaves_nothing(fixture: &mut dyn Fixture) {
    let (id, mut spool) = uploading(fixture.store());
    spool.append(&chunk(1)).expect("appends");
    drop(spool);
    fixture.store().write_blob(&id, Blob::Checkpoint, b"state").expect("writes");
    let other = created(fixture.store());
    let record = recovered(fixture.store(), &id);
    for _ in 0..2 {
        fixture.store().delete(&id).expect("removes");
        let store = fixture.store();
        assert_eq!((store.list().expect("lists"), store.bytes(&id)), (vec![other.id.clone()], 0));
        assert!(store.read_rows(&id).expect_err("no rows").is_missing());
        assert_eq!(store.read_blob(&id, Blob::Checkpoint).expect("reads"), None);
        assert!(matches!(store.replace(&after(&record, 1)), Err(JobError::Changed(_))));
        assert_eq!(store.recover(&id).expect("reads"), None);
        fixture.reopen();
    }
    recovered(fixture.store(), &other.id);
}
