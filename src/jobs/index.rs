//! Index of the chunks in a spool. It stores runs of chunks of equal size, so that even a large spool has a small
//! index.

use super::RowRole;

/// Consecutive chunks with the same role, row count and value width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Number of the first chunk.
    chunk: u64,
    chunks: u64,
    /// Rows of the same role before the run.
    row: u64,
    rows_per_chunk: u64,
    /// Offset of the run in the file.
    offset: u64,
    bytes_per_chunk: u64,
    is_wide: bool,
}

impl Run {
    fn rows(&self) -> u64 {
        self.chunks * self.rows_per_chunk
    }
}

/// Position of rows of one role within one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowPosition {
    /// Offset of the chunk in the file.
    pub(super) chunk_offset: u64,
    /// Rows of the chunk before this position.
    pub(super) row_in_chunk: u64,
    /// Rows from this position to the end of the chunk.
    pub(super) rows: u64,
    /// Whether the chunk's values are binary64.
    pub(super) is_wide: bool,
}

/// Index of the chunks of a spool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    training: Vec<Run>,
    test: Vec<Run>,
    chunks: u64,
}

impl Index {
    /// Adds the next chunk, which starts at `offset` and takes `bytes`; `is_wide` says whether its values are binary64.
    pub(super) fn push(&mut self, role: RowRole, rows: u64, offset: u64, bytes: u64, is_wide: bool) {
        let number = self.chunks + 1;
        self.chunks = number;
        let runs = match role {
            RowRole::Training => &mut self.training,
            RowRole::Test => &mut self.test,
        };
        if let Some(last) = runs.last_mut()
            && (last.rows_per_chunk, last.is_wide) == (rows, is_wide)
            && last.chunk + last.chunks == number
        {
            last.chunks += 1;
            return;
        }
        let row = runs.last().map_or(0, |last| last.row + last.rows());
        runs.push(Run { chunk: number, chunks: 1, row, rows_per_chunk: rows, offset, bytes_per_chunk: bytes, is_wide });
    }

    /// Offset of chunk `number` in the file, if it exists.
    pub(super) fn chunk(&self, number: u64) -> Option<u64> {
        [&self.training, &self.test].into_iter().find_map(|runs| {
            let after = runs.partition_point(|run| run.chunk <= number);
            let run = runs.get(after.checked_sub(1)?)?;
            let before = number - run.chunk;
            (before < run.chunks).then(|| run.offset + before * run.bytes_per_chunk)
        })
    }

    /// Position of row `row` (from 0) of a role, if it exists.
    pub(super) fn row(&self, role: RowRole, row: u64) -> Option<RowPosition> {
        let runs = match role {
            RowRole::Training => &self.training,
            RowRole::Test => &self.test,
        };
        let after = runs.partition_point(|run| run.row <= row);
        let run = runs.get(after.checked_sub(1)?)?;
        let before = row - run.row;
        (before < run.rows()).then(|| {
            let (chunk, row_in_chunk) = (before / run.rows_per_chunk, before % run.rows_per_chunk);
            let chunk_offset = run.offset + chunk * run.bytes_per_chunk;
            RowPosition { chunk_offset, row_in_chunk, rows: run.rows_per_chunk - row_in_chunk, is_wide: run.is_wide }
        })
    }

    /// Whether any chunk of a role has binary64 values.
    pub(super) fn has_wide(&self, role: RowRole) -> bool {
        let runs = match role {
            RowRole::Training => &self.training,
            RowRole::Test => &self.test,
        };
        runs.iter().any(|run| run.is_wide)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_million_equal_chunks_are_one_run() {
        let mut index = Index::default();
        for chunk in 0..1_000_000 {
            index.push(RowRole::Training, 64, 12 + chunk * 100, 100, false);
        }
        index.push(RowRole::Training, 5, 100_000_012, 30, false);
        index.push(RowRole::Test, 5, 100_000_042, 30, false);
        assert_eq!((index.training.len(), index.test.len()), (2, 1));
        assert_eq!(
            index.row(RowRole::Training, 64 * 999_999 + 3),
            Some(RowPosition { chunk_offset: 99_999_912, row_in_chunk: 3, rows: 61, is_wide: false })
        );
        assert_eq!(index.chunk(1_000_002), Some(100_000_042));
        assert_eq!(index.chunk(1_000_003), None);
    }

    proptest! {
        #[test]
        fn every_chunk_and_every_row_is_found(chunks in proptest::collection::vec((any::<bool>(), any::<bool>(), 1u64..4), 0..40)) {
            let mut index = Index::default();
            let (mut offset, mut expected, mut rows) = (12, Vec::new(), [Vec::new(), Vec::new()]);
            for (is_test, is_wide, count) in chunks {
                let role = if is_test { RowRole::Test } else { RowRole::Training };
                let bytes = if is_wide { 20 + 16 * count } else { 20 + 8 * count };
                index.push(role, count, offset, bytes, is_wide);
                expected.push(offset);
                for row in 0..count {
                    let rows = &mut rows[usize::from(is_test)];
                    rows.push(RowPosition { chunk_offset: offset, row_in_chunk: row, rows: count - row, is_wide });
                }
                offset += bytes;
            }
            for (number, offset) in (1..).zip(&expected) {
                prop_assert_eq!(index.chunk(number), Some(*offset));
            }
            prop_assert_eq!((index.chunk(0), index.chunk(expected.len() as u64 + 1)), (None, None));
            for (role, places) in [(RowRole::Training, &rows[0]), (RowRole::Test, &rows[1])] {
                for (row, place) in (0..).zip(places) {
                    prop_assert_eq!(index.row(role, row), Some(*place));
                }
                prop_assert_eq!(index.row(role, places.len() as u64), None);
            }
        }
    }
}
