//! Decides how to read a text file, once, from its beginning: separator, decimal mark, column names and the first row.

use super::cell::{CellReader, Class, is_rounded};
use super::comment::names_of_comment;
use super::dialect::{Dialect, separator_line};
use super::header::{self, First};
use super::names;
use super::options::{Decimal, Separator};
use super::scan::{Sample, Sampled};
use crate::files::{COLUMNS_MAX, FileError, Location, ReadOptions};
use crate::model::text::{counted, shortened};

/// Maximum number of further header lines, such as units, below the first one.
const MORE_HEADERS_MAX: usize = 3;
/// Maximum number of characters of a name in a message.
const SHOWN_CHARACTERS_MAX: usize = 40;

/// How to read a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layout {
    pub(super) separator: Separator,
    pub(super) decimal: Decimal,
    /// Number of fields of a record, without the trailing fields that are empty in all records.
    pub(super) fields: usize,
    /// Number of these trailing empty fields.
    pub(super) trailing: usize,
    /// The line of the first row; earlier lines are not rows.
    pub(super) first_line: u64,
    /// Names of all fields, repaired; empty if there are none.
    pub(super) names: Vec<String>,
    /// The names as written in the file.
    pub(super) written: Vec<String>,
    /// Notes on decisions that differ from plain CSV, one sentence each.
    pub(super) notes: Vec<String>,
    /// Whether a comment names the columns.
    named_by_comment: bool,
    /// Whether other comments are skipped.
    pub(super) skips_comments: bool,
}

impl Layout {
    /// Decides for a file that begins with `text`; `ends`: the file has nothing more.
    pub(super) fn find(path: &str, text: &[u8], ends: bool, options: &ReadOptions) -> Result<Self, FileError> {
        let (line_separator, sample) = after_separator_line(text, ends);
        let Dialect { separator, decimal, scan, mut notes } =
            Dialect::find(path, &sample, &options.text, line_separator)?;
        if let Some(mark) = line_separator {
            notes.insert(0, format!("line 1 says that the separator is {mark}"));
        }
        let records = &scan.records;
        if records.is_empty() {
            return Err(match scan.unclosed {
                Some(line) => unclosed(path, line),
                None if scan.no_text.is_some() => FileError::at(
                    path,
                    Location::Line(scan.no_text.unwrap_or(1)),
                    "it has bytes that are not UTF-8",
                    "text: --encoding names another encoding, such as windows-1252",
                ),
                None => FileError::content(path, "it has no rows", "at least one"),
            });
        }
        let width = scan.width();
        let trailing = trailing(separator, records, width, options);
        let fields = width - trailing;
        if fields > COLUMNS_MAX {
            return Err(FileError::content(
                path,
                format!("its rows have {fields} numbers"),
                format!("at most {COLUMNS_MAX}"),
            ));
        }
        let cells = CellReader::new(decimal, &options.text, true);
        let classes: Vec<Vec<Class>> = records
            .iter()
            .map(|record| record.fields.iter().take(fields).map(|field| cells.class(field)).collect())
            .collect();
        let mut layout = Self {
            separator,
            decimal,
            fields,
            trailing,
            first_line: sample.line,
            names: Vec::new(),
            written: Vec::new(),
            notes,
            named_by_comment: false,
            skips_comments: false,
        };
        let rows_from = layout.find_names(path, records, &classes, options, scan.comment_before.as_ref())?;
        // Empty rows may precede the first record of the sample; they are rows too.
        layout.first_line = rows_from.checked_sub(1).map_or(sample.line, |names| records[names].line + 1);
        if trailing > 0 {
            layout.notes.push(if trailing == 1 {
                "each line ends with a separator: the empty column after it is left out".to_owned()
            } else {
                format!("each line ends with {trailing} separators: the empty columns after them are left out")
            });
        }
        layout.skips_comments = scan.comments > usize::from(layout.named_by_comment);
        if layout.skips_comments {
            layout.notes.push("lines that begin with # are left out".to_owned());
        }
        layout.note_rounding(&records[rows_from.min(records.len())..]);
        Ok(layout)
    }

    /// Finds the column names; returns the index of the record that is the first row.
    fn find_names(
        &mut self,
        path: &str,
        records: &[Sampled],
        classes: &[Vec<Class>],
        options: &ReadOptions,
        comment: Option<&(u64, String)>,
    ) -> Result<usize, FileError> {
        let first = &records[0];
        let texts = classes[0].iter().filter(|class| **class == Class::Text).count();
        // R writes no name for the column of row names.
        let row_names = first.fields.len() + 1 == self.fields
            && self.trailing == 0
            && (texts == first.fields.len() || options.header == Some(true))
            && options.header != Some(false)
            && (header::is_index(0, &classes[1..])
                || records.len() > 1 && classes[1..].iter().all(|row| row[0] == Class::Text));
        let fits = (self.fields..=self.fields + self.trailing).contains(&first.fields.len());
        if !fits && !row_names {
            return Err(FileError::at(
                path,
                Location::Line(first.line),
                format!("it has {}, but most lines have {}", count(first.fields.len()), self.fields),
                "rows of one table: remove the lines above it, or put # in front of them (--header yes if the line \
                 names all columns except the first)",
            ));
        }
        let by_comment = comment.filter(|_| texts == 0 && options.header != Some(false));
        let by_comment = by_comment
            .and_then(|(line, text)| names_of_comment(text, self.fields, self.separator).map(|names| (line, names)));
        if let Some((line, written)) = by_comment {
            self.named_by_comment = true;
            self.notes.push(format!("the comment in line {line} names the columns"));
            self.name(written, classes);
            return Ok(0);
        }
        let decided = match options.header {
            Some(true) => First::Names,
            Some(false) => First::Row,
            None if row_names => First::Names,
            // R quotes names but not numbers.
            None if first.quoted
                && records.len() > 1
                && !records[1..].iter().any(|record| record.quoted)
                && classes[0].iter().all(|class| matches!(class, Class::Number { .. })) =>
            {
                First::NumbersAsNames("in quotes, above numbers without")
            }
            None => header::decide(&classes[0], &classes[1..]),
        };
        match decided {
            First::Row => return Ok(0),
            First::RowWithText => {
                let note = format!(
                    "line {} is read as a row, because it has numbers (--header yes if it names the columns)",
                    first.line
                );
                self.notes.push(note);
                return Ok(0);
            }
            First::Unclear(why) => {
                return Err(FileError::at(
                    path,
                    Location::Line(first.line),
                    format!("it can be column names or a row: {why}"),
                    "`--header yes` or `--header no` to choose (in ServerFiles: header)",
                ));
            }
            First::NumbersAsNames(what) => {
                let note =
                    format!("line {} is read as names of columns: {what} (--header no if it is a row)", first.line);
                self.notes.push(note);
            }
            First::Names => {}
        }
        let (mut rows_from, mut names) = (1, 0);
        let named =
            |record: usize| records[record].fields.iter().take(self.fields).filter(|field| !field.is_empty()).count();
        while rows_from <= MORE_HEADERS_MAX && Self::is_second_header(records, classes, rows_from) {
            // A title has fewer fields than the names below it; units do not have more.
            if !row_names && records[rows_from].fields.len() >= self.fields && named(rows_from) > named(names) {
                names = rows_from;
            }
            rows_from += 1;
        }
        for record in (0..rows_from).filter(|record| *record != names) {
            let line = records[record].line;
            let named = records[names].line;
            self.notes.push(format!("line {line} has no numbers and is left out: line {named} names the columns"));
        }
        let mut written = records[names].fields.clone();
        written.truncate(self.fields);
        if row_names {
            written.insert(0, String::new());
        }
        self.name(written, &classes[rows_from..]);
        Ok(rows_from)
    }

    /// Whether the record at `place`, below the names, is another header line: units, titles, or levels of pandas.
    fn is_second_header(records: &[Sampled], classes: &[Vec<Class>], place: usize) -> bool {
        let Some(record) = classes.get(place) else { return false };
        let below = &classes[place + 1..];
        let rows = match below {
            [first, rows @ ..] if header::is_index_name(first) => rows,
            rows => rows,
        };
        let has_corner = records[0].fields[0].is_empty();
        if has_corner && (header::is_level(record, rows) || place > 1 && header::is_index_name(record)) {
            return true;
        }
        // A text that occurs again below is a value, not a header.
        let comes_again = |column: usize| {
            let field = &records[place].fields[column];
            record[column] == Class::Text
                && records[place + 1..].iter().any(|record| record.fields.get(column) == Some(field))
        };
        header::is_second_header(record, below) && !(0..record.len()).any(comes_again)
    }

    fn name(&mut self, written: Vec<String>, rows: &[Vec<Class>]) {
        let index = header::is_index(0, rows);
        let (names, notes) = names::repair(&written, index);
        if index && written[0].starts_with("Unnamed: ") {
            self.notes.push(format!(
                "column {:?} numbers the rows, like an index of pandas (--drop-columns 1 leaves it out)",
                written[0]
            ));
        }
        self.notes.extend(notes);
        (self.names, self.written) = (names, written);
    }

    fn note_rounding(&mut self, rows: &[Sampled]) {
        let rounded =
            |column: &usize| rows.iter().any(|row| row.fields.get(*column).is_some_and(|field| is_rounded(field)));
        let Some(column) = (0..self.fields).find(rounded) else { return };
        let name = self.names.get(column).map_or(String::new(), |name| format!(" ({})", shown(name)));
        self.notes.push(format!("column {}{name} has whole numbers beyond 2^53, which are rounded", column + 1));
    }
}

/// The separator from a first line `sep=;`, and the text after that line.
fn after_separator_line(text: &[u8], ends: bool) -> (Option<Separator>, Sample<'_>) {
    let whole = Sample { text, line: 1, ends };
    let Some(end) = memchr::memchr2(b'\n', b'\r', text) else { return (None, whole) };
    let Some(separator) = std::str::from_utf8(&text[..end]).ok().and_then(separator_line) else { return (None, whole) };
    let line_end = if text[end..].starts_with(b"\r\n") { 2 } else { 1 };
    (Some(separator), Sample { text: &text[end + line_end..], line: 2, ends })
}

/// Number of trailing fields that are empty in all records and so are not columns.
fn trailing(separator: Separator, records: &[Sampled], width: usize, options: &ReadOptions) -> usize {
    if !matches!(separator, Separator::Byte(_)) || records.len() < 2 {
        return 0;
    }
    let used = |record: &Sampled| record.fields.iter().rposition(|field| !field.is_empty()).map_or(0, |last| last + 1);
    let longest = records.iter().map(used).max().unwrap_or_default().max(1);
    let trailing = width.saturating_sub(longest);
    let asked_for = options.columns.iter().filter_map(|column| column.parse::<usize>().ok());
    // Only if every record has a width from `longest` to `width`.
    let fits = records.iter().all(|record| (longest..=width).contains(&record.fields.len()));
    if fits && !asked_for.into_iter().any(|column| column > longest) { trailing } else { 0 }
}

pub(super) fn unclosed(path: &str, line: u64) -> FileError {
    FileError::at(path, Location::Line(line), "a quoted field is not closed", "a closing \" after the field")
}

/// A number of fields, as text.
pub(super) fn count(fields: usize) -> String {
    counted(fields as u64, "field")
}

/// The beginning of a text, for messages.
pub(super) fn shown(text: &str) -> String {
    shortened(text, SHOWN_CHARACTERS_MAX, "...")
}
