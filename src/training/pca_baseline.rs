//! The PCA baseline: fitted on the same training rows as the model, measured on the same held-out rows. Missing values
//! are replaced by means for the fit, and left out of the measurement.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::batches::{Split, ValidationRows, each_block, each_training_row};
use super::source::{RowSource, SourceError};
use crate::model::Normalizer;
use crate::model::report::number;
use crate::numeric::linalg::{Pca, RowsInTurn, affordable_rows};
use crate::numeric::rng::{Stream, Use};

/// PCA of normalized rows.
#[derive(Clone, Debug)]
pub(super) struct PcaBaseline {
    /// The principal subspace, in the normalized space.
    pub(super) pca: Pca,
    /// Number of rows of the fit.
    pub(super) fitted_rows: u64,
}

/// Errors of PCA on some rows: sums over features, means over rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Measured {
    /// Squared error in the normalized space.
    #[serde(with = "number")]
    pub(super) squared_error: f64,
    /// Squared error in the units of the input.
    #[serde(with = "number")]
    pub(super) squared_error_input_units: f64,
    /// Squared distance of the rows to the mean training row, normalized space.
    #[serde(with = "number")]
    pub(super) spread: f64,
}

/// Calls its argument with rows (row-major), several at a time.
type Each<'a> = &'a dyn Fn(&mut dyn FnMut(&[f32]) -> Result<(), Break>) -> Result<(), Break>;

/// Why a pass over the rows ends early: the rows cannot be read, or no more are needed.
enum Break {
    Source(SourceError),
    Enough,
}

impl From<SourceError> for Break {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

/// Rows normalized as for the model.
struct Normalized<'a> {
    rows: u64,
    features: usize,
    each: Each<'a>,
    normalizer: &'a Normalizer,
    failed: RefCell<Option<SourceError>>,
    /// Whether `missing` is recorded.
    keeps_missing: bool,
    /// For rows that were given out but not yet measured: which values are missing. Empty if none may be.
    missing: RefCell<VecDeque<bool>>,
}

impl<'a> Normalized<'a> {
    fn new(rows: u64, features: usize, normalizer: &'a Normalizer, each: Each<'a>) -> Self {
        Self {
            rows,
            features,
            each,
            normalizer,
            failed: RefCell::new(None),
            keeps_missing: false,
            missing: RefCell::default(),
        }
    }

    fn failure(self) -> Result<(), SourceError> {
        self.failed.into_inner().map_or(Ok(()), Err)
    }
}

impl RowsInTurn for Normalized<'_> {
    fn rows(&self) -> usize {
        self.rows as usize
    }
    fn columns(&self) -> usize {
        self.features
    }
    fn each(&self, found: &mut dyn FnMut(&[f64]) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut normalized = vec![0.0; self.features];
        let read = (self.each)(&mut |rows| {
            for row in rows.chunks_exact(self.features) {
                for (j, (target, value)) in normalized.iter_mut().zip(row).enumerate() {
                    *target = f64::from(self.normalizer.value(j, *value));
                }
                if self.keeps_missing {
                    self.missing.borrow_mut().extend(row.iter().map(|value| value.is_nan()));
                }
                if found(&normalized).is_break() {
                    return Err(Break::Enough);
                }
            }
            Ok(())
        });
        match read {
            Ok(()) => ControlFlow::Continue(()),
            Err(Break::Enough) => ControlFlow::Break(()),
            Err(Break::Source(error)) => {
                *self.failed.borrow_mut() = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

impl PcaBaseline {
    /// Fits as many directions as the code has numbers, on the training rows, or on an even sample if all rows are too
    /// expensive. `None` if `go_on` breaks or the decomposition does not converge.
    pub(super) fn fit(
        source: &dyn RowSource,
        cut: &Split,
        normalizer: &Normalizer,
        code_length: usize,
        seed: u64,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Self>, SourceError> {
        let features = source.features();
        let rows = cut.training_rows();
        let affordable = affordable_rows(usize::try_from(rows).unwrap_or(usize::MAX), features) as u64;
        let share = affordable as f64 / rows as f64;
        let chosen = |row: u64| affordable >= rows || Stream::new(seed, 0, row, Use::Sample).uniform() < share;
        let mut count = 0;
        if affordable < rows {
            each_training_row(source, cut, &mut |row, _| {
                count += u64::from(chosen(row));
                Ok::<_, SourceError>(())
            })?;
        } else {
            count = rows;
        }
        let each = |found: &mut dyn FnMut(&[f32]) -> Result<(), Break>| {
            each_training_row(source, cut, &mut |row, values| if chosen(row) { found(values) } else { Ok(()) })
        };
        let sample = Normalized::new(count, features, normalizer, &each);
        let pca = Pca::fit(&sample, code_length, go_on);
        sample.failure()?;
        Ok(pca.map(|pca| Self { pca, fitted_rows: count }))
    }

    /// Measures PCA on the held-out rows.
    pub(super) fn measure_held_back(
        &self,
        rows: &ValidationRows,
        normalizer: &Normalizer,
    ) -> Result<Measured, SourceError> {
        let each = |found: &mut dyn FnMut(&[f32]) -> Result<(), Break>| rows.each(found);
        self.measure(Normalized::new(rows.count(), self.pca.mean().len(), normalizer, &each))
    }

    /// Measures PCA on the rows of a source.
    pub(super) fn measure_all(&self, source: &dyn RowSource, normalizer: &Normalizer) -> Result<Measured, SourceError> {
        let each = |found: &mut dyn FnMut(&[f32]) -> Result<(), Break>| each_block(source, &mut |_, rows| found(rows));
        self.measure(Normalized::new(source.count(), source.features(), normalizer, &each))
    }

    fn measure(&self, rows: Normalized<'_>) -> Result<Measured, SourceError> {
        let rows = Normalized { keeps_missing: rows.normalizer.takes_missing(), ..rows };
        let (mut squared, mut input_units, mut spread) = (0.0, 0.0, 0.0);
        self.pca.residuals(&rows, |centered, left| {
            let mut missing = rows.missing.borrow_mut();
            for (j, (centered, left)) in centered.iter().zip(left).enumerate() {
                if missing.pop_front() == Some(true) {
                    continue;
                }
                squared += left * left;
                input_units += (left * f64::from(rows.normalizer.unit(j))).powi(2);
                spread += centered.powi(2);
            }
        });
        let count = rows.rows as f64;
        rows.failure()?;
        Ok(Measured {
            squared_error: squared / count,
            squared_error_input_units: input_units / count,
            spread: spread / count,
        })
    }
}
