//! A model in the store's catalogue: its versions and aliases, and how a selector resolves to a version.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::StoreError;
use crate::model::{Alias, ModelKey, ModelName, Selector, Version};

/// Most aliases that an error lists.
const ALIASES_NAMED_MAX: usize = 10;

/// A model in the store's catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelEntry {
    /// The model's name.
    pub name: ModelName,
    /// Complete versions, oldest first.
    pub versions: BTreeMap<Version, VersionEntry>,
    /// Aliases; each points at a complete version or at one of `lost`.
    pub aliases: BTreeMap<Alias, Version>,
    /// Versions that the index lists but whose files are gone, with what was found instead ("is missing"). They were
    /// not deleted: the store is damaged.
    pub lost: BTreeMap<Version, &'static str>,
    /// The highest version ever used; it survives deletions.
    pub version_highest: Option<Version>,
    /// Set if the index is damaged: then the aliases are unknown and the model cannot be changed.
    pub index_damage: Option<IndexDamage>,
}

/// The damage of a model's index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexDamage {
    /// What was expected and what was found.
    pub reason: String,
}

/// What the store knows of a version without reading its file.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionEntry {
    /// Size of the model file in bytes.
    pub file_bytes: u64,
    /// When the version was published: the modification time of its file.
    pub published: SystemTime,
}

impl ModelEntry {
    /// A model without versions.
    pub fn new(name: ModelName) -> Self {
        Self {
            name,
            versions: BTreeMap::new(),
            aliases: BTreeMap::new(),
            lost: BTreeMap::new(),
            version_highest: None,
            index_damage: None,
        }
    }

    /// The newest complete version.
    pub fn latest(&self) -> Option<Version> {
        self.versions.last_key_value().map(|(version, _)| *version)
    }

    /// Whether the model never had a version and its index is not damaged.
    pub(super) fn is_blank(&self) -> bool {
        self.version_highest.is_none() && self.index_damage.is_none()
    }

    /// Resolves a selector to a version.
    ///
    /// # Errors
    /// `UnknownModel`, `UnknownVersion`, `UnknownAlias`; `BadIndex` for an alias of a model with a damaged index;
    /// `VersionLost` if the index lists the version but its file is gone.
    pub fn resolve(&self, selector: &Selector) -> Result<Version, StoreError> {
        let newest = self.latest();
        match selector {
            Selector::Latest => match (newest, self.lost.keys().next_back()) {
                // To serve an older version instead would be a silent wrong result.
                (_, Some(lost)) if Some(*lost) > newest => Err(self.version_lost(*lost)),
                (Some(newest), _) => Ok(newest),
                (None, _) => Err(StoreError::UnknownModel(self.name.as_str().to_owned())),
            },
            Selector::Version(version) => self.complete(*version),
            Selector::Alias(alias) => match self.aliases.get(alias) {
                Some(version) => self.complete(*version),
                None if newest.is_none() => Err(StoreError::UnknownModel(self.name.as_str().to_owned())),
                None => Err(self.unknown_alias(alias)),
            },
        }
    }

    /// Checks that the version is complete.
    fn complete(&self, version: Version) -> Result<Version, StoreError> {
        if self.versions.contains_key(&version) {
            return Ok(version);
        }
        if self.lost.contains_key(&version) {
            return Err(self.version_lost(version));
        }
        match self.latest() {
            None => Err(StoreError::UnknownModel(self.name.as_str().to_owned())),
            newest => Err(StoreError::UnknownVersion { key: ModelKey { name: self.name.clone(), version }, newest }),
        }
    }

    fn version_lost(&self, version: Version) -> StoreError {
        StoreError::VersionLost {
            key: ModelKey { name: self.name.clone(), version },
            found: self.lost.get(&version).copied().unwrap_or("is missing"),
            older: self.latest(),
        }
    }

    /// Refuses a model whose index is damaged.
    pub(super) fn check_index(&self) -> Result<(), StoreError> {
        match &self.index_damage {
            None => Ok(()),
            Some(IndexDamage { reason }) => {
                Err(StoreError::BadIndex { name: self.name.clone(), reason: reason.clone() })
            }
        }
    }

    fn unknown_alias(&self, alias: &Alias) -> StoreError {
        // With a damaged index, the aliases are unknown.
        self.check_index().err().unwrap_or_else(|| StoreError::UnknownAlias {
            name: self.name.clone(),
            alias: alias.clone(),
            aliases: self.aliases.keys().take(ALIASES_NAMED_MAX).cloned().collect(),
        })
    }
}
