//! Training's view of a finished spool: rows are read from disk on demand.

use std::fmt::Write as _;
use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::index::Index;
use super::spool::{CHUNK_HEAD_BYTES, Counts, Seen, Tail, damaged, number_bytes, read_exact_at, scan};
use super::store::{JobStore, RowsFile};
use super::{JobError, JobId, RowRole};
use crate::store::disk::failed;
use crate::store::role::role;
use crate::training::{RowSource, SourceError};

/// Number of values that are hashed at a time.
const BLOCK_NUMBERS: usize = 1 << 16;

/// Rows of one role in a spool whose checksums were verified when it was opened.
#[derive(Clone, Debug)]
pub(super) struct SpooledRows {
    spool: Arc<OpenSpool>,
    role: RowRole,
    count: u64,
    /// Whether any chunk of this role has binary64 values.
    is_wide: bool,
}

#[derive(Debug)]
struct OpenSpool {
    path: PathBuf,
    file: File,
    columns: usize,
    index: Index,
    /// Length and modification time when the file was opened, to detect later changes.
    length: u64,
    modified: Option<SystemTime>,
}

/// A verified, finished spool.
#[derive(Clone, Debug)]
pub(super) struct Received {
    /// Training rows.
    pub(super) training: SpooledRows,
    /// Test rows.
    pub(super) test: SpooledRows,
    /// SHA-256 of the training rows followed by the test rows, as stored in the spool. Each part starts with its number
    /// of values (u64).
    pub(super) sha256: String,
}

/// Opens the finished spool of a job and verifies every chunk, with one block in memory at a time. The counts must
/// equal `expected`, except for the bytes. Returns `None` if `go_on` returns false in the meantime.
pub(super) fn open(
    store: &dyn JobStore,
    id: &JobId,
    columns: usize,
    expected: Counts,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<Received>, JobError> {
    let RowsFile { mut file, path } = store.read_rows(id)?;
    let data = file.metadata().map_err(failed("cannot read", &path))?;
    let (length, modified) = (data.len(), data.modified().ok());
    let mut index = Index::default();
    let mut digest = Sha256::new();
    let mut stopped = false;
    digest.update(expected.training_rows.saturating_mul(columns as u64).to_le_bytes());
    let counts = scan(&mut file, &path, columns, Tail::IsWhole, &mut |seen| {
        if let Seen::Values(RowRole::Training, bytes) = seen {
            digest.update(bytes);
        }
        seen.add_to(&mut index, columns);
        stopped = !go_on();
        if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if stopped {
        return Ok(None);
    }
    if (counts.chunks, counts.training_rows, counts.test_rows)
        != (expected.chunks, expected.training_rows, expected.test_rows)
    {
        let (here, told) = (counts.rows(), expected.rows());
        let reason = format!(
            "it holds {} chunks with {here} rows, but {} chunks with {told} rows were acknowledged",
            counts.chunks, expected.chunks
        );
        return Err(damaged(&path, &reason));
    }
    let spool = Arc::new(OpenSpool { path, file, columns, index, length, modified });
    let training = SpooledRows::new(&spool, RowRole::Training, counts.training_rows);
    let test = SpooledRows::new(&spool, RowRole::Test, counts.test_rows);
    // Test rows may lie between training rows, so they are hashed in a second pass.
    digest.update(counts.test_rows.saturating_mul(columns as u64).to_le_bytes());
    let block = (BLOCK_NUMBERS / columns).max(1) as u64;
    let (mut values, mut first) = (Vec::<u8>::new(), 0);
    while first < test.count {
        let rows = block.min(test.count - first);
        let read = test.pieces(first, rows, &mut values, |_, _, bytes| digest.update(bytes));
        read.map_err(|error| damaged(&test.spool.path, &error.to_string()))?;
        first += rows;
        if !go_on() {
            return Ok(None);
        }
    }
    let sha256 = digest.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    Ok(Some(Received { training, test, sha256 }))
}

impl RowSource for SpooledRows {
    fn count(&self) -> u64 {
        self.count
    }

    fn features(&self) -> usize {
        self.spool.columns
    }

    fn is_wide(&self) -> bool {
        self.is_wide
    }

    fn read(&self, first: u64, values: &mut [f32]) -> Result<(), SourceError> {
        if self.is_wide {
            let mut wide = vec![0.0; values.len()];
            self.read_wide(first, &mut wide)?;
            values.iter_mut().zip(wide).for_each(|(value, wide)| *value = wide as f32);
            return Ok(());
        }
        let OpenSpool { path, file, columns, index, .. } = self.spool.as_ref();
        let failed = |reason: String| SourceError(format!("{}: {reason}", role(path)));
        self.spool.check_unchanged().map_err(failed)?;
        let (mut row, mut unread) = (first, values);
        while !unread.is_empty() {
            let Some(place) = index.row(self.role, row) else {
                return Err(failed(format!("row {row} does not exist: there are {} rows", self.count)));
            };
            let rows = place.rows.min((unread.len() / columns) as u64).max(1);
            let numbers = unread.len().min(rows as usize * columns);
            let (piece, rest) = unread.split_at_mut(numbers);
            let offset = place.chunk_offset + CHUNK_HEAD_BYTES as u64 + place.row_in_chunk * *columns as u64 * 4;
            read_exact_at(file, bytemuck::cast_slice_mut::<f32, u8>(piece), offset)
                .map_err(|error| failed(error.to_string()))?;
            piece.iter_mut().for_each(|value| *value = f32::from_bits(u32::from_le(value.to_bits())));
            row += rows;
            unread = rest;
        }
        Ok(())
    }

    fn read_wide(&self, first: u64, values: &mut [f64]) -> Result<(), SourceError> {
        let (rows, mut bytes) = ((values.len() / self.spool.columns) as u64, Vec::new());
        self.pieces(first, rows, &mut bytes, |range, is_wide, bytes| {
            let values = values[range].iter_mut();
            if is_wide {
                let numbers = bytes.as_chunks::<8>().0;
                values.zip(numbers).for_each(|(value, number)| *value = f64::from_le_bytes(*number));
            } else {
                let numbers = bytes.as_chunks::<4>().0;
                values.zip(numbers).for_each(|(value, number)| *value = widened(f32::from_le_bytes(*number)));
            }
        })
    }
}

/// Converts a binary32 value to the binary64 value with the same shortest decimal digits. In a job with both widths,
/// 0.1 is then the same number in every chunk.
fn widened(value: f32) -> f64 {
    let exact = f64::from(value);
    if exact == exact.trunc() || !exact.is_finite() {
        return exact;
    }
    format!("{value:e}").parse().unwrap_or(exact)
}

impl SpooledRows {
    fn new(spool: &Arc<OpenSpool>, role: RowRole, count: u64) -> Self {
        Self { is_wide: spool.index.has_wide(role), spool: Arc::clone(spool), role, count }
    }

    /// Reads `rows` rows from row `first` on, and calls `found(range, is_wide, bytes)` once for each contiguous piece
    /// in one chunk. `range` is the position of the piece among the requested values, and `is_wide` says whether they
    /// are binary64. `bytes` is a reusable buffer.
    fn pieces(
        &self,
        first: u64,
        rows: u64,
        bytes: &mut Vec<u8>,
        mut found: impl FnMut(Range<usize>, bool, &[u8]),
    ) -> Result<(), SourceError> {
        let OpenSpool { path, file, columns, index, .. } = self.spool.as_ref();
        let failed = |reason: String| SourceError(format!("{}: {reason}", path.display()));
        self.spool.check_unchanged().map_err(failed)?;
        let mut row = first;
        while row < first + rows {
            let Some(place) = index.row(self.role, row) else {
                return Err(failed(format!("row {row} does not exist: there are {} rows", self.count)));
            };
            let count = place.rows.min(first + rows - row);
            let row_bytes = *columns as u64 * number_bytes(place.is_wide);
            bytes.resize((count * row_bytes) as usize, 0);
            let offset = place.chunk_offset + CHUNK_HEAD_BYTES as u64 + place.row_in_chunk * row_bytes;
            read_exact_at(file, bytes, offset).map_err(|error| failed(error.to_string()))?;
            let from = (row - first) as usize * columns;
            found(from..from + count as usize * columns, place.is_wide, bytes);
            row += count;
        }
        Ok(())
    }
}

impl OpenSpool {
    /// Fails if the file's length or modification time changed since it was opened.
    fn check_unchanged(&self) -> Result<(), String> {
        let data = self.file.metadata().map_err(|error| error.to_string())?;
        if (data.len(), data.modified().ok()) == (self.length, self.modified) {
            Ok(())
        } else {
            Err("it was changed while it was read; send its rows again, as a new job".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::spool::{Chunk, Spool};
    use super::*;
    use crate::jobs::tests::OneJob;
    use crate::model::{Matrix, Values};

    const COLUMNS: usize = 2;

    fn chunks() -> Vec<(RowRole, Vec<f32>)> {
        let mut value = 0.0;
        [(0, 3), (0, 3), (1, 2), (0, 3), (0, 1), (1, 2), (1, 2), (0, 3), (0, 3)]
            .map(|(role, rows)| {
                let values = (0..rows * COLUMNS).map(|_| {
                    value += 0.5;
                    value
                });
                (if role == 0 { RowRole::Training } else { RowRole::Test }, values.collect())
            })
            .to_vec()
    }

    fn spooled(job: &OneJob) -> Counts {
        let mut spool = Spool::create(&job.store, &job.id, COLUMNS).expect("creates");
        for (number, (role, values)) in (1..).zip(chunks()) {
            let rows = Matrix::new((values.len() / COLUMNS) as u32, COLUMNS as u32, Values::Floats(values));
            spool.append(&Chunk::new(number, role, &rows.expect("whole rows"))).expect("appends");
        }
        spool.counts()
    }

    fn values(role: RowRole) -> Vec<f32> {
        chunks().into_iter().filter(|chunk| chunk.0 == role).flat_map(|chunk| chunk.1).collect()
    }

    fn received(job: &OneJob, counts: Counts) -> Received {
        open(&job.store, &job.id, COLUMNS, counts, &|| true).expect("whole").expect("not canceled")
    }

    #[test]
    fn rows_of_each_role_are_read_from_any_position() {
        let job = OneJob::new();
        let counts = spooled(&job);
        let received = received(&job, counts);
        for (role, rows) in [(RowRole::Training, &received.training), (RowRole::Test, &received.test)] {
            let expected = values(role);
            assert_eq!((rows.count() as usize * COLUMNS, rows.features()), (expected.len(), COLUMNS));
            for first in 0..=rows.count() as usize {
                for last in first..=rows.count() as usize {
                    let mut read = vec![0.0; (last - first) * COLUMNS];
                    rows.read(first as u64, &mut read).expect("there");
                    assert_eq!(read, expected[first * COLUMNS..last * COLUMNS], "rows {first} to {last}");
                }
            }
            let error = rows.read(rows.count(), &mut [0.0; COLUMNS]).expect_err("behind the end");
            assert!(error.to_string().contains("does not exist"), "{error}");
        }
    }

    #[test]
    fn the_digest_covers_counts_training_rows_and_test_rows() {
        let job = OneJob::new();
        let counts = spooled(&job);
        let mut digest = Sha256::new();
        for role in [RowRole::Training, RowRole::Test] {
            let values = values(role);
            digest.update((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| digest.update(value.to_le_bytes()));
        }
        let expected = digest.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        assert_eq!(received(&job, counts).sha256, expected);
    }

    #[test]
    fn binary64_chunks_stay_exact_among_binary32_chunks() {
        let job = OneJob::new();
        let mut spool = Spool::create(&job.store, &job.id, COLUMNS).expect("creates");
        let wide = [1_700_000_001.0, 0.1, 1e12 + 1.0, f64::NAN];
        let narrow = [1.5f32, 2.5, 3.5, 4.5];
        let chunks = [Values::Floats(narrow.to_vec()), Values::from_f64(&wide), Values::Floats(narrow.to_vec())];
        for (number, values) in (1..).zip(chunks) {
            let rows = Matrix::new(2, COLUMNS as u32, values).expect("whole rows");
            spool.append(&Chunk::new(number, RowRole::Training, &rows)).expect("appends");
        }
        let received = received(&job, spool.counts());
        assert!(received.training.is_wide() && !received.test.is_wide());
        let expected: Vec<f64> = narrow.into_iter().map(f64::from).chain(wide).chain(narrow.map(f64::from)).collect();
        for first in 0..6 {
            for last in first..=6 {
                let (mut read, mut rounded) =
                    (vec![0.0; (last - first) * COLUMNS], vec![0.0; (last - first) * COLUMNS]);
                received.training.read_wide(first as u64, &mut read).expect("there");
                received.training.read(first as u64, &mut rounded).expect("there");
                let expected = &expected[first * COLUMNS..last * COLUMNS];
                let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&read), bits(expected), "rows {first} to {last}");
                let pairs = rounded.iter().zip(expected);
                assert!(pairs.into_iter().all(|(a, b)| a.to_bits() == (*b as f32).to_bits()));
            }
        }
    }

    #[test]
    fn a_spool_with_other_counts_is_rejected() {
        let job = OneJob::new();
        let counts = spooled(&job);
        for other in [
            Counts { chunks: counts.chunks + 1, ..counts },
            Counts { training_rows: counts.training_rows - 1, ..counts },
            Counts { test_rows: 0, ..counts },
        ] {
            let error = open(&job.store, &job.id, COLUMNS, other, &|| true).expect_err("refused").to_string();
            assert!(error.contains("were acknowledged") && error.contains("send its rows again"), "{error}");
        }
    }

    #[test]
    fn opening_can_be_stopped() {
        let job = OneJob::new();
        let counts = spooled(&job);
        assert!(open(&job.store, &job.id, COLUMNS, counts, &|| false).expect("no damage").is_none());
    }

    #[test]
    fn a_file_change_during_reading_is_detected() {
        let job = OneJob::new();
        let counts = spooled(&job);
        for change in [|file: &File| file.set_len(50), |file: &File| file.set_modified(SystemTime::UNIX_EPOCH)] {
            let _ = std::fs::remove_file(job.rows());
            spooled(&job);
            let received = received(&job, counts);
            let file = File::options().write(true).open(job.rows()).expect("there");
            change(&file).expect("changes");
            let error = received.training.read(0, &mut [0.0; COLUMNS]).expect_err("noticed").to_string();
            assert!(error.contains("was changed"), "{error}");
        }
    }
}
