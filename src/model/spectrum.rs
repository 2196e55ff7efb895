//! The singular values of a matrix: what inspection shows, and what a pseudo-inverse is judged by.

use crate::numeric::linalg::Gram;
use crate::numeric::matmul::Weights;

/// Largest smaller side of a matrix: eigenvalues and factors cost its cube.
pub const SIZE_MAX: usize = 4096;
/// A singular value this many times smaller than the greatest counts as none.
pub const CONDITION_MAX: f64 = 1e6;

/// Why a matrix has no known singular values.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpectrumError {
    /// Too large.
    #[error(
        "the smaller side of the matrix of layer {layer} is {size}, expected at most {SIZE_MAX} for its singular values"
    )]
    TooLarge {
        /// From 1.
        layer: usize,
        /// Of its smaller side.
        size: usize,
    },
    /// The eigenvalues did not converge.
    #[error("the singular values of the matrix of layer {layer} cannot be computed: its numbers are too far apart")]
    NotConverged {
        /// From 1.
        layer: usize,
    },
}

/// The smaller Gram matrix of W and the singular values of W.
#[derive(Clone, Debug)]
pub struct Spectrum {
    /// W·Wᵀ or Wᵀ·W.
    pub gram: Gram,
    /// The greatest first; as many as the Gram matrix has rows, which is at least one.
    pub singular_values: Vec<f64>,
}

impl Spectrum {
    /// Of the matrix of layer `layer`, from 1: errors name it.
    ///
    /// # Errors
    /// If it is too large, or the eigenvalues do not converge.
    pub fn of(layer: usize, weights: &Weights) -> Result<Self, SpectrumError> {
        let size = weights.outputs().min(weights.inputs());
        if size > SIZE_MAX {
            return Err(SpectrumError::TooLarge { layer, size });
        }
        let gram = Gram::of(weights);
        let singular_values = gram.singular_values().ok_or(SpectrumError::NotConverged { layer })?;
        Ok(Self { gram, singular_values })
    }

    /// The greatest.
    pub fn greatest(&self) -> f64 {
        self.singular_values[0]
    }

    /// The greatest by the smallest; infinite where that is 0.
    pub fn condition(&self) -> f64 {
        let smallest = self.singular_values[self.singular_values.len() - 1];
        if smallest > 0.0 { self.greatest() / smallest } else { f64::INFINITY }
    }

    /// How many singular values count.
    pub fn rank(&self) -> usize {
        self.singular_values.iter().filter(|value| **value > 0.0 && **value * CONDITION_MAX >= self.greatest()).count()
    }
}
