//! Models in memory: (name, version) to `Arc<Model>`; loads once, evicts by bytes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use futures_util::future::{FutureExt, Shared};

use self::residents::Residents;
use self::usage::Usage;

use crate::model::{Artifact, InverseError, ModelKey, ModelName, PseudoInverse, Scorer, Selector, Statistics, Version};
use crate::store::{ModelEntry, ModelStore, StoreError, VersionPolicies};
use crate::telemetry::measures::ModelMeasures;

mod residents;
#[cfg(test)]
mod tests;
pub mod usage;

/// Most versions that are being loaded, or wait for it, at once; callers of the same version count once.
pub const LOADS_MAX: usize = 64;

/// A model ready to serve.
#[derive(Debug)]
pub struct LoadedModel {
    /// Which.
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
    /// A model that was read. Where the code is long, what scores its rows takes a core for a second.
    pub fn new(key: ModelKey, artifact: Artifact, file_bytes: u64) -> Self {
        let scorer = artifact.statistics.as_ref().and_then(Scorer::new);
        let (usage, measures) = (Arc::default(), Arc::default());
        Self { key, artifact, file_bytes, inverse: OnceLock::new(), scorer, usage, measures }
    }

    /// What was asked of it.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// What is measured of all versions of its name.
    pub fn measures(&self) -> &ModelMeasures {
        &self.measures
    }

    /// What scores rows, if the version has statistics.
    pub fn scorer(&self) -> Option<&Scorer> {
        self.scorer.as_ref()
    }

    /// The pseudo-inverses of its matrices, if [`Registry::load_inverse`] has made them and there are any.
    pub fn inverse(&self) -> Option<&PseudoInverse> {
        self.inverse.get()?.as_ref().ok()
    }

    /// What it takes in memory.
    fn bytes(&self) -> u64 {
        let kept = self.artifact.statistics.as_ref().map_or(0, Statistics::bytes);
        let made = self.inverse().map_or(0, PseudoInverse::bytes) + self.scorer().map_or(0, Scorer::bytes);
        self.artifact.model.spec().tensor_bytes() + (kept + made) as u64
    }
}

/// How much memory models may take. Every value is possible: the model loaded last always stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Resident models are evicted, least recently used first, while their tensors take more than this.
    pub resident_bytes_max: u64,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self { resident_bytes_max: 4 << 30 }
    }
}

/// A model in memory, for listings and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResidentModel {
    /// Which.
    pub key: ModelKey,
    /// What its tensors take, and what was made of them.
    pub tensor_bytes: u64,
}

type Loading = Shared<Pin<Box<dyn Future<Output = Result<Arc<LoadedModel>, StoreError>> + Send>>>;

/// Models in memory. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ModelStore>,
    /// Which versions are served.
    policies: RwLock<VersionPolicies>,
    residents: Residents<LoadedModel>,
    /// What is being loaded: callers of the same version wait for the same load.
    loading: Mutex<HashMap<ModelKey, Loading>>,
    /// Of every version that was ever loaded and is not deleted.
    usages: Mutex<BTreeMap<ModelKey, Arc<Usage>>>,
    /// Of every model that was asked for and is not deleted.
    measures: RwLock<BTreeMap<ModelName, Arc<ModelMeasures>>>,
    /// Held while a file is read and decoded: one at a time, so that memory holds one file beside the models.
    one_at_a_time: Mutex<()>,
    /// Held while pseudo-inverses are made: some take a core for seconds.
    one_inverse_at_a_time: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { store, residents, .. } = &*self.inner;
        f.debug_struct("Registry").field("store", store).field("resident", &residents.list()).finish_non_exhaustive()
    }
}

impl Registry {
    /// Over a store.
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

    /// The store below.
    pub fn store(&self) -> &Arc<dyn ModelStore> {
        &self.inner.store
    }

    /// Which version a selector means now. From memory; a version that was deleted is unknown, resident or not.
    ///
    /// # Errors
    /// The errors of [`ModelStore::resolve`], which name what there is.
    pub fn resolve(&self, name: &ModelName, selector: &Selector) -> Result<ModelKey, StoreError> {
        self.inner.store.resolve(name, selector)
    }

    /// Which version a selector means now, among those that are served.
    ///
    /// # Errors
    /// The errors of [`ModelStore::resolve_served`].
    pub fn resolve_served(&self, name: &ModelName, selector: &Selector) -> Result<ModelKey, StoreError> {
        let policies = self.inner.policies.read().unwrap_or_else(PoisonError::into_inner);
        self.inner.store.resolve_served(name, selector, policies.of(name))
    }

    /// Whether a version is served.
    pub fn is_served(&self, model: &ModelEntry, version: Version) -> bool {
        self.policies().of(&model.name).serves(model, version)
    }

    /// Which versions are served.
    pub fn policies(&self) -> VersionPolicies {
        self.inner.policies.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves other versions from now on.
    pub fn set_policies(&self, policies: VersionPolicies) {
        *self.inner.policies.write().unwrap_or_else(PoisonError::into_inner) = policies;
    }

    /// The model if it is in memory (never blocks on disk): the fast path of every request.
    pub fn resident(&self, key: &ModelKey) -> Option<Arc<LoadedModel>> {
        self.inner.residents.get(key)
    }

    /// The model, loaded if need be: concurrent callers load once. Blocking on disk is moved off the async threads.
    /// A load goes on when its callers leave. A failure is told to all who wait, and the next call tries again.
    ///
    /// # Errors
    /// Those of [`ModelStore::read`]; `Damaged` if the file is; `LoadsFull` above [`LOADS_MAX`].
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
                // A load ended between the first look and the lock.
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

    /// Makes the pseudo-inverses of a model's matrices unless they were made before, on a thread for blocking work, one model
    /// at a time. They stay as long as the model, and count with it.
    ///
    /// # Errors
    /// `LoadLost` if the work was; inside, those of [`PseudoInverse::of`], which stay, too.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn load_inverse(&self, model: &Arc<LoadedModel>) -> Result<Result<(), InverseError>, StoreError> {
        if let Some(inverse) = model.inverse.get() {
            return Ok(inverse.as_ref().map(|_| ()).map_err(Clone::clone));
        }
        let turn = Arc::clone(&self.inner.one_inverse_at_a_time).lock_owned().await;
        let (inner, inverted) = (Arc::clone(&self.inner), Arc::clone(model));
        let made = tokio::task::spawn_blocking(move || {
            // Whoever leaves meanwhile leaves the turn to the work.
            let _turn = turn;
            inner.invert_now(&inverted)
        });
        made.await.map_err(|lost| StoreError::LoadLost { key: model.key.clone(), reason: lost.to_string() })
    }

    /// Forgets a deleted version (those that still serve it keep it alive).
    pub fn forget(&self, key: &ModelKey) {
        self.inner.forget(key);
    }

    /// Lets the memory of a version go: the next question loads it again.
    pub fn unload(&self, key: &ModelKey) {
        self.inner.residents.remove(key);
    }

    /// What was asked of every version that was loaded since the start and is not deleted, by name and version.
    pub fn usages(&self) -> Vec<(ModelKey, Arc<Usage>)> {
        self.inner.lock_usages().iter().map(|(key, usage)| (key.clone(), Arc::clone(usage))).collect()
    }

    /// What is measured of a model, if there is one of that name.
    pub fn measures(&self, name: &ModelName) -> Option<Arc<ModelMeasures>> {
        self.inner.measures(name)
    }

    /// What was measured of every model that was asked for since the start and is not deleted, by name.
    pub fn all_measures(&self) -> Vec<(ModelName, Arc<ModelMeasures>)> {
        let all = self.inner.measures.read().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = all.iter().map(|(name, measures)| (name.clone(), Arc::clone(measures))).collect();
        // One that was deleted while it was asked for may have come back.
        all.into_iter().filter(|(name, _)| self.inner.forget_if_gone(name)).collect()
    }

    /// Forgets every version that the store no longer has: for after a refresh that changed something.
    pub fn forget_deleted(&self) {
        // Whatever is in memory was counted.
        for (key, _) in self.usages() {
            if !self.inner.exists(&key) {
                self.forget(&key);
            }
        }
    }

    /// What is in memory, by name and version.
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
        // Names that nobody has published take no room.
        self.store.resolve(name, &Selector::Latest).ok()?;
        let mut all = self.measures.write().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(all.entry(name.clone()).or_default()))
    }

    /// Forgets what was measured of a model that has no version any more; whether it has one.
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

    /// Starts reading on a thread for blocking work; whoever awaits the result or does not.
    fn start_load(inner: &Arc<Self>, key: ModelKey) -> Loading {
        // Part of the closure, so that the entry goes even if the runtime drops it without running it.
        let ends = EndOfLoad { inner: Arc::clone(inner), key: key.clone() };
        let task = tokio::task::spawn_blocking(move || ends.inner.load_now(&ends.key));
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
            // Deleted meanwhile, and `forget` may have come before the insertion: serve who waits, keep nothing.
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
            // It takes more from now on.
            self.keep(model);
        }
        inverse.as_ref().map(|_| ()).map_err(Clone::clone)
    }
}

/// Takes a load off the list when it ends, however it ends.
struct EndOfLoad {
    inner: Arc<Inner>,
    key: ModelKey,
}

impl Drop for EndOfLoad {
    fn drop(&mut self) {
        let ended = self.inner.lock_loading().remove(&self.key);
        drop(ended); // after the lock: it may hold the last reference to the model
    }
}
