//! Comma-separated numbers.

use std::io::{self, Read};

use super::input::Input;
use super::{COLUMNS_MAX, FileError, Place, ReadOptions, RowReader};
use crate::model::Missing;

/// Longest record: the widest rows with 200 characters a number, so that a file without line ends is not read whole.
const RECORD_BYTES_MAX: usize = COLUMNS_MAX * 200;
/// What is shown of a field that is no number.
const SHOWN_CHARACTERS_MAX: usize = 40;

struct Csv {
    path: String,
    records: csv::Reader<Rationed>,
    names: Vec<String>,
    /// Which fields of a record are kept.
    kept: Vec<usize>,
    /// Fields of a record.
    fields: usize,
    /// A first line that was no header.
    first: Option<csv::StringRecord>,
    /// The record that was read last.
    record: csv::StringRecord,
    /// Whether there was a row.
    any: bool,
    missing: Missing,
}

/// Bytes, until a record would be too long.
struct Rationed {
    input: Input,
    left: usize,
}

impl Read for Rationed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let reason = format!("a record has more than {RECORD_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let read = self.input.stream.read(buffer)?;
        self.left = self.left.saturating_sub(read);
        Ok(read)
    }
}

pub(super) fn open(input: Input, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    let (path, missing) = (input.path.clone(), input.missing);
    let rationed = Rationed { input, left: RECORD_BYTES_MAX };
    let mut records =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(rationed);
    let mut first = csv::StringRecord::new();
    if !records.read_record(&mut first).map_err(|error| broken(&path, error))? {
        return Err(FileError::content(&path, "it has no rows", "at least one"));
    }
    let fields = first.len();
    if fields > COLUMNS_MAX {
        let got = format!("its rows have {fields} numbers");
        return Err(FileError::content(&path, got, format!("at most {COLUMNS_MAX}")));
    }
    let all_numbers =
        first.iter().all(|field| field.parse::<f64>().is_ok() || missing == Missing::Allowed && is_missing(field));
    let has_header = options.header.unwrap_or(!all_numbers);
    let names: Vec<String> = if has_header { first.iter().map(str::to_owned).collect() } else { Vec::new() };
    let kept = options.kept(&path, &names, fields)?;
    Ok(Box::new(Csv {
        path,
        records,
        names: if has_header { kept.iter().map(|index| names[*index].clone()).collect() } else { Vec::new() },
        kept,
        fields,
        first: (!has_header).then_some(first),
        record: csv::StringRecord::new(),
        any: false,
        missing,
    }))
}

/// What is written where there is no value.
fn is_missing(field: &str) -> bool {
    field.is_empty() || ["nan", "na", "null"].iter().any(|word| field.eq_ignore_ascii_case(word))
}

fn broken(path: &str, error: csv::Error) -> FileError {
    let place = error.position().map_or(Place::Whole, |position| Place::Line(position.line()));
    match error.into_kind() {
        csv::ErrorKind::Io(source) => FileError::Io { path: path.to_owned(), source },
        csv::ErrorKind::Utf8 { .. } => FileError::at(path, place, "it is no text", "numbers as UTF-8, and commas"),
        other => FileError::at(path, place, format!("it is not readable ({other:?})"), "numbers and commas"),
    }
}

impl Csv {
    /// The next record is read: its line, or nothing at the end.
    fn advance(&mut self) -> Result<Option<u64>, FileError> {
        if let Some(first) = self.first.take() {
            self.record = first;
            return Ok(Some(1));
        }
        self.records.get_mut().left = RECORD_BYTES_MAX;
        let line = self.records.position().line();
        let read = self.records.read_record(&mut self.record).map_err(|error| broken(&self.path, error))?;
        Ok(read.then(|| self.record.position().map_or(line, csv::Position::line)))
    }
}

impl RowReader for Csv {
    fn columns(&self) -> usize {
        self.kept.len()
    }
    fn names(&self) -> &[String] {
        &self.names
    }
    fn next_rows(&mut self, values: &mut Vec<f64>, rows_max: usize) -> Result<usize, FileError> {
        for row in 0..rows_max {
            let Some(line) = self.advance()? else {
                if self.any {
                    return Ok(row);
                }
                return Err(FileError::content(&self.path, "it has a header and no rows", "at least one"));
            };
            self.any = true;
            if self.record.len() != self.fields {
                let got = format!("it has {} fields", self.record.len());
                return Err(FileError::at(&self.path, Place::Line(line), got, format!("{} as before", self.fields)));
            }
            for index in &self.kept {
                let field = &self.record[*index];
                match field.parse::<f64>() {
                    Ok(value) if self.missing.allows_wide(value) => values.push(value),
                    _ if self.missing == Missing::Allowed && is_missing(field) => values.push(f64::NAN),
                    parsed => {
                        let value = if is_missing(field) { f64::NAN } else { parsed.unwrap_or(0.0) };
                        let shown: String = field.chars().take(SHOWN_CHARACTERS_MAX).collect();
                        let place = Place::Field { line, field: index + 1 };
                        return Err(FileError::at(&self.path, place, format!("{shown:?}"), FileError::finite(value)));
                    }
                }
            }
        }
        Ok(rows_max)
    }
}
