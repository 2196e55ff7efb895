//! The three sources of a setting, and how to read and parse one.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::source::EffectiveSetting;
use super::{ConfigError, Source};

/// Variables with the prefix `HALFHITCH_` that are not settings of the server.
const OTHER_VARIABLES: [&str; 11] = [
    "HALFHITCH_TOKEN",
    "HALFHITCH_TOKEN_FILE",
    "HALFHITCH_CA",
    "HALFHITCH_CLIENT_CERTIFICATE",
    "HALFHITCH_CLIENT_KEY",
    "HALFHITCH_CONFIG",
    "HALFHITCH_SERVER",
    "HALFHITCH_ISA",
    "HALFHITCH_DATA",
    "HALFHITCH_TEST_REQUESTS",
    "HALFHITCH_TEST_KILLS",
];

pub(super) fn read(path: &Path) -> Result<toml::Table, ConfigError> {
    let shown = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: shown.clone(), source })?;
    text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax { path: shown, reason: error.to_string() })
}

/// The sources of settings. A flag wins over a variable, and a variable wins over the file.
pub(super) struct Layers<'a> {
    pub(super) variables: &'a [(String, String)],
    pub(super) path: PathBuf,
    pub(super) file: toml::Table,
    pub(super) told: Vec<EffectiveSetting>,
    /// Warnings for the operator.
    pub(super) warnings: Vec<String>,
}

impl Layers<'_> {
    /// The text of a setting and its source. Removes the key from the file, so that [`Self::finish`] finds unknown
    /// keys.
    pub(super) fn text(&mut self, name: &'static str, flag: Option<&String>, default: &str) -> (String, Source) {
        let from_file = self.file.remove(name).map(|value| match value {
            toml::Value::String(text) => text,
            // A list means its parts, joined by commas.
            toml::Value::Array(parts) if parts.iter().all(toml::Value::is_str) => {
                parts.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
            }
            other => other.to_string(),
        });
        if let Some(text) = flag {
            return (text.clone(), Source::Flag);
        }
        let variable = format!("HALFHITCH_{}", name.to_uppercase());
        if let Some((_, text)) = self.variables.iter().find(|(other, _)| *other == variable) {
            return (text.clone(), Source::Variable(variable));
        }
        match from_file {
            Some(text) => (text, Source::File(self.path.clone())),
            None => (default.to_owned(), Source::Default),
        }
    }

    pub(super) fn take<T>(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        default: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let (text, origin) = self.text(name, flag, default);
        let Some(value) = parse(&text) else {
            return Err(ConfigError::Value { setting: name, origin, got: text, expected: expected.to_owned() });
        };
        self.told.push((name, toml::Value::String(text).to_string(), origin));
        Ok(value)
    }

    pub(super) fn number(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        default: u64,
        range: RangeInclusive<u64>,
        parse: impl FnOnce(&str) -> Option<u64>,
        unit: &str,
    ) -> Result<u64, ConfigError> {
        let (text, origin) = self.text(name, flag, &default.to_string());
        match parse(&text).filter(|number| range.contains(number)) {
            Some(number) => {
                self.told.push((name, number.to_string(), origin));
                Ok(number)
            }
            None => {
                let expected = format!("{unit} from {} to {}", range.start(), range.end());
                Err(ConfigError::Value { setting: name, origin, got: text, expected })
            }
        }
    }

    pub(super) fn count(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        default: u64,
        min: u64,
        max: u64,
    ) -> Result<u64, ConfigError> {
        self.number(name, flag, default, min..=max, |text| text.parse().ok(), "a whole number")
    }

    pub(super) fn bytes(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        default: u64,
        min: u64,
        max: u64,
    ) -> Result<u64, ConfigError> {
        self.number(name, flag, default, min..=max, parse_bytes, "bytes (KiB, MiB, GiB are understood)")
    }

    /// Seconds, with fractions.
    pub(super) fn decimal_seconds(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        default: Duration,
        range: RangeInclusive<f64>,
    ) -> Result<Duration, ConfigError> {
        let (text, origin) = self.text(name, flag, &default.as_secs_f64().to_string());
        let Some(seconds) = text.parse::<f64>().ok().filter(|seconds| range.contains(seconds)) else {
            let expected = format!("a number from {} to {}", range.start(), range.end());
            return Err(ConfigError::Value { setting: name, origin, got: text, expected });
        };
        self.told.push((name, seconds.to_string(), origin));
        Ok(Duration::from_secs_f64(seconds))
    }

    /// Whole seconds up to the end of the range; 0 gives `None`.
    pub(super) fn seconds(
        &mut self,
        name: &'static str,
        flag: Option<&String>,
        default: Option<Duration>,
        range: &RangeInclusive<u64>,
    ) -> Result<Option<Duration>, ConfigError> {
        let seconds = self.count(name, flag, default.map_or(0, |default| default.as_secs()), 0, *range.end())?;
        Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
    }

    /// The error for a value that parses, but that a later check rejects.
    pub(super) fn refused(&self, setting: &'static str, got: String, expected: &str) -> ConfigError {
        let origin =
            self.told.iter().find(|(name, ..)| *name == setting).map_or(Source::Default, |(.., origin)| origin.clone());
        ConfigError::Value { setting, origin, got, expected: expected.to_owned() }
    }

    /// Returns the settings and the warnings.
    ///
    /// # Errors
    /// [`ConfigError::UnknownKey`] if the file has a key that is not a setting.
    pub(super) fn finish(self) -> Result<(Vec<EffectiveSetting>, Vec<String>), ConfigError> {
        let names: Vec<&str> = self.told.iter().map(|(name, ..)| *name).collect();
        if let Some(key) = self.file.keys().next() {
            return Err(ConfigError::UnknownKey {
                path: self.path.display().to_string(),
                key: key.clone(),
                known: names.join(", "),
            });
        }
        let known = |variable: &str| {
            OTHER_VARIABLES.contains(&variable)
                || names.iter().any(|name| variable == format!("HALFHITCH_{}", name.to_uppercase()))
        };
        let unknown = self.variables.iter().filter(|(name, _)| name.starts_with("HALFHITCH_") && !known(name));
        let unknown = unknown.map(|(name, _)| format!("variable {name} is not a setting and has no effect"));
        let warnings = self.warnings.iter().cloned().chain(unknown).collect();
        Ok((self.told, warnings))
    }
}

/// A whole number of bytes, or a number of KiB, MiB or GiB.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, shift) = [("KiB", 10), ("MiB", 20), ("GiB", 30)]
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?.trim_end(), shift)))
        .unwrap_or((text, 0));
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
