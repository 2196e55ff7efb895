//! The credentials file: tokens and certificates, with roles, models and limits.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use toml::{Table, Value};

use super::callers::{CallerLimits, Usage};
use super::date;
use super::files::Unreadable;
use super::roles::{Role, Roles};
use super::{Caller, Refusal, Term};
use crate::text::first_chars;

/// Most entries of a file. The limit bounds the work of a call: every received token is compared with all entries.
pub const ENTRIES_MAX: usize = 1000;
/// Longest name of an entry, in bytes.
pub const NAME_BYTES_MAX: usize = 63;
/// Longest token that is checked, in bytes; longer ones are refused.
pub const TOKEN_BYTES_MAX: usize = 4096;
const PREFIXES_MAX: usize = 100;
const SHA256_BYTES: usize = 32;

/// Why a credentials file is refused.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("credentials file {0}")]
    Unreadable(#[from] Unreadable),
    /// The file is not valid TOML.
    #[error("credentials file {path} is not TOML: line {line}: {reason}")]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong. It never quotes the line, which may hold a secret.
        reason: String,
    },
    /// An entry is invalid.
    #[error("credentials file {path}, {entry}: {key} is {got}, expected {expected}")]
    Entry {
        /// Path of the file.
        path: PathBuf,
        /// The entry, for example `[[token]] 1 (NAME)`.
        entry: String,
        /// The key of the entry.
        key: String,
        /// What the file has; never the value if it might be a secret.
        got: String,
        /// What is allowed.
        expected: String,
    },
}

/// SHA-256 digest of a token or a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; SHA256_BYTES]);

impl Fingerprint {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Parses 64 hexadecimal digits; colons between them are ignored.
    fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        let mut bytes = [0; SHA256_BYTES];
        if digits.len() != 2 * SHA256_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Hides the digest: it is not secret, but of no use in a log.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(..)")
    }
}

/// A client certificate that the TLS handshake has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// Digest of the whole certificate.
    pub fingerprint: Fingerprint,
    /// DNS names of its subject alternative name extension, in lower case.
    pub dns: Vec<String>,
    /// Common name of its subject.
    pub common_name: Option<String>,
    /// End of its validity.
    pub ends: SystemTime,
    /// The certificate and its intermediates, in DER.
    pub chain: Vec<Vec<u8>>,
}

/// How an entry identifies a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Mark {
    Dns(String),
    CommonName(String),
    Sha256(Fingerprint),
}

impl Mark {
    fn is_of(&self, presented: &Presented) -> bool {
        match self {
            Self::Dns(name) => presented.dns.contains(name),
            Self::CommonName(name) => presented.common_name.as_ref() == Some(name),
            Self::Sha256(fingerprint) => presented.fingerprint == *fingerprint,
        }
    }
}

/// The part that entries of tokens and of certificates share.
#[derive(Debug)]
struct Entry {
    caller: Caller,
    usage: Arc<Usage>,
    roles: Roles,
    term: Term,
}

impl Entry {
    fn if_in_force(&self, now: SystemTime) -> Result<(&Caller, Roles), Refusal> {
        if self.term.ends.is_some_and(|ends| ends <= now) {
            return Err(Refusal::Unknown);
        }
        Ok((&self.caller, self.roles))
    }

    /// Whether an entry of the same credential grants the same name, roles, models and expiry.
    fn says(&self, name: &str, roles: Roles, models: &[String], ends: Option<SystemTime>) -> bool {
        self.caller.name() == name && self.roles == roles && *self.caller.0.models == *models && self.term.ends == ends
    }
}

/// All valid entries of a credentials file.
#[derive(Debug, Default)]
pub struct Credentials {
    tokens: Vec<(Fingerprint, Entry)>,
    certificates: Vec<(Mark, Entry)>,
}

impl Credentials {
    /// Parses a credentials file. A caller whose name was in `before` keeps its counters in flight.
    pub fn parse(
        text: &[u8],
        path: &Path,
        limits: CallerLimits,
        before: Option<&Self>,
    ) -> Result<Self, CredentialsError> {
        Reader { path, limits, before }.read(text)
    }

    /// The caller and roles of a token.
    pub fn by_token(&self, token: &[u8], now: SystemTime) -> Result<(&Caller, Roles), Refusal> {
        // An empty token is never valid, even if the file lists its digest.
        if token.is_empty() {
            return Err(Refusal::Unknown);
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::Unknown);
        }
        let asked = Fingerprint::of(token);
        // Compares all entries in constant time, so that the time reveals nothing.
        let mut found = u32::MAX;
        for (i, (known, _)) in (0_u32..).zip(&self.tokens) {
            found.conditional_assign(&i, known.0.ct_eq(&asked.0));
        }
        let (_, entry) = self.tokens.get(found as usize).ok_or(Refusal::Unknown)?;
        entry.if_in_force(now)
    }

    /// The caller and roles of a certificate.
    pub fn by_certificate(&self, presented: &Presented, now: SystemTime) -> Result<(&Caller, Roles), Refusal> {
        if presented.ends <= now {
            return Err(Refusal::Unknown);
        }
        let found = self.certificates.iter().find(|(mark, _)| mark.is_of(presented));
        found.ok_or(Refusal::Unknown)?.1.if_in_force(now)
    }

    /// Numbers of tokens and of certificates.
    pub fn counts(&self) -> (usize, usize) {
        (self.tokens.len(), self.certificates.len())
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.tokens.iter().map(|(_, entry)| entry).chain(self.certificates.iter().map(|(_, entry)| entry))
    }

    fn usage(&self, name: &str) -> Option<Arc<Usage>> {
        self.entries().find(|entry| entry.caller.name() == name).map(|entry| Arc::clone(&entry.usage))
    }

    /// Revokes the entries that `after` has not taken over; their open streams end too.
    pub fn end_all_but(&self, after: &Self) {
        let lasts = |entry: &Entry| after.entries().any(|other| Arc::ptr_eq(&other.term.is_over, &entry.term.is_over));
        self.entries().filter(|entry| !lasts(entry)).for_each(|entry| entry.term.end());
    }
}

struct Reader<'a> {
    path: &'a Path,
    limits: CallerLimits,
    before: Option<&'a Credentials>,
}

/// A TOML table whose keys are taken out one by one.
struct Taken<'a> {
    path: &'a Path,
    entry: String,
    table: Table,
}

impl Reader<'_> {
    fn read(&self, text: &[u8]) -> Result<Credentials, CredentialsError> {
        let syntax = |before: &[u8], reason: &str| CredentialsError::Syntax {
            path: self.path.to_owned(),
            line: before.split(|byte| *byte == b'\n').count(),
            reason: reason.to_owned(),
        };
        let text = std::str::from_utf8(text).map_err(|error| syntax(&text[..error.valid_up_to()], "invalid UTF-8"))?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            syntax(&text.as_bytes()[..at], error.message().lines().next().unwrap_or("it cannot be read"))
        })?;
        let mut whole = Taken { path: self.path, entry: "the file".to_owned(), table };
        let mut read = Credentials::default();
        let mut names: HashMap<String, String> = HashMap::new();
        let mut count = 0;
        for kind in ["token", "certificate"] {
            for (i, table) in whole.tables(kind)?.into_iter().enumerate() {
                count += 1;
                if count > ENTRIES_MAX {
                    return Err(whole.wrong(kind, "one too many".into(), format!("at most {ENTRIES_MAX} entries")));
                }
                let mut taken = Taken { path: self.path, entry: format!("[[{kind}]] {}", i + 1), table };
                let name = taken.name()?;
                taken.entry = format!("[[{kind}]] {} ({name})", i + 1);
                if let Some(other) = names.insert(name.clone(), taken.entry.clone()) {
                    return Err(taken.wrong("name", format!("{name:?}"), format!("another name than that of {other}")));
                }
                if kind == "token" {
                    let hash = taken.sha256()?.ok_or_else(|| taken.missing("sha256", SHA256_EXPECTED))?;
                    if read.tokens.iter().any(|(other, _)| *other == hash) {
                        return Err(taken.wrong("sha256", "that of another entry".into(), "one token an entry".into()));
                    }
                    let same = self.before.and_then(|before| before.tokens.iter().find(|(known, _)| *known == hash));
                    read.tokens.push((hash, self.entry(name, taken, same.map(|(_, entry)| entry))?));
                } else {
                    let mark = taken.mark()?;
                    if read.certificates.iter().any(|(other, _)| *other == mark) {
                        let expected = "one certificate an entry".into();
                        return Err(taken.wrong(
                            "dns, common_name or sha256",
                            "that of another entry".into(),
                            expected,
                        ));
                    }
                    let same =
                        self.before.and_then(|before| before.certificates.iter().find(|(known, _)| *known == mark));
                    read.certificates.push((mark, self.entry(name, taken, same.map(|(_, entry)| entry))?));
                }
            }
        }
        whole.finish("token, certificate")?;
        Ok(read)
    }

    /// Parses the rest of an entry. `before`: the previous entry of the same credential.
    fn entry(&self, name: String, mut taken: Taken<'_>, before: Option<&Entry>) -> Result<Entry, CredentialsError> {
        let roles = taken.roles()?;
        let models = taken.models()?;
        let ends = taken.ends()?;
        let limits = CallerLimits {
            requests_max: taken.limit("requests_max", self.limits.requests_max)?,
            rows_max: taken.limit("rows_max", self.limits.rows_max)?,
            bytes_max: taken.limit("bytes_max", self.limits.bytes_max)?,
            requests_per_second_max: taken.limit("requests_per_second_max", self.limits.requests_per_second_max)?,
        };
        taken.finish(
            "name, sha256 (or dns or common_name of a certificate), roles, models, expires, requests_max, rows_max, \
             bytes_max, requests_per_second_max",
        )?;
        let usage = self.before.and_then(|before| before.usage(&name)).unwrap_or_default();
        let same = before.filter(|before| before.says(&name, roles, &models, ends));
        let term = same.map_or_else(|| Term::until(ends), |before| before.term.clone());
        let caller = Caller::new(name.into(), models.into(), Arc::clone(&usage), limits, term.clone());
        Ok(Entry { caller, usage, roles, term })
    }
}

const SHA256_EXPECTED: &str = "the SHA-256 in 64 hexadecimal digits";

impl Taken<'_> {
    fn wrong(&self, key: &str, got: String, expected: String) -> CredentialsError {
        let (path, entry) = (self.path.to_owned(), self.entry.clone());
        CredentialsError::Entry { path, entry, key: key.to_owned(), got, expected }
    }

    fn missing(&self, key: &str, expected: &str) -> CredentialsError {
        self.wrong(key, "missing".to_owned(), expected.to_owned())
    }

    fn tables(&mut self, key: &str) -> Result<Vec<Table>, CredentialsError> {
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

    fn name(&mut self) -> Result<String, CredentialsError> {
        let expected = format!("1 to {NAME_BYTES_MAX} characters a-z, A-Z, 0-9, '.', '_', '-' or '@'");
        let name = self.text("name", &expected)?.ok_or_else(|| self.missing("name", &expected))?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'@');
        if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) {
            return Ok(name);
        }
        Err(self.wrong("name", format!("{:?}", first_chars(&name, 80)), expected))
    }

    fn sha256(&mut self) -> Result<Option<Fingerprint>, CredentialsError> {
        let Some(text) = self.text("sha256", SHA256_EXPECTED)? else { return Ok(None) };
        // Never quotes the value: it may be the token itself.
        let wrong = || self.wrong("sha256", format!("a text of {} bytes", text.len()), SHA256_EXPECTED.to_owned());
        Fingerprint::parse(&text).map(Some).ok_or_else(wrong)
    }

    fn mark(&mut self) -> Result<Mark, CredentialsError> {
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

    fn roles(&mut self) -> Result<Roles, CredentialsError> {
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

    fn models(&mut self) -> Result<Vec<String>, CredentialsError> {
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

    fn ends(&mut self) -> Result<Option<SystemTime>, CredentialsError> {
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

    fn limit(&mut self, key: &str, default: u64) -> Result<u64, CredentialsError> {
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
    fn finish(self, known: &str) -> Result<(), CredentialsError> {
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

#[cfg(test)]
mod tests;
