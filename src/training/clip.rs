//! Clips values of rows to limits, which keeps outliers from training.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::source::{RowSource, SourceError};

/// The limits to which values of a column are clipped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Limit {
    pub(super) feature: usize,
    pub(super) least: f32,
    pub(super) greatest: f32,
}

/// Clips values of rows (row-major) to the limits.
pub(super) fn clip(values: &mut [f32], features: usize, limits: &[Limit]) {
    for row in values.chunks_exact_mut(features) {
        for limit in limits {
            row[limit.feature] = row[limit.feature].clamp(limit.least, limit.greatest);
        }
    }
}

/// Rows with values clipped to limits.
pub(super) struct Clipped<S> {
    pub(super) source: S,
    pub(super) limits: Vec<Limit>,
}

impl<S: Deref<Target: RowSource> + Send + Sync> RowSource for Clipped<S> {
    fn count(&self) -> u64 {
        self.source.count()
    }
    fn features(&self) -> usize {
        self.source.features()
    }
    fn read(&self, first: u64, values: &mut [f32]) -> Result<(), SourceError> {
        self.source.read(first, values)?;
        clip(values, self.features(), &self.limits);
        Ok(())
    }
    fn shift(&self) -> Option<&[f64]> {
        self.source.shift()
    }
}

/// The rows, with outliers clipped.
pub(super) fn clipped(source: &Arc<dyn RowSource>, limits: &[Limit]) -> Arc<dyn RowSource> {
    match limits {
        [] => Arc::clone(source),
        limits => Arc::new(Clipped { source: Arc::clone(source), limits: limits.to_vec() }),
    }
}

/// Rows in memory, with outliers clipped.
pub(super) fn clipped_rows<'a>(rows: &'a [f32], features: usize, limits: &[Limit]) -> Cow<'a, [f32]> {
    let mut rows = Cow::Borrowed(rows);
    if !limits.is_empty() && !rows.is_empty() {
        clip(rows.to_mut(), features, limits);
    }
    rows
}
