//! Proof that a caller may use a model. Use cases take it instead of a name, so a handler without the check does not
//! compile.

use super::ServiceError;
use crate::jobs::{JobError, Owner};
use crate::model::{ModelName, Selector};
use crate::security::{Caller, Refusal};
use crate::training::{Base, CheckedTrainSpec, ParamError, TrainSpec};

/// The name of a model that the caller may use, whether or not the model exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedModel(ModelName);

impl AllowedModel {
    /// Checks that the caller may use the model. There is no other constructor: a program that has no callers uses
    /// [`Caller::unrestricted`].
    ///
    /// # Errors
    /// If the caller may not use it: the same error for a model that does not exist.
    pub fn check(caller: &Caller, name: ModelName) -> Result<Self, Refusal> {
        caller.check_model(name.as_str())?;
        Ok(Self(name))
    }

    /// The name.
    pub fn name(&self) -> &ModelName {
        &self.0
    }

    /// The name, by value.
    pub(super) fn into_name(self) -> ModelName {
        self.0
    }
}

/// A training specification whose models its caller may use: the trained model, and its base if there is one.
#[derive(Clone, Debug)]
pub struct AllowedTraining {
    spec: TrainSpec,
    /// The caller, as the owner of the job.
    owner: Owner,
}

impl AllowedTraining {
    /// Checks that the caller may use the models of the specification. There is no other constructor.
    ///
    /// # Errors
    /// If the caller may not use one of them: the trained model is checked first.
    pub fn check(caller: &Caller, spec: TrainSpec) -> Result<Self, Refusal> {
        caller.check_model(spec.model_name.as_str())?;
        if let Some(base) = &spec.base {
            caller.check_model(base.name.as_str())?;
        }
        Ok(Self { spec, owner: owner(caller) })
    }

    /// Source of the feature names of an upload: the base version, if there is one; else the specification.
    pub fn features(&self) -> Features {
        Features { base: self.spec.base.clone(), names: self.spec.feature_names.clone() }
    }

    /// Source of the feature names of a stream of rounds: the newest version. Before there is one, the specification.
    pub fn features_of_rounds(&self) -> Features {
        let newest = Base { name: self.spec.model_name.clone(), selector: Selector::Latest, or_fresh: true };
        Features { base: Some(newest), names: self.spec.feature_names.clone() }
    }

    /// The specification of one job, and its owner.
    ///
    /// # Errors
    /// If a value of the specification is out of range.
    pub(super) fn of_job(self) -> Result<(CheckedTrainSpec, Owner), ServiceError> {
        Ok((self.spec.check().map_err(JobError::from)?, self.owner))
    }

    /// The specification of every round of a stream, and their owner. A round starts from the newest version, and
    /// publishes only if the result is better.
    ///
    /// # Errors
    /// If a value of the specification is out of range, or set although rounds set it themselves.
    pub(super) fn of_rounds(self) -> Result<(CheckedTrainSpec, Owner), ServiceError> {
        let Self { mut spec, owner } = self;
        for (is_set, field) in [(spec.base.is_some(), "base"), (spec.publish_if_better, "publish_if_better")] {
            if is_set {
                return Err(JobError::from(ParamError::Both { field, other: "incremental" }).into());
            }
        }
        let or_fresh = !spec.widths.is_empty();
        spec.base = Some(Base { name: spec.model_name.clone(), selector: Selector::Latest, or_fresh });
        spec.publish_if_better = true;
        Ok((spec.check().map_err(JobError::from)?, owner))
    }
}

/// The owner of the jobs that a caller creates.
pub(super) fn owner(caller: &Caller) -> Owner {
    Owner::new(caller.scope(), &caller.share())
}

/// Source of the feature names of an upload.
#[derive(Clone, Debug)]
pub struct Features {
    /// The version that has the names; the caller may use its model.
    pub(super) base: Option<Base>,
    /// The names without such a version.
    pub(super) names: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_models_pass_the_check() {
        let name: ModelName = "digits".parse().expect("a name");
        let allowed = AllowedModel::check(&Caller::unrestricted(), name.clone()).expect("it may use every model");
        assert_eq!(allowed.name(), &name);
        let refused = AllowedModel::check(&Caller::without_rights(), name).expect_err("it may use none");
        assert_eq!(refused, Refusal::Model { caller: "nobody".into(), model: "digits".to_owned() });
    }
}
