//! Sources of rows.

/// Rows in a fixed order that can be read more than once: in memory, or on disk.
pub trait RowSource: Send + Sync {
    /// Number of rows.
    fn count(&self) -> u64;
    /// Numbers in a row.
    fn features(&self) -> usize;
    /// Fills `values` (row-major, whole rows) with the rows from `first` on, in the units of the input. Values are
    /// finite, or NaN if missing values are allowed.
    fn read(&self, first: u64, values: &mut [f32]) -> Result<(), SourceError>;
    /// Whether rows have 64-bit values, which [`RowSource::read`] rounds.
    fn is_wide(&self) -> bool {
        false
    }
    /// [`RowSource::read`] without rounding.
    fn read_wide(&self, first: u64, values: &mut [f64]) -> Result<(), SourceError> {
        let mut narrow = vec![0.0; values.len()];
        self.read(first, &mut narrow)?;
        values.iter_mut().zip(narrow).for_each(|(value, narrow)| *value = f64::from(narrow));
        Ok(())
    }
    /// The number that was subtracted from each feature, if any: see `training/shift.rs`.
    fn shift(&self) -> Option<&[f64]> {
        None
    }
}

impl std::fmt::Debug for dyn RowSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows of {} numbers", self.count(), self.features())
    }
}

/// Why rows could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// Rows in memory.
#[derive(Clone, Debug)]
pub struct MemoryRows {
    values: Vec<f32>,
    features: usize,
}

impl MemoryRows {
    /// From row-major values.
    ///
    /// # Panics
    /// If `values` is not a whole number of rows of `features` numbers, or `features` is 0.
    pub fn new(values: Vec<f32>, features: usize) -> Self {
        assert!(values.len().is_multiple_of(features), "whole rows");
        Self { values, features }
    }
}

impl RowSource for MemoryRows {
    fn count(&self) -> u64 {
        (self.values.len() / self.features) as u64
    }

    fn features(&self) -> usize {
        self.features
    }

    fn read(&self, first: u64, values: &mut [f32]) -> Result<(), SourceError> {
        let from = usize::try_from(first).ok().and_then(|first| first.checked_mul(self.features));
        let rows = from.and_then(|from| self.values.get(from..)?.get(..values.len()));
        let rows = rows.ok_or_else(|| SourceError(format!("no rows from {first} on, of {}", self.count())))?;
        values.copy_from_slice(rows);
        Ok(())
    }
}
