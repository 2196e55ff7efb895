//! The singular values of a matrix, for inspection and for the pseudo-inverse.

use crate::numeric::linalg::Gram;
use crate::numeric::matmul::Weights;

/// Largest smaller side of a matrix: eigenvalues and factors cost its cube.
pub const SIZE_MAX: usize = 4096;
/// A singular value smaller than the largest by more than this factor counts as 0.
pub const CONDITION_MAX: f64 = 1e6;

/// Why the singular values of a matrix cannot be computed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpectrumError {
    /// The matrix is too large.
    #[error(
        "the smaller side of the matrix of layer {layer} is {size}, expected at most {SIZE_MAX} for its singular values"
    )]
    TooLarge {
        /// The layer, from 1.
        layer: usize,
        /// The smaller side of the matrix.
        size: usize,
    },
    /// The eigenvalues did not converge.
    #[error("the singular values of the matrix of layer {layer} cannot be computed: its values differ too widely")]
    NotConverged {
        /// The layer, from 1.
        layer: usize,
    },
}

/// The smaller Gram matrix of W and the singular values of W.
#[derive(Clone, Debug)]
pub struct Spectrum {
    /// W·Wᵀ or Wᵀ·W.
    pub gram: Gram,
    /// In descending order; as many as the Gram matrix has rows, at least one.
    pub singular_values: Vec<f64>,
}

impl Spectrum {
    /// The spectrum of the matrix of layer `layer`, from 1; errors name the layer.
    ///
    /// # Errors
    /// If the matrix is too large, or the eigenvalues do not converge.
    pub fn of(layer: usize, weights: &Weights) -> Result<Self, SpectrumError> {
        let size = weights.outputs().min(weights.inputs());
        if size > SIZE_MAX {
            return Err(SpectrumError::TooLarge { layer, size });
        }
        let gram = Gram::of(weights);
        let singular_values = gram.singular_values().ok_or(SpectrumError::NotConverged { layer })?;
        Ok(Self { gram, singular_values })
    }

    /// The largest singular value.
    pub fn greatest(&self) -> f64 {
        self.singular_values[0]
    }

    /// Condition number: the largest singular value divided by the smallest; infinite if that is 0.
    pub fn condition(&self) -> f64 {
        let smallest = self.singular_values[self.singular_values.len() - 1];
        if smallest > 0.0 { self.greatest() / smallest } else { f64::INFINITY }
    }

    /// Number of singular values that do not count as 0.
    pub fn rank(&self) -> usize {
        self.singular_values.iter().filter(|value| **value > 0.0 && **value * CONDITION_MAX >= self.greatest()).count()
    }
}
