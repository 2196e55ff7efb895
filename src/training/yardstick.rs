//! The best that PCA could do: fitted on the same training rows, measured on the same held-out rows.

use std::ops::ControlFlow;

use super::batches::Rows;
use crate::model::Normaliser;
use crate::numeric::linalg::{Pca, RowSource, affordable_rows};
use crate::numeric::rng::{Stream, Use};

/// PCA of normalised rows.
#[derive(Debug)]
pub struct Yardstick {
    pca: Pca,
    /// Rows that it was fitted on.
    pub fitted_rows: usize,
}

/// What PCA leaves of some rows: sums over features, means over rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Normalised space.
    pub squared_error: f64,
    /// Units of the input.
    pub squared_error_input_units: f64,
    /// Squared distance of the rows to the mean training row, normalised space.
    pub spread: f64,
}

/// Chosen rows as the model sees them.
struct Normalised<'a> {
    rows: Rows<'a>,
    indices: &'a [u32],
    normaliser: &'a Normaliser,
}

impl RowSource for Normalised<'_> {
    fn rows(&self) -> usize {
        self.indices.len()
    }
    fn columns(&self) -> usize {
        self.rows.features
    }
    fn read(&self, index: usize, row: &mut [f64]) {
        let values = self.rows.row(self.indices[index] as usize);
        for (j, (target, value)) in row.iter_mut().zip(values).enumerate() {
            *target = f64::from(self.normaliser.value(j, *value));
        }
    }
}

impl Yardstick {
    /// Fits as many directions as the code has numbers, on the rows `indices`, or on an even sample of them where all
    /// would be too dear. `None` if `go_on` breaks or the decomposition does not converge.
    pub fn fit(
        rows: Rows<'_>,
        indices: &[u32],
        normaliser: &Normaliser,
        code_length: usize,
        seed: u64,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Option<Self> {
        let affordable = affordable_rows(indices.len(), rows.features);
        let mut sample = indices.to_vec();
        if affordable < sample.len() {
            Stream::new(seed, 0, 0, Use::Sample).shuffle(&mut sample);
            sample.truncate(affordable);
            sample.sort_unstable();
        }
        let source = Normalised { rows, indices: &sample, normaliser };
        Some(Self { pca: Pca::fit(&source, code_length, go_on)?, fitted_rows: sample.len() })
    }

    /// What it leaves of the rows `indices`.
    pub fn measure(&self, rows: Rows<'_>, indices: &[u32], normaliser: &Normaliser) -> Measured {
        let source = Normalised { rows, indices, normaliser };
        let (mut squared, mut input_units, mut spread) = (0.0, 0.0, 0.0);
        let mut row = vec![0.0; rows.features];
        self.pca.residuals(&source, |index, left| {
            source.read(index, &mut row);
            for (j, left) in left.iter().enumerate() {
                squared += left * left;
                input_units += (left * f64::from(normaliser.unit(j))).powi(2);
                spread += (row[j] - self.pca.mean()[j]).powi(2);
            }
        });
        let count = indices.len() as f64;
        Measured {
            squared_error: squared / count,
            squared_error_input_units: input_units / count,
            spread: spread / count,
        }
    }
}
