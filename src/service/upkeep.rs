//! What a server does on its own while it runs: has models in memory before they are asked for, notes what is used, and
//! removes versions that need not be kept.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use super::{Readiness, Service};
use crate::model::{ModelKey, ModelReference};
use crate::store::{Retention, VersionPolicies};

/// A version that goes on being used is noted again after this.
const NOTED_EVERY: Duration = Duration::from_mins(15);

/// What upkeep shall do. May change while the server runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpkeepConfig {
    /// Models that are in memory before the server is ready, and whose newest versions are loaded when they are published.
    pub warm_models: Vec<ModelReference>,
    /// Which versions are served.
    pub policies: VersionPolicies,
    /// Which versions are kept; all if there is none.
    pub retention: Option<Retention>,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// The version that was loaded last for each model that shall be warm. One that was evicted since is not loaded again
    /// by itself: where there is no room for all, they would evict each other for ever.
    warm: HashMap<ModelReference, ModelKey>,
    /// Why a model is not warm, so that each reason is told once.
    told: HashMap<ModelReference, String>,
    /// When the use of a version was noted last.
    noted: HashMap<ModelKey, SystemTime>,
    /// Whether it was told that use cannot be noted.
    told_of_use: bool,
}

impl Upkeep {
    /// Loads what shall be in memory and was not loaded yet. True if nothing is left to load.
    pub async fn warm(&mut self, service: &Service, models: &[ModelReference]) -> bool {
        self.warm.retain(|model, _| models.contains(model));
        self.told.retain(|model, _| models.contains(model));
        let mut all = true;
        for model in models {
            let outcome = match service.registry.resolve_served(&model.name, &model.selector) {
                Ok(key) if self.warm.get(model) == Some(&key) => continue,
                Ok(key) => service.registry.load(&key).await.map(|_| key),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(key) => {
                    tracing::info!(%model, version = %key.version, "a model is warm");
                    self.told.remove(model);
                    self.warm.insert(model.clone(), key);
                }
                Err(error) => {
                    all = false;
                    let reason = error.to_string();
                    if self.told.get(model) != Some(&reason) {
                        tracing::warn!(%model, %error, "a model that shall be warm cannot be loaded; it is tried again");
                        self.told.insert(model.clone(), reason);
                    }
                }
            }
        }
        all
    }

    /// Notes in the store which versions were used lately, and removes those that need not be kept: bases of jobs that have
    /// not ended, and what shall be warm, are. Blocks on the disk. What fails is tried again the next time. Returns early
    /// when the server stops.
    pub fn tidy(&mut self, service: &Service, config: &UpkeepConfig, now: SystemTime) {
        let used: HashMap<ModelKey, SystemTime> =
            service.registry.usages().into_iter().filter_map(|(key, usage)| Some((key, usage.last()?))).collect();
        let store = service.registry.store();
        for (key, last) in &used {
            let is_noted = self.noted.get(key).is_some_and(|noted| *last <= *noted + NOTED_EVERY);
            if !is_noted {
                // Also where this server removes nothing: another one may.
                if let Err(error) = store.note_use(key)
                    && !std::mem::replace(&mut self.told_of_use, true)
                {
                    tracing::warn!(%error, "the use of a version cannot be noted; a server that removes what is not used does not know of it");
                }
                self.noted.insert(key.clone(), now);
            }
        }
        self.noted.retain(|key, _| used.contains_key(key));
        let Some(retention) = config.retention.as_ref().filter(|_| store.is_writable()) else { return };
        let warm = config.warm_models.iter();
        let mut needed: BTreeSet<ModelKey> =
            warm.filter_map(|model| store.resolve(&model.name, &model.selector).ok()).collect();
        needed.extend(service.jobs.bases());
        let policies = service.registry.policies();
        for model in store.entries() {
            let key = |version| ModelKey { name: model.name.clone(), version };
            let last_use = |version| store.last_use(&key(version)).max(used.get(&key(version)).copied());
            for version in retention.superfluous(&model, policies.of(&model.name), now, last_use) {
                let key = key(version);
                if service.lifecycle.now() >= Readiness::Stopping {
                    return;
                }
                if needed.contains(&key) {
                    continue;
                }
                match store.delete(&key) {
                    Ok(()) => {
                        service.registry.forget(&key);
                        tracing::info!(%key, "a version was removed: not among the newest, no alias, not pinned, not used for long");
                    }
                    Err(error) => tracing::warn!(%error, %key, "a version that need not be kept cannot be removed"),
                }
            }
        }
    }
}
