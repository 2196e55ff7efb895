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

use std::fmt::Debug;
use std::time::SystemTime;

use crate::model::{Alias, Artifact, ModelKey, ModelName, Selector, Version};

#[cfg(test)]
#[macro_use]
pub(crate) mod conformance;
#[cfg(test)]
mod crash;
pub(crate) mod disk;
mod entry;
mod error;
mod index;
pub mod local;
mod lock;
mod policy;
pub(crate) mod role;
mod scan;
mod served;
#[cfg(test)]
mod tests;

pub use entry::{IndexDamage, ModelEntry, VersionEntry};
pub use error::StoreError;
pub use local::LocalStore;
pub use policy::{PolicyError, VersionPolicies, VersionPolicy};
pub use served::Retention;

/// Largest model file, in bytes: twice the tensors of the largest model.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// Most bytes that [`ModelStore::read_header`] returns: the header limit of the safetensors format and the 8 bytes of
/// its length.
pub const HEADER_BYTES_MAX: u64 = 100_000_008;
/// Most aliases of one model.
pub const ALIASES_MAX: usize = 100;

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
