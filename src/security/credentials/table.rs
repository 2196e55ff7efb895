//! The keys and values of a credentials file.

use std::path::Path;
use std::time::SystemTime;

use toml::{Table, Value};

use super::error::CredentialsError;
use super::{Fingerprint, Mark, NAME_BYTES_MAX};
use crate::security::date;
use crate::security::roles::{Role, Roles};
use crate::text::first_chars;

const PREFIXES_MAX: usize = 100;
/// What an error expects of a digest.
pub(super) const SHA256_EXPECTED: &str = "the SHA-256 in 64 hexadecimal digits";

/// A TOML table whose keys are taken out one by one.
pub(super) struct Taken<'a> {
    pub(super) path: &'a Path,
    pub(super) entry: String,
    pub(super) table: Table,
}

impl Taken<'_> {
    pub(super) fn wrong(&self, key: &str, got: String, expected: String) -> CredentialsError {
        let (path, entry) = (self.path.to_owned(), self.entry.clone());
        CredentialsError::Entry { path, entry, key: key.to_owned(), got, expected }
    }

    pub(super) fn missing(&self, key: &str, expected: &str) -> CredentialsError {
        self.wrong(key, "missing".to_owned(), expected.to_owned())
    }

    pub(super) fn tables(&mut self, key: &str) -> Result<Vec<Table>, CredentialsError> {
        let table = |value| match value {
            Value::Table(table) => Ok(table),
            other => Err(other),
        };
        match self.table.remove(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(all)) => all.into_iter().map(table).collect::<Result<_, Value>>().map_err(|other| {
                self.wrong(key, format!("a list with {}", kind(&other)), format!("entries that begin with [[{key}]]"))
            }),
            Some(other) => Err(self.wrong(key, kind(&other), format!("entries that begin with [[{key}]]"))),
        }
    }

    fn text(&mut self, key: &str, expected: &str) -> Result<Option<String>, CredentialsError> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, kind(&other), expected.to_owned())),
        }
    }

    fn texts(&mut self, key: &str, expected: &str) -> Result<Option<Vec<String>>, CredentialsError> {
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        let wrong = |value: &Value| self.wrong(key, kind(value), expected.to_owned());
        let Value::Array(all) = value else { return Err(wrong(&value)) };
        let text = |value| match value {
            Value::String(text) => Ok(text),
            other => Err(wrong(&other)),
        };
        all.into_iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    pub(super) fn name(&mut self) -> Result<String, CredentialsError> {
        let expected = format!("1 to {NAME_BYTES_MAX} characters a-z, A-Z, 0-9, '.', '_', '-' or '@'");
        let name = self.text("name", &expected)?.ok_or_else(|| self.missing("name", &expected))?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'@');
        if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) {
            return Ok(name);
        }
        Err(self.wrong("name", format!("{:?}", first_chars(&name, 80)), expected))
    }

    pub(super) fn sha256(&mut self) -> Result<Option<Fingerprint>, CredentialsError> {
        let Some(text) = self.text("sha256", SHA256_EXPECTED)? else { return Ok(None) };
        // Never quotes the value: it may be the token itself.
        let wrong = || self.wrong("sha256", format!("a text of {} bytes", text.len()), SHA256_EXPECTED.to_owned());
        Fingerprint::parse(&text).map(Some).ok_or_else(wrong)
    }

    pub(super) fn mark(&mut self) -> Result<Mark, CredentialsError> {
        let expected = "exactly one of them, and not empty";
        let dns = self.text("dns", expected)?.map(|name| Mark::Dns(name.to_ascii_lowercase()));
        let common_name = self.text("common_name", expected)?.map(Mark::CommonName);
        let sha256 = self.sha256()?.map(Mark::Sha256);
        let set: Vec<Mark> = [dns, common_name, sha256].into_iter().flatten().collect();
        let empty = set.iter().any(|mark| matches!(mark, Mark::Dns(name) | Mark::CommonName(name) if name.is_empty()));
        match <[Mark; 1]>::try_from(set) {
            Ok([mark]) if !empty => Ok(mark),
            Ok(_) => Err(self.wrong("dns or common_name", "empty".to_owned(), expected.to_owned())),
            Err(set) => {
                let got = format!("set {} times", set.len());
                Err(self.wrong("dns, common_name or sha256", got, expected.to_owned()))
            }
        }
    }

    pub(super) fn roles(&mut self) -> Result<Roles, CredentialsError> {
        let expected = "a list of one or more of \"infer\", \"train\", \"admin\"";
        let texts = self.texts("roles", expected)?.ok_or_else(|| self.missing("roles", expected))?;
        if texts.is_empty() {
            return Err(self.wrong("roles", "empty".to_owned(), expected.to_owned()));
        }
        texts.iter().try_fold(Roles::default(), |roles, text| match text.parse::<Role>() {
            Ok(role) => Ok(roles.with(role)),
            Err(()) => {
                let shown = first_chars(text, 80);
                Err(self.wrong("roles", format!("{shown:?}"), expected.to_owned()))
            }
        })
    }

    pub(super) fn models(&mut self) -> Result<Vec<String>, CredentialsError> {
        let expected = format!("a list of at most {PREFIXES_MAX} prefixes of model names, none of them empty");
        let models = self.texts("models", &expected)?.unwrap_or_default();
        if models.len() > PREFIXES_MAX {
            return Err(self.wrong("models", format!("{} texts", models.len()), expected));
        }
        match models.iter().find(|text| !could_begin(text)) {
            None => Ok(models),
            Some(other) => {
                let shown = first_chars(other, 80);
                let expected = format!("{expected}, of characters a-z, 0-9, '.', '_' or '-'");
                Err(self.wrong("models", format!("{shown:?}"), expected))
            }
        }
    }

    pub(super) fn ends(&mut self) -> Result<Option<SystemTime>, CredentialsError> {
        let expected = "a date such as 2027-01-31 or 2027-01-31T12:00:00Z, without quotes";
        match self.table.remove("expires") {
            None => Ok(None),
            Some(Value::Datetime(datetime)) => match date::moment(&datetime) {
                Some(moment) => Ok(Some(moment)),
                None => Err(self.wrong("expires", datetime.to_string(), expected.to_owned())),
            },
            Some(other) => Err(self.wrong("expires", kind(&other), expected.to_owned())),
        }
    }

    pub(super) fn limit(&mut self, key: &str, default: u64) -> Result<u64, CredentialsError> {
        match self.table.remove(key) {
            None => Ok(default),
            Some(Value::Integer(number)) if number >= 0 => Ok(number.unsigned_abs()),
            Some(Value::Integer(number)) => {
                Err(self.wrong(key, number.to_string(), "a whole number, 0 for no limit".to_owned()))
            }
            Some(other) => Err(self.wrong(key, kind(&other), "a whole number, 0 for no limit".to_owned())),
        }
    }

    /// Refuses keys that are left over.
    pub(super) fn finish(self, known: &str) -> Result<(), CredentialsError> {
        match self.table.keys().next() {
            None => Ok(()),
            Some(key) => {
                let shown = first_chars(key, 80);
                Err(self.wrong(&format!("the key {shown:?}"), "unknown".to_owned(), format!("one of: {known}")))
            }
        }
    }
}

/// Whether a model name can begin with this text.
fn could_begin(text: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && text.bytes().all(allowed)
}

/// The type of a value, without the value itself.
fn kind(value: &Value) -> String {
    format!("a value of type {}", value.type_str())
}
