//! Names, aliases, versions, ids of jobs, and references to models.

use crate::pb;
use crate::service::{Alias, IdError, JobError, JobId, ModelName, Selector, ServiceError, Version};

/// Parses the model name in `field`.
pub fn model_name(field: &'static str, text: &str) -> Result<ModelName, ServiceError> {
    text.parse().map_err(|error: IdError| ServiceError::invalid(field, error))
}

/// Parses the alias in `field`.
pub fn alias(field: &'static str, text: &str) -> Result<Alias, ServiceError> {
    text.parse().map_err(|error: IdError| ServiceError::invalid(field, error))
}

/// Parses the version number in `field`.
pub fn version_number(field: &'static str, number: u64) -> Result<Version, ServiceError> {
    Version::new(number).map_err(|error| ServiceError::invalid(field, error))
}

/// Parses a job id. An invalid id is reported as an unknown job.
pub fn job_id(text: &str) -> Result<JobId, ServiceError> {
    text.parse().map_err(|error: JobError| error.into())
}

/// Parses the model reference in the field `model`.
pub fn model_ref(model: Option<pb::ModelRef>) -> Result<(ModelName, Selector), ServiceError> {
    let model = model.ok_or_else(|| ServiceError::invalid("model", "is not set, expected the name of a model"))?;
    name_and_selector(model, ["model.name", "model.version", "model.alias"])
}

/// Parses a model reference in any field; `fields` are the paths of its name, version and alias.
pub(super) fn name_and_selector(
    model: pb::ModelRef,
    fields: [&'static str; 3],
) -> Result<(ModelName, Selector), ServiceError> {
    let name = model_name(fields[0], &model.name)?;
    let selector = match model.selector {
        None => Selector::Latest,
        Some(pb::model_ref::Selector::Version(number)) => Selector::Version(version_number(fields[1], number)?),
        Some(pb::model_ref::Selector::Alias(text)) => Selector::Alias(alias(fields[2], &text)?),
    };
    Ok((name, selector))
}
