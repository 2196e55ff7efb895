//! Names of models, versions and aliases, parsed into types that are always valid.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::text::shown;

/// Largest length of a name or alias, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// The word for the newest version; it is not allowed as an alias.
pub const LATEST: &str = "latest";

/// Why a name, alias or version is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The name does not match `[a-z0-9][a-z0-9._-]{0,62}`.
    #[error(
        "{what} {got:?} is not allowed: expected 1 to {NAME_BYTES_MAX} characters a-z, 0-9, '.', '_' or '-', the first a letter or digit"
    )]
    Pattern {
        /// "model name" or "alias".
        what: &'static str,
        /// The rejected text, cut to a printable length.
        got: String,
    },
    /// The alias could be read as a version number.
    #[error("alias {0:?} is all digits and could be taken for a version: expected at least one other character")]
    AliasIsNumber(String),
    /// The alias is the reserved word `latest`.
    #[error("alias {LATEST:?} is reserved: it always means the newest version")]
    AliasReserved,
    /// The version is 0.
    #[error("version 0 does not exist: versions count from 1")]
    VersionZero,
}

fn check_pattern(what: &'static str, text: &str) -> Result<(), IdError> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if starts_well && text.len() <= NAME_BYTES_MAX && text.bytes().all(allowed) {
        Ok(())
    } else {
        Err(IdError::Pattern { what, got: shown(text) })
    }
}

/// The name of a model. Safe as a folder name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName(Arc<str>);

/// A name that points to a version of a model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Alias(Arc<str>);

/// The number of a version, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version(NonZeroU64);

macro_rules! text_id {
    ($name:ident, $check:expr) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> Result<(), IdError> = $check;
                check(text)?;
                Ok(Self(Arc::from(text)))
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(ModelName, |text| check_pattern("model name", text));
text_id!(Alias, |text| {
    check_pattern("alias", text)?;
    if text == LATEST {
        return Err(IdError::AliasReserved);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(IdError::AliasIsNumber(shown(text)));
    }
    Ok(())
});

impl Version {
    /// The first version of a model.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// A version from its number.
    ///
    /// # Errors
    /// If the number is 0.
    pub fn new(number: u64) -> Result<Self, IdError> {
        NonZeroU64::new(number).map(Self).ok_or(IdError::VersionZero)
    }

    /// The number.
    pub fn number(self) -> u64 {
        self.0.get()
    }

    /// The version after this one.
    ///
    /// # Panics
    /// After 2^64 - 1 versions.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("fewer than 2^64 versions"))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Selects a version of a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// The newest complete version.
    Latest,
    /// The version with this number.
    Version(Version),
    /// The version that the alias points to.
    Alias(Alias),
}

impl FromStr for Selector {
    type Err = IdError;

    /// `latest`, a number, or an alias.
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text == LATEST {
            return Ok(Self::Latest);
        }
        match text.parse() {
            Ok(number) => Version::new(number).map(Self::Version),
            Err(_) => text.parse().map(Self::Alias),
        }
    }
}

/// A version of a model in text form: `NAME`, `NAME@VERSION` or `NAME@ALIAS`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelReference {
    /// The model.
    pub name: ModelName,
    /// The version.
    pub selector: Selector,
}

impl FromStr for ModelReference {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (name, selector) = text.split_once('@').unwrap_or((text, LATEST));
        Ok(Self { name: name.parse()?, selector: selector.parse()? })
    }
}

impl fmt::Display for ModelReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.selector {
            Selector::Latest => write!(f, "{}", self.name),
            Selector::Version(version) => write!(f, "{}@{version}", self.name),
            Selector::Alias(alias) => write!(f, "{}@{alias}", self.name),
        }
    }
}

/// One version of one model. Its bytes never change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelKey {
    /// The model.
    pub name: ModelName,
    /// Its version.
    pub version: Version,
}

impl fmt::Display for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", self.name, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_name(text: &str, allowed: bool) {
        assert_eq!(text.parse::<ModelName>().is_ok(), allowed, "{text:?}");
    }

    #[test]
    fn plain_names_are_allowed() {
        for text in ["a", "0", "digits-8", "a.b_c-d", &"x".repeat(63)] {
            check_name(text, true);
        }
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        for text in ["", ".", "..", "../x", "a/b", "a\\b", "/etc", "A", "ä", "a b", "a\0", "-a", "_a", &"x".repeat(64)]
        {
            check_name(text, false);
        }
    }

    #[test]
    fn an_alias_is_neither_a_number_nor_latest() {
        assert_eq!("12".parse::<Alias>(), Err(IdError::AliasIsNumber("12".into())));
        assert_eq!("latest".parse::<Alias>(), Err(IdError::AliasReserved));
        assert!("prod".parse::<Alias>().is_ok());
        assert!("12a".parse::<Alias>().is_ok());
    }

    #[test]
    fn version_zero_does_not_exist() {
        assert_eq!(Version::new(0), Err(IdError::VersionZero));
        assert_eq!(Version::FIRST.next().number(), 2);
    }
}
