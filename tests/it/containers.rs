//! Files of every container format, written by NumPy, pandas and Arrow: the reader returns the same values, or an error
//! with the reason. `tests/golden/containers/make.py` writes the files.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use halfhitch::files::{self, FileError, ReadOptions};
use serde::Deserialize;

use crate::support::Random;

#[derive(Debug, Deserialize)]
struct Case {
    file: String,
    #[serde(default)]
    columns: usize,
    /// Little-endian f64 in base64, row by row.
    values: Option<String>,
    names: Option<Vec<String>>,
    /// Fragments of the error.
    refused: Option<Vec<String>>,
    /// A fragment of the notes.
    note: Option<String>,
    #[serde(default)]
    missing_values: bool,
    array: Option<String>,
    #[serde(default)]
    columns_chosen: Vec<String>,
    #[serde(default)]
    columns_dropped: Vec<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/containers")
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(folder().join("expected.json")).expect("is there");
    let cases: Vec<Case> = serde_json::from_str(&text).expect("cases");
    assert!(cases.len() > 100, "{} cases", cases.len());
    cases
}

#[derive(Debug)]
struct Table {
    values: Vec<f64>,
    columns: usize,
    names: Vec<String>,
    notes: Vec<String>,
}

fn read(mut reader: Box<dyn files::RowReader>, rows_max: usize) -> Result<Table, FileError> {
    let mut values = Vec::new();
    while reader.next_rows(&mut values, rows_max)? > 0 {}
    let columns = reader.columns();
    assert_eq!(values.len() % columns, 0);
    if let Some(rows) = reader.rows_hint() {
        assert_eq!(rows, (values.len() / columns) as u64);
    }
    Ok(Table { values, columns, names: reader.names().to_vec(), notes: reader.notes().to_vec() })
}

fn needs_arrow(case: &Case) -> bool {
    [".parquet", ".arrows", ".feather", ".parquet.gz"].iter().any(|ending| case.file.ends_with(ending))
        && case.file != "old.feather"
}

#[test]
fn files_are_read_as_in_python_or_rejected() {
    for case in cases() {
        if cfg!(not(feature = "arrow")) && needs_arrow(&case) {
            continue;
        }
        let path = folder().join("files").join(&case.file);
        let options = ReadOptions {
            missing_values: case.missing_values,
            array: case.array.clone(),
            columns: case.columns_chosen.clone(),
            drop_columns: case.columns_dropped.clone(),
            ..ReadOptions::default()
        };
        // From a file, and from a stream with the file's name.
        for (rows_max, is_stream) in [(1, false), (4, false), (1000, true)] {
            let reader = if is_stream {
                let bytes = std::fs::File::open(&path).expect("is there");
                files::read(&case.file, bytes, &options)
            } else {
                files::open(&path, &options)
            };
            let got = reader.and_then(|reader| read(reader, rows_max));
            match (&case.values, &case.refused, got) {
                (Some(values), _, Ok(table)) => {
                    let bytes = STANDARD.decode(values).expect("base64");
                    let expected: Vec<f64> =
                        bytes.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().expect("8"))).collect();
                    assert_eq!(table.columns, case.columns, "{case:?}");
                    assert_eq!(table.values.len(), expected.len(), "{case:?}");
                    let same = |a: &f64, b: &f64| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                    let differs = table.values.iter().zip(&expected).position(|(a, b)| !same(a, b));
                    assert_eq!(differs, None, "{case:?}\n{:?}\n{expected:?}", table.values);
                    if let Some(names) = &case.names {
                        assert_eq!(&table.names, names, "{case:?}");
                    }
                    if let Some(note) = &case.note {
                        assert!(table.notes.iter().any(|text| text.contains(note)), "{case:?}: {:?}", table.notes);
                    }
                }
                (_, Some(texts), Err(error)) => {
                    let error = error.to_string();
                    assert!(error.contains(&case.file), "{case:?}: {error}");
                    for text in texts {
                        assert!(error.contains(text), "{case:?}: {error}");
                    }
                }
                (_, _, got) => panic!("{}: {got:?}\n{case:?}", case.file),
            }
        }
    }
}

/// A truncated file is an error or, for text, its first rows.
#[test]
fn truncated_or_damaged_files_never_panic_and_stay_bounded() {
    let mut seen = std::collections::BTreeSet::new();
    let mut numbers = Random::new(0);
    let mut random = move |limit: usize| numbers.below(limit as u64) as usize;
    let place = tempfile::tempdir().expect("a folder");
    for case in cases() {
        if case.values.is_none()
            || !seen.insert(case.file.clone())
            || cfg!(not(feature = "arrow")) && needs_arrow(&case)
        {
            continue;
        }
        let whole = std::fs::read(folder().join("files").join(&case.file)).expect("is there");
        let path = place.path().join(&case.file);
        let options = ReadOptions { missing_values: true, array: case.array.clone(), ..ReadOptions::default() };
        let attempt = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("writes");
            let from_file = files::open(&path, &options).and_then(|reader| bounded(reader, bytes.len()));
            let stream = std::io::Cursor::new(bytes.to_vec());
            let from_stream = files::read(&case.file, stream, &options).and_then(|reader| bounded(reader, bytes.len()));
            (from_file, from_stream)
        };
        let is_text = whole.iter().all(|byte| *byte >= 9) || case.file.starts_with("table.csv.double");
        for _ in 0..60 {
            let length = random(whole.len());
            let (from_file, from_stream) = attempt(&whole[..length]);
            // Formats without a row count can end after any record. "9 4" alone is a table. The line break after the
            // last vector of word2vec is optional: some writers omit it.
            let at_a_row = case.file.ends_with("vecs")
                || case.file == "word2vec.bin" && (length <= 4 || length + 1 == whole.len());
            let refused = from_file.is_err() && from_stream.is_err();
            assert!(
                is_text || at_a_row || case.file.contains("csv.") || refused,
                "{length} of {} bytes of {}",
                whole.len(),
                case.file
            );
        }
        for _ in 0..100 {
            let mut bytes = whole.clone();
            for _ in 0..=random(4) {
                let at = if random(2) == 0 { random(bytes.len()) } else { random(bytes.len().min(200)) };
                bytes[at] ^= 1 << random(8);
            }
            let _ = attempt(&bytes);
        }
    }
}

/// Reads all rows; fails if there are more than a compressed file of `bytes` bytes can hold.
fn bounded(mut reader: Box<dyn files::RowReader>, bytes: usize) -> Result<(), FileError> {
    let mut count = 0;
    loop {
        let mut values = Vec::new();
        if reader.next_rows(&mut values, 100)? == 0 {
            return Ok(());
        }
        assert!(values.iter().all(|value| !value.is_infinite()));
        count += values.len();
        assert!(count <= 2000 * bytes.max(100), "{count} numbers of {bytes} bytes");
    }
}
