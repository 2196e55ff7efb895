//! Published models on disk.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::SystemTime;

use crate::model::{Alias, Artifact, ModelKey, ModelName, Version};

/// A model as the store knows it. Every version listed is complete.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelEntry {
    /// Its name.
    pub name: ModelName,
    /// Complete versions, oldest first, with what a listing needs.
    pub versions: BTreeMap<Version, VersionEntry>,
    /// Aliases; each points at a complete version.
    pub aliases: BTreeMap<Alias, Version>,
    /// The highest version ever used; outlives deletion.
    pub version_highest: Option<Version>,
}

/// What a listing says of a version without reading its file.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionEntry {
    /// Size of the file.
    pub file_bytes: u64,
    /// When it was published.
    pub published: SystemTime,
}

/// Why the store refuses or fails. TODO(B): complete.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such model.
    #[error("model {0:?} does not exist")]
    UnknownModel(String),
    /// No such version.
    #[error("{key} does not exist{}", newest.map_or(String::new(), |v| format!("; the newest version is {v}")))]
    UnknownVersion {
        /// What was asked for.
        key: ModelKey,
        /// What there is.
        newest: Option<Version>,
    },
    /// No such alias.
    #[error("model {name} has no alias {alias}")]
    UnknownAlias {
        /// The model.
        name: ModelName,
        /// What was asked for.
        alias: Alias,
    },
    /// The alias points elsewhere than the caller believes.
    #[error("alias {alias} of model {name} points at {}, expected {}", show(*got), show(*expected))]
    AliasMoved {
        /// The model.
        name: ModelName,
        /// The alias.
        alias: Alias,
        /// Where the caller believes it to point; none: nowhere.
        expected: Option<Version>,
        /// Where it points.
        got: Option<Version>,
    },
    /// The version to delete has an alias.
    #[error("{key} cannot be deleted: alias {alias} points at it; move or delete the alias first")]
    Aliased {
        /// The version.
        key: ModelKey,
        /// The alias.
        alias: Alias,
    },
    /// Another server holds the lock.
    #[error("the store is read-only here: another server writes to {folder}")]
    ReadOnly {
        /// The folder.
        folder: String,
    },
    /// The file of a version is damaged.
    #[error("the file of {key} is damaged: {reason}")]
    Damaged {
        /// The version.
        key: ModelKey,
        /// What is wrong.
        reason: crate::model::ArtifactError,
    },
    /// The disk.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
}

fn show(version: Option<Version>) -> String {
    version.map_or_else(|| "no version".to_owned(), |v| format!("version {v}"))
}

/// Where models live. Blocking: callers on async threads go through `spawn_blocking`, except for `entry`, `entries`
/// and `is_writable`, which answer from memory.
pub trait ModelStore: Send + Sync + Debug {
    /// All models with at least one complete version, by name. From memory.
    fn entries(&self) -> Vec<ModelEntry>;
    /// One model. From memory.
    fn entry(&self, name: &ModelName) -> Option<ModelEntry>;
    /// The bytes of a version's file, as stored.
    fn read(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError>;
    /// Publishes durably as the next version: when this returns, it survives any crash.
    fn publish(&self, name: &ModelName, artifact: &Artifact) -> Result<Version, StoreError>;
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
    /// Whether this process holds the writer's lock.
    fn is_writable(&self) -> bool;
    /// Looks at the folder again (new versions of another writer) and takes the lock if it is free. True if anything
    /// changed.
    fn refresh(&self) -> Result<bool, StoreError>;
}
