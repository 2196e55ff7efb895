//! What there is to see of a model: how orthonormal each matrix is, and what decodes best.

use std::ops::ControlFlow;

use super::gradient::{TAPE_ROWS, Tape};
use super::inverse::{self, PseudoInverse};
use super::{Autoencoder, Decoder, InverseError, Matrix};
use crate::numeric::linalg::{Defect, Gram, Pca, RowsInTurn, affordable_rows};
use crate::numeric::{Lanes, Spare};

/// Largest smaller side of a matrix that is looked at: its eigenvalues cost the cube.
pub const SIZE_MAX: usize = inverse::SIZE_MAX;

/// Why a model cannot be inspected.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InspectError {
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
    #[error(
        "the singular values of the matrix of layer {layer} cannot be computed: its numbers are not finite, or too far apart"
    )]
    NoSpectrum {
        /// From 1.
        layer: usize,
    },
}

/// One matrix W (outputs, inputs).
#[derive(Clone, Debug, PartialEq)]
pub struct LayerInspection {
    /// Outputs.
    pub outputs: usize,
    /// Inputs.
    pub inputs: usize,
    /// Of the smaller Gram matrix: 0 where the rows (the columns, where W has more outputs than inputs) are orthonormal.
    pub defect: Defect,
    /// The greatest first; as many as the smaller side has.
    pub singular_values: Vec<f64>,
    /// The greatest by the smallest; infinite where that is 0.
    pub condition: f64,
    /// Singular values above a millionth of the greatest.
    pub rank: usize,
    /// (outputs,): Euclidean norms of the rows.
    pub row_norms: Vec<f64>,
    /// Units whose weights are all next to nothing (below a millionth of the longest row), from 0.
    pub zero_units: Vec<usize>,
}

/// What a model makes of some rows. Squared errors are sums over features, means over rows, normalised space.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Rows measured.
    pub rows: usize,
    /// Decoded with the transpose, as trained.
    pub transpose: f64,
    /// With the pseudo-inverse, where there is one.
    pub pseudo_inverse: Result<f64, InverseError>,
    /// What PCA with the same code size leaves of these rows, fitted on them: no linear model can do better.
    pub pca: f64,
    /// The squared distance to their mean.
    pub spread: f64,
    /// By encoder layer: units with the same output for every one of these rows, from 0.
    pub dead_units: Vec<Vec<usize>>,
}

/// Looks at every matrix.
///
/// # Errors
/// If one is too large, or has no singular values.
pub fn layers(model: &Autoencoder) -> Result<Vec<LayerInspection>, InspectError> {
    let one = |(l, layer): (usize, &super::TiedLayer)| {
        let w = &layer.weight;
        let (outputs, inputs) = (w.outputs(), w.inputs());
        let size = outputs.min(inputs);
        if size > SIZE_MAX {
            return Err(InspectError::TooLarge { layer: l + 1, size });
        }
        let gram = Gram::of(w);
        let singular_values = gram.singular_values().ok_or(InspectError::NoSpectrum { layer: l + 1 })?;
        let square = |o: usize| (0..inputs).map(|i| f64::from(w.at(o, i)).powi(2)).sum::<f64>();
        let row_norms: Vec<f64> = (0..outputs).map(|o| square(o).sqrt()).collect();
        let longest = row_norms.iter().copied().fold(0.0, f64::max);
        let zero_units = (0..outputs).filter(|o| row_norms[*o] <= longest * 1e-6).collect();
        Ok(LayerInspection {
            outputs,
            inputs,
            defect: gram.defect(),
            condition: singular_values[0] / singular_values[size - 1],
            rank: inverse::rank(&singular_values),
            singular_values,
            row_norms,
            zero_units,
        })
    };
    model.layers().iter().enumerate().map(one).collect()
}

/// Measures a model on rows (n, d_0) in the units of the input.
///
/// # Panics
/// If they are not d_0 wide.
pub fn compare(model: &Autoencoder, rows: &Matrix) -> Comparison {
    let (features, count) = (model.spec().features(), rows.rows());
    assert_eq!(rows.columns(), features, "as wide as the input");
    let inverse = PseudoInverse::of(model);
    let mut transposed = Sum::default();
    let mut inverted = Sum::default();
    let mut ranges: Vec<Vec<(f32, f32)>> =
        model.layers().iter().map(|layer| vec![(f32::INFINITY, f32::NEG_INFINITY); layer.weight.outputs()]).collect();
    let mut normalised = Vec::with_capacity(count * features);
    let (mut tape, spare) = (Tape::new(model.layers().len()), &mut Spare::default());
    for first in (0..count).step_by(TAPE_ROWS) {
        let block = first..count.min(first + TAPE_ROWS);
        let mut x = Lanes::zeros(block.len(), features);
        rows.load_into(block, &mut x, 0);
        transposed.add(&model.reconstruct(&x, Decoder::Transpose, spare).squared_errors);
        if let Ok(inverse) = &inverse {
            inverted.add(&model.reconstruct(&x, Decoder::PseudoInverse(inverse), spare).squared_errors);
        }
        model.normaliser().apply(&mut x);
        for row in 0..x.rows() {
            normalised.extend((0..features).map(|j| f64::from(x.at(row, j))));
        }
        *tape.rows_mut() = x;
        tape.forward(model, count);
        for (l, ranges) in ranges.iter_mut().enumerate() {
            for (unit, (least, most)) in ranges.iter_mut().enumerate() {
                for value in tape.encoded(l).column(unit) {
                    (*least, *most) = (least.min(value), most.max(value));
                }
            }
        }
    }
    let table = Table { values: normalised, columns: features };
    let (pca, spread) = table.pca(model.spec().code_length());
    let dead = |ranges: Vec<(f32, f32)>| {
        let is_dead = |(least, most): &(f32, f32)| most - least <= 1e-6 * least.abs().max(most.abs());
        ranges.iter().enumerate().filter(|(_, range)| is_dead(range)).map(|(unit, _)| unit).collect()
    };
    Comparison {
        rows: count,
        transpose: transposed.mean(),
        pseudo_inverse: inverse.map(|_| inverted.mean()),
        pca,
        spread,
        // Of one row everything is the same.
        dead_units: if count > 1 { ranges.into_iter().map(dead).collect() } else { vec![vec![]; model.layers().len()] },
    }
}

#[derive(Default)]
struct Sum {
    total: f64,
    rows: usize,
}

impl Sum {
    fn add(&mut self, errors: &[f32]) {
        self.total += errors.iter().map(|error| f64::from(*error)).sum::<f64>();
        self.rows += errors.len();
    }

    fn mean(&self) -> f64 {
        self.total / self.rows as f64
    }
}

/// Normalised rows.
struct Table {
    values: Vec<f64>,
    columns: usize,
}

impl RowsInTurn for Table {
    fn rows(&self) -> usize {
        self.values.len() / self.columns
    }
    fn columns(&self) -> usize {
        self.columns
    }
    fn each(&self, found: &mut dyn FnMut(&[f64]) -> ControlFlow<()>) -> ControlFlow<()> {
        self.values.chunks_exact(self.columns).try_for_each(found)
    }
}

impl Table {
    /// What `k` directions leave of a row in the mean, and its squared distance to the mean row. NaN where the decomposition
    /// does not converge. Fitted on as many rows, evenly taken, as that can be afforded for.
    fn pca(&self, k: usize) -> (f64, f64) {
        let affordable = affordable_rows(self.rows(), self.columns);
        let step = self.rows().div_ceil(affordable.max(1));
        let sample = Self {
            values: self.values.chunks_exact(self.columns).step_by(step).flatten().copied().collect(),
            columns: self.columns,
        };
        let Some(pca) = Pca::fit(&sample, k, &mut || ControlFlow::Continue(())) else { return (f64::NAN, f64::NAN) };
        let (mut left, mut spread) = (0.0, 0.0);
        pca.residuals(self, |centred, residual| {
            spread += centred.iter().map(|x| x * x).sum::<f64>();
            left += residual.iter().map(|x| x * x).sum::<f64>();
        });
        (left / self.rows() as f64, spread / self.rows() as f64)
    }
}

#[cfg(test)]
mod tests;
