//! Background work of the server: loads warm models, records the use of versions, and deletes versions that the
//! retention policy no longer keeps.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use super::{Readiness, Service};
use crate::model::{ModelKey, ModelReference};
use crate::store::{Retention, VersionPolicies};

/// Use of a version is recorded again after this time.
const NOTED_EVERY: Duration = Duration::from_mins(15);

/// Settings of upkeep. They may change while the server runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpkeepConfig {
    /// Models to load before the server is ready. A newer version of them is loaded when it is published.
    pub warm_models: Vec<ModelReference>,
    /// Which versions are served.
    pub policies: VersionPolicies,
    /// Which versions are kept; `None`: all.
    pub retention: Option<Retention>,
}

/// State of upkeep between runs.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// The version loaded last for each warm model. A version that was evicted since is not loaded again: if not all
    /// warm models fit, they would evict each other forever.
    warm: HashMap<ModelReference, ModelKey>,
    /// Why a model is not warm, to log each reason once.
    logged: HashMap<ModelReference, String>,
    /// When the use of a version was last recorded.
    noted: HashMap<ModelKey, SystemTime>,
    /// Whether the failure to record use was logged.
    is_use_failure_logged: bool,
}

impl Upkeep {
    /// Loads the warm models that are not loaded yet. Returns true if none is left.
    pub async fn warm(&mut self, service: &Service, models: &[ModelReference]) -> bool {
        self.warm.retain(|model, _| models.contains(model));
        self.logged.retain(|model, _| models.contains(model));
        let mut all = true;
        for model in models {
            let outcome = match service.registry.resolve_served(&model.name, &model.selector) {
                Ok(key) if self.warm.get(model) == Some(&key) => continue,
                Ok(key) => service.registry.load(&key).await.map(|_| key),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(key) => {
                    tracing::info!(%model, version = %key.version, "warm model loaded");
                    self.logged.remove(model);
                    self.warm.insert(model.clone(), key);
                }
                Err(error) => {
                    all = false;
                    let reason = error.to_string();
                    if self.logged.get(model) != Some(&reason) {
                        tracing::warn!(%model, %error, "cannot load a warm model; retrying");
                        self.logged.insert(model.clone(), reason);
                    }
                }
            }
        }
        all
    }

    /// Records in the store which versions were used recently, and deletes versions that the retention policy no
    /// longer keeps. Bases of jobs that have not ended and warm models are kept. Blocks on the disk. Failures are
    /// retried in the next run. Returns early when the server stops.
    pub fn tidy(&mut self, service: &Service, config: &UpkeepConfig, now: SystemTime) {
        let used: HashMap<ModelKey, SystemTime> =
            service.registry.usages().into_iter().filter_map(|(key, usage)| Some((key, usage.last()?))).collect();
        let store = service.registry.store();
        for (key, last) in &used {
            let is_noted = self.noted.get(key).is_some_and(|noted| *last <= *noted + NOTED_EVERY);
            if !is_noted {
                // Recorded even if this server deletes nothing: another server on the same store may.
                if let Err(error) = store.note_use(key)
                    && !std::mem::replace(&mut self.is_use_failure_logged, true)
                {
                    tracing::warn!(%error, "cannot record the use of a version; retention may delete a version in use");
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
                        tracing::info!(
                            %key,
                            "retention deleted a version: not among the newest, no alias, not pinned, not used recently"
                        );
                    }
                    Err(error) => tracing::warn!(%error, %key, "retention cannot delete a version"),
                }
            }
        }
    }
}
