//! The rows of a training command, chunk by chunk, from files or from memory.

use std::sync::Mutex;

use super::client::named_matrix;
use super::reading;
use crate::client::chunk_rows;
use crate::client::upload::{Chunk, ChunkSource, Sender};
use crate::files::{self, FileError, ReadOptions, RowReader};
use crate::rpc::pb::RowRole;

/// Rows to train on.
pub(super) enum Source {
    /// Training files and test files.
    Files {
        training: Vec<String>,
        test: Vec<String>,
        options: Box<ReadOptions>,
        columns: ColumnsOfFiles,
        /// A stream that was opened early to learn its number of columns, and its path.
        opened: Mutex<Option<(String, Box<dyn RowReader>)>>,
    },
    /// Files of the server: the client sends no rows.
    Server,
    /// Rows in memory, row-major.
    Memory { training: Vec<f32>, test: Vec<f32> },
}

/// Matches the columns of several files.
#[derive(Clone, Debug, Default)]
pub(super) struct ColumnsOfFiles {
    /// Ignores column names.
    by_position: bool,
    /// Whether a base version exists: the server matches columns by name, and its features may be fewer.
    has_base: bool,
    /// Column count, names and path of the first file. Later files are read in its column order.
    first: Option<(usize, Vec<String>, String)>,
}

impl ColumnsOfFiles {
    pub(super) fn new(by_position: bool, has_base: bool) -> Self {
        Self { by_position, has_base, first: None }
    }

    /// Opens the next file, which may still grow. `columns` is the expected count for rows without names.
    pub(super) fn open_live(
        &mut self,
        path: &str,
        options: &ReadOptions,
        columns: usize,
    ) -> Result<Box<dyn RowReader>, FileError> {
        self.matched(path, reading::open_live(path, options)?, columns)
    }

    /// Reorders the columns of the next file to match the first file.
    pub(super) fn matched(
        &mut self,
        path: &str,
        mut reader: Box<dyn RowReader>,
        columns: usize,
    ) -> Result<Box<dyn RowReader>, FileError> {
        let Some((width, names, first)) = &self.first else {
            let names = if self.by_position { Vec::new() } else { reader.names().to_vec() };
            if names.is_empty() || !self.has_base {
                reading::check_columns(path, reader.as_ref(), columns)?;
            }
            self.first = Some((reader.columns(), names, path.to_owned()));
            return Ok(reader);
        };
        if !self.by_position {
            if names.is_empty() != reader.names().is_empty() {
                let without = if names.is_empty() { first } else { path };
                let note = format!("its columns match those of {first} by position, since {without} has no names");
                reading::print_notes_of(path, &[note]);
            }
            let before = reader.notes().len();
            reader = files::by_name(path, reader, names)?;
            reading::print_notes_of(path, &reader.notes()[before..]);
        }
        reading::check_columns(path, reader.as_ref(), *width)?;
        Ok(reader)
    }

    /// The column names that all files share.
    pub(super) fn names(&self) -> &[String] {
        self.first.as_ref().map_or(&[], |(_, names, _)| names)
    }
}

impl ChunkSource for Source {
    type Error = FileError;

    async fn each(&self, columns: usize, sender: &mut Sender<'_>) -> Result<(), FileError> {
        match self {
            Self::Server => {}
            Self::Memory { training, test } => {
                for (role, values) in [(RowRole::Training, training), (RowRole::Test, test)] {
                    for chunk in values.chunks(chunk_rows(columns) * columns) {
                        let matrix = Box::new(move || {
                            let values: Vec<f64> = chunk.iter().copied().map(f64::from).collect();
                            named_matrix(columns, &values, &[])
                        });
                        if !sender.send(Chunk { role, rows: (chunk.len() / columns.max(1)) as u64, matrix }).await {
                            return Ok(());
                        }
                    }
                }
            }
            Self::Files { training, test, options, columns: of_files, opened } => {
                let mut of_files = of_files.clone();
                for (role, paths) in [(RowRole::Training, training), (RowRole::Test, test)] {
                    for path in paths {
                        let waiting = opened.lock().map_or(None, |mut opened| opened.take_if(|(name, _)| name == path));
                        let reader = waiting.map_or_else(|| reading::open(path, options), |(_, reader)| Ok(reader))?;
                        let mut reader = of_files.matched(path, reader, columns)?;
                        loop {
                            let mut values = Vec::new();
                            if reader.next_rows(&mut values, chunk_rows(columns))? == 0 {
                                reading::print_notes_at_end(path, reader.as_ref());
                                break;
                            }
                            let names = of_files.names().to_vec();
                            if !sender.send(chunk_of(role, reader.columns(), values, names)).await {
                                return Ok(());
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// A chunk of row-major values, with column names: none, or one per column.
fn chunk_of(role: RowRole, columns: usize, values: Vec<f64>, names: Vec<String>) -> Chunk<'static> {
    let rows = (values.len() / columns.max(1)) as u64;
    Chunk { role, rows, matrix: Box::new(move || named_matrix(columns, &values, &names)) }
}

impl Source {
    /// Whether the rows can be read a second time.
    pub(super) fn can_be_read_again(&self) -> bool {
        match self {
            Self::Server | Self::Memory { .. } => true,
            Self::Files { training, test, .. } => !training.iter().chain(test).any(|path| reading::is_stream(path)),
        }
    }
}
