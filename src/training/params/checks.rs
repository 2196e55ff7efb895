//! The checks of a training request that do not need the rows.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::TrainSpec;
use crate::model::sample::SAMPLE_ROWS_MAX;
use crate::model::spec::wrong_parameter;
use crate::model::{Loss, ModelSpec, NormalizationKind, Selector, SpecError};
use crate::numeric::Activation;
use crate::training::param_error::{BATCH_BYTES_MAX, ParamError, check};

/// Largest number of epochs.
const EPOCHS_MAX: u32 = 100_000;
/// Largest number of rows of a mini-batch.
pub(super) const BATCH_ROWS_MAX: u32 = 65_536;
/// Largest number of values kept per row and unit: inputs of a layer and their derivatives, in both directions, plus
/// slopes and gains where they exist.
const KEPT_PER_UNIT: u64 = 7;
/// Largest smaller side of a matrix that is kept orthonormal: its Gram matrix costs the square of that per row.
const ORTHONORMAL_SIZE_MAX: usize = 4096;
/// Smallest and largest time budget.
pub(super) const TIME_BUDGET: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(30 * 24);

impl TrainSpec {
    /// Makes all checks that need the widths, but not the rows.
    pub(super) fn check_widths_known(&self) -> Result<(), ParamError> {
        self.check_activations()?;
        self.check_loss()?;
        self.check_numbers()?;
        self.check_batch()?;
        self.check_options()?;
        self.check_value_range()?;
        // Any normalization that may be chosen from the rows passes if this one does.
        ModelSpec::new(self.raw_model_spec(self.normalization.unwrap_or(NormalizationKind::UnitInterval)))?;
        Ok(())
    }

    pub(super) fn check_explained_share(&self) -> Result<(), ParamError> {
        check("explained_share", self.explained_share, |share| share > 0.0 && share <= 1.0, "above 0 to 1")?;
        match self.explained_share {
            Some(_) if !self.chooses_code_length() => {
                let got = format!("{:?}", self.widths);
                Err(ParamError::Needs { field: "explained_share", needs: "widths that end with 0", got })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_base(&self) -> Result<(), ParamError> {
        let needs = |field, needs, got: &str| Err(ParamError::Needs { field, needs, got: got.to_owned() });
        if self.publish_if_better && self.validation_fraction == Some(0.0) {
            return needs("publish_if_better", "validation rows", "validation_fraction 0");
        }
        let Some(base) = &self.base else {
            return if self.publish_if_better { needs("publish_if_better", "a base", "none") } else { Ok(()) };
        };
        if base.or_fresh {
            return match base.selector {
                Selector::Latest => Ok(()),
                Selector::Version(_) | Selector::Alias(_) => {
                    needs("fresh_without_base", "a base that is the newest version", "one that is named exactly")
                }
            };
        }
        let set = [
            (self.hidden_activation.is_some(), "hidden_activation"),
            (self.code_activation.is_some(), "code_activation"),
            (self.output_activation.is_some(), "output_activation"),
            (!self.encoder_activations.is_empty(), "encoder_activations"),
            (!self.decoder_activations.is_empty(), "decoder_activations"),
            (self.loss.is_some(), "loss"),
            (self.normalization.is_some(), "normalization"),
            (self.value_range.is_some(), "value_range"),
            (self.gain, "gain"),
            (self.initialization.is_some(), "initialization"),
            (!self.feature_names.is_empty(), "feature_names"),
        ];
        match set.into_iter().find(|(is_set, _)| *is_set) {
            Some((_, field)) => Err(ParamError::OfBase { field }),
            None => Ok(()),
        }
    }

    fn check_activations(&self) -> Result<(), ParamError> {
        let (encoder, decoder) = (!self.encoder_activations.is_empty(), !self.decoder_activations.is_empty());
        let conflicts = [
            (self.code_activation.is_some() && encoder, "code_activation", "encoder_activations"),
            (self.output_activation.is_some() && decoder, "output_activation", "decoder_activations"),
            (
                self.hidden_activation.is_some() && encoder && decoder,
                "hidden_activation",
                "encoder_activations and decoder_activations",
            ),
        ];
        if let Some((_, field, other)) = conflicts.into_iter().find(|(conflict, ..)| *conflict) {
            return Err(ParamError::Both { field, other });
        }
        let layers = self.widths.len() - 1;
        let lists =
            [("encoder_activations", &self.encoder_activations), ("decoder_activations", &self.decoder_activations)];
        for (field, list) in lists {
            if !list.is_empty() && list.len() != layers {
                return Err(SpecError::ActivationCount { field, got: list.len(), expected: layers }.into());
            }
        }
        let single = [
            ("hidden_activation", self.hidden_activation),
            ("code_activation", self.code_activation),
            ("output_activation", self.output_activation),
        ];
        for (field, activation) in single {
            if let Some((parameter, got, expected)) = activation.and_then(wrong_parameter) {
                return Err(ParamError::Range { field, got: format!("of {parameter} {got}"), expected });
            }
        }
        Ok(())
    }

    fn check_loss(&self) -> Result<(), ParamError> {
        if self.loss != Some(Loss::BinaryCrossEntropy) {
            return Ok(());
        }
        match self.output_activation {
            None | Some(Activation::Sigmoid) => {}
            Some(other) => {
                return Err(ParamError::Range {
                    field: "output_activation",
                    got: format!("{other:?}"),
                    expected: "the sigmoid under binary cross-entropy",
                });
            }
        }
        if matches!(self.normalization, Some(NormalizationKind::Standardize | NormalizationKind::Robust)) {
            return Err(SpecError::CrossEntropyStandardize.into());
        }
        Ok(())
    }

    pub(super) fn check_numbers(&self) -> Result<(), ParamError> {
        check(
            "epochs",
            self.epochs,
            |n| (1..=EPOCHS_MAX).contains(&n),
            "1 to 100000 (or unset, to choose from the data)",
        )?;
        check("batch_rows", self.batch_rows, |n| (1..=BATCH_ROWS_MAX).contains(&n), "1 to 65536")?;
        check("patience_epochs", self.patience_epochs, |n| n >= 1, "1 or more")?;
        check("validation_fraction", self.validation_fraction, |x| (0.0..=0.9).contains(&x), "0 to 0.9")?;
        self.optimizer.check()?;
        self.regularization.check()?;
        self.check_time_budget()?;
        self.check_sample()?;
        if self.patience_epochs.is_some() && self.regularization.trim > 0.0 {
            // Held-out rows also have bad rows, so their loss does not show when to stop.
            return Err(ParamError::Both { field: "patience_epochs", other: "regularization.trim" });
        }
        if self.patience_epochs.is_some() && self.validation_fraction == Some(0.0) {
            return Err(ParamError::Needs {
                field: "patience_epochs",
                needs: "validation rows",
                got: "validation_fraction 0".to_owned(),
            });
        }
        Ok(())
    }

    /// Checks the mini-batch size; needs the widths.
    pub(super) fn check_batch(&self) -> Result<(), ParamError> {
        let units: u64 = self.widths.iter().map(|width| *width as u64).sum();
        let expected = BATCH_BYTES_MAX / (4 * KEPT_PER_UNIT * units);
        match self.batch_rows {
            Some(got) if u64::from(got) > expected => Err(ParamError::BatchTooLarge { got, expected }),
            _ => Ok(()),
        }
    }

    fn check_sample(&self) -> Result<(), ParamError> {
        let rows = self.validation_sample_rows;
        check("validation_sample_rows", Some(rows), |n| n <= SAMPLE_ROWS_MAX, "0 to 4096")?;
        if rows > 0 && self.validation_fraction == Some(0.0) {
            let got = "validation_fraction 0".to_owned();
            return Err(ParamError::Needs { field: "validation_sample_rows", needs: "validation rows", got });
        }
        Ok(())
    }

    /// Checks options that not all widths allow; needs the widths.
    pub(super) fn check_options(&self) -> Result<(), ParamError> {
        let code_length = self.widths.last().copied().unwrap_or(0);
        if self.regularization.orders_codes() && code_length < 2 {
            return Err(ParamError::Needs {
                field: "regularization.nested_dropout",
                needs: "a code of at least 2 numbers",
                got: code_length.to_string(),
            });
        }
        let size = self.widths.windows(2).map(|pair| pair[0].min(pair[1])).max().unwrap_or(0);
        let orthonormal = [
            (self.regularization.orthogonality > 0.0, "regularization.orthogonality"),
            (self.optimizer.retraction_steps > 0, "optimizer.retraction_steps"),
        ];
        match orthonormal.into_iter().find(|(is_set, _)| *is_set && size > ORTHONORMAL_SIZE_MAX) {
            Some((_, field)) => Err(ParamError::Needs {
                field,
                needs: "matrices whose smaller side is at most 4096",
                got: size.to_string(),
            }),
            None => Ok(()),
        }
    }

    fn check_time_budget(&self) -> Result<(), ParamError> {
        let Some(budget) = self.time_budget else { return Ok(()) };
        if !TIME_BUDGET.contains(&budget) {
            return Err(ParamError::Range {
                field: "time_budget",
                got: format!("{budget:?}"),
                expected: "1 second to 30 days",
            });
        }
        match self.epochs {
            Some(_) => Err(ParamError::Both { field: "time_budget", other: "epochs" }),
            None => Ok(()),
        }
    }

    fn check_value_range(&self) -> Result<(), ParamError> {
        let Some((minimum, maximum)) = self.value_range else { return Ok(()) };
        // Rows are divided by the difference: it must be finite, too.
        if !(minimum < maximum && (maximum - minimum).is_finite()) {
            return Err(ParamError::Range {
                field: "value_range",
                got: format!("{minimum} to {maximum}"),
                expected: "two finite numbers, the maximum above the minimum, with a finite difference",
            });
        }
        match self.normalization {
            None | Some(NormalizationKind::UnitInterval) => Ok(()),
            Some(other) => Err(ParamError::Needs {
                field: "value_range",
                needs: "normalization unit interval (or none chosen)",
                got: format!("{other:?}"),
            }),
        }
    }
}
