//! 64-bit rows: a shift is subtracted from each feature in 64 bits, and the difference is rounded once. Training sees
//! only the difference. The finished normalizer adds the shift to its offsets. So a column of Unix times, milliseconds
//! or ids near 1e12 keeps its digits. 32-bit rows are not shifted.
//!
//! The shift is a function of the rows, the request and the base alone: training that resumes from a checkpoint
//! computes it again.

use std::ops::Deref;
use std::sync::Arc;

use super::params::CheckedTrainSpec;
use super::source::{RowSource, SourceError};
use crate::model::{Autoencoder, NormalizationKind};

/// Largest number of rows examined, and their largest size in bytes.
const SAMPLE_ROWS_MAX: usize = 1024;
const SAMPLE_BYTES_MAX: usize = 16 << 20;
/// A feature is shifted if its median is further from 0 than this many times its spread. Below that, rounding to 32
/// bits costs less than a millionth of the spread.
const SPREADS_MIN: f64 = 8.0;
/// Values from here on are shifted even if the examined ones fit 32 bits: integers close to them may not.
const LARGE: f64 = (1 << 20) as f64;

/// The number that is subtracted from each feature.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shift {
    by: Arc<[f64]>,
    note: String,
}

impl Shift {
    /// The shift for training rows, test rows and earlier held-out rows (row-major). `None` if neither they nor the
    /// base have 64 bits: then rows stay unchanged.
    pub(super) fn of(
        spec: &CheckedTrainSpec,
        training: &dyn RowSource,
        test: &dyn RowSource,
        held_out: &[f64],
        base: Option<&Autoencoder>,
    ) -> Result<Option<Self>, SourceError> {
        let is_rounded = |value: &f64| f64::from(*value as f32).to_bits() != value.to_bits() && !value.is_nan();
        let is_wide = training.is_wide()
            || test.is_wide()
            || held_out.iter().any(is_rounded)
            || base.is_some_and(|base| base.normalizer().is_wide());
        if !is_wide {
            return Ok(None);
        }
        let features = training.features();
        let columns = Columns::read(training)?;
        let asked = spec.spec();
        let (kind, range) = match base {
            Some(base) => (Some(base.spec().raw().normalization), None),
            None => (asked.normalization, asked.value_range),
        };
        let by: Vec<f64> = match (base, kind) {
            (_, Some(NormalizationKind::None)) => vec![0.0; features],
            (Some(base), _) => (0..features).map(|j| base.normalizer().exact_offset_of(j)).collect(),
            // One range for all features needs one shift for all.
            (None, Some(NormalizationKind::UnitInterval) | None) if range.is_some() => {
                let (least, most) = range.map_or((0.0, 0.0), |(least, most)| (f64::from(least), f64::from(most)));
                vec![if least.abs() > SPREADS_MIN * (most - least) { least } else { 0.0 }; features]
            }
            (None, Some(NormalizationKind::UnitInterval)) => vec![columns.of_all(); features],
            (None, _) => (0..features).map(|j| columns.of(j)).collect(),
        };
        let note = match kind {
            Some(NormalizationKind::None) => match columns.rounded() {
                0 => "precision: 64-bit values are rounded to 32 bits, since the normalization is none".to_owned(),
                count => format!(
                    "precision: 64-bit values are rounded to 32 bits, since the normalization is none: {count} of \
                     {features} columns lose digits; choose a normalization to keep them"
                ),
            },
            _ => {
                let shifted = by.iter().filter(|by| **by != 0.0).count();
                format!(
                    "precision: 64-bit rows are normalized in 64 bits; {shifted} of {features} columns are shifted \
                     before rounding"
                )
            }
        };
        Ok(Some(Self { by: by.into(), note }))
    }

    /// The shift, per feature.
    pub(super) fn by(&self) -> &[f64] {
        &self.by
    }

    /// A note on the shift.
    pub(super) fn note(&self) -> &str {
        &self.note
    }

    /// The rows of a source, shifted.
    pub(super) fn rows<S>(&self, source: S) -> Shifted<S> {
        Shifted { source, by: Arc::clone(&self.by) }
    }

    /// Rows (row-major), shifted.
    pub(super) fn apply(&self, rows: &[f64]) -> Vec<f32> {
        let mut shifted = vec![0.0; rows.len()];
        subtract(&self.by, rows, &mut shifted);
        shifted
    }
}

/// Rows from which a shift is subtracted.
#[derive(Clone, Debug)]
pub(super) struct Shifted<S> {
    source: S,
    by: Arc<[f64]>,
}

impl<S> RowSource for Shifted<S>
where
    S: Deref + Send + Sync,
    S::Target: RowSource,
{
    fn count(&self) -> u64 {
        self.source.count()
    }

    fn features(&self) -> usize {
        self.source.features()
    }

    fn read(&self, first: u64, values: &mut [f32]) -> Result<(), SourceError> {
        let mut wide = vec![0.0; values.len()];
        self.source.read_wide(first, &mut wide)?;
        subtract(&self.by, &wide, values);
        Ok(())
    }

    fn shift(&self) -> Option<&[f64]> {
        Some(&self.by)
    }
}

/// Values beyond 32 bits become the largest f32, which stays equally unusual.
fn subtract(by: &[f64], rows: &[f64], shifted: &mut [f32]) {
    let (least, most) = (f64::from(f32::MIN), f64::from(f32::MAX));
    for (row, shifted) in rows.chunks_exact(by.len()).zip(shifted.chunks_exact_mut(by.len())) {
        for ((value, by), shifted) in row.iter().zip(by).zip(shifted) {
            *shifted = (value - by).clamp(least, most) as f32;
        }
    }
}

/// A sample of rows spread over all, by column: sorted, without missing values.
struct Columns(Vec<Vec<f64>>);

impl Columns {
    fn read(source: &dyn RowSource) -> Result<Self, SourceError> {
        let (count, features) = (source.count(), source.features());
        let rows = (SAMPLE_BYTES_MAX / (8 * features)).clamp(1, SAMPLE_ROWS_MAX) as u64;
        let rows = rows.min(count);
        let mut columns = vec![Vec::with_capacity(rows as usize); features];
        let mut row = vec![0.0; features];
        for place in 0..rows {
            source.read_wide((u128::from(place) * u128::from(count) / u128::from(rows)) as u64, &mut row)?;
            columns.iter_mut().zip(&row).filter(|(_, value)| !value.is_nan()).for_each(|(column, value)| {
                column.push(*value);
            });
        }
        columns.iter_mut().for_each(|column| column.sort_unstable_by(f64::total_cmp));
        Ok(Self(columns))
    }

    /// Number of columns with a value that f32 cannot represent.
    fn rounded(&self) -> usize {
        self.0.iter().filter(|column| column.iter().any(|value| f64::from(*value as f32) != *value)).count()
    }

    /// The shift of column `j`.
    fn of(&self, j: usize) -> f64 {
        shift_of(&self.0[j])
    }

    /// The common shift of all columns.
    fn of_all(&self) -> f64 {
        let mut all = self.0.concat();
        all.sort_unstable_by(f64::total_cmp);
        shift_of(&all)
    }
}

/// The median of sorted values, if they are so close to it that rounding would lose much of their differences; else 0.
fn shift_of(sorted: &[f64]) -> f64 {
    let Some(median) = sorted.get(sorted.len() / 2) else { return 0.0 };
    // A few outliers must not affect the result.
    let (low, high) = (sorted[sorted.len() / 10], sorted[sorted.len() - 1 - sorted.len() / 10]);
    let is_far = median.abs() > SPREADS_MIN * (high - low);
    let is_lossy = median.abs() >= LARGE || sorted.iter().any(|value| f64::from(*value as f32) != *value);
    if is_far && is_lossy { *median } else { 0.0 }
}

/// 64-bit rows in memory.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct WideRows {
    pub(super) values: Vec<f64>,
    pub(super) features: usize,
}

#[cfg(test)]
impl RowSource for WideRows {
    fn count(&self) -> u64 {
        (self.values.len() / self.features) as u64
    }

    fn features(&self) -> usize {
        self.features
    }

    fn read(&self, first: u64, values: &mut [f32]) -> Result<(), SourceError> {
        let from = first as usize * self.features;
        let rows = &self.values[from..from + values.len()];
        values.iter_mut().zip(rows).for_each(|(value, wide)| *value = *wide as f32);
        Ok(())
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn read_wide(&self, first: u64, values: &mut [f64]) -> Result<(), SourceError> {
        let from = first as usize * self.features;
        values.copy_from_slice(&self.values[from..from + values.len()]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::{MemoryRows, TrainSpec};

    const FEATURES: usize = 6;

    /// Unix times 2 s apart, ids near 1e12, a constant of that size, pixels, shares, and times with one outlier.
    fn table() -> WideRows {
        let row = |i: u32| {
            let at = f64::from(i);
            let broken = if i == 7 { 1e300 } else { 1.7e9 + 2.0 * at };
            [1.7e9 + 2.0 * at, 1e12 + at, 1_700_000_000.0, f64::from(i % 2) * 255.0, at / 999.0, broken]
        };
        WideRows { values: (0..500).flat_map(row).collect(), features: FEATURES }
    }

    fn spec(kind: Option<NormalizationKind>, value_range: Option<(f32, f32)>) -> CheckedTrainSpec {
        let name = "t".parse().expect("a name");
        let spec = TrainSpec { normalization: kind, value_range, ..TrainSpec::new(name, vec![FEATURES, 2]) };
        spec.check().expect("a specification")
    }

    fn shift(spec: &CheckedTrainSpec, rows: &dyn RowSource) -> Option<Shift> {
        let none = MemoryRows::new(Vec::new(), FEATURES);
        Shift::of(spec, rows, &none, &[], None).expect("reads")
    }

    #[test]
    fn only_columns_that_would_lose_digits_are_shifted() {
        let rows = table();
        let found = shift(&spec(None, None), &rows).expect("64 bits");
        let by = found.by();
        assert!((by[0] - 1.7e9 - 500.0).abs() < 10.0 && (by[1] - 1e12 - 250.0).abs() < 10.0, "{by:?}");
        assert_eq!((by[2], by[3], by[4]), (1.7e9, 0.0, 0.0));
        assert!((by[5] - 1.7e9 - 500.0).abs() < 10.0, "one broken value changes nothing: {by:?}");
        assert!(found.note().contains("4 of 6"), "{}", found.note());
        let narrow = MemoryRows::new(vec![1.7e9; FEATURES], FEATURES);
        assert_eq!(shift(&spec(None, None), &narrow), None);
    }

    #[test]
    fn shifted_rows_are_exact_and_outliers_stay_finite() {
        let rows = Arc::new(table());
        let found = shift(&spec(None, None), rows.as_ref()).expect("64 bits");
        let shifted = found.rows(Arc::clone(&rows));
        let mut values = vec![0.0; 500 * FEATURES];
        shifted.read(0, &mut values).expect("reads");
        assert_eq!(values, found.apply(&rows.values));
        for (i, row) in values.chunks_exact(FEATURES).enumerate() {
            let at = i as f64;
            assert_eq!(f64::from(row[0]), 1.7e9 + 2.0 * at - found.by()[0]);
            assert_eq!(f64::from(row[1]), 1e12 + at - found.by()[1]);
            assert_eq!(row[2], 0.0);
        }
        assert_eq!(values[7 * FEATURES + 5], f32::MAX);
        let mut one = vec![0.0; FEATURES];
        shifted.read(13, &mut one).expect("reads");
        assert_eq!(one, values[13 * FEATURES..14 * FEATURES]);
    }

    #[test]
    fn a_common_range_shifts_equally_and_no_normalization_by_0() {
        let rows = table();
        let common = shift(&spec(Some(NormalizationKind::UnitInterval), Some((1.7e9, 1.700_01e9))), &rows);
        assert_eq!(common.expect("64 bits").by(), [1.7e9; FEATURES]);
        let none = shift(&spec(Some(NormalizationKind::None), None), &rows).expect("64 bits");
        assert_eq!(none.by(), [0.0; FEATURES]);
        assert!(none.note().contains("lose digits"), "{}", none.note());
    }

    #[test]
    fn missing_values_stay_missing() {
        let rows = WideRows { values: vec![f64::NAN, 1.7e9, 1e12 + 1.0, f64::NAN], features: 2 };
        let by: Arc<[f64]> = Arc::new([1e12, 1.7e9]);
        let mut shifted = [0.0; 4];
        subtract(&by, &rows.values, &mut shifted);
        assert!(shifted[0].is_nan() && shifted[3].is_nan());
        assert_eq!(shifted[1..3], [0.0, 1.0]);
    }
}
