//! Models in memory, by name and version: each version is loaded once; the least recently used is evicted above a limit
//! in bytes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use futures_util::future::{FutureExt, Shared};

pub use self::residents::ResidentModel;
use self::residents::Residents;
use self::usage::Usage;

use crate::executor::blocking;
use crate::model::{Artifact, InverseError, ModelKey, ModelName, PseudoInverse, Scorer, Selector, Statistics, Version};
use crate::store::{ModelEntry, ModelStore, StoreError, VersionPolicies};
use crate::telemetry::measures::ModelMeasures;

mod residents;
#[cfg(test)]
mod tests;
pub mod usage;

/// Most versions that are loading or waiting to load at once; callers of the same version count once.
pub const LOADS_MAX: usize = 64;

/// A loaded version of a model.
#[derive(Debug)]
pub struct LoadedModel {
    /// Name and version.
    pub key: ModelKey,
    /// The model and its report.
    pub artifact: Artifact,
    /// Size of the stored file.
    pub file_bytes: u64,
    inverse: OnceLock<Result<PseudoInverse, InverseError>>,
    scorer: Option<Scorer>,
    usage: Arc<Usage>,
    measures: Arc<ModelMeasures>,
}

impl LoadedModel {
    /// Makes a loaded version, with its scorer. For a long code, making the scorer takes a core for a second.
    pub fn new(key: ModelKey, artifact: Artifact, file_bytes: u64) -> Self {
        let scorer = artifact.statistics.as_ref().and_then(Scorer::new);
        let (usage, measures) = (Arc::default(), Arc::default());
        Self { key, artifact, file_bytes, inverse: OnceLock::new(), scorer, usage, measures }
    }

    /// Request counters of this version.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Counters of all versions of the model.
    pub fn measures(&self) -> &ModelMeasures {
        &self.measures
    }

    /// The scorer of rows, if the version has statistics.
    pub fn scorer(&self) -> Option<&Scorer> {
        self.scorer.as_ref()
    }

    /// The pseudo-inverses of its matrices, if they exist and [`Registry::load_inverse`] has computed them.
    pub fn inverse(&self) -> Option<&PseudoInverse> {
        self.inverse.get()?.as_ref().ok()
    }

    /// Memory of the model in bytes: tensors, statistics, scorer and pseudo-inverses.
    fn bytes(&self) -> u64 {
        let kept = self.artifact.statistics.as_ref().map_or(0, Statistics::bytes);
        let made = self.inverse().map_or(0, PseudoInverse::bytes) + self.scorer().map_or(0, Scorer::bytes);
        self.artifact.model.spec().tensor_bytes() + (kept + made) as u64
    }
}

/// Memory limit of loaded models. Every value is valid: the model loaded last always stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Bytes of resident models above which the least recently used are evicted.
    pub resident_bytes_max: u64,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self { resident_bytes_max: 4 << 30 }
    }
}

type Loading = Shared<Pin<Box<dyn Future<Output = Result<Arc<LoadedModel>, StoreError>> + Send>>>;

/// Models in memory. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ModelStore>,
    /// Version policies by model.
    policies: RwLock<VersionPolicies>,
    residents: Residents<LoadedModel>,
    /// Loads in progress: callers of the same version share one load.
    loading: Mutex<HashMap<ModelKey, Loading>>,
    /// Counters of every version that was loaded since the start and is not deleted.
    usages: Mutex<BTreeMap<ModelKey, Arc<Usage>>>,
    /// Counters of every model that was requested since the start and is not deleted.
    measures: RwLock<BTreeMap<ModelName, Arc<ModelMeasures>>>,
    /// Locked while a file is read and decoded, so that memory holds at most one file beside the models.
    one_at_a_time: Mutex<()>,
    /// Locked while pseudo-inverses are computed: some take a core for seconds.
    one_inverse_at_a_time: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { store, residents, .. } = &*self.inner;
        f.debug_struct("Registry").field("store", store).field("resident", &residents.list()).finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry that loads from `store`.
    pub fn new(store: Arc<dyn ModelStore>, config: RegistryConfig) -> Self {
        let RegistryConfig { resident_bytes_max } = config;
        let residents = Residents::new(resident_bytes_max);
        Self {
            inner: Arc::new(Inner {
                store,
                policies: RwLock::default(),
                residents,
                loading: Mutex::default(),
                usages: Mutex::default(),
                measures: RwLock::default(),
                one_at_a_time: Mutex::default(),
                one_inverse_at_a_time: Arc::default(),
            }),
        }
    }

    /// The store that models are loaded from.
    pub fn store(&self) -> &Arc<dyn ModelStore> {
        &self.inner.store
    }

    /// Resolves a selector to a version. From memory; a deleted version is unknown, even if it is still resident.
    ///
    /// # Errors
    /// The errors of [`ModelCatalogue::resolve`](crate::store::ModelCatalogue::resolve).
    pub fn resolve(&self, name: &ModelName, selector: &Selector) -> Result<ModelKey, StoreError> {
        self.inner.store.resolve(name, selector)
    }

    /// Resolves a selector among the versions that the policies serve.
    ///
    /// # Errors
    /// The errors of [`ModelCatalogue::resolve_served`](crate::store::ModelCatalogue::resolve_served).
    pub fn resolve_served(&self, name: &ModelName, selector: &Selector) -> Result<ModelKey, StoreError> {
        let policies = self.inner.policies.read().unwrap_or_else(PoisonError::into_inner);
        self.inner.store.resolve_served(name, selector, policies.of(name))
    }

    /// Whether the policies serve a version.
    pub fn is_served(&self, model: &ModelEntry, version: Version) -> bool {
        self.policies().of(&model.name).serves(model, version)
    }

    /// The version policies.
    pub fn policies(&self) -> VersionPolicies {
        self.inner.policies.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the version policies.
    pub fn set_policies(&self, policies: VersionPolicies) {
        *self.inner.policies.write().unwrap_or_else(PoisonError::into_inner) = policies;
    }

    /// The model if it is in memory: the fast path of every request. Never blocks on disk.
    pub fn resident(&self, key: &ModelKey) -> Option<Arc<LoadedModel>> {
        self.inner.residents.get(key)
    }

    /// The model, loaded if necessary, on a thread for blocking work. Concurrent callers share one load, which
    /// continues if they leave. All waiting callers get its failure; the next call tries again.
    ///
    /// # Errors
    /// Those of [`ModelBlobs::read`](crate::store::ModelBlobs::read); `Damaged` if the file is; `LoadsFull` above
    /// [`LOADS_MAX`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn load(&self, key: &ModelKey) -> Result<Arc<LoadedModel>, StoreError> {
        if let Some(model) = self.resident(key) {
            return Ok(model);
        }
        let load = {
            let mut loading = self.inner.lock_loading();
            if let Some(load) = loading.get(key) {
                load.clone()
            } else if let Some(model) = self.resident(key) {
                // A load ended between the first check and the lock.
                return Ok(model);
            } else if loading.len() >= LOADS_MAX {
                return Err(StoreError::LoadsFull { key: key.clone(), loads_max: LOADS_MAX });
            } else {
                let load = Inner::start_load(&self.inner, key.clone());
                loading.insert(key.clone(), load.clone());
                load
            }
        };
        load.await
    }

    /// Computes the pseudo-inverses of a model's matrices once, on a thread for blocking work, one model at a time.
    /// They stay in memory with the model and count toward its bytes.
    ///
    /// # Errors
    /// `LoadLost` if the work was interrupted. The inner result has the errors of [`PseudoInverse::of`], which are
    /// kept, too.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn load_inverse(&self, model: &Arc<LoadedModel>) -> Result<Result<(), InverseError>, StoreError> {
        if let Some(inverse) = model.inverse.get() {
            return Ok(inverse.as_ref().map(|_| ()).map_err(Clone::clone));
        }
        let turn = Arc::clone(&self.inner.one_inverse_at_a_time).lock_owned().await;
        let (inner, inverted) = (Arc::clone(&self.inner), Arc::clone(model));
        let made = blocking(move || {
            // The work holds the lock itself, so it keeps it if the caller leaves.
            let _turn = turn;
            inner.invert_now(&inverted)
        });
        made.await.map_err(|lost| StoreError::LoadLost { key: model.key.clone(), reason: lost.to_string() })
    }

    /// Removes a deleted version and its counters. Requests in flight keep the model alive.
    pub fn forget(&self, key: &ModelKey) {
        self.inner.forget(key);
    }

    /// Evicts a version from memory: the next request loads it again.
    pub fn unload(&self, key: &ModelKey) {
        self.inner.residents.remove(key);
    }

    /// Request counters of every version that was loaded since the start and is not deleted, by name and version.
    pub fn usages(&self) -> Vec<(ModelKey, Arc<Usage>)> {
        self.inner.lock_usages().iter().map(|(key, usage)| (key.clone(), Arc::clone(usage))).collect()
    }

    /// Counters of a model, if it exists.
    pub fn measures(&self, name: &ModelName) -> Option<Arc<ModelMeasures>> {
        self.inner.measures(name)
    }

    /// Counters of every model that was requested since the start and is not deleted, by name.
    pub fn all_measures(&self) -> Vec<(ModelName, Arc<ModelMeasures>)> {
        let all = self.inner.measures.read().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = all.iter().map(|(name, measures)| (name.clone(), Arc::clone(measures))).collect();
        // A request during the deletion may have added a deleted model again.
        all.into_iter().filter(|(name, _)| self.inner.forget_if_gone(name)).collect()
    }

    /// Removes every version that the store no longer has; to be called after a refresh that changed something.
    pub fn forget_deleted(&self) {
        // Every resident version has an entry in `usages`.
        for (key, _) in self.usages() {
            if !self.inner.exists(&key) {
                self.forget(&key);
            }
        }
    }

    /// The resident models, by name and version.
    pub fn resident_models(&self) -> Vec<ResidentModel> {
        self.inner.residents.list()
    }
}

impl Inner {
    fn lock_loading(&self) -> MutexGuard<'_, HashMap<ModelKey, Loading>> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_usages(&self) -> MutexGuard<'_, BTreeMap<ModelKey, Arc<Usage>>> {
        self.usages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, key: &ModelKey) {
        self.residents.remove(key);
        self.lock_usages().remove(key);
        self.forget_if_gone(&key.name);
    }

    fn measures(&self, name: &ModelName) -> Option<Arc<ModelMeasures>> {
        let known = self.measures.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if known.is_some() {
            return known;
        }
        // Names of models that do not exist take no memory.
        self.store.resolve(name, &Selector::Latest).ok()?;
        let mut all = self.measures.write().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(all.entry(name.clone()).or_default()))
    }

    /// Removes the counters of a model without versions. Returns whether the model exists.
    fn forget_if_gone(&self, name: &ModelName) -> bool {
        let exists = self.store.resolve(name, &Selector::Latest).is_ok();
        if !exists {
            self.measures.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
        exists
    }

    fn exists(&self, key: &ModelKey) -> bool {
        self.store.resolve(&key.name, &Selector::Version(key.version)).is_ok()
    }

    /// Starts a load on a thread for blocking work. It runs to its end even if no caller awaits it.
    fn start_load(inner: &Arc<Self>, key: ModelKey) -> Loading {
        // Part of the closure, so that the entry is removed even if the runtime drops the closure without running it.
        let ends = EndOfLoad { inner: Arc::clone(inner), key: key.clone() };
        let task = blocking(move || ends.inner.load_now(&ends.key));
        async move {
            match task.await {
                Ok(outcome) => outcome,
                Err(lost) => Err(StoreError::LoadLost { key, reason: lost.to_string() }),
            }
        }
        .boxed()
        .shared()
    }

    fn load_now(&self, key: &ModelKey) -> Result<Arc<LoadedModel>, StoreError> {
        let model = {
            let _turn = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = self.store.read(key)?;
            let artifact =
                Artifact::from_bytes(&bytes).map_err(|reason| StoreError::Damaged { key: key.clone(), reason })?;
            let usage = Arc::clone(self.lock_usages().entry(key.clone()).or_default());
            let measures = self.measures(&key.name).unwrap_or_default();
            Arc::new(LoadedModel { usage, measures, ..LoadedModel::new(key.clone(), artifact, bytes.len() as u64) })
        };
        self.keep(&model);
        Ok(model)
    }

    fn keep(&self, model: &Arc<LoadedModel>) {
        self.residents.insert(&model.key, Arc::clone(model), model.bytes());
        if !self.exists(&model.key) {
            // The version was deleted meanwhile, and `forget` may have run before the insertion: serve waiting callers,
            // keep nothing.
            self.forget(&model.key);
        }
    }

    fn invert_now(&self, model: &Arc<LoadedModel>) -> Result<(), InverseError> {
        let mut made = false;
        let inverse = model.inverse.get_or_init(|| {
            made = true;
            PseudoInverse::of(&model.artifact.model)
        });
        if made {
            // The model now takes more memory: insert it again with its new size.
            self.keep(model);
        }
        inverse.as_ref().map(|_| ()).map_err(Clone::clone)
    }
}

/// Guard: removes a load from the list when it ends, also by a panic.
struct EndOfLoad {
    inner: Arc<Inner>,
    key: ModelKey,
}

impl Drop for EndOfLoad {
    fn drop(&mut self) {
        let ended = self.inner.lock_loading().remove(&self.key);
        drop(ended); // after the lock is released: this may drop the model
    }
}
