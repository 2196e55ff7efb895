//! Options for reading a text table. Each setting is parsed into a type that is always valid.

use std::fmt;
use std::str::FromStr;

use encoding_rs::Encoding;
use serde::{Deserialize, Serialize};

use crate::model::text::first_chars;

/// Maximum number of marks of missing values, and maximum size of one in bytes.
const MARKS_MAX: usize = 100;
const MARK_BYTES_MAX: usize = 100;
/// Maximum number of characters of a setting in an error.
const SHOWN_CHARACTERS_MAX: usize = 40;

/// The caller's text options; absent ones are detected from the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TextOptions {
    /// The field separator.
    pub separator: Option<Separator>,
    /// The decimal mark.
    pub decimal: Option<Decimal>,
    /// The thousands mark, between groups of three digits; if absent, numbers have none.
    pub thousands: Option<Thousands>,
    /// The encoding of the text.
    pub encoding: Option<TextEncoding>,
    /// Texts that stand for a missing value, in addition to the common marks.
    pub missing_marks: Vec<String>,
}

impl TextOptions {
    /// The decimal mark that the options imply: a comma if the thousands mark is a point.
    pub(super) fn implied_decimal(&self) -> Option<Decimal> {
        let by_thousands = self.thousands.filter(|mark| mark.0 == '.').map(|_| Decimal::Comma);
        self.decimal.or(by_thousands)
    }

    /// Checks that the options do not contradict each other.
    ///
    /// # Errors
    /// If two options use the same character, or marks of missing values are invalid.
    pub fn check(&self, missing_values: bool) -> Result<(), DialectError> {
        let separator = match self.separator {
            Some(Separator::Byte(byte)) => Some(char::from(byte)),
            _ => None,
        };
        let decimal = self.decimal.map(Decimal::mark);
        let thousands = self.thousands.map(|thousands| thousands.0);
        for (mark, one, other) in [
            (separator.filter(|mark| Some(*mark) == decimal), "separator", "decimal mark"),
            (separator.filter(|mark| Some(*mark) == thousands), "separator", "thousands mark"),
            (decimal.filter(|mark| Some(*mark) == thousands), "decimal mark", "thousands mark"),
            (
                thousands.filter(|mark| *mark == ' ' && self.separator == Some(Separator::Blanks)),
                "separator",
                "thousands mark",
            ),
        ] {
            if let Some(mark) = mark {
                return Err(DialectError::SameMark { one, other, mark });
            }
        }
        if self.missing_marks.len() > MARKS_MAX {
            return Err(DialectError::TooManyMarks { got: self.missing_marks.len() });
        }
        if let Some(mark) = self.missing_marks.iter().find(|mark| mark.trim().is_empty() || mark.len() > MARK_BYTES_MAX)
        {
            return Err(DialectError::Mark { got: shown(mark) });
        }
        if !self.missing_marks.is_empty() && !missing_values {
            return Err(DialectError::MarksWithoutMissing);
        }
        Ok(())
    }
}

/// The field separator of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Separator {
    /// One ASCII character.
    Byte(u8),
    /// One or more spaces or tabs.
    Blanks,
    /// No separator: each record is one field.
    #[default]
    Nothing,
}

impl Separator {
    /// The separator of plain CSV.
    pub const COMMA: Self = Self::Byte(b',');
}

impl FromStr for Separator {
    type Err = DialectError;
    fn from_str(text: &str) -> Result<Self, DialectError> {
        let byte = match text.to_ascii_lowercase().as_str() {
            "comma" => b',',
            "semicolon" => b';',
            "tab" | "\\t" => b'\t',
            "pipe" => b'|',
            "blanks" | "blank" | "space" | "whitespace" | " " => return Ok(Self::Blanks),
            "none" => return Ok(Self::Nothing),
            _ => match text.as_bytes() {
                [byte] => *byte,
                _ => return Err(DialectError::Separator { got: shown(text) }),
            },
        };
        // Characters of numbers, quotes, comments and line ends cannot separate fields.
        let part_of_numbers = byte.is_ascii_alphanumeric() || b".+-\"#_\\".contains(&byte);
        if part_of_numbers
            || (byte.is_ascii_control() && byte != b'\t' && byte != 0x1f && byte != 1)
            || !byte.is_ascii()
        {
            return Err(DialectError::Separator { got: shown(text) });
        }
        Ok(Self::Byte(byte))
    }
}

impl fmt::Display for Separator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte(b'\t') => f.write_str("tab"),
            Self::Byte(byte) => write!(f, "{}", char::from(*byte)),
            Self::Blanks => f.write_str("blanks"),
            Self::Nothing => f.write_str("none"),
        }
    }
}

/// The decimal mark of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Decimal {
    /// A point, as in 1.5.
    Dot,
    /// A comma, as in 1,5.
    Comma,
}

impl Decimal {
    pub(super) fn mark(self) -> char {
        match self {
            Self::Dot => '.',
            Self::Comma => ',',
        }
    }
}

impl FromStr for Decimal {
    type Err = DialectError;
    fn from_str(text: &str) -> Result<Self, DialectError> {
        match text.to_ascii_lowercase().as_str() {
            "." | "dot" | "point" => Ok(Self::Dot),
            "," | "comma" => Ok(Self::Comma),
            _ => Err(DialectError::Decimal { got: shown(text) }),
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mark())
    }
}

/// The thousands mark, between groups of three digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Thousands(pub(super) char);

impl FromStr for Thousands {
    type Err = DialectError;
    fn from_str(text: &str) -> Result<Self, DialectError> {
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(mark @ (',' | '.' | '\'' | ' ' | '_' | '\u{a0}' | '\u{202f}' | '\u{2019}')), None) => Ok(Self(mark)),
            _ => Err(DialectError::Thousands { got: shown(text) }),
        }
    }
}

impl fmt::Display for Thousands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A text encoding, named by a label of the WHATWG Encoding Standard: `utf-8`, `windows-1252`, `latin1`, `utf-16le`,
/// `shift_jis` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TextEncoding(pub(super) &'static Encoding);

impl FromStr for TextEncoding {
    type Err = DialectError;
    fn from_str(text: &str) -> Result<Self, DialectError> {
        // Common aliases of these encodings.
        let text_lower = text.trim().to_ascii_lowercase();
        let label = match text_lower.as_str() {
            "cp1252" | "ansi" | "latin-1" => "windows-1252",
            "utf16" => "utf-16",
            "utf-8-sig" => "utf-8",
            other => other,
        };
        let known = Encoding::for_label_no_replacement(label.as_bytes());
        known.map(Self).ok_or_else(|| DialectError::Encoding { got: shown(text) })
    }
}

impl fmt::Display for TextEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

/// Serializes settings as their text.
macro_rules! kept_as_text {
    ($($setting:ty),*) => {$(
        impl From<$setting> for String {
            fn from(setting: $setting) -> Self {
                setting.to_string()
            }
        }
        impl TryFrom<String> for $setting {
            type Error = DialectError;
            fn try_from(text: String) -> Result<Self, DialectError> {
                text.parse()
            }
        }
    )*};
}
kept_as_text!(Separator, Decimal, Thousands, TextEncoding);

/// An invalid text option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialectError {
    /// The separator is invalid.
    #[error("the separator is {got}, expected `,`, `;`, `tab`, `|`, `blanks`, or another single ASCII mark")]
    Separator {
        /// The value given.
        got: String,
    },
    /// The decimal mark is invalid.
    #[error("the decimal mark is {got}, expected `.` or `,`")]
    Decimal {
        /// The value given.
        got: String,
    },
    /// The thousands mark is invalid.
    #[error("the thousands mark is {got}, expected one of `,` `.` `'` `_` or a space")]
    Thousands {
        /// The value given.
        got: String,
    },
    /// The encoding is unknown.
    #[error("the encoding is {got}, expected a name such as utf-8, utf-16le, windows-1252 or shift_jis")]
    Encoding {
        /// The value given.
        got: String,
    },
    /// Two options use the same character.
    #[error("the {one} and the {other} are both {mark:?}, expected different marks")]
    SameMark {
        /// The first option.
        one: &'static str,
        /// The second option.
        other: &'static str,
        /// The character.
        mark: char,
    },
    /// A mark of missing values is empty or too long.
    #[error(
        "a mark of missing values is {got}, expected 1 to {MARK_BYTES_MAX} bytes (an empty field is missing without being named)"
    )]
    Mark {
        /// The value given.
        got: String,
    },
    /// There are too many marks of missing values.
    #[error("there are {got} marks of missing values, expected at most {MARKS_MAX}")]
    TooManyMarks {
        /// The value given.
        got: usize,
    },
    /// Marks of missing values are given, but values may not be missing.
    #[error(
        "marks of missing values are given, but values may not be missing: set missing_values (--missing-values) too"
    )]
    MarksWithoutMissing,
}

/// A setting as errors show it: quoted and cut.
fn shown(text: &str) -> String {
    let start = first_chars(text, SHOWN_CHARACTERS_MAX);
    let more = if start.len() < text.len() { "..." } else { "" };
    format!("{start:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_parse_from_characters_and_names() {
        for (text, expected) in [
            (",", Some(Separator::COMMA)),
            ("semicolon", Some(Separator::Byte(b';'))),
            ("\\t", Some(Separator::Byte(b'\t'))),
            ("\t", Some(Separator::Byte(b'\t'))),
            ("TAB", Some(Separator::Byte(b'\t'))),
            (" ", Some(Separator::Blanks)),
            ("none", Some(Separator::Nothing)),
            (":", Some(Separator::Byte(b':'))),
            ("", None),
            (";;", None),
            ("5", None),
            ("e", None),
            (".", None),
            ("\"", None),
            ("\n", None),
            ("§", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn stored_options_are_read_back() {
        let options = TextOptions {
            separator: Some(Separator::Byte(b'\t')),
            decimal: Some(Decimal::Comma),
            thousands: Some(Thousands('.')),
            encoding: Some("latin1".parse().expect("known")),
            missing_marks: vec!["-999".to_owned()],
        };
        let text = serde_json::to_string(&options).expect("writes");
        assert_eq!(serde_json::from_str::<TextOptions>(&text).expect("reads"), options, "{text}");
        assert_eq!(serde_json::from_str::<TextOptions>("{}").expect("reads"), TextOptions::default());
        assert!(serde_json::from_str::<TextOptions>("{\"separator\":\"5\"}").is_err());
    }

    #[test]
    fn settings_that_do_not_fit_together_are_refused() {
        let comma =
            TextOptions { separator: Some(Separator::COMMA), decimal: Some(Decimal::Comma), ..TextOptions::default() };
        assert!(matches!(comma.check(false), Err(DialectError::SameMark { mark: ',', .. })));
        let dot =
            TextOptions { decimal: Some(Decimal::Dot), thousands: Some(Thousands('.')), ..TextOptions::default() };
        assert!(matches!(dot.check(false), Err(DialectError::SameMark { mark: '.', .. })));
        let marks = |marks: &[&str]| TextOptions {
            missing_marks: marks.iter().map(|mark| (*mark).to_owned()).collect(),
            ..TextOptions::default()
        };
        assert_eq!(marks(&["x"]).check(false), Err(DialectError::MarksWithoutMissing));
        assert_eq!(marks(&["x"]).check(true), Ok(()));
        assert!(matches!(marks(&[" "]).check(true), Err(DialectError::Mark { .. })));
        assert!(matches!(marks(&["x"; 101]).check(true), Err(DialectError::TooManyMarks { got: 101 })));
        assert!(matches!("klingon".parse::<TextEncoding>(), Err(DialectError::Encoding { .. })));
        assert!(matches!("'".parse::<Decimal>(), Err(DialectError::Decimal { .. })));
        assert!(matches!("k".parse::<Thousands>(), Err(DialectError::Thousands { .. })));
    }
}
