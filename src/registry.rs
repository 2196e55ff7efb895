//! Models in memory: (name, version) to `Arc<Model>`; loads once, evicts by bytes.

use std::sync::Arc;

use crate::model::{Artifact, ModelKey, ModelName, Selector, Version};
use crate::store::{ModelStore, StoreError};

/// A model ready to serve.
#[derive(Debug)]
pub struct LoadedModel {
    /// Which.
    pub key: ModelKey,
    /// The model and its report.
    pub artifact: Artifact,
    /// Size of the stored file.
    pub file_bytes: u64,
}

/// TODO(B): `check`, units in names.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Resident models are evicted, least recently used first, above this.
    pub resident_bytes_max: u64,
}

/// Models in memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    store: Arc<dyn ModelStore>,
}

impl Registry {
    /// Over a store.
    pub fn new(store: Arc<dyn ModelStore>, config: RegistryConfig) -> Self {
        let _ = config;
        Self { store }
    }
    /// The store below.
    pub fn store(&self) -> &Arc<dyn ModelStore> {
        &self.store
    }
    /// Which version a selector means now.
    pub fn resolve(&self, name: &ModelName, selector: &Selector) -> Result<ModelKey, StoreError> {
        let _ = (name, selector, Version::FIRST);
        todo!()
    }
    /// The model if it is in memory (never blocks on disk): the fast path of every request.
    pub fn resident(&self, key: &ModelKey) -> Option<Arc<LoadedModel>> {
        let _ = key;
        todo!()
    }
    /// The model, loaded if need be: concurrent callers load once. Blocking on disk is moved off the async threads.
    pub async fn load(&self, key: &ModelKey) -> Result<Arc<LoadedModel>, StoreError> {
        let _ = key;
        todo!()
    }
    /// Forgets a deleted version (those that still serve it keep it alive).
    pub fn forget(&self, key: &ModelKey) {
        let _ = key;
    }
}
