//! Base version of a job: checked when the job is created, resolved and recorded when training starts.

use std::sync::Arc;

use super::JobError;
use super::job::Job;
use super::journal::Beginning;
use super::lock::lock;
use crate::model::{Artifact, Autoencoder, ModelKey, ModelSpec, Selector};
use crate::registry::Registry;
use crate::store::StoreError;
use crate::training::{Base, CheckedTrainSpec};

/// Resolved training input: the specification with the widths of the base, and the base itself.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) spec: CheckedTrainSpec,
    pub(super) base: Option<(ModelKey, Arc<Autoencoder>)>,
}

/// Resolves a base to a version; `None` if the model does not exist yet and training may start fresh.
fn resolve(models: &Registry, base: &Base) -> Result<Option<ModelKey>, StoreError> {
    match models.resolve(&base.name, &base.selector) {
        Ok(key) => Ok(Some(key)),
        Err(StoreError::UnknownModel(_)) if base.or_fresh => Ok(None),
        Err(error) => Err(error),
    }
}

/// The base version of a job, if it has one: the recorded one, or else what the base resolves to now.
pub(super) fn needed(models: &Registry, job: &Job) -> Option<ModelKey> {
    match lock(&job.record).beginning.clone() {
        Some(Beginning::From(key)) => Some(key),
        Some(Beginning::Fresh) => None,
        None => resolve(models, job.spec.spec().base.as_ref()?).ok()?,
    }
}

/// Number of columns and feature names of a new job. The base must exist and fit the requested widths.
pub(super) fn columns(models: &Registry, spec: &CheckedTrainSpec) -> Result<(usize, Vec<String>), JobError> {
    let key = spec.spec().base.as_ref().map_or(Ok(None), |base| resolve(models, base))?;
    let Some(key) = key else { return Ok((spec.features(), spec.spec().feature_names.clone())) };
    let shape = shape(models, key)?;
    Ok((spec.with_base(&shape)?.features(), shape.raw().feature_names.clone()))
}

/// Feature names of a job: those of its base version, or else those of its specification.
pub(super) fn feature_names(models: &Registry, job: &Job) -> Result<Vec<String>, JobError> {
    match needed(models, job) {
        Some(key) => Ok(shape(models, key)?.raw().feature_names.clone()),
        None => Ok(job.spec.spec().feature_names.clone()),
    }
}

fn shape(models: &Registry, key: ModelKey) -> Result<ModelSpec, JobError> {
    let header = models.store().read_header(&key)?;
    let (shape, ..) = Artifact::peek(&header).map_err(|reason| StoreError::Damaged { key, reason })?;
    Ok(shape)
}

/// Resolves the base of a job and records it in the journal, so that a restart uses the same version.
pub(super) fn settle(models: &Registry, job: &Job) -> Result<Settled, JobError> {
    let (known, names) = {
        let record = lock(&job.record);
        (record.beginning.clone(), record.column_names.clone())
    };
    let fresh = || Settled { spec: job.spec.with_feature_names(&names), base: None };
    let Some(base) = &job.spec.spec().base else { return Ok(fresh()) };
    let beginning = match known {
        Some(beginning) => beginning,
        None => {
            let beginning = resolve(models, base)
                .map_err(|error| JobError::BaseGone { reason: error.to_string() })?
                .map_or(Beginning::Fresh, Beginning::From);
            job.write_down(|record| record.beginning = Some(beginning.clone()))?;
            beginning
        }
    };
    let key = match beginning {
        Beginning::Fresh => return Ok(fresh()),
        Beginning::From(key) => key,
    };
    let model = load(models, &key)?;
    let spec = job.spec.with_base(model.spec())?;
    if spec.features() != job.columns {
        return Err(JobError::BaseWidth { base: key, got: job.columns, expected: spec.features() });
    }
    let expected = &model.spec().raw().feature_names;
    if !names.is_empty() && !expected.is_empty() && names != *expected {
        return Err(JobError::BaseFeatures { base: key, got: names, expected: expected.clone() });
    }
    Ok(Settled { spec, base: Some((key, Arc::new(model))) })
}

fn load(models: &Registry, key: &ModelKey) -> Result<Autoencoder, JobError> {
    // A deleted version may still be in memory. Resolve first, so that deletion always gives the same error.
    models
        .resolve(&key.name, &Selector::Version(key.version))
        .map_err(|error| JobError::BaseGone { reason: error.to_string() })?;
    if let Some(resident) = models.resident(key) {
        return Ok(resident.artifact.model.clone());
    }
    let bytes = models.store().read(key)?;
    let artifact = Artifact::from_bytes(&bytes).map_err(|reason| StoreError::Damaged { key: key.clone(), reason })?;
    Ok(artifact.model)
}
