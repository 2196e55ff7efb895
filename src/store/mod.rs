//! Published models on disk.
//!
//! [`ModelStore`] is what the rest of the program knows; [`LocalStore`] keeps the models in a folder:
//!
//! ```text
//! <folder>/.lock                                      held by the one process that may write
//! <folder>/models/<name>/index.json                   aliases, versions, and the highest version ever used; checksummed
//! <folder>/models/<name>/<version>/model.safetensors  complete, or not there
//! <folder>/models/<name>/<version>/validation_sample.safetensors
//!                                                     rows that were held out, where that was asked for
//! <folder>/models/<name>/<version>/last_use           empty; its time says when the version was used last
//! <folder>/models/<name>/.tmp-<uuid>                  being built or being removed; swept by the next writer
//! ```

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::SystemTime;

use crate::model::{Alias, Artifact, ModelKey, ModelName, Selector, Version};

#[cfg(test)]
#[macro_use]
pub(crate) mod conformance;
#[cfg(test)]
mod crash;
pub(crate) mod disk;
mod error;
mod index;
pub mod local;
mod lock;
mod policy;
pub(crate) mod role;
mod scan;
#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use local::LocalStore;
pub use policy::{PolicyError, Retention, VersionPolicies, VersionPolicy};

/// Largest file of a version, in bytes: twice the tensors of the largest model.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// Most bytes of [`ModelStore::read_header`]: the limit of the safetensors format and the 8 bytes before.
pub const HEADER_BYTES_MAX: u64 = 100_000_008;
/// Most aliases of a model.
pub const ALIASES_MAX: usize = 100;
/// Aliases that an error names.
const ALIASES_NAMED_MAX: usize = 10;

/// A model as the store knows it. Every version listed is complete.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelEntry {
    /// Its name.
    pub name: ModelName,
    /// Complete versions, oldest first, with what a listing needs.
    pub versions: BTreeMap<Version, VersionEntry>,
    /// Aliases; each points at a complete version or at one of `lost`.
    pub aliases: BTreeMap<Alias, Version>,
    /// Versions that the index lists and whose files are not there, and what is in their place ("is missing"). They were not
    /// deleted: the store is damaged.
    pub lost: BTreeMap<Version, &'static str>,
    /// The highest version ever used; outlives deletion.
    pub version_highest: Option<Version>,
    /// Set if the index is damaged: then aliases are unknown and nothing of this model can be changed.
    pub index_damage: Option<IndexDamage>,
}

/// What is wrong with the index of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexDamage {
    /// What was expected and what came.
    pub reason: String,
}

/// What a listing says of a version without reading its file.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionEntry {
    /// Size of the file.
    pub file_bytes: u64,
    /// When it was published.
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

    /// Whether there is nothing to know about it: no version, now or ever.
    fn is_blank(&self) -> bool {
        self.version_highest.is_none() && self.index_damage.is_none()
    }

    /// Which version a selector means.
    ///
    /// # Errors
    /// The errors of [`ModelStore::resolve`].
    pub fn resolve(&self, selector: &Selector) -> Result<Version, StoreError> {
        let newest = self.latest();
        match selector {
            Selector::Latest => match (newest, self.lost.keys().next_back()) {
                // An older version in its place would be a wrong answer without a word.
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

    /// The version, if it is there.
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
    fn check_index(&self) -> Result<(), StoreError> {
        match &self.index_damage {
            None => Ok(()),
            Some(IndexDamage { reason }) => {
                Err(StoreError::BadIndex { name: self.name.clone(), reason: reason.clone() })
            }
        }
    }

    fn unknown_alias(&self, alias: &Alias) -> StoreError {
        // Whether a damaged index knew the alias cannot be told.
        self.check_index().err().unwrap_or_else(|| StoreError::UnknownAlias {
            name: self.name.clone(),
            alias: alias.clone(),
            aliases: self.aliases.keys().take(ALIASES_NAMED_MAX).cloned().collect(),
        })
    }
}

/// Where models live. Blocking: callers on async threads go through `spawn_blocking`, except for `entry`, `entries`,
/// `resolve`, `is_writable` and `check_writable`, which answer from memory.
pub trait ModelStore: Send + Sync + Debug {
    /// All models with at least one complete version, by name. From memory.
    fn entries(&self) -> Vec<ModelEntry>;
    /// One model, if it has at least one complete version. From memory.
    fn entry(&self, name: &ModelName) -> Option<ModelEntry>;
    /// Which version a selector means now. From memory, and without copying the entry: part of every request.
    ///
    /// # Errors
    /// `UnknownModel`, `UnknownVersion`, `UnknownAlias`; `BadIndex` for an alias of a model whose index is damaged;
    /// `VersionLost` if the index lists the version that is meant and its file is gone.
    fn resolve(&self, name: &ModelName, selector: &Selector) -> Result<ModelKey, StoreError>;
    /// The same among the versions that a policy serves.
    ///
    /// # Errors
    /// The same, and `NotServed`.
    fn resolve_served(
        &self,
        name: &ModelName,
        selector: &Selector,
        policy: &VersionPolicy,
    ) -> Result<ModelKey, StoreError>;
    /// The bytes of a version's file, as stored. Never more than [`FILE_BYTES_MAX`].
    fn read(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError>;
    /// The beginning of a version's file, up to its tensors: the 8 bytes of the length of the safetensors header, and
    /// the header. Shorter if the file is; never more than [`HEADER_BYTES_MAX`].
    fn read_header(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError>;
    /// Publishes durably as the next version: when this returns, it survives any crash.
    fn publish(&self, name: &ModelName, artifact: &Artifact) -> Result<Version, StoreError> {
        self.publish_bytes(name, &artifact.to_bytes())
    }
    /// [`ModelStore::publish`] of a file that [`Artifact::to_bytes`] made. The bytes are not looked at: files from
    /// elsewhere go through [`Artifact::import`] first.
    fn publish_bytes(&self, name: &ModelName, bytes: &[u8]) -> Result<Version, StoreError> {
        self.publish_files(name, bytes, None)
    }
    /// The same, and the file of a validation sample beside it (see [`crate::model::sample`]).
    fn publish_files(&self, name: &ModelName, bytes: &[u8], sample: Option<&[u8]>) -> Result<Version, StoreError>;
    /// The file of a version's validation sample, as stored; none if it has none. Never more than
    /// [`SAMPLE_FILE_BYTES_MAX`](crate::model::sample::SAMPLE_FILE_BYTES_MAX).
    fn read_sample(&self, key: &ModelKey) -> Result<Option<Vec<u8>>, StoreError>;
    /// Removes a version; its number never comes back.
    fn delete(&self, key: &ModelKey) -> Result<(), StoreError>;
    /// Points an alias; `expected`: outer none = do not check, inner none = must not exist. Returns where it pointed.
    fn set_alias(
        &self,
        key: &ModelKey,
        alias: &Alias,
        expected: Option<Option<Version>>,
    ) -> Result<Option<Version>, StoreError>;
    /// Removes an alias; `expected`: none = do not check.
    fn delete_alias(&self, name: &ModelName, alias: &Alias, expected: Option<Version>) -> Result<(), StoreError>;
    /// Notes that a version was used until now, for other processes and later ones. Not durable: it may be lost in a crash.
    /// A process that does not hold the writer's lock may do so, too.
    fn note_use(&self, key: &ModelKey) -> Result<(), StoreError>;
    /// When a version was used last, as far as it was noted.
    fn last_use(&self, key: &ModelKey) -> Option<SystemTime>;
    /// Whether this process holds the writer's lock. From memory.
    fn is_writable(&self) -> bool;
    /// Refuses with the reason if this process does not hold the writer's lock. From memory.
    ///
    /// # Errors
    /// `ReadOnly`, as of the last look.
    fn check_writable(&self) -> Result<(), StoreError>;
    /// Looks at the folder again (new versions of another writer) and takes the lock if it is free. True if anything
    /// changed.
    fn refresh(&self) -> Result<bool, StoreError>;
}
