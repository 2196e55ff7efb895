//! Broken values among the training rows: a sensor that sent 1e30 once, a date typed as a price.
//!
//! # The rule
//! From an even sample of the rows, each column has a median and a spread: the range of the middle 98 % of its values (of at least
//! all but two on either side); where that is 0, the median distance of the values that are not the median. A value is broken if
//! it is more than [`SPREADS`] spreads from the median, and more than [`GAP`] times as far as every value that is not. The second
//! condition keeps honest heavy tails: their largest values come in steps. If more than [`SHARE_MAX`] of a column would be broken,
//! nothing is.
//!
//! # What becomes of them
//! Training reads the nearest value of the column that is not broken instead: normalization, loss, PCA and every figure of the
//! report. The row counts with its other values.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batches::each_block;
use super::columns::Names;
use super::source::{RowSource, SourceError};
use super::trainer::TrainError;

/// Distance to the median, in spreads of the column, beyond which a value may be broken.
const SPREADS: f64 = 1e3;
/// The same where a column has no spread, in units of the median or of 1.
const SIZES: f64 = 1e6;
/// How many times as far as the farthest other value.
const GAP: f64 = 100.0;
/// Share of the values of a column.
const SHARE_MAX: f64 = 0.01;
/// Fewer rows have no spread worth the name.
const ROWS_MIN: u64 = 8;
/// Rows of the sample, and its bytes.
const SAMPLE_ROWS_MAX: u64 = 4096;
const SAMPLE_BYTES_MAX: u64 = 32 << 20;
/// Broken values that a note names.
const NAMED_MAX: usize = 5;

/// What values of a column are clipped to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Limit {
    pub(super) feature: usize,
    pub(super) least: f32,
    pub(super) greatest: f32,
}

/// A broken value.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Value {
    /// From 0.
    row: u64,
    feature: usize,
    number: f32,
}

/// All broken values of some rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Broken {
    /// Of the columns that have some.
    pub(super) limits: Vec<Limit>,
    count: u64,
    /// In the order of the rows.
    first: Vec<Value>,
}

/// A column in which there may be some.
struct Suspect {
    feature: usize,
    median: f64,
    /// Greatest distance to the median of what is not broken.
    distance_max: f64,
    least: f32,
    greatest: f32,
    farthest_kept: f64,
    nearest_broken: f64,
    broken: u64,
    values: u64,
    first: Vec<Value>,
}

impl Broken {
    /// Those of all rows of a source, held-out ones too; `None` if there are none.
    pub(super) fn find(
        source: &dyn RowSource,
        go_on: &mut dyn FnMut() -> Result<(), TrainError>,
    ) -> Result<Option<Self>, TrainError> {
        let mut suspects = suspects(source, go_on)?;
        if suspects.is_empty() {
            return Ok(None);
        }
        let features = source.features();
        each_block(source, &mut |first, rows| {
            for (row, values) in (first..).zip(rows.chunks_exact(features)) {
                suspects.iter_mut().for_each(|suspect| suspect.look(row, values[suspect.feature]));
            }
            go_on()
        })?;
        suspects.retain(|of| {
            of.broken > 0
                && of.nearest_broken > GAP * of.farthest_kept
                && of.broken as f64 <= (SHARE_MAX * of.values as f64).max(1.0)
        });
        let mut found = Self::default();
        for suspect in suspects {
            let Suspect { feature, least, greatest, broken, first, .. } = suspect;
            found.limits.push(Limit { feature, least, greatest });
            found.count += broken;
            found.first.extend(first);
        }
        found.first.sort_by_key(|value| (value.row, value.feature));
        found.first.truncate(NAMED_MAX);
        Ok((found.count > 0).then_some(found))
    }

    /// Where they are, and what became of them.
    pub(super) fn note(&self, names: Names<'_>, shift: Option<&[f64]>, clipped: bool) -> String {
        let named = self.first.iter().map(|of| {
            let by = shift.and_then(|shift| shift.get(of.feature)).copied().unwrap_or(0.0);
            // By its shortest digits, of 32 bits where nothing was subtracted.
            let value = if by == 0.0 { format!("{:e}", of.number) } else { format!("{:e}", f64::from(of.number) + by) };
            format!("row {}: {} is {value}", of.row + 1, names.of(of.feature))
        });
        let more = self.count - self.first.len() as u64;
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let outcome = if clipped {
            "training takes the nearest other value of the column instead; correct them and train again"
        } else {
            "they count, since a normalization was chosen that takes values as they are: correct them, or choose robust"
        };
        let columns = self.limits.len();
        format!(
            "broken values: {} in {columns} column{} ({}{more}): more than 1,000 times the range of the middle 98 % of the column; \
             {outcome}",
            self.count,
            if columns == 1 { "" } else { "s" },
            named.collect::<Vec<_>>().join("; ")
        )
    }
}

impl Suspect {
    fn look(&mut self, row: u64, value: f32) {
        if value.is_nan() {
            return;
        }
        self.values += 1;
        let distance = (f64::from(value) - self.median).abs();
        if distance > self.distance_max {
            self.broken += 1;
            self.nearest_broken = self.nearest_broken.min(distance);
            if self.first.len() < NAMED_MAX {
                self.first.push(Value { row, feature: self.feature, number: value });
            }
        } else {
            self.farthest_kept = self.farthest_kept.max(distance);
            (self.least, self.greatest) = (self.least.min(value), self.greatest.max(value));
        }
    }
}

/// Columns whose greatest or least value is far enough away.
fn suspects(
    source: &dyn RowSource,
    go_on: &mut dyn FnMut() -> Result<(), TrainError>,
) -> Result<Vec<Suspect>, TrainError> {
    let (features, count) = (source.features(), source.count());
    if count < ROWS_MIN {
        return Ok(Vec::new());
    }
    let wanted = SAMPLE_ROWS_MAX.min(SAMPLE_BYTES_MAX / (4 * features as u64)).max(ROWS_MIN);
    let step = count.div_ceil(wanted).max(1);
    let mut sample = Vec::new();
    let mut ranges = vec![(f32::INFINITY, f32::NEG_INFINITY); features];
    each_block(source, &mut |first, rows| {
        for (row, values) in (first..).zip(rows.chunks_exact(features)) {
            for ((least, greatest), value) in ranges.iter_mut().zip(values) {
                // Comparisons with NaN, which is missing, are false.
                *least = if value < least { *value } else { *least };
                *greatest = if value > greatest { *value } else { *greatest };
            }
            if row.is_multiple_of(step) {
                sample.extend_from_slice(values);
            }
        }
        go_on()
    })?;
    let mut column = Vec::with_capacity(sample.len() / features);
    let mut found = Vec::new();
    for (feature, (least, greatest)) in ranges.into_iter().enumerate() {
        column.clear();
        column.extend(sample.iter().skip(feature).step_by(features).copied().filter(|value| !value.is_nan()));
        let Some((median, distance_max)) = usual(&mut column) else { continue };
        let farthest = (f64::from(greatest) - median).max(median - f64::from(least));
        if farthest > distance_max {
            found.push(Suspect {
                feature,
                median,
                distance_max,
                least: f32::INFINITY,
                greatest: f32::NEG_INFINITY,
                farthest_kept: 0.0,
                nearest_broken: f64::INFINITY,
                broken: 0,
                values: 0,
                first: Vec::new(),
            });
        }
    }
    Ok(found)
}

/// Median of some values, and how far from it a value may be.
fn usual(values: &mut [f32]) -> Option<(f64, f64)> {
    let count = values.len();
    if (count as u64) < ROWS_MIN {
        return None;
    }
    values.sort_unstable_by(f32::total_cmp);
    let median = values[count / 2];
    let cut = count.div_ceil(100).max(2);
    let mut spread = f64::from(values[count - 1 - cut]) - f64::from(values[cut]);
    if spread == 0.0 {
        let mut distances: Vec<f64> =
            values.iter().map(|value| (f64::from(*value) - f64::from(median)).abs()).filter(|d| *d > 0.0).collect();
        distances.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
        spread = distances.get(distances.len() / 2).copied().unwrap_or(0.0);
        // One value alone may itself be the broken one.
        if distances.len() < 3 {
            spread = 0.0;
        }
    }
    let median = f64::from(median);
    Some((median, if spread > 0.0 { SPREADS * spread } else { SIZES * median.abs().max(1.0) }))
}

/// Clips values of rows (row-major).
pub(super) fn clip(values: &mut [f32], features: usize, limits: &[Limit]) {
    for row in values.chunks_exact_mut(features) {
        for limit in limits {
            row[limit.feature] = row[limit.feature].clamp(limit.least, limit.greatest);
        }
    }
}

/// Rows without what is broken.
pub(super) struct Clipped<S> {
    pub(super) source: S,
    pub(super) limits: Vec<Limit>,
}

impl RowSource for Clipped<Arc<dyn RowSource>> {
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

impl RowSource for Clipped<&dyn RowSource> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::rng::{Stream, Use};
    use crate::training::MemoryRows;

    fn find(values: Vec<f32>, features: usize) -> Option<Broken> {
        Broken::find(&MemoryRows::new(values, features), &mut || Ok(())).expect("reads")
    }

    fn normal(count: usize, seed: u64) -> impl Iterator<Item = f64> {
        let mut stream = Stream::new(seed, 0, 0, Use::Weights);
        (0..count).map(move |_| stream.normal())
    }

    #[test]
    fn one_broken_value_is_found_wherever_it_is() {
        for rows in [20, 60, 150, 9000] {
            for (row, value) in [(0, 1e30), (7, -1e30), (rows - 1, 1e20), (11, 1e8)] {
                let mut values: Vec<f32> = normal(3 * rows, 1).map(|x| (20.0 + 5.0 * x) as f32).collect();
                values[3 * row + 1] = value;
                let found = find(values.clone(), 3).expect("broken");
                assert_eq!((found.count, found.limits.len()), (1, 1), "{rows} rows, {value}");
                let note = found.note(Names(&[]), None, true);
                assert!(note.contains(&format!("row {}: column 2 is {value:e}", row + 1)), "{note}");
                clip(&mut values, 3, &found.limits);
                assert!(values.iter().all(|value| (-20.0..60.0).contains(value)), "{rows} rows, {value}");
            }
        }
    }

    #[test]
    fn honest_tails_are_not_broken() {
        type Tail = fn(f64) -> f64;
        let heavy: [(&str, Tail); 4] = [
            ("lognormal", |x| (2.5 * x).exp()),
            ("cubes", |x| x.powi(9)),
            ("mostly zero", |x| if x > 1.5 { (4.0 * x).exp() } else { 0.0 }),
            ("rare flags", |x| f64::from(u8::from(x > 2.8))),
        ];
        for (name, of) in heavy {
            for seed in 0..10 {
                let values: Vec<f32> = normal(20_000, seed).map(|x| of(x) as f32).collect();
                assert_eq!(find(values, 1), None, "{name}, seed {seed}");
            }
        }
        // Pareto with a mean that does not exist: the largest is half of the sum.
        for seed in 0..10 {
            let mut stream = Stream::new(seed, 0, 0, Use::Sample);
            let values: Vec<f32> = (0..20_000).map(|_| (1.0 / (1.0 - stream.uniform())) as f32).collect();
            assert_eq!(find(values, 1), None, "Pareto, seed {seed}");
        }
    }

    #[test]
    fn a_constant_column_may_have_a_flag_and_no_monster() {
        let mut values = vec![3.0; 500];
        values[100] = 4.0;
        assert_eq!(find(values.clone(), 1), None);
        values[200] = 1e30;
        let found = find(values, 1).expect("broken");
        assert_eq!(found.limits, [Limit { feature: 0, least: 3.0, greatest: 4.0 }]);
    }

    #[test]
    fn what_many_rows_have_is_not_broken_and_missing_values_are_not_looked_at() {
        let mut values: Vec<f32> = normal(1000, 3).map(|x| x as f32).collect();
        values.iter_mut().step_by(20).for_each(|value| *value = -1e9);
        assert_eq!(find(values, 1), None, "5 % have it");
        let mut values: Vec<f32> = normal(1000, 3).map(|x| x as f32).collect();
        values.iter_mut().step_by(3).for_each(|value| *value = f32::NAN);
        assert_eq!(find(values.clone(), 1), None);
        values[100] = 1e30;
        assert_eq!(find(values, 1).expect("broken").count, 1);
        assert_eq!(find(vec![1e30, 1.0, 2.0], 1), None, "three rows say nothing");
    }

    #[test]
    fn a_note_names_a_few_of_many() {
        let mut values: Vec<f32> = normal(40_000, 5).map(|x| x as f32).collect();
        (0..10_000).step_by(1000).for_each(|row| values[4 * row + 2] = 1e25);
        let found = find(values, 4).expect("broken");
        let note = found.note(Names(&["a", "b", "flow"].map(str::to_owned)), None, false);
        assert!(note.starts_with("broken values: 10 in 1 column (row 1: flow is 1e25; row 1001: "), "{note}");
        assert!(note.contains("and 5 more") && note.contains("choose robust"), "{note}");
    }
}
