//! From the text of a credentials file to its entries.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use toml::Table;

use super::error::CredentialsError;
use super::table::{SHA256_EXPECTED, Taken};
use super::{Credentials, ENTRIES_MAX, Entry};
use crate::security::callers::CallerLimits;
use crate::security::{Caller, Term};

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
}

struct Reader<'a> {
    path: &'a Path,
    limits: CallerLimits,
    before: Option<&'a Credentials>,
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
