//! Published models on disk.
//!
//! [`ModelStore`] is the interface for the rest of the program; [`LocalStore`] keeps the models in a folder:
//!
//! ```text
//! <folder>/.lock                                      held by the one process that may write
//! <folder>/models/<name>/index.json                   aliases, versions, and the highest version ever used; checksummed
//! <folder>/models/<name>/<version>/model.safetensors  complete, or absent
//! <folder>/models/<name>/<version>/validation_sample.safetensors
//!                                                     held-out rows, if the version keeps a validation sample
//! <folder>/models/<name>/<version>/last_use           empty; its modification time is the last use of the version
//! <folder>/models/<name>/.tmp-<uuid>                  being built or removed; the next writer deletes it
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

/// Largest model file, in bytes: twice the tensors of the largest model.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// Most bytes that [`ModelStore::read_header`] returns: the header limit of the safetensors format and the 8 bytes of
/// its length.
pub const HEADER_BYTES_MAX: u64 = 100_000_008;
/// Most aliases of one model.
pub const ALIASES_MAX: usize = 100;
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
    fn is_blank(&self) -> bool {
        self.version_highest.is_none() && self.index_damage.is_none()
    }

    /// Resolves a selector to a version.
    ///
    /// # Errors
    /// The errors of [`ModelStore::resolve`].
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
    fn check_index(&self) -> Result<(), StoreError> {
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

/// Storage of published models.
///
/// Methods block on disk: async callers use `spawn_blocking`. The methods marked "From memory" do not block.
pub trait ModelStore: Send + Sync + Debug {
    /// All models with at least one complete version, by name. From memory.
    fn entries(&self) -> Vec<ModelEntry>;
    /// The model `name`, if it has at least one complete version. From memory.
    fn entry(&self, name: &ModelName) -> Option<ModelEntry>;
    /// Resolves a selector to a version. From memory, without copying the entry: every request calls it.
    ///
    /// # Errors
    /// `UnknownModel`, `UnknownVersion`, `UnknownAlias`; `BadIndex` for an alias of a model with a damaged index;
    /// `VersionLost` if the index lists the version but its file is gone.
    fn resolve(&self, name: &ModelName, selector: &Selector) -> Result<ModelKey, StoreError>;
    /// Resolves a selector among the versions that the policy serves. From memory.
    ///
    /// # Errors
    /// Those of [`ModelStore::resolve`], and `NotServed`.
    fn resolve_served(
        &self,
        name: &ModelName,
        selector: &Selector,
        policy: &VersionPolicy,
    ) -> Result<ModelKey, StoreError>;
    /// Reads the model file of a version, as stored. At most [`FILE_BYTES_MAX`] bytes.
    fn read(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError>;
    /// Reads a model file up to its tensors: the 8 bytes of the safetensors header length, and the header. Shorter if
    /// the file is; at most [`HEADER_BYTES_MAX`] bytes.
    fn read_header(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError>;
    /// Publishes the model durably as the next version: after the return, the version survives a crash.
    fn publish(&self, name: &ModelName, artifact: &Artifact) -> Result<Version, StoreError> {
        self.publish_bytes(name, &artifact.to_bytes())
    }
    /// [`ModelStore::publish`] for a file from [`Artifact::to_bytes`]. The bytes are not checked: foreign files must
    /// pass [`Artifact::import`] first.
    fn publish_bytes(&self, name: &ModelName, bytes: &[u8]) -> Result<Version, StoreError> {
        self.publish_files(name, bytes, None)
    }
    /// [`ModelStore::publish_bytes`] with the file of a validation sample (see [`crate::model::sample`]).
    fn publish_files(&self, name: &ModelName, bytes: &[u8], sample: Option<&[u8]>) -> Result<Version, StoreError>;
    /// Reads the validation sample file of a version, as stored; `None` if there is none. At most
    /// [`SAMPLE_FILE_BYTES_MAX`](crate::model::sample::SAMPLE_FILE_BYTES_MAX) bytes.
    fn read_sample(&self, key: &ModelKey) -> Result<Option<Vec<u8>>, StoreError>;
    /// Deletes a version; its number is never used again.
    fn delete(&self, key: &ModelKey) -> Result<(), StoreError>;
    /// Points an alias at a version. `expected`: outer `None` = do not check, inner `None` = the alias must not exist.
    /// Returns the previous version.
    fn set_alias(
        &self,
        key: &ModelKey,
        alias: &Alias,
        expected: Option<Option<Version>>,
    ) -> Result<Option<Version>, StoreError>;
    /// Deletes an alias. `expected`: the version that it must point at; `None` = do not check.
    fn delete_alias(&self, name: &ModelName, alias: &Alias, expected: Option<Version>) -> Result<(), StoreError>;
    /// Records now as the last use of a version, for all processes on the store. A crash may lose the record. It does
    /// not need the writer's lock.
    fn note_use(&self, key: &ModelKey) -> Result<(), StoreError>;
    /// The recorded last use of a version.
    fn last_use(&self, key: &ModelKey) -> Option<SystemTime>;
    /// Whether this process holds the writer's lock. From memory.
    fn is_writable(&self) -> bool;
    /// Returns the reason as an error if this process does not hold the writer's lock. From memory.
    ///
    /// # Errors
    /// `ReadOnly`, as of the last [`ModelStore::refresh`].
    fn check_writable(&self) -> Result<(), StoreError>;
    /// Scans the folder again for changes of another writer, and takes the writer's lock if it is free. True if
    /// anything changed.
    fn refresh(&self) -> Result<bool, StoreError>;
}
