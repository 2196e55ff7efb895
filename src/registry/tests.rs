//! Tests with a store that counts reads, blocks them, and fails on request.

use std::panic::resume_unwind;
use std::sync::Condvar;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use super::*;
use crate::model::spec::RawModelSpec;
use crate::model::{Alias, Autoencoder, Loss, ModelSpec, NormalizationKind, Normalizer, TiedLayer, Version};
use crate::numeric::Activation;
use crate::numeric::matmul::Weights;
use crate::store::{LocalStore, ModelBlobs, ModelCatalogue, ModelEntry, VersionPolicy};

type AfterRead = Box<dyn FnOnce(&LocalStore) + Send>;

#[derive(Debug)]
struct Watched {
    folder: tempfile::TempDir,
    store: LocalStore,
    reads: AtomicUsize,
    /// Reads block while this is false.
    open: Mutex<bool>,
    opened: Condvar,
    after_read: Mutex<Option<NoDebug<AfterRead>>>,
}

struct NoDebug<T>(T);

impl<T> fmt::Debug for NoDebug<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl Watched {
    fn set_open(&self, open: bool) {
        *self.open.lock().expect("no panic") = open;
        self.opened.notify_all();
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    fn after_read(&self, action: impl FnOnce(&LocalStore) + Send + 'static) {
        *self.after_read.lock().expect("no panic") = Some(NoDebug(Box::new(action)));
    }
}

impl ModelCatalogue for Watched {
    fn entries(&self) -> Vec<ModelEntry> {
        self.store.entries()
    }
    fn entry(&self, name: &ModelName) -> Option<ModelEntry> {
        self.store.entry(name)
    }
    fn resolve(&self, name: &ModelName, selector: &Selector) -> Result<ModelKey, StoreError> {
        self.store.resolve(name, selector)
    }
    fn resolve_served(
        &self,
        name: &ModelName,
        selector: &Selector,
        policy: &VersionPolicy,
    ) -> Result<ModelKey, StoreError> {
        self.store.resolve_served(name, selector, policy)
    }
    fn delete(&self, key: &ModelKey) -> Result<(), StoreError> {
        self.store.delete(key)
    }
    fn set_alias(
        &self,
        key: &ModelKey,
        alias: &Alias,
        expected: Option<Option<Version>>,
    ) -> Result<Option<Version>, StoreError> {
        self.store.set_alias(key, alias, expected)
    }
    fn delete_alias(&self, name: &ModelName, alias: &Alias, expected: Option<Version>) -> Result<(), StoreError> {
        self.store.delete_alias(name, alias, expected)
    }
    fn note_use(&self, key: &ModelKey) -> Result<(), StoreError> {
        self.store.note_use(key)
    }
    fn last_use(&self, key: &ModelKey) -> Option<SystemTime> {
        self.store.last_use(key)
    }
}

impl ModelBlobs for Watched {
    fn read(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        drop(self.opened.wait_while(self.open.lock().expect("no panic"), |open| !*open).expect("no panic"));
        let outcome = self.store.read(key);
        let action = self.after_read.lock().expect("no panic").take();
        if let Some(NoDebug(action)) = action {
            action(&self.store);
        }
        outcome
    }
    fn read_header(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError> {
        self.store.read_header(key)
    }
    fn read_sample(&self, key: &ModelKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.read_sample(key)
    }
}

impl ModelStore for Watched {
    fn publish_files(&self, name: &ModelName, bytes: &[u8], sample: Option<&[u8]>) -> Result<Version, StoreError> {
        self.store.publish_files(name, bytes, sample)
    }
    fn is_writable(&self) -> bool {
        self.store.is_writable()
    }
    fn check_writable(&self) -> Result<(), StoreError> {
        self.store.check_writable()
    }
    fn refresh(&self) -> Result<bool, StoreError> {
        self.store.refresh()
    }
}

fn name() -> ModelName {
    "a".parse().expect("a name")
}

fn key(number: u64) -> ModelKey {
    ModelKey { name: name(), version: Version::new(number).expect("not zero") }
}

/// A linear model of 2 features and 1 code number.
fn artifact() -> Artifact {
    let spec = ModelSpec::new(RawModelSpec {
        widths: vec![2, 1],
        encoder_activations: vec![Activation::Linear],
        decoder_activations: vec![Activation::Linear],
        loss: Loss::SquaredError,
        normalization: NormalizationKind::None,
        gain: false,
        feature_names: Vec::new(),
        missing_values: false,
        ordered_code: false,
    })
    .expect("a good specification");
    let normalizer = Normalizer::none();
    let layer = TiedLayer {
        weight: Weights::from_row_major(1, 2, &[0.6, 0.8]),
        encoder_bias: vec![0.0],
        decoder_bias: vec![0.0, 0.0],
        gain: None,
    };
    Artifact {
        model: Autoencoder::new(spec, normalizer, vec![layer]),
        report: None,
        statistics: None,
        sha256: String::new(),
    }
}

/// A registry over a store with versions 1 to `versions` of model "a"; memory for `models_max` of them.
fn registry(versions: u64, models_max: u64) -> (Arc<Watched>, Registry) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = LocalStore::open(folder.path()).expect("a store");
    for _ in 0..versions {
        store.publish(&name(), &artifact()).expect("published");
    }
    let watched = Arc::new(Watched {
        folder,
        store,
        reads: AtomicUsize::new(0),
        open: Mutex::new(true),
        opened: Condvar::new(),
        after_read: Mutex::default(),
    });
    let resident_bytes_max = models_max * artifact().model.spec().tensor_bytes();
    let registry = Registry::new(watched.clone(), RegistryConfig { resident_bytes_max });
    (watched, registry)
}

fn resident_versions(registry: &Registry) -> Vec<u64> {
    registry.resident_models().iter().map(|model| model.key.version.number()).collect()
}

#[tokio::test]
async fn a_model_is_read_once_and_then_resident() {
    let (store, registry) = registry(1, 1);
    assert!(registry.resident(&key(1)).is_none());
    let loaded = registry.load(&key(1)).await.expect("loaded");
    assert_eq!(loaded.artifact.model, artifact().model);
    assert_eq!(loaded.file_bytes, store.entry(&name()).expect("a model").versions[&Version::FIRST].file_bytes);
    assert!(Arc::ptr_eq(&loaded, &registry.resident(&key(1)).expect("resident")));
    assert!(Arc::ptr_eq(&loaded, &registry.load(&key(1)).await.expect("resident")));
    assert_eq!(store.reads(), 1);
}

#[tokio::test]
async fn concurrent_callers_load_once() {
    let (store, registry) = registry(1, 1);
    store.set_open(false);
    let (key, loads) = (key(1), (0..16));
    let loads = futures_util::future::join_all(loads.map(|_| registry.load(&key)));
    // `biased` polls the loads first: all of them wait when the store opens.
    let (loaded, ()) = tokio::join!(biased; loads, async { store.set_open(true) });
    let first = loaded[0].as_ref().expect("loaded");
    assert!(loaded.iter().all(|model| Arc::ptr_eq(model.as_ref().expect("loaded"), first)));
    assert_eq!(store.reads(), 1);
}

#[tokio::test]
async fn a_load_goes_on_without_its_callers() {
    let (store, registry) = registry(1, 1);
    store.set_open(false);
    assert!(registry.load(&key(1)).now_or_never().is_none(), "it waits, and its caller leaves");
    store.set_open(true);
    registry.load(&key(1)).await.expect("loaded");
    assert_eq!(store.reads(), 1);
}

#[tokio::test]
async fn a_damaged_file_fails_only_its_version_until_repaired() {
    let (store, registry) = registry(2, 2);
    let path = store.folder.path().join("models/a/1/model.safetensors");
    let good = std::fs::read(&path).expect("a file");
    std::fs::write(&path, &good[..good.len() - 1]).expect("truncated");
    for _ in 0..2 {
        let error = registry.load(&key(1)).await.expect_err("truncated");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }
    registry.load(&key(2)).await.expect("the other version is whole");
    std::fs::write(&path, &good).expect("mended");
    registry.load(&key(1)).await.expect("mended");
    assert_eq!(resident_versions(&registry), [1, 2]);
}

#[tokio::test]
async fn a_panic_fails_the_load_and_the_next_one_works() {
    let (store, registry) = registry(1, 1);
    store.after_read(|_| resume_unwind(Box::new("planned")));
    let error = registry.load(&key(1)).await.expect_err("a panic");
    assert!(matches!(error, StoreError::LoadLost { .. }), "{error}");
    registry.load(&key(1)).await.expect("loaded");
}

#[tokio::test]
async fn the_least_recently_used_model_is_evicted() {
    let (_store, registry) = registry(3, 2);
    for number in [1, 2] {
        registry.load(&key(number)).await.expect("loaded");
    }
    registry.resident(&key(1)).expect("resident");
    registry.load(&key(3)).await.expect("loaded");
    assert_eq!(resident_versions(&registry), [1, 3]);
}

#[tokio::test]
async fn deleted_versions_serve_only_requests_in_flight() {
    let (store, registry) = registry(2, 2);
    let in_flight = registry.load(&key(2)).await.expect("loaded");
    store.delete(&key(2)).expect("deleted");
    let asked = Selector::Version(key(2).version);
    assert!(matches!(registry.resolve(&name(), &asked), Err(StoreError::UnknownVersion { .. })));
    assert_eq!(registry.resolve(&name(), &Selector::Latest).expect("a version"), key(1));
    registry.forget_deleted();
    assert_eq!(resident_versions(&registry), [0; 0]);
    assert_eq!(in_flight.key, key(2));
    assert!(matches!(registry.load(&key(2)).await, Err(StoreError::UnknownVersion { .. })));
}

#[tokio::test]
async fn a_version_deleted_while_it_is_loaded_does_not_stay() {
    let (store, registry) = registry(1, 1);
    store.after_read(|store| store.delete(&key(1)).expect("deleted"));
    registry.load(&key(1)).await.expect("it was read before");
    assert_eq!(resident_versions(&registry), [0; 0]);
}

#[tokio::test]
async fn loads_are_bounded() {
    let (store, registry) = registry(1, 1);
    store.set_open(false);
    let last = LOADS_MAX as u64;
    for number in 1..=last {
        assert!(registry.load(&key(number)).now_or_never().is_none());
    }
    let refused = registry.load(&key(last + 1)).now_or_never().expect("refused at once");
    assert!(matches!(refused, Err(StoreError::LoadsFull { .. })));
    store.set_open(true);
    registry.load(&key(1)).await.expect("one of those that wait");
    for number in 2..=last {
        assert!(matches!(registry.load(&key(number)).await, Err(StoreError::UnknownVersion { .. })));
    }
}
