//! Activation functions of a layer, element by element, and their derivatives.
//!
//! The exponential and the error function are polynomials in plain operations without branches. The compiler vectorizes
//! them for each instruction set, and they give the same bits on every machine.

// The kernels compile these functions once per instruction set: only inlined code is vectorized.
#![allow(clippy::inline_always)]

use serde::{Deserialize, Serialize};

/// An element-wise activation function with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Activation {
    /// f(x) = x.
    Linear,
    /// f(x) = max(0, x).
    Relu,
    /// f(x) = x for x > 0, `slope * x` otherwise.
    LeakyRelu {
        /// In [0, 1); 0.01 by default.
        slope: f32,
    },
    /// f(x) = x for x > 0, `alpha * (exp(x) - 1)` otherwise.
    Elu {
        /// Greater than 0; 1 by default.
        alpha: f32,
    },
    /// f(x) = x Φ(x), exact (with erf), not the tanh approximation.
    Gelu,
    /// f(x) = tanh(x).
    Tanh,
    /// f(x) = 1 / (1 + exp(-x)).
    Sigmoid,
}

impl Activation {
    /// One activation of each kind, for tests.
    #[cfg(test)]
    pub(crate) const EACH: [Self; 7] = [
        Self::Linear,
        Self::Relu,
        Self::LeakyRelu { slope: 0.01 },
        Self::Elu { alpha: 1.0 },
        Self::Gelu,
        Self::Tanh,
        Self::Sigmoid,
    ];

    /// Checks the parameters.
    ///
    /// # Errors
    /// If a parameter is out of range; the text names the value and the accepted range.
    pub fn check(&self) -> Result<(), String> {
        match *self {
            Self::LeakyRelu { slope } if !(0.0..1.0).contains(&slope) => {
                Err(format!("slope of leaky_relu is {slope}, expected a number from 0 to below 1"))
            }
            Self::Elu { alpha } if !(alpha > 0.0 && alpha.is_finite()) => {
                Err(format!("alpha of elu is {alpha}, expected a finite number above 0"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the function saturates on both sides, which conflicts with tied weights: see `ModelSpec::gain`.
    pub fn saturates(&self) -> bool {
        matches!(self, Self::Tanh | Self::Sigmoid)
    }

    /// Whether [`Activation::slope_from_output`] gives the derivative. It does not for GELU, which is not monotonic:
    /// there the derivative must be computed before the function is applied.
    pub fn has_slope_from_output(&self) -> bool {
        !matches!(self, Self::Gelu)
    }

    /// f(x).
    pub fn value(self, x: f32) -> f32 {
        match self {
            Self::Linear => x,
            Self::Relu => relu(x),
            Self::LeakyRelu { slope } => leaky_relu(x, slope),
            Self::Elu { alpha } => elu(x, alpha),
            Self::Gelu => gelu(x),
            Self::Tanh => tanh(x),
            Self::Sigmoid => sigmoid(x),
        }
    }

    /// f'(x), from x. Needed for [`Activation::Gelu`].
    pub fn slope_at(&self, x: f32) -> f32 {
        match *self {
            Self::Gelu => gelu_slope(x),
            _ => self.slope_from_output(self.value(x)),
        }
    }

    /// f'(x), from y = f(x). Valid only if [`Activation::has_slope_from_output`] is true.
    pub fn slope_from_output(&self, y: f32) -> f32 {
        match *self {
            Self::Linear | Self::Gelu => 1.0,
            Self::Relu => f32::from(u8::from(y > 0.0)),
            Self::LeakyRelu { slope } => {
                if y > 0.0 {
                    1.0
                } else {
                    slope
                }
            }
            Self::Elu { alpha } => {
                if y > 0.0 {
                    1.0
                } else {
                    y + alpha
                }
            }
            Self::Tanh => 1.0 - y * y,
            Self::Sigmoid => y * (1.0 - y),
        }
    }

    /// `values = f(values)`. The kernels compile it once per instruction set.
    #[inline(always)]
    pub(super) fn apply(self, values: &mut [f32]) {
        match self {
            Self::Linear => {}
            Self::Relu => each(values, relu),
            Self::LeakyRelu { slope } => each(values, |x| leaky_relu(x, slope)),
            Self::Elu { alpha } => each(values, |x| elu(x, alpha)),
            Self::Gelu => each(values, gelu),
            Self::Tanh => each(values, tanh),
            Self::Sigmoid => each(values, sigmoid),
        }
    }
}

#[inline(always)]
fn each(values: &mut [f32], f: impl Fn(f32) -> f32) {
    values.iter_mut().for_each(|x| *x = f(*x));
}

// The comparisons keep NaN as NaN: an invalid result must not look like a number.

#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn leaky_relu(x: f32, slope: f32) -> f32 {
    if x < 0.0 { slope * x } else { x }
}

#[inline(always)]
fn elu(x: f32, alpha: f32) -> f32 {
    // The clamp prevents an overflow in the branch that is not taken.
    let below = alpha * (exp(x.clamp(-87.0, 0.0)) - 1.0);
    if x < 0.0 { below } else { x }
}

/// σ(x) and ln(1 + exp(-|x|)), from one exponential.
///
/// ln(1 + e) = 2 artanh(s) with s = e / (2 + e), at most 1/3. The series up to s¹⁷ has an error below 1e-9.
#[inline(always)]
pub(super) fn logistic(x: f32) -> Logistic {
    let e = exp(-x.abs());
    let share = 1.0 / (1.0 + e);
    let sigmoid = if x >= 0.0 { share } else { e * share };
    let s = e / (2.0 + e);
    let square = s * s;
    let mut series = 1.0 / 17.0;
    for coefficient in [1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0] {
        series = series * square + coefficient;
    }
    Logistic { sigmoid, log_term: 2.0 * s * series }
}

/// The result of [`logistic`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Logistic {
    /// σ(x).
    pub(super) sigmoid: f32,
    /// ln(1 + exp(-|x|)).
    pub(super) log_term: f32,
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    x * normal_distribution(x)
}

fn gelu_slope(x: f32) -> f32 {
    let density = exp(-0.5 * x * x) * 0.398_942_3;
    normal_distribution(x) + x * density
}

/// Φ(x) = (1 + erf(x/√2)) / 2 = erfc(-x/√2) / 2.
///
/// erfc(z) = t P(t) exp(-z²) for z >= 0 with t = 1 / (1 + 0.4 z), the form of Hastings (1955; Abramowitz and Stegun
/// 7.1.26). The polynomial P has degree 9, by least squares at Chebyshev points: t P(t) is within 7e-9 of
/// erfc(z) exp(z²). It is evaluated at |z|, where erfc is small, so that the left tail keeps its digits.
#[inline(always)]
fn normal_distribution(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.4 * z);
    let mut p = -0.026_480_014;
    for coefficient in [
        0.180_366_14,
        -0.455_591_5,
        0.487_556_1,
        -0.232_807_64,
        0.243_548_2,
        0.139_777_18,
        0.212_719_63,
        0.225_218_88,
        0.225_693_24,
    ] {
        p = p * t + coefficient;
    }
    let tail = 0.5 * (p * t) * exp(-z * z);
    if x > 0.0 { 1.0 - tail } else { tail }
}

/// exp(x) with a relative error below 2e-7 on [-87, 88]; clamped outside.
///
/// exp(x) = 2^k exp(r) with k = round(x / ln 2), r in [-ln 2 / 2, ln 2 / 2], ln 2 split in two (Cody and Waite 1980),
/// and the Taylor polynomial of degree 7 for exp(r), whose remainder is below 1e-8 there.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let k = shifted - MAGIC;
    let r = (x - k * LN2_HIGH) - k * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + coefficient;
    }
    let exponent = shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Linear => x,
            Activation::Relu => x.max(0.0),
            Activation::LeakyRelu { slope } => {
                if x > 0.0 {
                    x
                } else {
                    f64::from(slope) * x
                }
            }
            Activation::Elu { alpha } => {
                if x > 0.0 {
                    x
                } else {
                    f64::from(alpha) * x.exp_m1()
                }
            }
            Activation::Gelu => x * 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2),
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        }
    }

    fn points() -> impl Iterator<Item = f32> {
        (-20_000..=20_000).map(|i| i as f32 * 0.001).chain([-1e30, -100.0, 100.0, 1e30, -0.0])
    }

    #[test]
    fn values_are_within_2e_7() {
        for activation in Activation::EACH {
            for x in points() {
                let expected = reference(activation, f64::from(x));
                let got = f64::from(activation.value(x));
                let tolerance = 2e-7 * f64::from(x.abs().max(1.0));
                assert!((got - expected).abs() <= tolerance, "{activation:?}({x}) = {got}, expected {expected}");
            }
        }
    }

    #[test]
    fn slopes_match_finite_differences() {
        for activation in Activation::EACH {
            for x in points().filter(|x| x.abs() < 10.0 && x.abs() > 1e-3) {
                let (x64, step) = (f64::from(x), 1e-6);
                let expected = (reference(activation, x64 + step) - reference(activation, x64 - step)) / (2.0 * step);
                let got = f64::from(activation.slope_at(x));
                assert!((got - expected).abs() < 2e-6, "{activation:?}'({x}) = {got}, expected {expected}");
            }
        }
    }

    #[test]
    fn sigmoid_and_log_term_are_within_2e_7() {
        for x in points() {
            let got = logistic(x);
            let expected = reference(Activation::Sigmoid, f64::from(x));
            assert!((f64::from(got.sigmoid) - expected).abs() <= 2e-7, "σ({x}) = {}", got.sigmoid);
            let expected = (-f64::from(x).abs()).exp().ln_1p();
            assert!((f64::from(got.log_term) - expected).abs() <= 2e-7, "ln(1 + exp(-|{x}|)) = {}", got.log_term);
        }
    }

    #[test]
    fn invalid_parameters_are_refused() {
        for bad in [
            Activation::LeakyRelu { slope: 1.0 },
            Activation::LeakyRelu { slope: -0.1 },
            Activation::LeakyRelu { slope: f32::NAN },
            Activation::Elu { alpha: 0.0 },
            Activation::Elu { alpha: f32::INFINITY },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert!(Activation::EACH.iter().all(|activation| activation.check().is_ok()));
    }

    #[test]
    fn nan_stays_nan() {
        for activation in Activation::EACH {
            assert!(activation.value(f32::NAN).is_nan(), "{activation:?}");
        }
    }
}
