//! Word vectors: text lines of a word and its numbers, as GloVe, fastText and word2vec write them, or word2vec's binary
//! format. The words are skipped.

use std::io::{BufRead, Read};

use super::binary::{check_shape, check_values};
use super::input::Input;
use super::{COLUMNS_MAX, FileError, Format, Location, RowReader};
use crate::model::text::first_chars;

/// Maximum length of a line, with 200 characters for each number.
const LINE_BYTES_MAX: usize = COLUMNS_MAX * 200;
/// Maximum length of a word in a binary file.
const WORD_BYTES_MAX: usize = 4096;
/// Number of lines examined to detect the format.
const LINES_SEEN_MAX: usize = 64;
/// Maximum number of characters of a field in a message.
const SHOWN_CHARACTERS_MAX: usize = 40;

/// Detects word vectors: each line is a word and at least two numbers, separated by single spaces. The first line may
/// be the number of words and their length.
pub(super) fn seen(first: &[u8]) -> Option<Format> {
    let mut lines = first.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let head = lines.next()?;
    if let Some((_, length)) = counts(head) {
        let rest = &first[head.len()..];
        if super::foreign::is_binary(rest) {
            let word = rest.iter().take(WORD_BYTES_MAX).position(|byte| *byte == b' ');
            return word.filter(|at| *at > 0 && !rest[..*at].contains(&0)).map(|_| Format::WordVectors);
        }
        return are_words(lines, length as usize).then_some(Format::WordVectors);
    }
    let (is_number, numbers) = fields(head)?;
    let found = !is_number && numbers >= 2 && are_words(std::iter::once(head).chain(lines), numbers);
    found.then_some(Format::WordVectors)
}

/// Whether each line is a word and `length` numbers. To exclude tables of numbers, most words must not be numbers, and
/// at most a quarter may contain a field separator.
fn are_words<'a>(lines: impl Iterator<Item = &'a [u8]>, length: usize) -> bool {
    let (mut rows, mut words, mut marked) = (0, 0, 0);
    for line in lines.take(LINES_SEEN_MAX) {
        let Some(before) = before_numbers(line, length) else { return false };
        rows += 1;
        words += usize::from(!before.is_number);
        marked += usize::from(before.has_marks);
    }
    rows > 0 && words * 2 > rows && marked * 4 <= rows
}

/// The text before the numbers of a line.
struct Before {
    is_number: bool,
    /// See [`has_marks`].
    has_marks: bool,
}

/// Examines the word of a line that ends with `length` numbers. Words may contain spaces.
fn before_numbers(line: &[u8], length: usize) -> Option<Before> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let mut fields = line.rsplitn(length + 1, ' ');
    for _ in 0..length {
        fields.next()?.parse::<f64>().ok()?;
    }
    let word = fields.next()?;
    let is_number = word.split(' ').all(|part| part.parse::<f64>().is_ok());
    Some(Before { is_number, has_marks: has_marks(word) })
}

/// Whether a word contains both a possible field separator and a letter or digit. Punctuation alone is a normal word.
fn has_marks(word: &str) -> bool {
    word.contains([',', ';', '\t']) && word.contains(char::is_alphanumeric)
}

/// For a line of a word and numbers: whether the word is itself a number, and how many numbers follow.
fn fields(line: &[u8]) -> Option<(bool, usize)> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let mut fields = line.split(' ');
    let word = fields.next()?;
    let mut numbers = 0;
    for field in fields {
        field.parse::<f64>().ok()?;
        numbers += 1;
    }
    Some((word.parse::<f64>().is_ok(), numbers)).filter(|_| numbers > 0 && !has_marks(word))
}

/// Parses the first line of word2vec: the number of words and the length of each vector.
fn counts(line: &[u8]) -> Option<(u64, u64)> {
    let (count, length) = std::str::from_utf8(line).ok()?.trim_end().split_once(' ')?;
    let counts = (count.parse().ok()?, length.parse().ok()?);
    (counts.0 > 0 && counts.1 > 0).then_some(counts)
}

struct Words {
    input: Input,
    columns: usize,
    /// Number of words, if the file states it.
    rows: Option<u64>,
    is_binary: bool,
    rows_read: u64,
    /// Number of lines read.
    lines: u64,
    /// The first line, if it was read to determine the row length.
    first: Option<Vec<u8>>,
}

pub(super) fn open(mut input: Input) -> Result<Box<dyn RowReader>, FileError> {
    let head = line(&mut input, 1)?;
    let path = input.path.clone();
    input.notes.push("the first field of each line is a word, which is left out".to_owned());
    let mut words = Words { input, columns: 0, rows: None, is_binary: false, rows_read: 0, lines: 0, first: None };
    let columns = match counts(&head) {
        Some((rows, columns)) => {
            let rest = words.input.stream.fill_buf().map_err(FileError::io(&path))?;
            words.is_binary = super::foreign::is_binary(rest);
            (words.rows, words.lines) = (Some(rows), 1);
            columns
        }
        None => {
            let text = String::from_utf8_lossy(&head);
            let columns = text.trim_end().split(' ').count().saturating_sub(1) as u64;
            drop(text);
            words.first = Some(head);
            columns
        }
    };
    words.columns = check_shape(&path, words.rows.unwrap_or(1), columns)?;
    Ok(Box::new(words))
}

/// The next line with its line end; empty at the end of the file.
fn line(input: &mut Input, number: u64) -> Result<Vec<u8>, FileError> {
    let mut line = Vec::new();
    let mut taken = (&mut input.stream).take(LINE_BYTES_MAX as u64 + 1);
    taken.read_until(b'\n', &mut line).map_err(FileError::io(&input.path))?;
    if line.len() > LINE_BYTES_MAX {
        let got = format!("it has more than {LINE_BYTES_MAX} bytes");
        return Err(FileError::at(&input.path, Location::Line(number), got, "a word and its numbers"));
    }
    Ok(line)
}

impl Words {
    /// Appends the next row; false at the end.
    fn next_text(&mut self, values: &mut Vec<f64>) -> Result<bool, FileError> {
        let line = match self.first.take() {
            Some(line) => line,
            None => line(&mut self.input, self.lines + 1)?,
        };
        self.lines += 1;
        let place = Location::Line(self.lines);
        let trimmed = line.trim_ascii_end();
        if trimmed.is_empty() {
            // A blank line is allowed only at the end.
            if line.is_empty() {
                return Ok(false);
            }
            let rest = self.input.stream.fill_buf().map_err(FileError::io(&self.input.path))?;
            if rest.is_empty() {
                return Ok(false);
            }
            return Err(FileError::at(&self.input.path, place, "it is empty", "a word and its numbers"));
        }
        // Split from the right, because words may contain spaces.
        let before = values.len();
        let mut fields = trimmed.rsplitn(self.columns + 1, |byte| *byte == b' ');
        for _ in 0..self.columns {
            let Some(field) = fields.next() else { break };
            let number = std::str::from_utf8(field).ok().and_then(|text| text.parse::<f64>().ok());
            let Some(number) = number else {
                let text = String::from_utf8_lossy(field);
                let shown = first_chars(&text, SHOWN_CHARACTERS_MAX);
                let expected = format!("{} numbers after a word, as before", self.columns);
                return Err(FileError::at(&self.input.path, place, format!("{shown:?}"), expected));
            };
            values.push(number);
        }
        if values.len() - before < self.columns || fields.next().is_none() {
            let got = format!("it has {} fields", trimmed.split(|byte| *byte == b' ').count());
            let expected = format!("a word and {} numbers as before", self.columns);
            return Err(FileError::at(&self.input.path, place, got, expected));
        }
        values[before..].reverse();
        self.check(&values[before..], Location::Line(self.lines))?;
        Ok(true)
    }

    fn next_binary(&mut self, values: &mut Vec<f64>) -> Result<bool, FileError> {
        let path = &self.input.path;
        if self.input.stream.fill_buf().map_err(FileError::io(path))?.is_empty() {
            return Ok(false);
        }
        let mut word = Vec::new();
        let mut taken = (&mut self.input.stream).take(WORD_BYTES_MAX as u64);
        taken.read_until(b' ', &mut word).map_err(FileError::io(path))?;
        if !word.ends_with(b" ") {
            // Some programs write a line end after the last row.
            if word == b"\n" {
                return Ok(false);
            }
            let got = format!("no space follows within {} bytes", word.len());
            return Err(FileError::at(path, Location::Row(self.rows_read + 1), got, "a word and a space"));
        }
        let mut bytes = vec![0; 4 * self.columns];
        self.input.stream.read_exact(&mut bytes).map_err(FileError::short(path, "a row"))?;
        let before = values.len();
        let number = |bytes: &[u8]| f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        values.extend(bytes.chunks_exact(4).map(number));
        check_values(path, &values[before..], self.columns, self.rows_read, self.input.missing)?;
        Ok(true)
    }

    fn check(&self, row: &[f64], place: Location) -> Result<(), FileError> {
        let Some(column) = row.iter().position(|value| !self.input.missing.allows_wide(*value)) else { return Ok(()) };
        let got = format!("number {} is {}", column + 1, row[column]);
        Err(FileError::at(&self.input.path, place, got, FileError::finite(row[column])))
    }
}

impl RowReader for Words {
    fn columns(&self) -> usize {
        self.columns
    }
    fn rows_hint(&self) -> Option<u64> {
        self.rows
    }
    fn notes(&self) -> &[String] {
        &self.input.notes
    }
    fn next_rows(&mut self, values: &mut Vec<f64>, rows_max: usize) -> Result<usize, FileError> {
        for row in 0..rows_max {
            let found = if self.is_binary { self.next_binary(values)? } else { self.next_text(values)? };
            let path = &self.input.path;
            match (found, self.rows) {
                (false, Some(rows_promised)) if self.rows_read < rows_promised => {
                    return Err(FileError::Truncated { path: path.clone(), rows: self.rows_read, rows_promised });
                }
                (true, Some(promised)) if self.rows_read == promised => {
                    let got = format!("it goes on after its {promised} rows");
                    return Err(FileError::content(path, got, "as many rows as its first line promises"));
                }
                (false, _) => return Ok(row),
                (true, _) => self.rows_read += 1,
            }
        }
        Ok(rows_max)
    }
}
