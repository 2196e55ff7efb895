//! What one entry of the [table](super::table) of settings says, and what follows from it: flag, variable, help text,
//! default and check.

use std::ops::RangeInclusive;

use super::values::{TextField, Values};

/// One setting of the server. The name is also the key in the settings file; flag and variable are derived from it.
#[derive(Debug)]
pub(super) struct Setting {
    /// Name in snake case.
    pub(super) name: &'static str,
    /// Unit or kind of the value, as the help shows it, for example `BYTES`.
    pub(super) unit: &'static str,
    /// What texts are allowed, and where the value is stored.
    pub(super) kind: Kind,
    /// What the setting does. Range and default are added to it.
    pub(super) help: &'static str,
}

/// Allowed texts of a setting. The built-in default is the value that [`Values::default`] has at its place.
#[derive(Debug)]
pub(super) enum Kind {
    /// A whole number; `noun` is what errors call it.
    Count { noun: &'static str, range: RangeInclusive<u64>, place: Place<u64>, default_is: Option<&'static str> },
    /// A number of bytes, also in KiB, MiB or GiB.
    Bytes { range: RangeInclusive<u64>, place: Place<u64> },
    /// A number with fractions.
    Decimal { range: RangeInclusive<f64>, place: Place<f64> },
    /// A text that the type of its place can parse. An empty text means none where the place is an `Option`.
    Text { expected: &'static str, place: TextPlace, default_is: Option<&'static str> },
}

/// The field of [`Values`] that holds a number.
#[derive(Debug)]
pub(super) struct Place<N> {
    pub(super) get: fn(&Values) -> N,
    pub(super) put: fn(&mut Values, N),
}

/// The field of [`Values`] that holds a parsed text.
#[derive(Debug)]
pub(super) struct TextPlace {
    pub(super) get: fn(&Values) -> String,
    /// Stores the parsed text. Returns false, and changes nothing, if the text is not allowed.
    pub(super) put: fn(&mut Values, &str) -> bool,
}

/// A whole number at a field of [`Values`], for example `count!(1..=64, server.jobs.running_jobs_max)`. The help
/// describes a default that depends on the machine with `default_is = "..."`. Errors describe numbers of which not all
/// in the range are allowed with `noun = "..."`.
macro_rules! count {
    ($range:expr, $($field:ident).+) => {
        count!($range, $($field).+, noun = "a whole number")
    };
    ($range:expr, $($field:ident).+, noun = $noun:literal) => {
        Kind::Count { noun: $noun, range: $range, place: number_place!($($field).+), default_is: None }
    };
    ($range:expr, $($field:ident).+, default_is = $text:literal) => {
        Kind::Count {
            noun: "a whole number",
            range: $range,
            place: number_place!($($field).+),
            default_is: Some($text),
        }
    };
}

/// A number of bytes at a field of [`Values`].
macro_rules! size {
    ($range:expr, $($field:ident).+) => {
        Kind::Bytes { range: $range, place: number_place!($($field).+) }
    };
}

/// A number with fractions at a field of [`Values`].
macro_rules! decimal {
    ($range:expr, $($field:ident).+) => {
        Kind::Decimal { range: $range, place: number_place!($($field).+) }
    };
}

/// A text at a field of [`Values`]. `expected` describes the allowed texts in errors. The type of the field parses
/// them, and `only_if` may reject a parsed value.
macro_rules! text {
    ($expected:expr, $($field:ident).+) => {
        Kind::Text { expected: $expected, place: text_place!(|_| true, $($field).+), default_is: None }
    };
    ($expected:expr, $($field:ident).+, default_is = $text:literal) => {
        Kind::Text { expected: $expected, place: text_place!(|_| true, $($field).+), default_is: Some($text) }
    };
    ($expected:expr, $($field:ident).+, only_if = $allowed:expr, default_is = $text:literal) => {
        Kind::Text { expected: $expected, place: text_place!($allowed, $($field).+), default_is: Some($text) }
    };
}

macro_rules! number_place {
    ($($field:ident).+) => {
        Place {
            get: |values| NumberField::number(&values.$($field).+),
            put: |values, number| values.$($field).+ = NumberField::of(number),
        }
    };
}

macro_rules! text_place {
    ($allowed:expr, $($field:ident).+) => {
        TextPlace {
            get: |values| TextField::text(&values.$($field).+),
            put: |values, text| put_text(&mut values.$($field).+, text, $allowed),
        }
    };
}

pub(super) use {count, decimal, number_place, size, text, text_place};

/// Parses a text into `field`. Returns false, and changes nothing, if the text is not allowed.
pub(super) fn put_text<T: TextField>(field: &mut T, text: &str, only_if: impl FnOnce(&T) -> bool) -> bool {
    T::parse(text).filter(only_if).map(|value| *field = value).is_some()
}

impl Setting {
    /// Name of the flag, without `--`.
    pub(super) fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Name of the environment variable.
    pub(super) fn variable(&self) -> String {
        format!("HALFHITCH_{}", self.name.to_uppercase())
    }

    /// Help of the flag: what the setting does, its range if it is a number, and its default.
    pub(super) fn flag_help(&self, defaults: &Values) -> String {
        let range = self.range().map_or_else(String::new, |range| format!(" [range: {range}]"));
        let default = self.default_shown(defaults);
        let default = if default.is_empty() { "none" } else { &default };
        format!("{}{range} [default: {default}]", self.help)
    }

    /// The range of a number.
    pub(super) fn range(&self) -> Option<String> {
        match &self.kind {
            Kind::Count { range, .. } => Some(format!("{} to {}", range.start(), range.end())),
            Kind::Bytes { range, .. } => Some(format!("{} to {}", with_unit(*range.start()), with_unit(*range.end()))),
            Kind::Decimal { range, .. } => Some(format!("{} to {}", range.start(), range.end())),
            Kind::Text { .. } => None,
        }
    }

    /// A description of the default if it depends on the machine or the environment.
    pub(super) fn default_is(&self) -> Option<&'static str> {
        match &self.kind {
            Kind::Count { default_is, .. } | Kind::Text { default_is, .. } => *default_is,
            Kind::Bytes { .. } | Kind::Decimal { .. } => None,
        }
    }

    /// The default for people, bytes with a unit; empty if the default is none.
    pub(super) fn default_shown(&self, defaults: &Values) -> String {
        match (&self.kind, self.default_is()) {
            (_, Some(text)) => text.to_owned(),
            (Kind::Bytes { place, .. }, None) => with_unit((place.get)(defaults)),
            _ => self.default_text(defaults),
        }
    }

    /// The default as a text that [`Self::put`] accepts.
    pub(super) fn default_text(&self, defaults: &Values) -> String {
        match &self.kind {
            Kind::Count { place, .. } | Kind::Bytes { place, .. } => (place.get)(defaults).to_string(),
            Kind::Decimal { place, .. } => (place.get)(defaults).to_string(),
            Kind::Text { place, .. } => (place.get)(defaults),
        }
    }

    /// Stores the value of a text, and returns it as TOML.
    ///
    /// # Errors
    /// The allowed values, in words, if `text` is not one of them. Nothing is stored then.
    pub(super) fn put(&self, values: &mut Values, text: &str) -> Result<String, String> {
        match &self.kind {
            Kind::Count { noun, range, place, .. } => put_number(values, text.parse().ok(), range, place, noun),
            Kind::Bytes { range, place } => {
                put_number(values, parse_bytes(text), range, place, "bytes (KiB, MiB, GiB are understood)")
            }
            Kind::Decimal { range, place } => put_number(values, text.parse().ok(), range, place, "a number"),
            Kind::Text { expected, place, .. } => {
                let stored = (place.put)(values, text);
                if stored { Ok(toml::Value::from(text).to_string()) } else { Err((*expected).to_owned()) }
            }
        }
    }
}

fn put_number<N: Copy + PartialOrd + std::fmt::Display>(
    values: &mut Values,
    number: Option<N>,
    range: &RangeInclusive<N>,
    place: &Place<N>,
    what: &str,
) -> Result<String, String> {
    let Some(number) = number.filter(|number| range.contains(number)) else {
        return Err(format!("{what} from {} to {}", range.start(), range.end()));
    };
    (place.put)(values, number);
    Ok(number.to_string())
}

/// A whole number of bytes, or a number of KiB, MiB or GiB.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, shift) = [("KiB", 10), ("MiB", 20), ("GiB", 30)]
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?.trim_end(), shift)))
        .unwrap_or((text, 0));
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Bytes with the largest unit that needs no fraction.
fn with_unit(bytes: u64) -> String {
    [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1_u64 << shift))
        .map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}
