//! Decides the field separator and the decimal mark of a file, once, from a sample.

use super::cell::{CellReader, CommaIs, comma_in_number};
use super::comment::names_of_comment;
use super::options::{Decimal, Separator, TextOptions, Thousands};
use super::scan::{Sample, Scan};
use crate::files::{FileError, Location};
use crate::model::text::first_chars;

/// Separators besides the comma, the most likely first.
const OTHERS: [Separator; 4] =
    [Separator::Byte(b';'), Separator::Byte(b'\t'), Separator::Byte(b'|'), Separator::Blanks];

/// A separator, a decimal mark, and the sample split with them.
pub(super) struct Dialect {
    pub(super) separator: Separator,
    pub(super) decimal: Decimal,
    pub(super) scan: Scan,
    pub(super) notes: Vec<String>,
}

impl Dialect {
    /// Finds the settings that the options leave open; `line_separator` comes from a first line `sep=;`.
    pub(super) fn find(
        path: &str,
        sample: &Sample,
        options: &TextOptions,
        line_separator: Option<Separator>,
    ) -> Result<Self, FileError> {
        let given = options.separator.or(line_separator);
        let (separator, scan) = match given {
            Some(separator) => (separator, Scan::of(sample, separator)),
            None => best(sample, options),
        };
        let implied = options.implied_decimal();
        let mut dialect = Self { separator, decimal: implied.unwrap_or(Decimal::Dot), scan, notes: Vec::new() };
        let named = dialect
            .scan
            .comment_before
            .as_ref()
            .is_some_and(|(_, text)| names_of_comment(text, 2, separator).is_some());
        let pairs = separator == Separator::COMMA && dialect.scan.width() == 2 && !named;
        if given.is_none() && implied.is_none() && pairs {
            dialect.decide_pairs(path, sample)?;
        }
        if given.is_none() && dialect.separator != Separator::COMMA {
            dialect.notes.push(match dialect.separator {
                Separator::Nothing => "each line is one number".to_owned(),
                Separator::Byte(b'\t') => "fields are separated by tabs".to_owned(),
                Separator::Blanks => "fields are separated by spaces or tabs".to_owned(),
                Separator::Byte(byte) => format!("fields are separated by {:?}", char::from(byte)),
            });
        }
        if options.decimal.is_none() {
            if implied.is_none() && dialect.decimal == Decimal::Dot {
                dialect.decimal = decimal(path, &dialect.scan, options)?;
            }
            if dialect.decimal == Decimal::Comma {
                dialect.notes.push("the decimal mark is \",\"".to_owned());
            }
        }
        Ok(dialect)
    }

    /// Decides a file whose lines are two numbers with a comma between them, which can also be one number with a
    /// decimal comma.
    fn decide_pairs(&mut self, path: &str, sample: &Sample) -> Result<(), FileError> {
        let lines = Scan::of(sample, Separator::Nothing);
        let texts: Vec<&str> = lines.records.iter().map(|record| record.fields[0].as_str()).collect();
        match pairs(&texts) {
            Pairs::Columns => {}
            Pairs::TwoWholeNumbers => self.notes.push(
                "each line is read as two whole numbers (use --decimal , if it is one with a decimal comma)".to_owned(),
            ),
            Pairs::DecimalComma => {
                (self.separator, self.decimal, self.scan) = (Separator::Nothing, Decimal::Comma, lines);
            }
            Pairs::Unclear => {
                let line = lines.records.first().map_or(1, |record| record.line);
                let shown = texts.first().map_or("", |text| first_chars(text, 40));
                return Err(FileError::at(
                    path,
                    Location::Line(line),
                    format!("{shown:?} can be two whole numbers or one number with a decimal comma, like every line"),
                    "`--separator ,` or `--decimal ,` to choose (in ServerFiles: separator, decimal)",
                ));
            }
        }
        Ok(())
    }
}

/// The separator that makes the most fields values.
fn best(sample: &Sample, options: &TextOptions) -> (Separator, Scan) {
    let implied = options.implied_decimal();
    let (dot, comma) = (
        CellReader::new(implied.unwrap_or(Decimal::Dot), options, true),
        CellReader::new(implied.unwrap_or(Decimal::Comma), options, true),
    );
    let grouped = grouped_readers(options);
    // With a decimal comma, a comma is the least likely separator.
    let decimal_comma = implied == Some(Decimal::Comma);
    let order: Vec<Separator> = if decimal_comma {
        OTHERS.into_iter().chain([Separator::Nothing, Separator::COMMA]).collect()
    } else {
        [Separator::COMMA].into_iter().chain(OTHERS).chain([Separator::Nothing]).collect()
    };
    let mut best: Option<(f64, Separator, Scan)> = None;
    for separator in order {
        let scan = Scan::of(sample, separator);
        let width = scan.width();
        let single = separator == Separator::Nothing;
        if width < 2 && !single {
            continue;
        }
        let with_dot = scan.values(width, &dot);
        // Lines with one comma are not read as decimal commas here: see `decide_pairs`.
        let mut share = if single { with_dot } else { with_dot.max(scan.values(width, &comma)) };
        if share < 1.0 && matches!(separator, Separator::Byte(b';' | b'\t' | b'|')) {
            // Grouped numbers are rejected later, with an error about the thousands mark and not about the fields.
            share = grouped.iter().map(|cells| scan.values(width, cells)).fold(share, f64::max);
        }
        if best.as_ref().is_none_or(|(most, ..)| share > most + 1e-9) {
            best = Some((share, separator, scan));
        }
        // All fields are values: no other separator fits better.
        if share > 1.0 - 1e-9 {
            break;
        }
    }
    match best {
        // A single column needs no separator; treat a later comma as one.
        Some((_, Separator::Nothing, _)) if !decimal_comma => (Separator::COMMA, Scan::of(sample, Separator::COMMA)),
        Some((_, separator, scan)) => (separator, scan),
        None => (Separator::COMMA, Scan::default()),
    }
}

/// Readers of numbers with thousands marks, for the settings that are still possible.
fn grouped_readers(options: &TextOptions) -> Vec<CellReader> {
    if options.thousands.is_some() {
        return Vec::new();
    }
    let styles = [(Decimal::Comma, '.'), (Decimal::Comma, ' '), (Decimal::Dot, ','), (Decimal::Dot, '\'')];
    let open = styles.into_iter().filter(|(decimal, _)| options.decimal.is_none_or(|chosen| chosen == *decimal));
    open.map(|(decimal, mark)| {
        let options = TextOptions { thousands: Some(Thousands(mark)), ..options.clone() };
        CellReader::new(decimal, &options, true)
    })
    .collect()
}

/// The decimal mark that makes more fields numbers.
fn decimal(path: &str, scan: &Scan, options: &TextOptions) -> Result<Decimal, FileError> {
    let dot = CellReader::new(Decimal::Dot, options, false);
    let comma = CellReader::new(Decimal::Comma, options, false);
    let (mut only_dot, mut only_comma, mut either) = (0usize, 0usize, None);
    let mut decides = false;
    if let Some((line, field)) = grouped_by_dots(scan).filter(|_| options.thousands.is_none()) {
        return Err(FileError::at(
            path,
            Location::Line(line),
            format!(
                "the point in {field:?} can be a decimal point or a thousands mark, like every point in its column"
            ),
            "`--decimal .` or `--decimal , --thousands .` to choose (in ServerFiles: decimal, thousands)",
        ));
    }
    for record in &scan.records {
        for field in &record.fields {
            match (dot.value(field).is_some(), comma.value(field).is_some()) {
                (true, false) => only_dot += 1,
                (false, true) => {
                    only_comma += 1;
                    match comma_in_number(field) {
                        Some(CommaIs::Either) => either = either.or(Some((record.line, field))),
                        _ => decides = true,
                    }
                }
                _ => {}
            }
        }
    }
    if only_comma == 0 || only_comma < only_dot {
        return Ok(Decimal::Dot);
    }
    match either {
        Some((line, field)) if !decides => Err(FileError::at(
            path,
            Location::Line(line),
            format!("the comma in {field:?} can be a decimal comma or a thousands mark, like every comma in a number"),
            "`--decimal ,` or `--thousands ,` to choose (in ServerFiles: decimal, thousands)",
        )),
        _ => Ok(Decimal::Comma),
    }
}

/// Finds a number in an ambiguous column: some numbers have points between groups of three digits, and the smaller ones
/// have none. The points can be thousands marks, as in German spreadsheets, or decimal points. Only for the separator
/// `;`.
fn grouped_by_dots(scan: &Scan) -> Option<(u64, &str)> {
    if scan.separator != Separator::Byte(b';') {
        return None;
    }
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = |field: &str| field.trim_start_matches(['-', '+']).to_owned();
    let is_grouped = |field: &str| {
        let field = plain(field);
        let mut groups = field.split('.');
        let first = groups.next().unwrap_or_default();
        let rest: Vec<&str> = groups.collect();
        let fits = is_digits(first) && first.len() <= 3 && !first.starts_with('0');
        fits && !rest.is_empty() && rest.iter().all(|group| group.len() == 3 && is_digits(group))
    };
    let width = scan.width();
    (0..width).find_map(|column| {
        let fields =
            || scan.records.iter().filter_map(|record| Some((record.line, record.fields.get(column)?.as_str())));
        let numbers = || fields().filter(|(_, field)| field.contains(|character: char| character.is_ascii_digit()));
        let with_point = || numbers().filter(|(_, field)| field.contains('.'));
        let small = numbers().filter(|(_, field)| is_digits(&plain(field)) && plain(field).len() <= 3).count();
        let fits = with_point().count() >= 2 && small > 0 && with_point().all(|(_, field)| is_grouped(field));
        if fits { with_point().next() } else { None }
    })
}

/// The meaning of lines with one comma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pairs {
    /// Two columns.
    Columns,
    /// Two columns, probably: nothing indicates a decimal comma.
    TwoWholeNumbers,
    /// One number with a decimal comma.
    DecimalComma,
    /// Both are possible.
    Unclear,
}

/// Classifies the lines of a file in which a comma separates two fields.
fn pairs(lines: &[&str]) -> Pairs {
    let [first, rest @ ..] = lines else { return Pairs::Columns };
    let parts = |line: &str| -> Option<(String, String)> {
        let digits = line.strip_prefix(['-', '+', '\u{2212}']).unwrap_or(line);
        let (whole, fraction) = digits.split_once(',')?;
        let plain = fraction.split_once(['e', 'E']).map_or(fraction, |(fraction, _)| fraction);
        let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let negative_zero = digits.len() < line.len() && !line.starts_with('+') && whole == "0";
        (all_digits(whole) && all_digits(plain))
            .then(|| (if negative_zero { "-0".to_owned() } else { whole.to_owned() }, fraction.to_owned()))
    };
    let is_whole = |line: &str| line.parse::<i64>().is_ok();
    if parts(first).is_none() && !is_whole(first) {
        // A header: it shows the number of columns.
        let numbers = !rest.is_empty() && rest.iter().all(|line| parts(line).is_some() || is_whole(line));
        let named_once = !first.contains(',') && first.parse::<f64>().is_err();
        return if named_once && numbers { Pairs::DecimalComma } else { Pairs::Columns };
    }
    let Some(pairs) = lines.iter().map(|line| parts(line)).collect::<Option<Vec<_>>>() else { return Pairs::Columns };
    if pairs.iter().any(|(whole, _)| whole == "-0") {
        return Pairs::DecimalComma;
    }
    let leading_zero = pairs.iter().any(|(_, fraction)| fraction.len() > 1 && fraction.starts_with('0'));
    let length = pairs[0].1.len();
    let same_length = pairs.iter().all(|(_, fraction)| fraction.len() == length);
    if leading_zero || (same_length && length > 1 && pairs.len() > 1) {
        return Pairs::Unclear;
    }
    // Numbers in their shortest form do not end in a zero after the decimal mark.
    if !same_length && pairs.iter().any(|(_, fraction)| fraction.len() > 1 && fraction.ends_with('0')) {
        return Pairs::Columns;
    }
    Pairs::TwoWholeNumbers
}

/// The separator that a first line `sep=;` states, as Excel writes and reads it.
pub(super) fn separator_line(line: &str) -> Option<Separator> {
    let line = line.trim_matches(['"', ' ', '\u{feff}']);
    let mark = line.get(..4).filter(|start| start.eq_ignore_ascii_case("sep=")).map(|_| &line[4..])?;
    if mark.len() == 1 { mark.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Result<(Separator, Decimal, usize), String> {
        let sample = Sample { text: text.as_bytes(), line: 1, ends: true };
        let dialect = Dialect::find("t", &sample, &TextOptions::default(), None).map_err(|error| error.to_string())?;
        Ok((dialect.separator, dialect.decimal, dialect.scan.width()))
    }

    #[track_caller]
    fn check(text: &str, separator: &str, decimal: Decimal, width: usize) {
        assert_eq!(found(text), Ok((separator.parse().expect("one"), decimal, width)), "{text}");
    }

    #[test]
    fn separators_and_decimal_marks_are_found() {
        use Decimal::{Comma, Dot};
        check("a,b\n1,2\n", ",", Dot, 2);
        check("1.5,2\n", ",", Dot, 2);
        check("1", ",", Dot, 1);
        check("x\n1.5\n2\n", ",", Dot, 1);
        check("a;b\n1,5;2\n", ";", Comma, 2);
        check("a;b\n1.5;2\n", ";", Dot, 2);
        check("1;2\n3;4\n", ";", Dot, 2);
        check("a\tb\n1,5\t2,5\n", "tab", Comma, 2);
        check("a|b|c\n1|2|3\n", "|", Dot, 3);
        check(" 1.0  2.0\n-1.0 -2.5\n", "blanks", Dot, 2);
        check("1,5 2,5\n3,5 4,5\n", "blanks", Comma, 2);
        check("a, b\n1, 2\n", ",", Dot, 2);
        check("1 ; 2\n3 ; 4\n", ";", Dot, 2);
        check("\"1,5\",\"2,25\"\n\"3,5\",\"4,5\"\n", ",", Comma, 2);
        check("2024-01-01 10:00:00;1,5;2,5\n2024-01-01 11:00:00;1,5;2,5\n", ";", Comma, 3);
        check("2024-01-01 10:00:00,1.5,2.5\n2024-01-01 11:00:00,1.5,2.5\n", ",", Dot, 3);
        check("How; was; it,b\n1,2\n3,4\n", ",", Dot, 2);
        check("my value\n1.5\n", ",", Dot, 1);
        check("name,notes\nx;y,1\nz;w,2\n", ",", Dot, 2);
        check("1,2\n3\n", ",", Dot, 2);
        check("0,123;12,345\n1,234;5,678\n", ";", Comma, 2);
        check("x;y\n1;\n;2\n", ";", Dot, 2);
    }

    #[test]
    fn one_column_of_decimal_commas_is_not_split() {
        check("-0,04\n-0,13\n0,23\n", "none", Decimal::Comma, 1);
        check("price\n1,23\n4,56\n", "none", Decimal::Comma, 1);
        check("price\n1,5\n2\n3,25\n", "none", Decimal::Comma, 1);
        for text in ["1,23\n4,56\n", "12,05\n3,7\n", "1,234\n2,345\n"] {
            let error = found(text).expect_err("either");
            assert!(error.contains("--separator ,") && error.contains("--decimal ,"), "{error}");
        }
        check("1,2\n3,4\n", ",", Decimal::Dot, 2);
        check(&"1,2\n31,40\n5,6\n".repeat(10), ",", Decimal::Dot, 2);
        check(&"7,1\n3,9\n".repeat(10), ",", Decimal::Dot, 2);
        check("1,2345678\n2,3\n", ",", Decimal::Dot, 2);
        check(&"1,20\n3,4\n5,6\n".repeat(10), ",", Decimal::Dot, 2);
        check(&"1,2\n-3,-4\n".repeat(10), ",", Decimal::Dot, 2);
        check(&format!("a,b\n{}", "36,6\n".repeat(20)), ",", Decimal::Dot, 2);
    }

    #[test]
    fn thousands_are_not_guessed() {
        for text in ["a;b\n1,234;2,345\n", "\"1,234\",5\n\"2,345\",6\n"] {
            let error = found(text).expect_err("either");
            assert!(error.contains("--thousands ,") && error.contains("--decimal ,"), "{error}");
        }
    }

    #[test]
    fn the_options_decide_first() {
        let sample = Sample { text: b"1,23\n4,56\n", line: 1, ends: true };
        let find = |options: TextOptions| {
            let dialect = Dialect::find("t", &sample, &options, None).expect("decided");
            (dialect.separator, dialect.decimal, dialect.notes)
        };
        let comma = TextOptions { separator: Some(Separator::COMMA), ..TextOptions::default() };
        assert_eq!(find(comma), (Separator::COMMA, Decimal::Dot, Vec::new()));
        let decimal = TextOptions { decimal: Some(Decimal::Comma), ..TextOptions::default() };
        assert_eq!(find(decimal).0, Separator::Nothing);
        let line =
            Dialect::find("t", &Sample { text: b"1;2\n", ..sample }, &TextOptions::default(), separator_line("sep=;"));
        assert_eq!(line.expect("decided").scan.width(), 2);
    }

    #[test]
    fn excels_first_line_names_the_separator() {
        assert_eq!(separator_line("sep=;"), Some(Separator::Byte(b';')));
        assert_eq!(separator_line("\"SEP=\t\""), Some(Separator::Byte(b'\t')));
        assert_eq!((separator_line("sep="), separator_line("sep=ab"), separator_line("separator")), (None, None, None));
    }
}
