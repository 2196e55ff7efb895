//! Server files that a job trains on: their paths, how they are read, and their errors.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::RowRole;
use crate::files::folder::{self, FolderError};
use crate::files::{self, FileError, ReadOptions, RowReader};
use crate::model::text::shown;

/// Maximum number of files of one job, training and test files together.
pub const FILES_MAX: usize = 10_000;

/// Maximum bytes of all file and column names of one job; they are stored in its journal.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// Files in the server's `train_folder`, as a client names them. Two requests with the same idempotency key must have
/// equal files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFiles {
    /// Files of training rows, in this order; relative to the folder.
    pub paths: Vec<String>,
    /// Files of test rows, likewise.
    pub test_paths: Vec<String>,
    /// Read options of all files.
    pub options: ReadOptions,
}

/// Errors of server files. The texts contain the path that the client sent and no other path of the server.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ServerFilesError {
    /// No training file.
    #[error("no training file is named, expected at least 1")]
    NoPaths,
    /// Too many files.
    #[error("{got} files are named, expected at most {FILES_MAX}")]
    TooMany {
        /// Number of files in the request.
        got: usize,
    },
    /// The names of files and columns are too long in total.
    #[error(
        "the names of files and columns take {got} bytes, expected at most {TEXT_BYTES_MAX}: name fewer, or shorter ones"
    )]
    TooLong {
        /// Bytes of all names, with 1 more for each name.
        got: usize,
    },
    /// The file cannot be opened in the folder.
    #[error(transparent)]
    Folder(Arc<FolderError>),
    /// The content of the file cannot be read.
    #[error(transparent)]
    Content(Arc<FileError>),
    /// The file has the wrong number of columns.
    #[error(
        "file {:?}: its rows have {got} numbers, expected {expected}, the specification's first width",
        shown(asked)
    )]
    Columns {
        /// The path that the client sent.
        asked: String,
        /// Columns of the file.
        got: usize,
        /// Columns expected.
        expected: usize,
    },
}

impl From<FolderError> for ServerFilesError {
    fn from(error: FolderError) -> Self {
        Self::Folder(Arc::new(error))
    }
}

impl From<FileError> for ServerFilesError {
    fn from(error: FileError) -> Self {
        Self::Content(Arc::new(error))
    }
}

impl ServerFiles {
    /// The files in reading order, each with the role of its rows.
    pub(super) fn each(&self) -> impl Iterator<Item = (RowRole, &str)> {
        let of = |role, paths| std::iter::repeat(role).zip(paths);
        of(RowRole::Training, &self.paths)
            .chain(of(RowRole::Test, &self.test_paths))
            .map(|(role, path)| (role, path.as_str()))
    }

    /// Checks every file without reading all its rows: it exists, can be opened, and has `columns` columns and, by
    /// name, the `features`. Returns the sum of the row counts of those files whose format states one.
    pub(super) fn check(
        &self,
        folder: Option<&Path>,
        columns: usize,
        mut features: Vec<String>,
    ) -> Result<u64, ServerFilesError> {
        if self.paths.is_empty() {
            return Err(ServerFilesError::NoPaths);
        }
        let got = self.paths.len() + self.test_paths.len();
        if got > FILES_MAX {
            return Err(ServerFilesError::TooMany { got });
        }
        let ReadOptions { columns: taken, drop_columns: dropped, array, .. } = &self.options;
        let texts = [&self.paths, &self.test_paths, taken, dropped].into_iter().flatten().chain(array);
        let got = texts.map(|text| text.len() + 1).sum();
        if got > TEXT_BYTES_MAX {
            return Err(ServerFilesError::TooLong { got });
        }
        self.each().try_fold(0u64, |rows, (_, asked)| {
            Ok(rows.saturating_add(self.open(folder, asked, columns, &mut features)?.rows_hint().unwrap_or(0)))
        })
    }

    /// Opens one file. If the file and `features` both have names, the columns come in the order of `features`. If
    /// `features` is empty, it is set to the names of this file, and later files follow them.
    pub(super) fn open(
        &self,
        folder: Option<&Path>,
        asked: &str,
        columns: usize,
        features: &mut Vec<String>,
    ) -> Result<Box<dyn RowReader>, ServerFilesError> {
        let reader = files::read_file(asked, folder::open(folder, asked)?, &self.options)?;
        let reader = files::by_name(asked, reader, features)?;
        if features.is_empty() {
            *features = reader.names().to_vec();
        }
        let got = reader.columns();
        if got == columns {
            Ok(reader)
        } else {
            Err(ServerFilesError::Columns { asked: asked.to_owned(), got, expected: columns })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(paths: &[&str], test_paths: &[&str]) -> ServerFiles {
        let owned = |paths: &[&str]| paths.iter().map(ToString::to_string).collect();
        ServerFiles { paths: owned(paths), test_paths: owned(test_paths), options: ReadOptions::default() }
    }

    #[test]
    fn training_files_come_first_and_every_file_is_checked() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writes");
        write("a.csv", "1,2\n");
        write("b.csv", "3,4\n");
        write("wide.csv", "1,2,3\n");
        let files = named(&["b.csv", "a.csv"], &["a.csv"]);
        let order: Vec<_> = files.each().collect();
        assert_eq!(order, [(RowRole::Training, "b.csv"), (RowRole::Training, "a.csv"), (RowRole::Test, "a.csv")]);
        files.check(Some(folder.path()), 2, Vec::new()).expect("all are good");

        let refused = |files: ServerFiles| files.check(Some(folder.path()), 2, Vec::new()).expect_err("refused");
        assert!(matches!(refused(named(&[], &["a.csv"])), ServerFilesError::NoPaths));
        let many = vec!["a.csv"; FILES_MAX + 1];
        assert!(matches!(refused(named(&many, &[])), ServerFilesError::TooMany { got: 10_001 }));
        let mut long = named(&["a.csv"], &[]);
        long.options.drop_columns = vec![String::new(); TEXT_BYTES_MAX];
        assert!(matches!(refused(long), ServerFilesError::TooLong { got } if got == TEXT_BYTES_MAX + 6));
        let wide = refused(named(&["a.csv"], &["wide.csv"]));
        assert!(matches!(wide, ServerFilesError::Columns { got: 3, expected: 2, .. }), "{wide:?}");
        let gone = refused(named(&["a.csv", "gone.csv"], &[]));
        assert!(matches!(gone, ServerFilesError::Folder(_)) && gone.to_string().contains("gone.csv"), "{gone:?}");
        let error = files.check(None, 2, Vec::new()).expect_err("no folder").to_string();
        assert!(error.contains("train_folder"), "{error}");
    }

    #[test]
    fn columns_of_all_files_are_matched_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writes");
        write("ab.csv", "a,b\n1,2\n");
        write("ba.csv", "b,id,a\n4,9,3\n");
        write("ac.csv", "a,c\n1,2\n");
        let files = named(&["ab.csv", "ba.csv"], &[]);
        let read = |mut features: Vec<String>| {
            let mut values = Vec::new();
            for (_, asked) in files.each() {
                let mut reader = files.open(Some(folder.path()), asked, 2, &mut features).expect("opens");
                reader.next_rows(&mut values, 10).expect("reads");
            }
            values
        };
        assert_eq!(read(Vec::new()), [1.0, 2.0, 3.0, 4.0], "as in the first file");
        assert_eq!(read(vec!["b".into(), "a".into()]), [2.0, 1.0, 4.0, 3.0], "as in the base");
        let other = named(&["ab.csv", "ac.csv"], &[]).check(Some(folder.path()), 2, Vec::new());
        assert!(other.expect_err("refused").to_string().contains("no column \"b\""));
    }

    #[test]
    fn errors_do_not_reveal_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("empty.npy"), "").expect("writes");
        std::fs::write(folder.path().join("text.csv"), "1,2\n3,x\n").expect("writes");
        let secret = folder.path().file_name().expect("a name").to_string_lossy().into_owned();
        for asked in ["empty.npy", "gone.csv", "../up.csv"] {
            let error =
                named(&[asked], &[]).check(Some(folder.path()), 2, Vec::new()).expect_err("refused").to_string();
            assert!(error.contains(asked) && !error.contains(&secret), "{error}");
        }
        let files = named(&["text.csv"], &[]);
        let mut reader =
            files.open(Some(folder.path()), "text.csv", 2, &mut Vec::new()).expect("its first line is good");
        let error = reader.next_rows(&mut Vec::new(), 10).expect_err("its second is not").to_string();
        assert!(error.starts_with("text.csv: line 2, column 2"), "{error}");
    }
}
