//! The parts of a training specification that say how to optimize and how to regularize: as sent, each default "off".

use serde::{Deserialize, Serialize};

use super::params::{ParamError, check};

/// Most steps from one retraction to the next; there is one at the end of each epoch too.
const RETRACTION_STEPS_MAX: u32 = 1_000_000;

/// How parameters are moved by their gradient.
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
    /// For people.
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

/// How to optimize.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimizerSpec {
    /// Peak rate; none: chosen.
    pub learning_rate: Option<f64>,
    /// Decoupled weight decay of the matrices.
    pub weight_decay: f64,
    /// Share of steps; none: 0.05.
    pub warmup_fraction: Option<f64>,
    /// Which method.
    pub kind: OptimizerKind,
    /// From 0 to 0.999999; `AdamW` calls it β₁; none: 0.9.
    pub momentum: Option<f64>,
    /// β₂ of `AdamW`, from 0 to 0.999999; none: 0.999.
    pub beta2: Option<f64>,
    /// How the rate goes after the warm-up.
    pub schedule: Schedule,
    /// Norm of the whole gradient to which longer ones are scaled; none: none is.
    pub gradient_norm_max: Option<f64>,
    /// Whether the peak rate is found by a sweep.
    pub find_learning_rate: bool,
    /// Steps after which matrices are made orthonormal, and again; 0: never.
    #[serde(skip_serializing_if = "is_never")]
    pub retraction_steps: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_never(steps: &u32) -> bool {
    *steps == 0
}

/// What keeps a model from learning the training rows by heart. Zeros are off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Regularization {
    /// A term 2·l2·‖W‖² of the loss, over all matrices.
    pub l2: f64,
    /// A term `activity_l2` · ‖code‖² of the loss, mean over rows.
    pub activity_l2: f64,
    /// A term `orthogonality` · ‖G - I‖² of the loss, over all matrices, G being the smaller Gram matrix of each.
    #[serde(skip_serializing_if = "is_zero")]
    pub orthogonality: f64,
    /// Probability with which a number of a training row is set to 0, normalized space.
    pub masking: f64,
    /// Standard deviation of the noise added to a training row, normalized space.
    pub gaussian: f64,
    /// As `masking`, and what stays is divided by 1 - `input_dropout`.
    pub input_dropout: f64,
    /// Share of the rows of a mini-batch, those with the greatest squared error, that do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub trim: f64,
    /// Share of the rows of which only the first units of the code are decoded: each length from 1 to k - 1 as often.
    #[serde(skip_serializing_if = "is_zero")]
    pub nested_dropout: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Regularization {
    /// Whether training rows differ from what they are compared with.
    pub fn corrupts(&self) -> bool {
        self.masking > 0.0 || self.gaussian > 0.0 || self.input_dropout > 0.0
    }

    /// Whether the first units of codes come to be the best few.
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
            // The rows that reconstruct worst would be those whose codes are cut.
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
        // Nearer to 1 is 1, in 32 bits, or keeps nothing new.
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
