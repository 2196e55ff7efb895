//! Reads the rows of a text table, record by record.

use std::collections::VecDeque;
use std::ops::Range;

use super::cell::{CellReader, CommaIs, comma_in_number, has_thousands};
use super::layout::{Layout, count, shown, unclosed};
use super::options::{Decimal, Separator};
use super::source::Source;
use super::split::{Kind, Splitter};
use crate::files::input::Input;
use crate::files::{COLUMNS_MAX, FileError, Location, ReadOptions, RowReader};
use crate::model::Missing;

/// Maximum size of a record: the most columns with 200 characters for each number. It limits the memory for a file
/// without line ends.
const RECORD_BYTES_MAX: usize = COLUMNS_MAX * 200;
/// Minimum number of lines in a sample, unless the file is shorter.
const SAMPLE_LINES_MIN: usize = 4;
/// Maximum size of the text that is kept for a caller between two rows.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// A record, as written in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextRecord {
    /// The text between the previous record, or the beginning of the file, and this one: names, comments, blank lines.
    pub before: String,
    /// The record, with its line end.
    pub text: String,
    /// Byte ranges of the fields in `text`, quotes included.
    pub cells: Vec<Range<usize>>,
}

/// The next item of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The record that was just split.
    Row,
    /// A row whose fields are all empty.
    EmptyRow,
    End,
}

/// Reads the rows of a text file.
pub struct TextReader {
    path: String,
    source: Source,
    splitter: Splitter,
    layout: Layout,
    cells: CellReader,
    /// Names of the columns to read.
    names: Vec<String>,
    /// Indices of the fields to read.
    kept: Vec<usize>,
    missing: Missing,
    /// The line of the last record, and the line after it.
    line: u64,
    next_line: u64,
    /// Size of the last record in bytes, without its line end and with it.
    content_bytes: usize,
    record_bytes: usize,
    /// Empty rows that were read and not returned, and whether a record after them was read.
    empty_rows: u64,
    has_record: bool,
    /// Empty rows at the end of the file, which are not rows. Also blank lines between values of a single column, which
    /// are skipped.
    empty_rows_at_end: u64,
    blank_lines: u64,
    blank_lines_waiting: u64,
    /// Whether a row was returned.
    any: bool,
    /// Records that were read and not returned, if the caller wants their text.
    records: Option<VecDeque<TextRecord>>,
    /// Text since the last record, if the caller wants it.
    between: String,
    /// Size of both in bytes.
    waiting_bytes: usize,
}

/// Opens a text file.
pub(in crate::files) fn open(input: Input, options: &ReadOptions) -> Result<TextReader, FileError> {
    let Input { path, stream, missing, live, notes, .. } = input;
    let checked = options.text.check(missing == Missing::Allowed);
    checked.map_err(|source| FileError::Dialect { path: path.clone(), source })?;
    let mut source = Source::open(&path, stream, options.text.encoding, live)?;
    // Lines are long: read more, because a decision needs a few lines.
    while !live && !source.ended() && !has_lines(source.text(), SAMPLE_LINES_MIN) {
        let bytes = source.text().len();
        if bytes > RECORD_BYTES_MAX * (SAMPLE_LINES_MIN + 1)
            || (bytes > RECORD_BYTES_MAX && !has_lines(source.text(), 1))
        {
            break;
        }
        source.more()?;
    }
    if source.text().len() > RECORD_BYTES_MAX && !has_lines(&source.text()[..RECORD_BYTES_MAX], 1) {
        return Err(too_long(&path, 1));
    }
    let mut layout = Layout::find(&path, source.text(), source.ended(), options)?;
    let before = notes.into_iter().chain(source.note().map(str::to_owned));
    layout.notes.splice(0..0, before);
    let kept = options.kept_of_table(&path, &layout.names, &layout.written, layout.fields)?;
    let names = if layout.names.is_empty() {
        Vec::new()
    } else {
        kept.iter().map(|index| layout.names[*index].clone()).collect()
    };
    Ok(TextReader {
        splitter: Splitter::new(layout.separator),
        cells: CellReader::new(layout.decimal, &options.text, missing == Missing::Allowed),
        path,
        source,
        layout,
        names,
        kept,
        missing,
        line: 1,
        next_line: 1,
        content_bytes: 0,
        record_bytes: 0,
        empty_rows: 0,
        has_record: false,
        empty_rows_at_end: 0,
        blank_lines: 0,
        blank_lines_waiting: 0,
        any: false,
        records: None,
        between: String::new(),
        waiting_bytes: 0,
    })
}

fn has_lines(text: &[u8], lines: usize) -> bool {
    memchr::memchr2_iter(b'\n', b'\r', text).nth(lines.saturating_sub(1)).is_some()
}

fn too_long(path: &str, line: u64) -> FileError {
    let expected = format!("at most {RECORD_BYTES_MAX} bytes");
    FileError::at(path, Location::Line(line), format!("the record has more than {RECORD_BYTES_MAX} bytes"), expected)
}

impl TextReader {
    /// Keeps the text of records for [`TextReader::next_record`]. Call it before the first row is read.
    pub fn keep_text(&mut self) {
        self.records = Some(VecDeque::new());
        if self.source.has_bom() {
            self.between.push('\u{feff}');
        }
    }

    /// Appends the values of the next row to `values`, like [`RowReader::next_rows`], and returns the record as written
    /// in the file; `None` at the end. Requires [`TextReader::keep_text`].
    ///
    /// # Errors
    /// If the record is invalid.
    pub fn next_record(&mut self, values: &mut Vec<f64>) -> Result<Option<TextRecord>, FileError> {
        if self.next_rows(values, 1)? == 0 {
            return Ok(None);
        }
        let record = self.records.as_mut().and_then(VecDeque::pop_front).unwrap_or_default();
        self.waiting_bytes = self.waiting_bytes.saturating_sub(record.before.len() + record.text.len());
        Ok(Some(record))
    }

    /// The text after the last record, such as blank lines and empty rows of a spreadsheet.
    pub fn rest(&mut self) -> String {
        let tail = self.records.iter_mut().flatten().map(|record| std::mem::take(&mut record.before) + &record.text);
        let tail: String = tail.collect();
        if let Some(records) = &mut self.records {
            records.clear();
        }
        tail + &std::mem::take(&mut self.between)
    }

    /// For each value of a row, the index (from 0) of its field in the record.
    pub fn kept(&self) -> &[usize] {
        &self.kept
    }

    /// The field separator.
    pub fn separator(&self) -> Separator {
        self.layout.separator
    }

    /// The decimal mark of the numbers.
    pub fn decimal(&self) -> Decimal {
        self.layout.decimal
    }

    /// The encoding of the file. The text of records is always UTF-8.
    pub fn encoding(&self) -> &'static str {
        self.source.encoding()
    }

    /// Splits the next record; false at the end.
    fn advance(&mut self) -> Result<bool, FileError> {
        loop {
            let text = self.source.text();
            let extent = match self.splitter.next(text, self.source.ended()) {
                Ok(Some(extent)) => extent,
                Ok(None) if self.source.ended() => {
                    if self.source.damaged() {
                        return Err(self.no_text(self.next_line, 0));
                    }
                    return Ok(false);
                }
                Ok(None) => {
                    if text.len() > RECORD_BYTES_MAX {
                        return Err(too_long(&self.path, self.next_line));
                    }
                    self.source.more()?;
                    continue;
                }
                Err(_) if self.source.damaged() => return Err(self.no_text(self.next_line, text.len())),
                Err(_) => return Err(unclosed(&self.path, self.next_line)),
            };
            if extent.bytes > RECORD_BYTES_MAX + 2 {
                return Err(too_long(&self.path, self.next_line));
            }
            if self.source.damaged() && extent.bytes == text.len() && extent.content_bytes == text.len() {
                return Err(self.no_text(self.next_line, text.len()));
            }
            (self.line, self.next_line) = (self.next_line, self.next_line + extent.lines);
            (self.content_bytes, self.record_bytes) = (extent.content_bytes, extent.bytes);
            let is_row = extent.kind == Kind::Record && self.line >= self.layout.first_line;
            self.source.consume(extent.bytes);
            if self.records.is_some() {
                self.keep(is_row)?;
            }
            if is_row {
                self.blank_lines += std::mem::take(&mut self.blank_lines_waiting);
                return Ok(true);
            }
            self.blank_lines_waiting += u64::from(self.any && extent.kind == Kind::Blank);
        }
    }

    /// Keeps the text of the item that was just split.
    fn keep(&mut self, is_row: bool) -> Result<(), FileError> {
        let text = self.record()?.to_owned();
        self.waiting_bytes += text.len();
        let Some(records) = &mut self.records else { return Ok(()) };
        if is_row {
            let before = std::mem::take(&mut self.between);
            records.push_back(TextRecord { before, text, cells: self.splitter.cells().to_vec() });
        } else {
            self.between.push_str(&text);
        }
        if self.waiting_bytes > KEPT_BYTES_MAX {
            let got = format!("more than {KEPT_BYTES_MAX} bytes between two rows are not rows");
            return Err(FileError::at(&self.path, Location::Line(self.line), got, "rows, or less text between them"));
        }
        Ok(())
    }

    /// The text of the record that was just split, with its line end.
    fn record(&self) -> Result<&str, FileError> {
        let bytes = self.source.consumed(self.record_bytes);
        std::str::from_utf8(bytes).map_err(|error| self.no_text(self.line, error.valid_up_to()))
    }

    /// An error for bytes that are not text, at this offset in the record of `line`.
    fn no_text(&self, line: u64, valid_bytes: usize) -> FileError {
        let before = if line == self.line && self.record_bytes > 0 && line != self.next_line {
            &self.source.consumed(self.record_bytes)[..valid_bytes.min(self.record_bytes)]
        } else {
            &self.source.text()[..valid_bytes.min(self.source.text().len())]
        };
        let encoding = self.source.encoding();
        let line = line + line_ends(before);
        let expected = format!("{encoding} as before: --encoding names another encoding, such as windows-1252");
        FileError::at(&self.path, Location::Line(line), format!("it has bytes that are not {encoding}"), expected)
    }

    /// Finds the next row. An empty row counts only if another row with values follows.
    fn next(&mut self) -> Result<Next, FileError> {
        if self.empty_rows > 0 {
            self.empty_rows -= 1;
            return Ok(Next::EmptyRow);
        }
        if std::mem::take(&mut self.has_record) {
            return Ok(Next::Row);
        }
        let mut empty: Option<(u64, usize)> = None;
        loop {
            if !self.advance()? {
                // Spreadsheets leave such rows below a table.
                self.empty_rows_at_end += std::mem::take(&mut self.empty_rows);
                return Ok(Next::End);
            }
            if self.is_empty_row() {
                empty = empty.or(Some((self.line, self.splitter.count())));
                self.empty_rows += 1;
                continue;
            }
            let Some((line, fields)) = empty else { return Ok(Next::Row) };
            if self.missing == Missing::Refused {
                let expected = "numbers, unless values may be missing (--missing-values)";
                return Err(FileError::at(&self.path, Location::Line(line), "all its fields are empty", expected));
            }
            self.check_count(line, fields)?;
            self.empty_rows -= 1;
            self.has_record = true;
            return Ok(Next::EmptyRow);
        }
    }

    /// Whether the last record consists only of separators and white space.
    fn is_empty_row(&self) -> bool {
        let Separator::Byte(separator) = self.layout.separator else { return false };
        let bytes = self.source.consumed(self.record_bytes);
        self.splitter.count() > 1 && bytes.iter().all(|byte| *byte == separator || byte.is_ascii_whitespace())
    }

    /// Checks the number of fields of a record.
    fn check_count(&self, line: u64, fields: usize) -> Result<(), FileError> {
        let expected = self.layout.fields;
        if (expected..=expected + self.layout.trailing).contains(&fields) {
            return Ok(());
        }
        let comma =
            self.layout.separator == Separator::COMMA && self.layout.names.is_empty() && (fields == 2 || expected == 2);
        let hint = if comma { " (if the comma is the decimal mark, use --decimal ,)" } else { "" };
        let expected = format!("{expected} as before{hint}");
        Err(FileError::at(&self.path, Location::Line(line), format!("it has {}", count(fields)), expected))
    }

    /// Appends the values of the record that was just split.
    fn push_values(&self, values: &mut Vec<f64>) -> Result<(), FileError> {
        let record = self.record()?;
        self.check_count(self.line, self.splitter.count())?;
        for index in self.layout.fields..self.splitter.count() {
            let field = self.splitter.field(record, index).trim();
            if !field.is_empty() {
                let place = Location::Field { line: self.line, column: index + 1, name: None };
                let expected = "an empty field, as in all earlier lines";
                return Err(FileError::at(&self.path, place, format!("{:?}", shown(field)), expected));
            }
        }
        for index in &self.kept {
            match self.cells.value(self.splitter.field(record, *index)) {
                Some(value) => values.push(value),
                None => return Err(self.no_number(self.splitter.field(record, *index), *index)),
            }
        }
        Ok(())
    }

    fn no_rows(&self) -> FileError {
        let expected = if self.empty_rows_at_end > 0 {
            "at least one with a value"
        } else if self.layout.skips_comments {
            "at least one: lines that begin with # are comments, unless the field is in quotes"
        } else {
            "at least one"
        };
        FileError::content(&self.path, "it has a header and no rows", expected)
    }

    /// The error for a field that is not a valid value.
    fn no_number(&self, field: &str, index: usize) -> FileError {
        let field = field.trim();
        let (mut got, mut expected) = (format!("{:?}", shown(field)), "a finite number".to_owned());
        if self.cells.is_missing(field) {
            got.push_str(", which stands for a missing value");
            expected.push_str(", unless values may be missing (--missing-values)");
        } else {
            match (comma_in_number(field), self.layout.decimal) {
                (Some(CommaIs::Decimal), Decimal::Dot) => {
                    expected.push_str(" with a decimal point (--decimal , if the comma is the decimal mark)");
                }
                (Some(_), _) => expected.push_str(" without thousands marks (--thousands names the mark)"),
                (None, Decimal::Comma) if field.contains('.') && field.parse::<f64>().is_ok() => {
                    expected.push_str(" with a decimal comma, as before (--decimal and --thousands change that)");
                }
                _ if has_thousands(field) => {
                    expected.push_str(" without thousands marks (--thousands names the mark)");
                }
                _ if self.missing == Missing::Allowed
                    && field.chars().count() <= 10
                    && field.parse::<f64>().is_err() =>
                {
                    expected.push_str(" (--missing-marks names further marks of missing values)");
                }
                _ if field.parse::<f64>().is_err() => {
                    expected.push_str(" (--drop-columns leaves a column out)");
                }
                _ => {}
            }
        }
        let name = self.layout.names.get(index).map(|name| shown(name));
        FileError::at(&self.path, Location::Field { line: self.line, column: index + 1, name }, got, expected)
    }
}

/// Number of line ends in a text.
fn line_ends(text: &[u8]) -> u64 {
    let ends = memchr::memchr2_iter(b'\n', b'\r', text);
    ends.filter(|at| text[*at] == b'\n' || text.get(at + 1) != Some(&b'\n')).count() as u64
}

impl RowReader for TextReader {
    fn columns(&self) -> usize {
        self.kept.len()
    }
    fn names(&self) -> &[String] {
        &self.names
    }
    fn notes(&self) -> &[String] {
        &self.layout.notes
    }
    fn notes_at_end(&self) -> Vec<String> {
        if self.missing == Missing::Refused {
            return Vec::new();
        }
        let left_out = |count: u64, what: &str, which: &str, why: &str| {
            let (plural, are) = if count == 1 { ("", "is") } else { ("s", "are") };
            (count > 0).then(|| format!("{count} {what}{plural} {which} {are} left out{why}"))
        };
        let at_end = left_out(self.empty_rows_at_end, "row", "without a value at its end", "");
        let marks = " (a missing value is written as \"\" or NA)";
        let lines = if self.layout.fields == 1 { self.blank_lines } else { 0 };
        at_end.into_iter().chain(left_out(lines, "blank line", "between its rows", marks)).collect()
    }
    fn next_rows(&mut self, values: &mut Vec<f64>, rows_max: usize) -> Result<usize, FileError> {
        for row in 0..rows_max {
            match self.next()? {
                Next::Row => self.push_values(values)?,
                Next::EmptyRow => values.extend(std::iter::repeat_n(f64::NAN, self.kept.len())),
                Next::End if self.any => return Ok(row),
                Next::End => return Err(self.no_rows()),
            }
            self.any = true;
        }
        Ok(rows_max)
    }
}
