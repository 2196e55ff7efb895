//! Version policies, and how they are written as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::model::text::first_chars;
use crate::model::{IdError, ModelName, Version};

/// Which versions of a model are served. A version with an alias is always served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VersionPolicy {
    /// Every version.
    #[default]
    All,
    /// The newest versions, up to this number.
    Latest(usize),
    /// These versions.
    Pinned(BTreeSet<Version>),
}

/// The policies of all models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionPolicies {
    /// Policy of models without an own one.
    pub of_others: VersionPolicy,
    /// Policies of single models.
    pub by_name: BTreeMap<ModelName, VersionPolicy>,
}

impl VersionPolicies {
    /// The policy of a model.
    pub fn of(&self, name: &ModelName) -> &VersionPolicy {
        self.by_name.get(name).unwrap_or(&self.of_others)
    }
}

impl fmt::Display for VersionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Latest(count) => write!(f, "latest:{count}"),
            Self::Pinned(versions) => {
                let numbers: Vec<String> = versions.iter().map(ToString::to_string).collect();
                write!(f, "pinned:{}", numbers.join("+"))
            }
        }
    }
}

/// Why the text of a policy is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The text is none of the three forms.
    #[error("{0:?} is not a version policy, expected all, latest:COUNT (at least 1) or pinned:VERSION+VERSION")]
    Policy(String),
    /// The model name is invalid.
    #[error(transparent)]
    Name(#[from] IdError),
    /// One model, or the default, has two policies.
    #[error("{0:?} has two policies, expected one")]
    Twice(String),
}

impl FromStr for VersionPolicy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let bad = || PolicyError::Policy(first_chars(text, 80).to_owned());
        match text.split_once(':') {
            None if text == "all" => Ok(Self::All),
            Some(("latest", count)) => count.parse().ok().filter(|count| *count > 0).map(Self::Latest).ok_or_else(bad),
            Some(("pinned", versions)) => {
                let version = |number: &str| number.parse().ok().and_then(|number| Version::new(number).ok());
                versions.split('+').map(version).collect::<Option<_>>().map(Self::Pinned).ok_or_else(bad)
            }
            _ => Err(bad()),
        }
    }
}

impl FromStr for VersionPolicies {
    type Err = PolicyError;

    /// Parses policies separated by commas: `latest:3,digits=pinned:1+4,embed=all`. A policy without a model applies to
    /// all other models.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let (mut by_name, mut of_others) = (BTreeMap::new(), None);
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let twice = match part.split_once('=') {
                Some((name, policy)) => by_name.insert(name.trim().parse()?, policy.trim().parse()?).is_some(),
                None => of_others.replace(part.parse()?).is_some(),
            };
            if twice {
                return Err(PolicyError::Twice(first_chars(part, 80).to_owned()));
            }
        }
        Ok(Self { of_others: of_others.unwrap_or_default(), by_name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_by_model() {
        let policies: VersionPolicies = "latest:3, digits=pinned:1+4,embed=all".parse().expect("policies");
        let of = |name: &str| policies.of(&name.parse().expect("a name")).to_string();
        assert_eq!([of("digits"), of("embed"), of("x")], ["pinned:1+4", "all", "latest:3"]);
        assert_eq!("".parse(), Ok(VersionPolicies::default()));
        for bad in ["latest:0", "latest", "newest:3", "pinned:", "pinned:0", "A=all", "all,latest:1", "a=all,a=all"] {
            assert!(bad.parse::<VersionPolicies>().is_err(), "{bad}");
        }
    }
}
