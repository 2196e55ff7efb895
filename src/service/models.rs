//! Use cases of published models: list, describe, alias, delete, import, export, derive.

use std::sync::Arc;
use std::time::SystemTime;

use super::blocking::blocking;
use super::{AllowedModel, INSPECTIONS_MAX, Service, ServiceError};
use crate::model::{
    Alias, Artifact, Matrix, Missing, ModelKey, ModelName, ModelReference, ModelSpec, OrthonormalError, Selector,
    TrainingReport, Version, canonicalize, mean_squared_error, orthonormalize_code,
};
use crate::registry::usage::Usage;
use crate::security::Caller;
use crate::store::{ModelEntry, ModelStore, StoreError, VersionPolicy};
use crate::telemetry::measures::ModelMeasures;

/// Description of a version, without its tensors.
#[derive(Clone, Debug)]
pub struct VersionDescription {
    /// Name and number of the version.
    pub key: ModelKey,
    /// Aliases that point at it.
    pub aliases: Vec<Alias>,
    /// When it was published.
    pub published: SystemTime,
    /// Its shape.
    pub spec: ModelSpec,
    /// Its training report, if it has one.
    pub report: Option<TrainingReport>,
    /// Size of the stored file in bytes.
    pub file_bytes: u64,
    /// SHA-256 recorded in the file, hexadecimal.
    pub sha256: String,
}

impl Service {
    /// All models that the caller may use, ordered by name.
    pub fn models(&self, caller: &Caller) -> Vec<ModelEntry> {
        let mut models = self.registry.store().entries();
        models.retain(|model| caller.may_use(model.name.as_str()));
        models
    }

    /// One model.
    pub fn model(&self, model: &AllowedModel) -> Result<ModelEntry, ServiceError> {
        let name = model.name();
        Ok(self.registry.store().entry(name).ok_or_else(|| StoreError::UnknownModel(name.to_string()))?)
    }

    /// Resolves a version.
    pub fn resolve(&self, model: &AllowedModel, selector: &Selector) -> Result<ModelKey, ServiceError> {
        Ok(self.registry.resolve(model.name(), selector)?)
    }

    /// Resolves a version among the served ones.
    pub fn resolve_served(&self, model: &AllowedModel, selector: &Selector) -> Result<ModelKey, ServiceError> {
        Ok(self.registry.resolve_served(model.name(), selector)?)
    }

    /// Whether a version exists and is served. Takes any model: health checks need no credential.
    pub fn serves(&self, model: &ModelReference) -> bool {
        self.registry.resolve_served(&model.name, &model.selector).is_ok()
    }

    /// Whether a version is served.
    pub fn is_served(&self, model: &ModelEntry, version: Version) -> bool {
        self.registry.is_served(model, version)
    }

    /// The version policy for a name, which is a setting of the server, whether or not the model exists.
    pub fn policy(&self, name: &ModelName) -> VersionPolicy {
        self.registry.policies().of(name).clone()
    }

    /// Loads the newest version of a model into memory.
    pub async fn warm(&self, model: &AllowedModel) -> Result<(), ServiceError> {
        let key = self.registry.resolve_served(model.name(), &Selector::Latest)?;
        self.loaded(&key).await?;
        Ok(())
    }

    /// Unloads all versions of a model from memory.
    pub fn unload(&self, model: &AllowedModel) -> Result<(), ServiceError> {
        for version in self.model(model)?.versions.into_keys() {
            self.registry.unload(&ModelKey { name: model.name().clone(), version });
        }
        Ok(())
    }

    /// Usage counters of every version loaded since the start whose model the caller may use, ordered by name and
    /// version.
    pub fn usages(&self, caller: &Caller) -> Vec<(ModelKey, Arc<Usage>)> {
        let mut usages = self.registry.usages();
        usages.retain(|(key, _)| caller.may_use(key.name.as_str()));
        usages
    }

    /// Metrics of a model, if it exists. Takes any model: these are the counters of calls, not an answer to them.
    pub fn measures(&self, name: &ModelName) -> Option<Arc<ModelMeasures>> {
        self.registry.measures(name)
    }

    /// Describes a version from the header of its file.
    pub async fn describe(
        &self,
        model: &AllowedModel,
        selector: &Selector,
    ) -> Result<VersionDescription, ServiceError> {
        self.described(model.name(), selector).await
    }

    /// [`Service::describe`] of a model that was checked before.
    pub(super) async fn described(
        &self,
        name: &ModelName,
        selector: &Selector,
    ) -> Result<VersionDescription, ServiceError> {
        let key = self.registry.resolve(name, selector)?;
        self.blocking(move |store| describe(store.as_ref(), key)).await
    }

    /// Describes several versions of one model, in the given order. A version whose file is damaged is left out with
    /// a warning in the log; a version deleted meanwhile is left out without one.
    pub async fn describe_all(
        &self,
        model: &AllowedModel,
        versions: Vec<Version>,
    ) -> Result<Vec<VersionDescription>, ServiceError> {
        let name = model.name().clone();
        self.blocking(move |store| {
            Ok(versions
                .into_iter()
                .map(|version| ModelKey { name: name.clone(), version })
                .filter_map(|key| match describe(store.as_ref(), key) {
                    Ok(description) => Some(description),
                    // Deleted since the listing began: not an error.
                    Err(ServiceError::Store(StoreError::UnknownModel(_) | StoreError::UnknownVersion { .. })) => None,
                    Err(error) => {
                        tracing::warn!(%error, "a version is left out of a listing");
                        None
                    }
                })
                .collect())
        })
        .await
    }

    /// Deletes a version permanently.
    pub async fn delete_version(&self, model: AllowedModel, version: Version) -> Result<(), ServiceError> {
        let key = ModelKey { name: model.into_name(), version };
        let deleted = key.clone();
        self.blocking(move |store| Ok(store.delete(&deleted)?)).await?;
        self.registry.forget(&key);
        Ok(())
    }

    /// Points an alias at a version; `expected` as in
    /// [`ModelCatalogue::set_alias`](crate::store::ModelCatalogue::set_alias). Returns the version it pointed at before.
    pub async fn set_alias(
        &self,
        model: AllowedModel,
        version: Version,
        alias: Alias,
        expected: Option<Option<Version>>,
    ) -> Result<Option<Version>, ServiceError> {
        let key = ModelKey { name: model.into_name(), version };
        self.blocking(move |store| Ok(store.set_alias(&key, &alias, expected)?)).await
    }

    /// Deletes an alias; the version stays.
    pub async fn delete_alias(
        &self,
        model: AllowedModel,
        alias: Alias,
        expected: Option<Version>,
    ) -> Result<(), ServiceError> {
        self.blocking(move |store| Ok(store.delete_alias(model.name(), &alias, expected)?)).await
    }

    /// Checks a model file and publishes it as a new version.
    pub async fn import(&self, model: AllowedModel, file: Vec<u8>) -> Result<VersionDescription, ServiceError> {
        let name = model.into_name();
        self.blocking(move |store| {
            let artifact = Artifact::import(&file)?;
            drop(file);
            let version = store.publish(&name, &artifact)?;
            describe(store.as_ref(), ModelKey { name, version })
        })
        .await
    }

    /// Publishes a version with canonical codes; see [`crate::model::canonical`]. Returns the version and the
    /// variances of its codes.
    pub async fn canonicalize(
        &self,
        model: &AllowedModel,
        selector: &Selector,
    ) -> Result<(VersionDescription, Vec<f32>), ServiceError> {
        let key = self.resolve(model, selector)?;
        let full = |_| ServiceError::InspectionsFull { max: INSPECTIONS_MAX };
        // Costs as much as an inspection, so it shares the limit.
        let place = Arc::clone(&self.inspections).try_acquire_owned().map_err(full)?;
        let turn = Arc::clone(&self.inspecting).lock_owned().await;
        let loaded = self.loaded(&key).await?;
        self.blocking(move |store| {
            let _place_and_turn = (place, turn);
            let Artifact { model, report, statistics, .. } = &loaded.artifact;
            let made = canonicalize(model, statistics.as_ref());
            let (model, statistics) = made.map_err(|error| ServiceError::Canonical { key: key.clone(), error })?;
            let k = statistics.code_mean.len();
            let variances = (0..k).map(|unit| statistics.code_covariance[unit * k + unit]).collect();
            let report = derived(report.as_deref(), &key, "codes: centered and rotated onto their principal axes");
            let artifact = Artifact { model, report, statistics: Some(statistics), sha256: String::new() };
            let version = store.publish(&key.name, &artifact)?;
            Ok((describe(store.as_ref(), ModelKey { name: key.name, version })?, variances))
        })
        .await
    }

    /// Measures on `rows` what Gram-Schmidt on the code layer would change. With `publish`, also publishes the new
    /// version. See [`crate::model::gram_schmidt`].
    pub async fn orthonormalize(
        &self,
        model: &AllowedModel,
        selector: &Selector,
        rows: Matrix,
        publish: bool,
    ) -> Result<Orthonormalized, ServiceError> {
        let key = self.resolve(model, selector)?;
        let loaded = self.loaded(&key).await?;
        let spec = loaded.artifact.model.spec();
        if rows.columns() != spec.features() {
            let message = format!("has {} columns, expected {}", rows.columns(), spec.features());
            return Err(ServiceError::invalid("rows", message));
        }
        let missing = Missing::from(spec.raw().missing_values);
        let full = |_| ServiceError::InspectionsFull { max: INSPECTIONS_MAX };
        let place = Arc::clone(&self.inspections).try_acquire_owned().map_err(full)?;
        let turn = Arc::clone(&self.inspecting).lock_owned().await;
        self.blocking(move |store| {
            let _place_and_turn = (place, turn);
            rows.check_values(missing).map_err(|error| ServiceError::invalid("rows", error))?;
            let Artifact { model, report, statistics, .. } = &loaded.artifact;
            let made = orthonormalize_code(model, statistics.as_ref());
            let (changed, statistics) = made.map_err(|error| ServiceError::Orthonormal { key: key.clone(), error })?;
            let (before, after) = (mean_squared_error(model, &rows), mean_squared_error(&changed, &rows));
            if !(before.is_finite() && after.is_finite()) {
                return Err(ServiceError::Orthonormal { key, error: OrthonormalError::NotFinite });
            }
            let mut published = None;
            if publish {
                let how = format!(
                    "code layer: made orthonormal by Gram-Schmidt; error of {} rows: {before:.6}, now {after:.6}",
                    rows.rows()
                );
                let report = derived(report.as_deref(), &key, &how).map(|report| Arc::new(without_figures(&report)));
                let artifact = Artifact { model: changed, report, statistics, sha256: String::new() };
                let version = store.publish(&key.name, &artifact)?;
                published = Some(describe(store.as_ref(), ModelKey { name: key.name.clone(), version })?);
            }
            Ok(Orthonormalized { key, before, after, published })
        })
        .await
    }

    /// Returns the stored file of a version, after checking it.
    pub async fn export(&self, model: &AllowedModel, selector: &Selector) -> Result<(ModelKey, Vec<u8>), ServiceError> {
        let key = self.resolve(model, selector)?;
        self.blocking(move |store| {
            let file = store.read(&key)?;
            Artifact::from_bytes(&file).map_err(|reason| StoreError::Damaged { key: key.clone(), reason })?;
            Ok((key, file))
        })
        .await
    }

    /// Runs disk work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Arc<dyn ModelStore>) -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let store = Arc::clone(self.registry.store());
        blocking("a disk task", move || work(store)).await
    }
}

/// The effect of Gram-Schmidt on a version.
#[derive(Clone, Debug)]
pub struct Orthonormalized {
    /// The original version.
    pub key: ModelKey,
    /// Mean squared error of the rows before: sum over features, normalized space.
    pub before: f64,
    /// Mean squared error with an orthonormal code layer.
    pub after: f64,
    /// The new version, if published.
    pub published: Option<VersionDescription>,
}

/// The report of a version derived from another without training.
fn derived(report: Option<&TrainingReport>, from: &ModelKey, how: &str) -> Option<Arc<TrainingReport>> {
    let mut report = report?.clone();
    report.notes.push(format!("{how}, made from {from}"));
    // No job made this version. With the job's id, a restarted job would take it for its own.
    (report.base, report.job_id) = (Some(from.clone()), String::new());
    Some(Arc::new(report))
}

/// The report without the measurements that do not hold for a version that reconstructs differently.
fn without_figures(report: &TrainingReport) -> TrainingReport {
    let mut report = report.clone();
    (report.validation, report.test, report.base_validation) = (None, None, None);
    for epoch in &mut report.epochs {
        (epoch.squared_error, epoch.defects) = (None, Vec::new());
    }
    report
}

fn describe(store: &dyn ModelStore, key: ModelKey) -> Result<VersionDescription, ServiceError> {
    let entry = store.entry(&key.name).ok_or_else(|| StoreError::UnknownModel(key.name.to_string()))?;
    let unknown =
        || StoreError::UnknownVersion { key: key.clone(), newest: entry.versions.keys().next_back().copied() };
    let version = entry.versions.get(&key.version).ok_or_else(unknown)?;
    let header = store.read_header(&key)?;
    let (spec, report, sha256) =
        Artifact::peek(&header).map_err(|reason| StoreError::Damaged { key: key.clone(), reason })?;
    let aliases = entry.aliases.iter().filter(|(_, at)| **at == key.version).map(|(alias, _)| alias.clone()).collect();
    Ok(VersionDescription {
        aliases,
        published: version.published,
        spec,
        report,
        file_bytes: version.file_bytes,
        sha256,
        key,
    })
}
