//! Inspection of a model: how orthonormal each matrix is, and which decoder reconstructs best.

use std::ops::ControlFlow;

use super::gradient::{TAPE_ROWS, Tape};
use super::inverse::{Factor, PseudoInverse};
use super::spectrum::{Spectrum, SpectrumError};
use super::{Autoencoder, Decoder, InverseError, Matrix, Space};
use crate::numeric::linalg::{Defect, Pca, RowsInTurn, affordable_rows};
use crate::numeric::matmul::Weights;
use crate::numeric::{BufferPool, PanelMatrix};

/// Properties of one matrix W (outputs, inputs).
#[derive(Clone, Debug, PartialEq)]
pub struct LayerInspection {
    /// Outputs.
    pub outputs: usize,
    /// Inputs.
    pub inputs: usize,
    /// Defect of the smaller Gram matrix: 0 if the rows of W are orthonormal (the columns, if W has more outputs than
    /// inputs).
    pub defect: Defect,
    /// In descending order; as many as the smaller side of W.
    pub singular_values: Vec<f64>,
    /// Condition number: the largest singular value divided by the smallest; infinite if that is 0.
    pub condition: f64,
    /// Number of singular values above a millionth of the largest.
    pub rank: usize,
    /// (outputs,): Euclidean norms of the rows.
    pub row_norms: Vec<f64>,
    /// Dead units, from 0. The norm of their weights is at most a millionth of the longest row, or their output is the
    /// same for every row.
    pub dead_units: Vec<usize>,
}

/// Reconstruction errors on some rows. Squared errors are sums over features and means over rows, in the normalized
/// space.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Rows measured.
    pub rows: usize,
    /// Error with the transpose as decoder, as trained.
    pub transpose: f64,
    /// Error with the pseudo-inverse as decoder, or why there is none.
    pub pseudo_inverse: Result<f64, InverseError>,
    /// Error of PCA with the same code length, fitted on these rows: no linear model can do better.
    pub pca: f64,
    /// Squared distance to the mean of the rows.
    pub spread: f64,
}

/// The result of [`inspect`].
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// In the order of encoding.
    pub layers: Vec<LayerInspection>,
    /// Reconstruction errors, if rows were given.
    pub comparison: Option<Comparison>,
}

/// Inspects every matrix and, on rows (n, d_0) in the units of the input, compares the decoders.
///
/// # Errors
/// If a matrix is too large, or its singular values cannot be computed.
///
/// # Panics
/// If the rows are not d_0 wide.
pub fn inspect(model: &Autoencoder, rows: Option<&Matrix>) -> Result<Inspection, SpectrumError> {
    let mut layers = Vec::new();
    let mut factors = Vec::new();
    for (l, layer) in model.layers().iter().enumerate() {
        let spectrum = Spectrum::of(l + 1, &layer.weight)?;
        if rows.is_some() {
            factors.push(Factor::of(l + 1, layer, &spectrum));
        }
        layers.push(look_at(&layer.weight, spectrum));
    }
    let comparison = rows.map(|rows| {
        let mut outputs: Vec<Ranges> = layers.iter().map(|layer| Ranges::new(layer.outputs)).collect();
        let comparison = compare(model, rows, factors.into_iter().collect(), &mut outputs);
        for (layer, outputs) in layers.iter_mut().zip(outputs) {
            // With a single row, every output is constant.
            let same = |unit: &usize| rows.rows() > 1 && outputs.is_constant(*unit);
            layer.dead_units =
                (0..layer.outputs).filter(|unit| layer.dead_units.contains(unit) || same(unit)).collect();
        }
        comparison
    });
    Ok(Inspection { layers, comparison })
}

fn look_at(w: &Weights, spectrum: Spectrum) -> LayerInspection {
    let (outputs, inputs) = (w.outputs(), w.inputs());
    let square = |o: usize| (0..inputs).map(|i| f64::from(w.at(o, i)).powi(2)).sum::<f64>();
    let row_norms: Vec<f64> = (0..outputs).map(|o| square(o).sqrt()).collect();
    let longest = row_norms.iter().copied().fold(0.0, f64::max);
    LayerInspection {
        outputs,
        inputs,
        defect: spectrum.gram.defect(),
        condition: spectrum.condition(),
        rank: spectrum.rank(),
        dead_units: (0..outputs).filter(|o| row_norms[*o] <= longest * 1e-6).collect(),
        row_norms,
        singular_values: spectrum.singular_values,
    }
}

/// Measures a model on rows, and adds the outputs of each encoder layer to `outputs`.
fn compare(
    model: &Autoencoder,
    rows: &Matrix,
    inverse: Result<PseudoInverse, InverseError>,
    outputs: &mut [Ranges],
) -> Comparison {
    let (features, count) = (model.spec().features(), rows.rows());
    assert_eq!(rows.columns(), features, "as wide as the input");
    let (mut transposed, mut inverted) = (Sum::default(), Sum::default());
    let mut normalized = Vec::with_capacity(count * features);
    let (mut tape, buffers) = (Tape::new(model.layers().len()), &mut BufferPool::default());
    for first in (0..count).step_by(TAPE_ROWS) {
        let block = first..count.min(first + TAPE_ROWS);
        let mut x = PanelMatrix::zeros(block.len(), features);
        let is_wide = rows.form().is_wide() || model.normalizer().is_wide();
        let space = if is_wide { Space::Normalized } else { Space::Input };
        match space {
            Space::Input => rows.load_into(block, &mut x, 0),
            Space::Normalized => rows.load_normalized_into(block, &mut x, 0, model.normalizer()),
        }
        transposed.add(&model.reconstruct_in(space, &x, Decoder::Transpose, buffers).squared_errors);
        if let Ok(inverse) = &inverse {
            let decoder = Decoder::PseudoInverse(inverse);
            inverted.add(&model.reconstruct_in(space, &x, decoder, buffers).squared_errors);
        }
        if space == Space::Input {
            model.normalizer().apply(&mut x);
        }
        model.normalizer().fill_missing(&mut x);
        for row in 0..x.rows() {
            normalized.extend((0..features).map(|j| f64::from(x.at(row, j))));
        }
        *tape.rows_mut() = x;
        tape.forward(model, count);
        outputs.iter_mut().enumerate().for_each(|(l, outputs)| outputs.add(tape.encoded(l)));
    }
    let (pca, spread) = pca(&normalized, features, model.spec().code_length());
    Comparison {
        rows: count,
        transpose: transposed.mean(),
        pseudo_inverse: inverse.map(|_| inverted.mean()),
        pca,
        spread,
    }
}

/// The smallest and the largest output of each unit of a layer.
struct Ranges(Vec<(f32, f32)>);

impl Ranges {
    fn new(units: usize) -> Self {
        Self(vec![(f32::INFINITY, f32::NEG_INFINITY); units])
    }

    fn add(&mut self, outputs: &PanelMatrix) {
        for (unit, (least, most)) in self.0.iter_mut().enumerate() {
            for value in outputs.column(unit) {
                (*least, *most) = (least.min(value), most.max(value));
            }
        }
    }

    fn is_constant(&self, unit: usize) -> bool {
        let (least, most) = self.0[unit];
        most - least <= 1e-6 * least.abs().max(most.abs())
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

/// Normalized rows; every `step`th is used.
struct Table<'a> {
    values: &'a [f64],
    columns: usize,
    step: usize,
}

impl RowsInTurn for Table<'_> {
    fn rows(&self) -> usize {
        (self.values.len() / self.columns).div_ceil(self.step)
    }
    fn columns(&self) -> usize {
        self.columns
    }
    fn each(&self, found: &mut dyn FnMut(&[f64]) -> ControlFlow<()>) -> ControlFlow<()> {
        self.values.chunks_exact(self.columns).step_by(self.step).try_for_each(found)
    }
}

/// Mean over the rows of the squared error that `k` PCA directions leave, and of the squared distance to the mean row.
/// NaN if the decomposition does not converge. The fit uses as many evenly spaced rows as it can afford.
fn pca(values: &[f64], columns: usize, k: usize) -> (f64, f64) {
    let all = Table { values, columns, step: 1 };
    let sample = Table { step: all.rows().div_ceil(affordable_rows(all.rows(), columns).max(1)), ..all };
    let Some(pca) = Pca::fit(&sample, k, &mut || ControlFlow::Continue(())) else { return (f64::NAN, f64::NAN) };
    let (mut left, mut spread) = (0.0, 0.0);
    pca.residuals(&all, |centered, residual| {
        spread += centered.iter().map(|x| x * x).sum::<f64>();
        left += residual.iter().map(|x| x * x).sum::<f64>();
    });
    (left / all.rows() as f64, spread / all.rows() as f64)
}

#[cfg(test)]
mod tests;
