//! Element-wise functions of a layer and their derivatives.

use serde::{Deserialize, Serialize};

/// An element-wise function with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Activation {
    /// f(x) = x.
    Linear,
    /// f(x) = max(0, x).
    Relu,
    /// f(x) = x for x > 0, `slope * x` otherwise.
    LeakyRelu {
        /// From 0 to below 1; 0.01 by default.
        slope: f32,
    },
    /// f(x) = x for x > 0, `alpha * (exp(x) - 1)` otherwise.
    Elu {
        /// Above 0; 1 by default.
        alpha: f32,
    },
    /// f(x) = x Φ(x), exactly (with erf).
    Gelu,
    /// The hyperbolic tangent.
    Tanh,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
}
