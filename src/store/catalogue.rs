//! The catalogue of a store: which versions and aliases exist, and when versions were last used.

use std::fmt::Debug;
use std::time::SystemTime;

use super::{ModelEntry, StoreError, VersionPolicy};
use crate::model::{Alias, ModelKey, ModelName, Selector, Version};

/// Catalogue of published models.
///
/// Methods block on disk, except those marked "From memory".
pub trait ModelCatalogue: Send + Sync + Debug {
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
    /// Those of [`ModelCatalogue::resolve`], and `NotServed`.
    fn resolve_served(
        &self,
        name: &ModelName,
        selector: &Selector,
        policy: &VersionPolicy,
    ) -> Result<ModelKey, StoreError>;
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
}
