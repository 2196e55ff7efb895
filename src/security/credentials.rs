//! The credentials file: tokens and certificates, with roles, models and limits.

mod error;
mod parse;
mod table;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

pub use self::error::CredentialsError;
use super::callers::Usage;
use super::roles::Roles;
use super::{Caller, Refusal, Term};

/// Most entries of a file. The limit bounds the work of a call: every received token is compared with all entries.
pub const ENTRIES_MAX: usize = 1000;
/// Longest name of an entry, in bytes.
pub const NAME_BYTES_MAX: usize = 63;
/// Longest token that is checked, in bytes; longer ones are refused.
pub const TOKEN_BYTES_MAX: usize = 4096;
const SHA256_BYTES: usize = 32;

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

#[cfg(test)]
mod tests;
