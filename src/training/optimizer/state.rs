//! The state of an optimizer: scalars, and a tensor or two for each tensor of parameters.

use serde::{Deserialize, Serialize};

use crate::numeric::Floats;

/// The scalars of an optimizer's state.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::training) struct Scalars {
    /// β₁ᵗ: weight of the initial zeros in the first moments.
    pub(super) start_1: f64,
    /// β₂ᵗ: weight of the initial zeros in the second moments.
    pub(super) start_2: f64,
}

impl Default for Scalars {
    /// The state before the first step.
    fn default() -> Self {
        Self { start_1: 1.0, start_2: 1.0 }
    }
}

/// The state of one tensor of parameters.
#[derive(Debug)]
pub(super) struct Tensor {
    /// For example `0.weight`.
    pub(super) name: String,
    /// Whether it is a matrix: weight decay applies to matrices only.
    pub(super) is_matrix: bool,
    /// Numbers of a panel of a matrix; other tensors are one panel.
    pub(super) panel: usize,
    pub(super) rule: Rule,
}

#[derive(Debug)]
pub(super) enum Rule {
    Adam { first: Floats, second: Floats },
    Nesterov { velocity: Floats },
}

impl Tensor {
    pub(super) fn kept(&self) -> Vec<(&'static str, &[f32])> {
        match &self.rule {
            Rule::Adam { first, second } => vec![("first", first.as_slice()), ("second", second.as_slice())],
            Rule::Nesterov { velocity } => vec![("velocity", velocity.as_slice())],
        }
    }

    pub(super) fn kept_mut(&mut self) -> Vec<(&'static str, &mut [f32])> {
        let slice = Floats::as_mut_slice;
        match &mut self.rule {
            Rule::Adam { first, second } => vec![("first", slice(first)), ("second", slice(second))],
            Rule::Nesterov { velocity } => vec![("velocity", slice(velocity))],
        }
    }
}
