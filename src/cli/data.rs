//! Rows that are sent chunk by chunk: from files, or from memory.

use std::sync::Mutex;

use super::reading;
use crate::files::{FileError, Place, ReadOptions, RowReader};
use crate::rpc::pb::RowRole;

/// Bytes of the values of a chunk or a request, twice as many where they are binary64: large enough to be fast, far below the
/// server's limit.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// Rows of a chunk. A function of the width alone, so that an upload that goes on later cuts the same chunks.
pub(super) fn chunk_rows(columns: usize) -> usize {
    (CHUNK_BYTES / (4 * columns.max(1))).max(1)
}

/// Something to train on that can be read again from the beginning.
pub(super) enum Source {
    /// Training files and test files.
    Files {
        training: Vec<String>,
        test: Vec<String>,
        options: ReadOptions,
        /// Standard input, where it was opened to see how wide its rows are.
        opened: Mutex<Option<Box<dyn RowReader>>>,
    },
    /// The server reads the rows: there is nothing to send.
    Server,
    /// Rows in memory, row-major.
    Memory { training: Vec<f32>, test: Vec<f32> },
}

/// A chunk and what it is for.
pub(super) type Chunk = (RowRole, Vec<f64>);

impl Source {
    /// Calls `found` with each chunk in turn, until it says false.
    pub(super) async fn each<F: Future<Output = bool>>(
        &self,
        columns: usize,
        mut found: impl FnMut(Chunk) -> F,
    ) -> Result<(), FileError> {
        match self {
            Self::Server => {}
            Self::Memory { training, test } => {
                for (role, values) in [(RowRole::Training, training), (RowRole::Test, test)] {
                    for chunk in values.chunks(chunk_rows(columns) * columns) {
                        if !found((role, chunk.iter().copied().map(f64::from).collect())).await {
                            return Ok(());
                        }
                    }
                }
            }
            Self::Files { training, test, options, opened } => {
                for (role, paths) in [(RowRole::Training, training), (RowRole::Test, test)] {
                    for path in paths {
                        let waiting = opened.lock().map_or(None, |mut opened| opened.take_if(|_| path == "-"));
                        let mut reader = waiting.map_or_else(|| reading::open(path, options), Ok)?;
                        check_columns(path, reader.as_ref(), columns)?;
                        loop {
                            let mut values = Vec::new();
                            if reader.next_rows(&mut values, chunk_rows(columns))? == 0 {
                                break;
                            }
                            if !found((role, values)).await {
                                return Ok(());
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a second reading is possible.
    pub(super) fn can_be_read_again(&self) -> bool {
        match self {
            Self::Server | Self::Memory { .. } => true,
            Self::Files { training, test, .. } => !training.iter().chain(test).any(|path| path == "-"),
        }
    }
}

pub(super) fn check_columns(path: &str, reader: &dyn RowReader, columns: usize) -> Result<(), FileError> {
    if reader.columns() == columns {
        return Ok(());
    }
    Err(FileError::Content {
        path: path.to_owned(),
        place: Place::Whole,
        got: format!("its rows have {} numbers", reader.columns()),
        expected: columns.to_string(),
    })
}
