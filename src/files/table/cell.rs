//! Classifies a field: a number, a missing value, or text.

use super::options::{Decimal, TextOptions};

/// The marks of missing values that pandas accepts, and other common ones, in lower case.
const MISSING_MARKS: [&str; 20] = [
    "", "nan", "-nan", "na", "n/a", "null", "none", "<na>", "#n/a", "#na", "#n/a n/a", "nat", "1.#ind", "-1.#ind",
    "1.#qnan", "-1.#qnan", "\\n", "?", "-", ".",
];
/// Length of the longest of them in bytes.
const MISSING_MARK_BYTES: usize = 8;

/// The class of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Class {
    /// A number; `whole`: written without a decimal mark or exponent; `digits`: number of significant digits.
    Number { value: f64, whole: bool, digits: usize },
    /// True or false.
    Bool,
    /// An empty field.
    Empty,
    /// A mark of a missing value.
    Missing,
    /// Almost a number: with a currency sign, a percent sign, or marks between its digits; or the mark of a number that
    /// did not fit its cell.
    Odd,
    /// Anything else.
    Text,
}

/// Reads fields with one set of options.
#[derive(Clone, Debug)]
pub(super) struct CellReader {
    pub(super) decimal: Decimal,
    thousands: Option<char>,
    marks: Vec<String>,
    /// Marks that are numbers: `-999` also matches `-999.0`.
    mark_numbers: Vec<f64>,
    missing: bool,
    /// Whether a number that Rust can parse needs no further check.
    plain: bool,
}

impl CellReader {
    pub(super) fn new(decimal: Decimal, options: &TextOptions, missing: bool) -> Self {
        let mut reader = Self {
            decimal,
            thousands: options.thousands.map(|mark| mark.0),
            marks: options.missing_marks.iter().map(|mark| mark.trim().to_owned()).collect(),
            mark_numbers: Vec::new(),
            missing,
            plain: false,
        };
        reader.mark_numbers = reader.marks.iter().filter_map(|mark| reader.number(mark)).collect();
        reader.plain = decimal == Decimal::Dot && reader.marks.is_empty();
        reader
    }

    /// The value of a field: a finite number, or NaN if it is missing and may be. `None` for anything else.
    pub(super) fn value(&self, field: &str) -> Option<f64> {
        if self.plain
            && let Ok(value) = field.trim_ascii().parse::<f64>()
            && value.is_finite()
        {
            return Some(value);
        }
        let field = clean(field);
        if self.is_missing(field) {
            return self.missing.then_some(f64::NAN);
        }
        self.number(field).filter(|value| value.is_finite()).or_else(|| truth(field))
    }

    /// Whether a field is empty or a mark of a missing value, even if values may not be missing.
    pub(super) fn is_missing(&self, field: &str) -> bool {
        let field = clean(field);
        if self.marks.iter().any(|mark| mark == field) {
            return true;
        }
        if !self.mark_numbers.is_empty() && self.number(field).is_some_and(|value| self.mark_numbers.contains(&value)) {
            return true;
        }
        field.len() <= MISSING_MARK_BYTES && MISSING_MARKS.iter().any(|mark| field.eq_ignore_ascii_case(mark))
    }

    /// The class of a field.
    pub(super) fn class(&self, field: &str) -> Class {
        let field = clean(field);
        if field.is_empty() {
            Class::Empty
        } else if self.is_missing(field) {
            Class::Missing
        } else if let Some(value) = self.number(field) {
            let digits = field.strip_prefix(['-', '+', '\u{2212}']).unwrap_or(field);
            let whole = digits.bytes().all(|byte| byte.is_ascii_digit());
            let mantissa = digits.split(['e', 'E']).next().unwrap_or_default();
            let digits = mantissa.bytes().filter(u8::is_ascii_digit).skip_while(|digit| *digit == b'0').count();
            Class::Number { value, whole, digits }
        } else if truth(field).is_some() {
            Class::Bool
        } else if is_odd(field) {
            Class::Odd
        } else {
            Class::Text
        }
    }

    /// Parses a number with the decimal and thousands marks of this reader; it can be infinite.
    fn number(&self, field: &str) -> Option<f64> {
        let digits = field.strip_prefix(['-', '+', '\u{2212}']).unwrap_or(field);
        if !digits.starts_with(|first: char| first.is_ascii_digit() || first == self.decimal.mark()) {
            let word = digits.trim_end_matches(char::is_whitespace);
            let infinite = word.eq_ignore_ascii_case("inf") || word.eq_ignore_ascii_case("infinity");
            return infinite.then(|| {
                if digits.len() < field.len() && !field.starts_with('+') { f64::NEG_INFINITY } else { f64::INFINITY }
            });
        }
        let ungrouped = self.thousands.map(|mark| ungrouped(digits, mark, self.decimal.mark()));
        let digits = match &ungrouped {
            Some(None) => return None,
            Some(Some(plain)) => plain.as_str(),
            None => digits,
        };
        let value = match self.decimal {
            Decimal::Dot => digits.parse::<f64>().ok()?,
            Decimal::Comma if digits.contains('.') => return None,
            Decimal::Comma => digits.replacen(',', ".", 1).parse::<f64>().ok()?,
        };
        let negative = field.starts_with(['-', '\u{2212}']);
        Some(if negative { -value } else { value })
    }
}

/// Whether a field that is not a number is almost one, and so not a name: `1,234.5`, `$5`, `50 %`, `0xff`, `1.0D+00`,
/// `****`, `#DIV/0!`.
fn is_odd(field: &str) -> bool {
    if field.starts_with('#') && field.ends_with(['!', '?']) {
        return true;
    }
    if field.len() > 1 && field.bytes().all(|byte| matches!(byte, b'*' | b'-' | b'#')) {
        return true;
    }
    let signs = ['$', '€', '£', '¥', '+', '-', '\u{2212}', '(', ')', '%', ' ', '\u{a0}'];
    let bare = field.trim_matches(signs);
    if let Some(hexadecimal) = bare.strip_prefix("0x") {
        return !hexadecimal.is_empty() && hexadecimal.bytes().all(|byte| byte.is_ascii_hexdigit());
    }
    if !bare.starts_with(|first: char| first.is_ascii_digit() || first == '.' || first == ',') {
        return false;
    }
    let is_mark = |mark: char| matches!(mark, '.' | ',' | '\'' | ' ' | '_' | '\u{a0}' | '\u{202f}' | '\u{2019}');
    let mut before = ' ';
    let is_number = bare.chars().all(|character| {
        let after_exponent = matches!(before, 'e' | 'E' | 'd' | 'D');
        let fits = character.is_ascii_digit()
            || is_mark(character)
            || matches!(character, 'e' | 'E' | 'd' | 'D') && before.is_ascii_digit()
            || matches!(character, '+' | '-') && after_exponent;
        before = character;
        fits
    });
    is_number && before.is_ascii_digit() && !is_date(bare)
}

/// Whether a text is a date such as 31.12.2024.
fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    matches!(parts.as_slice(), [day, month, year] if day.len() <= 2 && month.len() <= 2 && year.len() != 3)
}

/// Whether a field is an integer that f64 cannot represent exactly.
pub(super) fn is_rounded(field: &str) -> bool {
    let field = clean(field);
    let digits = field.strip_prefix(['-', '+']).unwrap_or(field);
    if digits.len() < 16 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    match (digits.parse::<u128>(), digits.parse::<f64>()) {
        (Ok(exact), Ok(value)) => value as u128 != exact,
        _ => true,
    }
}

/// Removes surrounding white space, and quotes that followed white space.
fn clean(field: &str) -> &str {
    let field = field.trim();
    match field.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => inner.trim(),
        None => field,
    }
}

/// Removes the thousands marks; `None` if a mark is not between groups of three digits.
fn ungrouped(digits: &str, mark: char, decimal: char) -> Option<String> {
    let end = digits.find([decimal, 'e', 'E']).unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(end);
    let is_mark = |character: char| is_same_mark(character, mark);
    if rest.contains(is_mark) {
        return None;
    }
    let mut groups = whole.split(is_mark);
    let first = groups.next().unwrap_or_default();
    let mut plain = first.to_owned();
    let mut grouped = false;
    for group in groups {
        if group.len() != 3 || !group.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        grouped = true;
        plain.push_str(group);
    }
    if grouped && !(1..=3).contains(&first.len()) {
        return None;
    }
    Some(plain + rest)
}

/// Whether a character is this mark or a variant of it: spreadsheets use narrow or non-breaking spaces between groups.
fn is_same_mark(character: char, mark: char) -> bool {
    let blanks = [' ', '\u{a0}', '\u{202f}', '\u{2009}'];
    let quotes = ['\'', '\u{2019}'];
    character == mark || [&blanks[..], &quotes].iter().any(|same| same.contains(&mark) && same.contains(&character))
}

/// Parses the common spellings of true and false.
fn truth(field: &str) -> Option<f64> {
    match field {
        "True" | "true" | "TRUE" => Some(1.0),
        "False" | "false" | "FALSE" => Some(0.0),
        _ => None,
    }
}

/// The role of the comma in a number: decimal mark, thousands mark, or either. `None` if the field is not a number with
/// a comma.
pub(super) fn comma_in_number(field: &str) -> Option<CommaIs> {
    let field = clean(field);
    let digits = field.strip_prefix(['-', '+', '\u{2212}']).unwrap_or(field);
    let (whole, fraction) = digits.split_once(',')?;
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (fraction_digits, exponent) = fraction.split_once(['e', 'E']).map_or((fraction, None), |(f, e)| (f, Some(e)));
    let exponent_fits = exponent.is_none_or(|exponent| exponent.parse::<i32>().is_ok());
    if all_digits(whole) && all_digits(fraction_digits) && exponent_fits && digits.len() > 1 {
        let group =
            exponent.is_none() && fraction.len() == 3 && (1..=3).contains(&whole.len()) && !whole.starts_with('0');
        return Some(if group { CommaIs::Either } else { CommaIs::Decimal });
    }
    let grouped = ungrouped(digits, ',', '.').is_some_and(|plain| plain.parse::<f64>().is_ok());
    grouped.then_some(CommaIs::Thousands)
}

/// Whether a field is a number with a thousands mark other than a comma.
pub(super) fn has_thousands(field: &str) -> bool {
    let field = clean(field);
    let digits = field.strip_prefix(['-', '+', '\u{2212}']).unwrap_or(field);
    let fits = |mark: char, decimal: char| {
        let plain = ungrouped(digits, mark, decimal);
        digits.contains(mark) && plain.is_some_and(|plain| plain.replacen(decimal, ".", 1).parse::<f64>().is_ok())
    };
    let marks = ['.', '\'', ' ', '_', '\u{a0}', '\u{202f}', '\u{2019}'];
    marks.into_iter().any(|mark| [',', '.'].into_iter().any(|decimal| decimal != mark && fits(mark, decimal)))
}

/// The role of a comma in a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommaIs {
    /// The decimal mark, as in 1,5.
    Decimal,
    /// The thousands mark, as in 1,234,567 or 1,234.5.
    Thousands,
    /// Either, as in 1,234.
    Either,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(decimal: Decimal, thousands: Option<&str>, marks: &[&str], missing: bool) -> CellReader {
        let options = TextOptions {
            thousands: thousands.map(|mark| mark.parse().expect("a mark")),
            missing_marks: marks.iter().map(|mark| (*mark).to_owned()).collect(),
            ..TextOptions::default()
        };
        CellReader::new(decimal, &options, missing)
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        let dot = reader(Decimal::Dot, None, &[], false);
        for (field, expected) in [
            ("1.5", Some(1.5)),
            (" -2 ", Some(-2.0)),
            ("+3.", Some(3.0)),
            (".5", Some(0.5)),
            ("-.5e-3", Some(-0.0005)),
            ("1e300", Some(1e300)),
            ("0.1000000000000000055511151231257827021181583404541015625", Some(0.1)),
            ("\u{2212}0.25", Some(-0.25)),
            ("\u{a0}7\u{a0}", Some(7.0)),
            ("\"8\"", Some(8.0)),
            ("True", Some(1.0)),
            ("FALSE", Some(0.0)),
            ("1,5", None),
            ("1_000", None),
            ("0x10", None),
            ("inf", None),
            ("-Infinity", None),
            ("1e400", None),
            ("nan", None),
            ("", None),
            ("-", None),
            ("--1", None),
            ("-\u{2212}1", None),
            ("12 %", None),
            ("tRUE", None),
            ("x", None),
        ] {
            assert_eq!(dot.value(field), expected, "{field:?}");
        }
        assert!(dot.value("-0").is_some_and(|zero| zero == 0.0 && zero.is_sign_negative()));
        assert!(dot.value("\u{2212}0").is_some_and(|zero| zero == 0.0 && zero.is_sign_negative()));
    }

    #[test]
    fn other_decimal_and_thousands_marks_are_read() {
        let comma = reader(Decimal::Comma, None, &[], false);
        for (field, expected) in [
            ("1,5", Some(1.5)),
            ("-,5", Some(-0.5)),
            ("1,5e-3", Some(0.0015)),
            ("2", Some(2.0)),
            ("1.5", None),
            ("1,2,3", None),
        ] {
            assert_eq!(comma.value(field), expected, "{field:?}");
        }
        let german = reader(Decimal::Comma, Some("."), &[], false);
        for (field, expected) in [
            ("1.234,5", Some(1234.5)),
            ("12.345.678", Some(12_345_678.0)),
            ("1234,5", Some(1234.5)),
            ("1.23", None),
            ("1234.567", None),
            ("1,234.5", None),
            (".123", None),
        ] {
            assert_eq!(german.value(field), expected, "{field:?}");
        }
        assert_eq!(reader(Decimal::Dot, Some(","), &[], false).value("-1,234.5"), Some(-1234.5));
        assert_eq!(reader(Decimal::Comma, Some(" "), &[], false).value("1 234,5"), Some(1234.5));
    }

    #[test]
    fn missing_values_have_the_usual_marks() {
        let (allowed, refused) = (reader(Decimal::Dot, None, &[], true), reader(Decimal::Dot, None, &[], false));
        for field in [
            "", " ", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "-NaN", "NULL", "null", "None", "?", "-", "<NA>",
            "#N/A", "#NA", ".", "#N/A N/A", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "NaT",
        ] {
            assert!(allowed.value(field).is_some_and(f64::is_nan), "{field:?}");
            assert_eq!(refused.value(field), None, "{field:?}");
            assert!(refused.is_missing(field), "{field:?}");
        }
        for field in ["x", "..", "#DIV/0!", "nano"] {
            assert_eq!(allowed.value(field), None, "{field:?}");
        }
        assert_eq!(allowed.value("inf"), None);
    }

    #[test]
    fn marks_can_be_added() {
        let marks = reader(Decimal::Dot, None, &["-999", "bad", "*"], true);
        for field in ["-999", "-999.0", " bad ", "*", "NA"] {
            assert!(marks.value(field).is_some_and(f64::is_nan), "{field:?}");
        }
        assert_eq!(marks.value("-998"), Some(-998.0));
        assert_eq!(marks.value("Bad"), None);
    }

    #[test]
    fn rounded_whole_numbers_are_detected() {
        assert!(!is_rounded("9007199254740992") && is_rounded("9007199254740993"));
        assert!(is_rounded("-1234567890123456789") && !is_rounded("1e30") && !is_rounded("1234567890123456.5"));
    }

    #[test]
    fn decimal_and_thousands_commas_are_distinguished() {
        for (field, expected) in [
            ("1,5", Some(CommaIs::Decimal)),
            ("0,123", Some(CommaIs::Decimal)),
            ("1234,567", Some(CommaIs::Decimal)),
            ("-1,234", Some(CommaIs::Either)),
            ("1,234,567", Some(CommaIs::Thousands)),
            ("1,234.5", Some(CommaIs::Thousands)),
            ("1,5E-3", Some(CommaIs::Decimal)),
            ("1.5", None),
            ("a,b", None),
            (",", None),
        ] {
            assert_eq!(comma_in_number(field), expected, "{field:?}");
        }
    }
}
