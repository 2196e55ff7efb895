//! Conversion of a training specification to the message of the API.

use super::ClientError;
use crate::model::{Loss, NormalizationKind, Selector};
use crate::numeric::Activation;
use crate::pb;
use crate::training::{Base, Initialization, OptimizerKind, OptimizerSpec, Regularization, Schedule, TrainSpec};

/// The message for a specification, with the key of its upload.
pub(super) fn of(spec: &TrainSpec, idempotency_key: String) -> Result<pb::TrainSpec, ClientError> {
    let activations = |activations: &[Option<Activation>]| -> Result<Vec<i32>, ClientError> {
        activations.iter().copied().map(activation).collect()
    };
    let time_budget = spec.time_budget.map(prost_types::Duration::try_from).transpose();
    let time_budget = time_budget.map_err(|error| ClientError::Invalid(format!("time_budget: {error}")))?;
    Ok(pb::TrainSpec {
        model_name: spec.model_name.to_string(),
        widths: spec.widths.iter().map(|width| u32::try_from(*width).unwrap_or(u32::MAX)).collect(),
        hidden_activation: activation(spec.hidden_activation)?,
        code_activation: activation(spec.code_activation)?,
        output_activation: activation(spec.output_activation)?,
        encoder_activations: activations(&spec.encoder_activations)?,
        decoder_activations: activations(&spec.decoder_activations)?,
        loss: loss(spec.loss).into(),
        normalization: normalization(spec.normalization).into(),
        value_range: spec.value_range.map(|(minimum, maximum)| pb::ValueRange { minimum, maximum }),
        gain: spec.gain,
        optimizer: Some(optimizer(&spec.optimizer)),
        initialization: initialization(spec.initialization).into(),
        epochs: not_zero("epochs", spec.epochs)?,
        batch_rows: not_zero("batch_rows", spec.batch_rows)?,
        validation_fraction: spec.validation_fraction,
        patience_epochs: spec.patience_epochs,
        seed: spec.seed,
        feature_names: spec.feature_names.clone(),
        idempotency_key,
        base: spec.base.as_ref().map(base),
        fresh_without_base: spec.base.as_ref().is_some_and(|base| base.or_fresh),
        time_budget,
        regularization: Some(regularization(spec.regularization)),
        publish_if_better: spec.publish_if_better,
        missing_values: spec.missing_values,
        validation_sample_rows: spec.validation_sample_rows,
        explained_share: spec.explained_share,
        files: None,
        priority: 0,
        incremental: None,
    })
}

/// 0 is the default in the API, so it must not stand for a value.
fn not_zero(field: &str, number: Option<u32>) -> Result<u32, ClientError> {
    match number {
        Some(0) => Err(ClientError::Invalid(format!("{field} is 0, expected at least 1, or none for the default"))),
        other => Ok(other.unwrap_or_default()),
    }
}

fn activation(activation: Option<Activation>) -> Result<i32, ClientError> {
    let converted = match activation {
        None => pb::Activation::Unspecified,
        Some(Activation::Linear) => pb::Activation::Linear,
        Some(Activation::Relu) => pb::Activation::Relu,
        Some(Activation::LeakyRelu { slope: 0.01 }) => pb::Activation::LeakyRelu,
        Some(Activation::Elu { alpha: 1.0 }) => pb::Activation::Elu,
        Some(Activation::Gelu) => pb::Activation::Gelu,
        Some(Activation::Tanh) => pb::Activation::Tanh,
        Some(Activation::Sigmoid) => pb::Activation::Sigmoid,
        Some(other @ (Activation::LeakyRelu { .. } | Activation::Elu { .. })) => {
            return Err(ClientError::Invalid(format!(
                "activation is {other:?}, expected the slope 0.01 of leaky ReLU and the alpha 1 of ELU"
            )));
        }
    };
    Ok(converted.into())
}

fn loss(loss: Option<Loss>) -> pb::Loss {
    match loss {
        None => pb::Loss::Unspecified,
        Some(Loss::SquaredError) => pb::Loss::SquaredError,
        Some(Loss::BinaryCrossEntropy) => pb::Loss::BinaryCrossEntropy,
    }
}

fn normalization(kind: Option<NormalizationKind>) -> pb::Normalization {
    match kind {
        None => pb::Normalization::Unspecified,
        Some(NormalizationKind::None) => pb::Normalization::None,
        Some(NormalizationKind::Standardize) => pb::Normalization::Standardize,
        Some(NormalizationKind::MinMax) => pb::Normalization::MinMax,
        Some(NormalizationKind::UnitInterval) => pb::Normalization::UnitInterval,
        Some(NormalizationKind::Robust) => pb::Normalization::Robust,
    }
}

fn initialization(initialization: Option<Initialization>) -> pb::Initialization {
    match initialization {
        None => pb::Initialization::Unspecified,
        Some(Initialization::He) => pb::Initialization::He,
        Some(Initialization::Glorot) => pb::Initialization::Glorot,
        Some(Initialization::Orthogonal) => pb::Initialization::Orthogonal,
        Some(Initialization::Pca) => pb::Initialization::Pca,
    }
}

fn optimizer(spec: &OptimizerSpec) -> pb::Optimizer {
    let kind = match spec.kind {
        OptimizerKind::AdamW => pb::OptimizerKind::Adamw,
        OptimizerKind::Sgd => pb::OptimizerKind::Sgd,
    };
    let schedule = match spec.schedule {
        Schedule::Cosine => pb::Schedule::Cosine,
        Schedule::Constant => pb::Schedule::Constant,
    };
    pb::Optimizer {
        learning_rate: spec.learning_rate.unwrap_or_default(),
        weight_decay: spec.weight_decay,
        warmup_fraction: spec.warmup_fraction,
        kind: kind.into(),
        momentum: spec.momentum,
        beta2: spec.beta2,
        schedule: schedule.into(),
        gradient_norm_max: spec.gradient_norm_max,
        find_learning_rate: spec.find_learning_rate,
        retraction_steps: spec.retraction_steps,
    }
}

fn regularization(regularization: Regularization) -> pb::Regularization {
    let Regularization { l2, activity_l2, orthogonality, masking, gaussian, input_dropout, trim, nested_dropout } =
        regularization;
    pb::Regularization { l2, activity_l2, masking, gaussian, input_dropout, trim, orthogonality, nested_dropout }
}

fn base(base: &Base) -> pb::ModelRef {
    let selector = match &base.selector {
        Selector::Latest => None,
        Selector::Version(version) => Some(pb::model_ref::Selector::Version(version.number())),
        Selector::Alias(alias) => Some(pb::model_ref::Selector::Alias(alias.to_string())),
    };
    pb::ModelRef { name: base.name.to_string(), selector }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "server")]
    use crate::model::Version;

    fn plain() -> TrainSpec {
        TrainSpec::new("m".parse().expect("a name"), vec![6, 4, 2])
    }

    #[cfg(feature = "server")]
    #[test]
    fn a_server_reads_the_same_specification() {
        use std::time::Duration;

        let base = |selector, or_fresh| Some(Base { name: "b".parse().expect("a name"), selector, or_fresh });
        let full = TrainSpec {
            hidden_activation: Some(Activation::LeakyRelu { slope: 0.01 }),
            code_activation: Some(Activation::Tanh),
            output_activation: Some(Activation::Sigmoid),
            encoder_activations: vec![Some(Activation::Elu { alpha: 1.0 }), None],
            decoder_activations: vec![Some(Activation::Gelu), Some(Activation::Relu)],
            loss: Some(Loss::BinaryCrossEntropy),
            normalization: Some(NormalizationKind::UnitInterval),
            value_range: Some((0.0, 255.0)),
            gain: true,
            optimizer: OptimizerSpec {
                learning_rate: Some(0.5),
                weight_decay: 0.25,
                warmup_fraction: Some(0.0),
                kind: OptimizerKind::Sgd,
                momentum: Some(0.5),
                beta2: Some(0.9),
                schedule: Schedule::Constant,
                gradient_norm_max: Some(2.0),
                find_learning_rate: true,
                retraction_steps: 7,
            },
            initialization: Some(Initialization::Pca),
            epochs: Some(3),
            batch_rows: Some(16),
            validation_fraction: Some(0.0),
            patience_epochs: Some(2),
            seed: 9,
            feature_names: vec!["a".to_owned()],
            time_budget: Some(Duration::from_millis(1500)),
            regularization: Regularization {
                l2: 1.0,
                activity_l2: 2.0,
                orthogonality: 3.0,
                masking: 0.1,
                gaussian: 0.2,
                input_dropout: 0.3,
                trim: 0.4,
                nested_dropout: 0.5,
            },
            base: base(Selector::Latest, true),
            publish_if_better: true,
            missing_values: true,
            validation_sample_rows: 5,
            explained_share: Some(0.5),
            ..plain()
        };
        let of_version =
            TrainSpec { base: base(Selector::Version(Version::new(3).expect("a version")), false), ..plain() };
        let of_alias = TrainSpec { base: base(Selector::Alias("best".parse().expect("an alias")), false), ..plain() };
        for spec in [plain(), full, of_version, of_alias] {
            let message = of(&spec, String::new()).expect("the API can express it");
            assert_eq!(crate::rpc::convert::train_spec(message).expect("valid").0, spec);
        }
    }

    #[test]
    fn values_that_the_api_cannot_express_are_refused() {
        let slope = TrainSpec { hidden_activation: Some(Activation::LeakyRelu { slope: 0.2 }), ..plain() };
        let no_epochs = TrainSpec { epochs: Some(0), ..plain() };
        for spec in [slope, no_epochs] {
            assert!(matches!(of(&spec, String::new()), Err(ClientError::Invalid(_))));
        }
    }
}
