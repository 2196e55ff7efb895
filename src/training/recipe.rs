//! The parts of a training request for optimization and regularization: as sent; each option is off by default.

use serde::{Deserialize, Serialize};

use super::param_error::{ParamError, check};

/// Largest number of steps between retractions; there is also one at the end of each epoch.
const RETRACTION_STEPS_MAX: u32 = 1_000_000;

/// The method that updates the parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    #[default]
    AdamW,
    /// Stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013).
    Sgd,
}

impl OptimizerKind {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::AdamW => "AdamW",
            Self::Sgd => "SGD",
        }
    }
}

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Falls from the peak to 0 by half a cosine (Loshchilov and Hutter 2017, without restarts).
    #[default]
    Cosine,
    /// Stays at the peak.
    Constant,
}

/// Parameters of the optimizer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimizerSpec {
    /// Peak learning rate; default: chosen from the widths (`plan.rs`).
    pub learning_rate: Option<f64>,
    /// Decoupled weight decay of the matrices.
    pub weight_decay: f64,
    /// Share of the steps over which the learning rate rises; default 0.05.
    pub warmup_fraction: Option<f64>,
    /// The method.
    pub kind: OptimizerKind,
    /// Momentum (β₁ of `AdamW`), from 0 to 0.999999; default 0.9.
    pub momentum: Option<f64>,
    /// β₂ of `AdamW`, from 0 to 0.999999; default 0.999.
    pub beta2: Option<f64>,
    /// The learning rate after the warm-up.
    pub schedule: Schedule,
    /// Largest norm of the whole gradient; longer gradients are scaled to it. Default: no limit.
    pub gradient_norm_max: Option<f64>,
    /// Whether a sweep finds the peak learning rate.
    pub find_learning_rate: bool,
    /// Steps between retractions to orthonormal matrices; 0 means never.
    #[serde(skip_serializing_if = "is_never")]
    pub retraction_steps: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_never(steps: &u32) -> bool {
    *steps == 0
}

/// Regularization against overfitting. 0 turns an option off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Regularization {
    /// Coefficient of the loss term 2·l2·‖W‖², summed over all matrices.
    pub l2: f64,
    /// Coefficient of the loss term `activity_l2` · ‖code‖², mean over rows.
    pub activity_l2: f64,
    /// Coefficient of the loss term `orthogonality` · ‖G - I‖², summed over all matrices, where G is the smaller Gram
    /// matrix.
    #[serde(skip_serializing_if = "is_zero")]
    pub orthogonality: f64,
    /// Probability that a number of a training row is set to 0, in the normalized space.
    pub masking: f64,
    /// Standard deviation of the noise added to a training row, in the normalized space.
    pub gaussian: f64,
    /// As `masking`, with the other numbers divided by 1 - `input_dropout`.
    pub input_dropout: f64,
    /// Share of the rows of a mini-batch that is left out: those with the largest squared error.
    #[serde(skip_serializing_if = "is_zero")]
    pub trim: f64,
    /// Share of the rows of which only the first units of the code are decoded, with a length uniform from 1 to k - 1.
    #[serde(skip_serializing_if = "is_zero")]
    pub nested_dropout: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Regularization {
    /// Whether the inputs of training rows differ from their targets.
    pub fn corrupts(&self) -> bool {
        self.masking > 0.0 || self.gaussian > 0.0 || self.input_dropout > 0.0
    }

    /// Whether training orders the units of the code, so that the first ones are the best few.
    pub fn orders_codes(&self) -> bool {
        self.nested_dropout > 0.0
    }

    pub(super) fn check(&self) -> Result<(), ParamError> {
        let Self { l2, activity_l2, orthogonality, masking, gaussian, input_dropout, trim, nested_dropout } = *self;
        let of_loss = |field, value| check(field, Some(value), |x| (0.0..=1000.0).contains(&x), "0 to 1000");
        let share = |field, value| check(field, Some(value), |x| (0.0..=0.95).contains(&x), "0 to 0.95");
        of_loss("regularization.l2", l2)?;
        of_loss("regularization.activity_l2", activity_l2)?;
        of_loss("regularization.orthogonality", orthogonality)?;
        share("regularization.masking", masking)?;
        check("regularization.gaussian", Some(gaussian), |x| (0.0..=10.0).contains(&x), "0 to 10")?;
        share("regularization.input_dropout", input_dropout)?;
        check("regularization.trim", Some(trim), |x| (0.0..=0.5).contains(&x), "0 to 0.5")?;
        share("regularization.nested_dropout", nested_dropout)?;
        if nested_dropout > 0.0 && trim > 0.0 {
            // The worst reconstructed rows would be those with truncated codes.
            return Err(ParamError::Both { field: "regularization.nested_dropout", other: "regularization.trim" });
        }
        if trim > 0.0 && activity_l2 > 0.0 {
            return Err(ParamError::Both { field: "regularization.trim", other: "regularization.activity_l2" });
        }
        if masking > 0.0 && input_dropout > 0.0 {
            return Err(ParamError::Both { field: "regularization.input_dropout", other: "regularization.masking" });
        }
        Ok(())
    }
}

impl OptimizerSpec {
    pub(super) fn check(&self) -> Result<(), ParamError> {
        let share = |field, value| check(field, value, |x| (0.0..=1.0).contains(&x), "0 to 1");
        // In f32, values nearer to 1 equal 1, or ignore new gradients.
        let kept = |field, value| check(field, value, |x| (0.0..=0.999_999).contains(&x), "0 to 0.999999");
        check("optimizer.learning_rate", self.learning_rate, |x| x > 0.0 && x <= 1.0, "above 0 and at most 1")?;
        share("optimizer.weight_decay", Some(self.weight_decay))?;
        share("optimizer.warmup_fraction", self.warmup_fraction)?;
        kept("optimizer.momentum", self.momentum)?;
        kept("optimizer.beta2", self.beta2)?;
        check(
            "optimizer.gradient_norm_max",
            self.gradient_norm_max,
            |x| x > 0.0 && x.is_finite(),
            "a finite number above 0",
        )?;
        let steps = Some(self.retraction_steps);
        check("optimizer.retraction_steps", steps, |n| n <= RETRACTION_STEPS_MAX, "0 to 1000000")?;
        if self.beta2.is_some() && self.kind == OptimizerKind::Sgd {
            return Err(ParamError::Needs {
                field: "optimizer.beta2",
                needs: "AdamW",
                got: self.kind.name().to_owned(),
            });
        }
        if self.find_learning_rate && self.learning_rate.is_some() {
            return Err(ParamError::Both { field: "optimizer.find_learning_rate", other: "optimizer.learning_rate" });
        }
        Ok(())
    }
}
