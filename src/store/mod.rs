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

use crate::model::{Artifact, ModelName, Version};

mod blobs;
mod catalogue;
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

pub use blobs::ModelBlobs;
pub use catalogue::ModelCatalogue;
pub use entry::{IndexDamage, ModelEntry, VersionEntry};
pub use error::StoreError;
pub use local::LocalStore;
pub use policy::{PolicyError, VersionPolicies, VersionPolicy};
pub use served::Retention;

/// Largest model file, in bytes: twice the tensors of the largest model.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// Most bytes that [`ModelBlobs::read_header`] returns: the header limit of the safetensors format and the 8 bytes of
/// its length.
pub const HEADER_BYTES_MAX: u64 = 100_000_008;
/// Most aliases of one model.
pub const ALIASES_MAX: usize = 100;

/// Storage of published models: a catalogue, the files of its versions, publication in both, and the writer's lock.
///
/// Methods block on disk: async callers use `executor::blocking`. The methods marked "From memory" do not block.
pub trait ModelStore: ModelCatalogue + ModelBlobs {
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
