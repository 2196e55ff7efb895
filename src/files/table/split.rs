//! Splits text into records, and records into fields. Lines end as in a text editor: with LF, CRLF or CR.

use std::ops::Range;

use memchr::{memchr, memchr_iter, memchr2};

use super::options::Separator;
use crate::files::COLUMNS_MAX;

/// Maximum number of fields of a record that are stored: more than any table has columns.
const FIELDS_MAX: usize = 2 * COLUMNS_MAX;
/// What Excel writes where a formula failed. A line that begins with one of these is not a comment.
const EXCEL_ERRORS: [&str; 8] = ["#N/A", "#NA", "#DIV/0!", "#REF!", "#VALUE!", "#NUM!", "#NAME?", "#NULL!"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A line with only white space.
    Blank,
    /// A line that begins with `#`.
    Comment,
    /// A line with fields.
    Record,
}

/// The extent of a record, comment or blank line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) kind: Kind,
    /// Size in bytes, with the line end.
    pub(super) bytes: usize,
    /// Size in bytes, without the line end.
    pub(super) content_bytes: usize,
    /// Number of lines.
    pub(super) lines: u64,
}

/// A quoted field is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unclosed;

/// Splits text by one separator. The fields of a record are valid until the next record is split.
pub(super) struct Splitter {
    separator: Separator,
    /// Parses records with quotes.
    quoted: csv_core::Reader,
    /// Byte ranges of the fields in the record, quotes included.
    cells: Vec<Range<usize>>,
    /// Byte ranges of the fields in `unquoted`, if the record has quotes.
    texts: Vec<Range<usize>>,
    unquoted: Vec<u8>,
    has_quotes: bool,
    /// A copy of the record with spaces instead of tabs.
    scratch: Vec<u8>,
}

impl Splitter {
    pub(super) fn new(separator: Separator) -> Self {
        let delimiter = match separator {
            Separator::Byte(byte) => byte,
            Separator::Blanks => b' ',
            // A character that no text contains.
            Separator::Nothing => 0x1f,
        };
        Self {
            separator,
            quoted: csv_core::ReaderBuilder::new().delimiter(delimiter).build(),
            cells: Vec::new(),
            texts: Vec::new(),
            unquoted: Vec::new(),
            has_quotes: false,
            scratch: Vec::new(),
        }
    }

    /// Splits the first record of `text`; `None` if more text is needed. `ends`: no text follows.
    pub(super) fn next(&mut self, text: &[u8], ends: bool) -> Result<Option<Extent>, Unclosed> {
        if text.is_empty() {
            return Ok(None);
        }
        let Some((content_bytes, bytes)) = line(text, 0, ends) else { return Ok(None) };
        let content = &text[..content_bytes];
        let kind = kind(content, self.separator);
        if kind == Kind::Record {
            if memchr(b'"', content).is_some() {
                return self.split_quoted(text, ends);
            }
            self.has_quotes = false;
            self.cells.clear();
            split_plain(content, self.separator, &mut self.cells);
        }
        Ok(Some(Extent { kind, bytes, content_bytes, lines: 1 }))
    }

    fn split_quoted(&mut self, text: &[u8], ends: bool) -> Result<Option<Extent>, Unclosed> {
        self.has_quotes = true;
        self.cells.clear();
        self.texts.clear();
        self.quoted.reset();
        let blanks = self.separator == Separator::Blanks;
        let (mut at, mut written, mut cell, mut lines) = (0, 0, 0, 0);
        let mut text_start = 0;
        loop {
            let Some((content_end, next)) = line(text, at, ends) else { return Ok(None) };
            self.unquoted.resize((written + content_end - at + 16).max(self.unquoted.len()), 0);
            let slice = if blanks {
                self.scratch.clear();
                self.scratch.extend(text[at..content_end].iter().map(|byte| if *byte == b'\t' { b' ' } else { *byte }));
                &self.scratch
            } else {
                &text[at..content_end]
            };
            let mut done = 0;
            while done < slice.len() {
                let (result, read, wrote) = self.quoted.read_field(&slice[done..], &mut self.unquoted[written..]);
                done += read;
                written += wrote;
                if let csv_core::ReadFieldResult::Field { .. } = result {
                    let end = at + done - 1;
                    if (!blanks || end > cell) && self.cells.len() < FIELDS_MAX {
                        self.cells.push(cell..end);
                        self.texts.push(text_start..written);
                    }
                    (cell, text_start) = (at + done, written);
                }
            }
            lines += 1;
            let (result, _, wrote) = self.quoted.read_field(b"\n", &mut self.unquoted[written..]);
            written += wrote;
            if let csv_core::ReadFieldResult::Field { .. } = result {
                if (!blanks || content_end > cell) && self.cells.len() < FIELDS_MAX {
                    self.cells.push(cell..content_end);
                    self.texts.push(text_start..written);
                }
                return Ok(Some(Extent { kind: Kind::Record, bytes: next, content_bytes: content_end, lines }));
            }
            // The line end is inside quotes.
            at = next;
            if at == text.len() {
                return if ends { Err(Unclosed) } else { Ok(None) };
            }
        }
    }

    /// Number of fields of the last record, at most about twice the maximum number of columns.
    pub(super) fn count(&self) -> usize {
        self.cells.len()
    }

    /// A field of the last record, without quotes. `record` is the text that was split.
    pub(super) fn field<'a>(&'a self, record: &'a str, index: usize) -> &'a str {
        if self.has_quotes {
            // Quotes are ASCII, so the text between them is as valid as the record.
            self.texts
                .get(index)
                .and_then(|range| std::str::from_utf8(&self.unquoted[range.clone()]).ok())
                .unwrap_or("")
        } else {
            self.cells.get(index).map_or("", |range| &record[range.clone()])
        }
    }

    /// Byte ranges of the fields in the last record, quotes included.
    pub(super) fn cells(&self) -> &[Range<usize>] {
        &self.cells
    }
}

/// The line that begins at `from`: the end of its content, and the start of the next line.
fn line(text: &[u8], from: usize, ends: bool) -> Option<(usize, usize)> {
    match memchr2(b'\n', b'\r', &text[from..]).map(|index| from + index) {
        None => ends.then_some((text.len(), text.len())),
        Some(index) if text[index] == b'\n' => Some((index, index + 1)),
        Some(index) => match text.get(index + 1) {
            Some(b'\n') => Some((index, index + 2)),
            Some(_) => Some((index, index + 1)),
            None => ends.then_some((index, index + 1)),
        },
    }
}

fn kind(content: &[u8], separator: Separator) -> Kind {
    let Some(first) = content.iter().position(|byte| !byte.is_ascii_whitespace()) else {
        // Tabs separate empty fields, so this is a record.
        let tabs = separator == Separator::Byte(b'\t') && content.contains(&b'\t');
        return if tabs { Kind::Record } else { Kind::Blank };
    };
    if content[first] == b'#' && separator != Separator::Byte(b'#') && !is_excel_error(&content[first..]) {
        Kind::Comment
    } else {
        Kind::Record
    }
}

fn is_excel_error(content: &[u8]) -> bool {
    EXCEL_ERRORS.iter().any(|error| {
        let begins = content.get(..error.len()).is_some_and(|start| start.eq_ignore_ascii_case(error.as_bytes()));
        begins && !content.get(error.len()).is_some_and(u8::is_ascii_alphanumeric)
    })
}

fn split_plain(content: &[u8], separator: Separator, cells: &mut Vec<Range<usize>>) {
    let mut start = 0;
    match separator {
        Separator::Byte(byte) => {
            for end in memchr_iter(byte, content).take(FIELDS_MAX) {
                cells.push(start..end);
                start = end + 1;
            }
            cells.push(start..content.len());
        }
        Separator::Nothing => cells.push(0..content.len()),
        Separator::Blanks => {
            let is_blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
            while let Some(first) = content[start..].iter().position(|byte| !is_blank(byte)) {
                let first = start + first;
                let end = content[first..].iter().position(is_blank).map_or(content.len(), |length| first + length);
                if cells.len() < FIELDS_MAX {
                    cells.push(first..end);
                }
                start = end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line numbers, kinds and fields of a complete text. Also checks that an incomplete record is not split.
    fn split(text: &str, separator: Separator) -> Vec<(u64, Kind, Vec<String>)> {
        let (mut splitter, mut found, mut rest, mut line) = (Splitter::new(separator), Vec::new(), text, 1);
        while let Some(extent) = splitter.next(rest.as_bytes(), true).expect("quotes are closed") {
            let fields = if extent.kind == Kind::Record { splitter.count() } else { 0 };
            let fields: Vec<String> = (0..fields).map(|i| splitter.field(rest, i).to_owned()).collect();
            // A record without its line end is incomplete.
            for cut in 0..extent.bytes {
                assert_eq!(splitter.next(&rest.as_bytes()[..cut], false), Ok(None), "{rest:?} {cut}");
            }
            found.push((line, extent.kind, fields));
            line += extent.lines;
            rest = &rest[extent.bytes..];
        }
        assert_eq!(rest, "");
        found
    }

    fn records(text: &str, separator: Separator) -> Vec<(u64, Vec<String>)> {
        split(text, separator)
            .into_iter()
            .filter(|r| r.1 == Kind::Record)
            .map(|(line, _, fields)| (line, fields))
            .collect()
    }

    #[test]
    fn line_numbers_match_a_text_editor() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["a,b", "", "# c", "1,\"x", "y\"", "  ", "3,4"].join(end);
            let got = records(&text, Separator::COMMA);
            let expected = [(1, "a", "b"), (4, "1", "x\ny"), (7, "3", "4")];
            assert_eq!(got.len(), 3, "{got:?}");
            for ((line, fields), (expected_line, a, b)) in got.iter().zip(expected) {
                assert_eq!((*line, fields[0].as_str(), fields[1].as_str()), (expected_line, a, b), "{end:?}");
            }
        }
    }

    #[test]
    fn fields_are_split_by_every_separator() {
        for (separator, text) in [
            (Separator::COMMA, "a,\"b,c\",,d\"e"),
            (Separator::Byte(b';'), "a;\"b,c\";;d\"e"),
            (Separator::Byte(b'\t'), "a\t\"b,c\"\t\td\"e"),
        ] {
            assert_eq!(records(text, separator)[0].1, ["a", "b,c", "", "d\"e"]);
        }
        assert_eq!(records("  a  \"b c\"\t\"\"  d ", Separator::Blanks)[0].1, ["a", "b c", "", "d"]);
        assert_eq!(records(" 1 \t 2  ", Separator::Blanks)[0].1, ["1", "2"]);
        assert_eq!(records("1,5", Separator::Nothing)[0].1, ["1,5"]);
        assert_eq!(records("\t\t\n1\t2\t3\n", Separator::Byte(b'\t')).len(), 2);
        assert_eq!(records("  \t\n1;2\n", Separator::Byte(b';')).len(), 1);
        assert_eq!(records("\"say \"\"x\"\"\",2", Separator::COMMA)[0].1, ["say \"x\"", "2"]);
    }

    #[test]
    fn cells_keep_their_quotes() {
        let text = "\"a;1\";b; \"c\" \r\n";
        let mut splitter = Splitter::new(Separator::Byte(b';'));
        splitter.next(text.as_bytes(), true).expect("splits");
        let cells: Vec<&str> = splitter.cells().iter().map(|cell| &text[cell.clone()]).collect();
        assert_eq!(cells, ["\"a;1\"", "b", " \"c\" "]);
    }

    #[test]
    fn a_line_that_begins_with_an_excel_error_is_no_comment() {
        use Kind::{Comment, Record};
        let text = "#N/A,1\n#DIV/0!,2\n#NA\n# NA,3\n#name,4\n#NAME?,5\n#NATION,6\n";
        let kinds: Vec<Kind> = split(text, Separator::COMMA).into_iter().map(|line| line.1).collect();
        assert_eq!(kinds, [Record, Record, Record, Comment, Comment, Record, Comment]);
    }

    #[test]
    fn a_record_of_millions_of_fields_takes_little_memory() {
        for (separator, text) in [
            (Separator::COMMA, "1,".repeat(3 * FIELDS_MAX)),
            (Separator::COMMA, "\"1\",".repeat(3 * FIELDS_MAX)),
            (Separator::Blanks, "1 ".repeat(3 * FIELDS_MAX)),
        ] {
            let mut splitter = Splitter::new(separator);
            let extent = splitter.next(text.as_bytes(), true).expect("closed").expect("whole");
            assert_eq!(extent.bytes, text.len());
            assert!((COLUMNS_MAX + 2..=FIELDS_MAX + 1).contains(&splitter.count()));
        }
    }

    #[test]
    fn an_unclosed_quote_is_an_error() {
        let mut splitter = Splitter::new(Separator::COMMA);
        assert_eq!(splitter.next(b"1,\"2\n3,4\n", true), Err(Unclosed));
        assert_eq!(splitter.next(b"1,\"2\n3,4\n", false), Ok(None));
    }
}
