//! Specifications: of training, from a request; of a model, for a response.

use super::names::{model_name, name_and_selector};
use super::times::length_of_time;
use super::unknown_enum;
use crate::pb;
use crate::service::{
    Activation, Base, Cadence, IdempotencyKey, Initialization, JobError, Loss, ModelSpec, NormalizationKind,
    OptimizerKind, OptimizerSpec, Regularization, Schedule, ServiceError, TrainSpec,
};

/// Converts a training specification and its idempotency key. Numbers that mean "the server's choice" become `None`.
/// [`TrainSpec::check`] checks the rest.
pub fn train_spec(spec: pb::TrainSpec) -> Result<(TrainSpec, Option<IdempotencyKey>), ServiceError> {
    let key = match spec.idempotency_key.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|error: JobError| ServiceError::invalid("spec.idempotency_key", error))?),
    };
    let activations = |field, numbers: Vec<i32>| -> Result<Vec<_>, ServiceError> {
        numbers.into_iter().map(|number| activation(field, number)).collect()
    };
    let spec = TrainSpec {
        model_name: model_name("spec.model_name", &spec.model_name)?,
        widths: spec.widths.into_iter().map(|width| width as usize).collect(),
        hidden_activation: activation("spec.hidden_activation", spec.hidden_activation)?,
        code_activation: activation("spec.code_activation", spec.code_activation)?,
        output_activation: activation("spec.output_activation", spec.output_activation)?,
        encoder_activations: activations("spec.encoder_activations", spec.encoder_activations)?,
        decoder_activations: activations("spec.decoder_activations", spec.decoder_activations)?,
        loss: loss(spec.loss)?,
        normalization: normalization(spec.normalization)?,
        value_range: spec.value_range.map(|range| (range.minimum, range.maximum)),
        gain: spec.gain,
        optimizer: optimizer(spec.optimizer.unwrap_or_default())?,
        initialization: initialization(spec.initialization)?,
        epochs: (spec.epochs != 0).then_some(spec.epochs),
        batch_rows: (spec.batch_rows != 0).then_some(spec.batch_rows),
        validation_fraction: spec.validation_fraction,
        patience_epochs: spec.patience_epochs,
        seed: spec.seed,
        feature_names: spec.feature_names,
        time_budget: length_of_time("spec.time_budget", spec.time_budget)?,
        regularization: regularization(spec.regularization.unwrap_or_default()),
        base: base(spec.base, spec.fresh_without_base)?,
        publish_if_better: spec.publish_if_better,
        missing_values: spec.missing_values,
        validation_sample_rows: spec.validation_sample_rows,
        explained_share: spec.explained_share,
    };
    Ok((spec, key))
}

/// Converts the limits of a round.
pub fn cadence(incremental: pb::Incremental) -> Result<Cadence, ServiceError> {
    let rows = (incremental.publish_rows != 0).then_some(incremental.publish_rows);
    Cadence::new(rows, length_of_time("spec.incremental.publish_interval", incremental.publish_interval)?)
}

/// Converts the base version, if there is one.
fn base(model: Option<pb::ModelRef>, or_fresh: bool) -> Result<Option<Base>, ServiceError> {
    let Some(model) = model else {
        let needs = || ServiceError::invalid("spec.fresh_without_base", "is set, which needs a base, got none");
        return if or_fresh { Err(needs()) } else { Ok(None) };
    };
    let (name, selector) = name_and_selector(model, ["spec.base.name", "spec.base.version", "spec.base.alias"])?;
    Ok(Some(Base { name, selector, or_fresh }))
}

fn activation(field: &'static str, number: i32) -> Result<Option<Activation>, ServiceError> {
    Ok(match pb::Activation::try_from(number).map_err(|_| unknown_enum(field, number))? {
        pb::Activation::Unspecified => None,
        pb::Activation::Linear => Some(Activation::Linear),
        pb::Activation::Relu => Some(Activation::Relu),
        pb::Activation::LeakyRelu => Some(Activation::LeakyRelu { slope: 0.01 }),
        pb::Activation::Elu => Some(Activation::Elu { alpha: 1.0 }),
        pb::Activation::Gelu => Some(Activation::Gelu),
        pb::Activation::Tanh => Some(Activation::Tanh),
        pb::Activation::Sigmoid => Some(Activation::Sigmoid),
    })
}

fn activation_answer(activation: Activation) -> i32 {
    let activation = match activation {
        Activation::Linear => pb::Activation::Linear,
        Activation::Relu => pb::Activation::Relu,
        Activation::LeakyRelu { .. } => pb::Activation::LeakyRelu,
        Activation::Elu { .. } => pb::Activation::Elu,
        Activation::Gelu => pb::Activation::Gelu,
        Activation::Tanh => pb::Activation::Tanh,
        Activation::Sigmoid => pb::Activation::Sigmoid,
    };
    activation.into()
}

fn loss(number: i32) -> Result<Option<Loss>, ServiceError> {
    Ok(match pb::Loss::try_from(number).map_err(|_| unknown_enum("spec.loss", number))? {
        pb::Loss::Unspecified => None,
        pb::Loss::SquaredError => Some(Loss::SquaredError),
        pb::Loss::BinaryCrossEntropy => Some(Loss::BinaryCrossEntropy),
    })
}

fn normalization(number: i32) -> Result<Option<NormalizationKind>, ServiceError> {
    Ok(match pb::Normalization::try_from(number).map_err(|_| unknown_enum("spec.normalization", number))? {
        pb::Normalization::Unspecified => None,
        pb::Normalization::None => Some(NormalizationKind::None),
        pb::Normalization::Standardize => Some(NormalizationKind::Standardize),
        pb::Normalization::MinMax => Some(NormalizationKind::MinMax),
        pb::Normalization::UnitInterval => Some(NormalizationKind::UnitInterval),
        pb::Normalization::Robust => Some(NormalizationKind::Robust),
    })
}

fn initialization(number: i32) -> Result<Option<Initialization>, ServiceError> {
    Ok(match pb::Initialization::try_from(number).map_err(|_| unknown_enum("spec.initialization", number))? {
        pb::Initialization::Unspecified => None,
        pb::Initialization::He => Some(Initialization::He),
        pb::Initialization::Glorot => Some(Initialization::Glorot),
        pb::Initialization::Orthogonal => Some(Initialization::Orthogonal),
        pb::Initialization::Pca => Some(Initialization::Pca),
    })
}

fn optimizer(optimizer: pb::Optimizer) -> Result<OptimizerSpec, ServiceError> {
    let kind =
        pb::OptimizerKind::try_from(optimizer.kind).map_err(|_| unknown_enum("spec.optimizer.kind", optimizer.kind))?;
    let schedule = pb::Schedule::try_from(optimizer.schedule)
        .map_err(|_| unknown_enum("spec.optimizer.schedule", optimizer.schedule))?;
    Ok(OptimizerSpec {
        learning_rate: (optimizer.learning_rate != 0.0).then_some(optimizer.learning_rate),
        weight_decay: optimizer.weight_decay,
        warmup_fraction: optimizer.warmup_fraction,
        kind: match kind {
            pb::OptimizerKind::Unspecified | pb::OptimizerKind::Adamw => OptimizerKind::AdamW,
            pb::OptimizerKind::Sgd => OptimizerKind::Sgd,
        },
        momentum: optimizer.momentum,
        beta2: optimizer.beta2,
        schedule: match schedule {
            pb::Schedule::Unspecified | pb::Schedule::Cosine => Schedule::Cosine,
            pb::Schedule::Constant => Schedule::Constant,
        },
        gradient_norm_max: optimizer.gradient_norm_max,
        find_learning_rate: optimizer.find_learning_rate,
        retraction_steps: optimizer.retraction_steps,
    })
}

fn regularization(regularization: pb::Regularization) -> Regularization {
    let pb::Regularization { l2, activity_l2, masking, gaussian, input_dropout, trim, orthogonality, nested_dropout } =
        regularization;
    Regularization { l2, activity_l2, orthogonality, masking, gaussian, input_dropout, trim, nested_dropout }
}

pub(super) fn spec_answer(spec: &ModelSpec) -> pb::ModelSpec {
    let raw = spec.raw();
    let normalization = match raw.normalization {
        NormalizationKind::None => pb::Normalization::None,
        NormalizationKind::Standardize => pb::Normalization::Standardize,
        NormalizationKind::MinMax => pb::Normalization::MinMax,
        NormalizationKind::UnitInterval => pb::Normalization::UnitInterval,
        NormalizationKind::Robust => pb::Normalization::Robust,
    };
    let loss = match raw.loss {
        Loss::SquaredError => pb::Loss::SquaredError,
        Loss::BinaryCrossEntropy => pb::Loss::BinaryCrossEntropy,
    };
    pb::ModelSpec {
        widths: raw.widths.iter().map(|width| *width as u32).collect(),
        encoder_activations: raw.encoder_activations.iter().copied().map(activation_answer).collect(),
        decoder_activations: raw.decoder_activations.iter().copied().map(activation_answer).collect(),
        loss: loss.into(),
        normalization: normalization.into(),
        gain: raw.gain,
        feature_names: raw.feature_names.clone(),
        missing_values: raw.missing_values,
        ordered_code: raw.ordered_code,
    }
}
