//! Finds outliers among the training rows: a sensor that sent 1e30 once, a date entered as a price.
//!
//! # The rules
//! Each column has a median and a spread, from an even sample of the rows. The spread is the range of the middle of its
//! values; if that is 0, it is the median distance of the values that differ from the median. Each [`Rule`] has a limit
//! in spreads and a gap. A value is beyond the rule if its distance to the median exceeds the limit, and exceeds that
//! of every nearer value by the gap's factor. The gap keeps heavy tails of valid data: their largest values increase in
//! small steps. If more than a given share of a column would be beyond the rule, no value is.
//!
//! - [`BROKEN`]: no valid measurement. The middle is 98 % of the values (all except at least two on either side).
//! - [`FAR`]: the value may be valid, or a mark such as -999. The middle is 90 %.
//!
//! # Treatment
//! Training replaces a broken value by the nearest other value of the column, for normalization, loss, PCA and every
//! figure of the report. The other values of the row are used. Far values are used, and a note names them. The robust
//! normalization treats far values as broken.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batches::each_block;
use super::columns::Names;
use super::error::TrainError;
use super::source::{RowSource, SourceError};
use crate::model::text::counted;

/// Limits beyond which a value is too far from the others of its column.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// Share of the values on either side that is not part of the middle.
    cut: f64,
    /// Limit of the distance to the median, in spreads.
    spreads: f64,
    /// Limit of the distance relative to the farthest other value.
    gap: f64,
    /// Largest share of the values of a column that may be beyond the rule.
    share_max: f64,
}

const BROKEN: Rule = Rule { cut: 0.01, spreads: 1e3, gap: 100.0, share_max: 0.01 };
const FAR: Rule = Rule { cut: 0.05, spreads: 20.0, gap: 10.0, share_max: 0.05 };
const RULES: [Rule; 2] = [BROKEN, FAR];
/// Limit of the distance for a column without spread, in units of the median or of 1.
const SIZES: f64 = 1e6;
/// Far values that are kept in memory: at most of all columns, and at least of each column. Nearer ones are dropped
/// first.
const KEPT_OF_ALL_MAX: usize = 1 << 20;
const KEPT_MIN: usize = 1 << 10;
/// Fewest rows for a spread.
const ROWS_MIN: u64 = 8;
/// Largest number of rows of the sample, and its largest size in bytes.
const SAMPLE_ROWS_MAX: u64 = 4096;
const SAMPLE_BYTES_MAX: u64 = 32 << 20;
/// Number of broken values that a note names.
const NAMED_MAX: usize = 5;

/// The limits to which values of a column are clipped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Limit {
    pub(super) feature: usize,
    pub(super) least: f32,
    pub(super) greatest: f32,
}

/// A value beyond a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Value {
    /// Row, from 0.
    row: u64,
    feature: usize,
    number: f32,
}

/// The values beyond a rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Broken {
    /// Limits of the columns with such values.
    pub(super) limits: Vec<Limit>,
    pub(super) count: u64,
    /// The first values, in the order of the rows.
    first: Vec<Value>,
}

/// The outliers of some rows, by rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outliers {
    /// Values beyond [`BROKEN`].
    pub(super) broken: Option<Broken>,
    /// Values beyond [`FAR`], including broken ones.
    pub(super) far: Option<Broken>,
}

/// A column that may have outliers.
struct Suspect {
    feature: usize,
    median: f64,
    /// By rule: the distance to the median up to which a value is certainly not beyond it.
    distances_max: [f64; 2],
    /// Range of the values within the smaller of these distances.
    least: f32,
    greatest: f32,
    farthest_kept: f64,
    values: u64,
    /// The farthest of the other values, at most twice `kept_max`.
    others: Vec<Value>,
    kept_max: usize,
}

impl Outliers {
    /// Finds the outliers in all rows of a source, including held-out rows.
    pub(super) fn find(
        source: &dyn RowSource,
        go_on: &mut dyn FnMut() -> Result<(), TrainError>,
    ) -> Result<Self, TrainError> {
        let mut suspects = suspects(source, go_on)?;
        if suspects.is_empty() {
            return Ok(Self::default());
        }
        let features = source.features();
        let kept_max = (KEPT_OF_ALL_MAX / suspects.len()).max(KEPT_MIN);
        suspects.iter_mut().for_each(|suspect| suspect.kept_max = kept_max);
        each_block(source, &mut |first, rows| {
            for (row, values) in (first..).zip(rows.chunks_exact(features)) {
                suspects.iter_mut().for_each(|suspect| suspect.look(row, values[suspect.feature]));
            }
            go_on()
        })?;
        suspects.iter_mut().for_each(Suspect::drop_nearest);
        let [broken, far] = [0, 1].map(|rule| Broken::beyond(rule, &suspects));
        Ok(Self { broken, far })
    }
}

impl Value {
    fn distance(&self, median: f64) -> f64 {
        (f64::from(self.number) - median).abs()
    }
}

impl Broken {
    /// The values beyond one of the [`RULES`].
    fn beyond(rule: usize, suspects: &[Suspect]) -> Option<Self> {
        let mut found = Self::default();
        for suspect in suspects {
            let Some((limit, values)) = suspect.beyond(rule) else { continue };
            found.limits.push(limit);
            found.count += values.len() as u64;
            found.first.extend_from_slice(values);
        }
        found.first.sort_by_key(|value| (value.row, value.feature));
        found.first.truncate(NAMED_MAX);
        (found.count > 0).then_some(found)
    }

    /// A note on where broken values are, and how training treats them.
    pub(super) fn note(&self, names: Names<'_>, shift: Option<&[f64]>, clipped: bool) -> String {
        let (named, more) = self.named(names, shift);
        let outcome = if clipped {
            "training replaces each by the nearest other value of the column; correct them and train again"
        } else {
            "training uses them unchanged, as the chosen normalization requires: correct them, or choose robust"
        };
        self.sentence("broken values", &named, &more, "1,000 times the range of the middle 98 %", outcome)
    }

    /// A note on where far values are, and what to do about them.
    pub(super) fn note_of_far(&self, names: Names<'_>, shift: Option<&[f64]>) -> String {
        let outcome = "training uses them, and they dominate the scale of the column: correct them, mark them as \
                       missing (--missing-marks), or choose the robust normalization, which clips them";
        let (named, more) = self.named(names, shift);
        self.sentence("far values", &named, &more, "20 times the range of the middle 90 %", outcome)
    }

    /// The first values with their positions, and the number of others.
    fn named(&self, names: Names<'_>, shift: Option<&[f64]>) -> (String, String) {
        let named = self.first.iter().map(|of| {
            let by = shift.and_then(|shift| shift.get(of.feature)).copied().unwrap_or(0.0);
            // In the shortest digits: of f32 if nothing was subtracted, else of f64.
            let value = if by == 0.0 { format!("{:e}", of.number) } else { format!("{:e}", f64::from(of.number) + by) };
            format!("row {}: {} is {value}", of.row + 1, names.of(of.feature))
        });
        let more = self.count - self.first.len() as u64;
        (named.collect::<Vec<_>>().join("; "), if more > 0 { format!("; and {more} more") } else { String::new() })
    }

    fn sentence(&self, what: &str, named: &str, more: &str, distance: &str, outcome: &str) -> String {
        let columns = counted(self.limits.len() as u64, "column");
        format!(
            "{what}: {} in {columns} ({named}{more}): more than {distance} of the column from its median; \
             {outcome}",
            self.count
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
        if distance > self.distances_max[0].min(self.distances_max[1]) {
            self.others.push(Value { row, feature: self.feature, number: value });
            if self.others.len() == 2 * self.kept_max {
                self.drop_nearest();
            }
        } else {
            self.keep(value, distance);
        }
    }

    /// Adds a value that is not beyond any rule.
    fn keep(&mut self, value: f32, distance: f64) {
        self.farthest_kept = self.farthest_kept.max(distance);
        (self.least, self.greatest) = (self.least.min(value), self.greatest.max(value));
    }

    /// Sorts the far values, farthest last, and drops those above the limit: they are not beyond any rule.
    fn drop_nearest(&mut self) {
        let median = self.median;
        self.others.sort_by(|a, b| a.distance(median).total_cmp(&b.distance(median)));
        let nearest = self.others.len().saturating_sub(self.kept_max);
        for value in self.others.drain(..nearest).collect::<Vec<_>>() {
            self.keep(value.number, value.distance(median));
        }
    }

    /// The values beyond a rule, farthest last, and the limits of the column without them.
    fn beyond(&self, rule: usize) -> Option<(Limit, &[Value])> {
        let (distance_max, rule) = (self.distances_max[rule], RULES[rule]);
        let (mut least, mut greatest, mut farthest) = (self.least, self.greatest, self.farthest_kept);
        for (place, value) in self.others.iter().enumerate() {
            let distance = value.distance(self.median);
            let rest = &self.others[place..];
            if distance > distance_max && distance > rule.gap * farthest {
                let few = rest.len() as f64 <= (rule.share_max * self.values as f64).max(1.0);
                return few.then_some((Limit { feature: self.feature, least, greatest }, rest));
            }
            farthest = distance;
            (least, greatest) = (least.min(value.number), greatest.max(value.number));
        }
        None
    }
}

/// Columns whose largest or smallest value is far enough from the median.
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
                // Comparisons with NaN (a missing value) are false.
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
        let Some((median, distances_max)) = usual(&mut column) else { continue };
        let farthest = (f64::from(greatest) - median).max(median - f64::from(least));
        if distances_max.iter().any(|distance_max| farthest > *distance_max) {
            found.push(Suspect {
                feature,
                median,
                distances_max,
                least: f32::INFINITY,
                greatest: f32::NEG_INFINITY,
                farthest_kept: 0.0,
                values: 0,
                others: Vec::new(),
                kept_max: KEPT_MIN,
            });
        }
    }
    Ok(found)
}

/// Median of some values, and the largest allowed distance from it, by rule.
fn usual(values: &mut [f32]) -> Option<(f64, [f64; 2])> {
    let count = values.len();
    if (count as u64) < ROWS_MIN {
        return None;
    }
    values.sort_unstable_by(f32::total_cmp);
    let median = f64::from(values[count / 2]);
    let mut distances: Vec<f64> =
        values.iter().map(|value| (f64::from(*value) - median).abs()).filter(|distance| *distance > 0.0).collect();
    distances.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    // A single value may itself be the outlier.
    let typical = if distances.len() < 3 { 0.0 } else { distances[distances.len() / 2] };
    Some((
        median,
        RULES.map(|rule| {
            let cut = ((rule.cut * count as f64).ceil() as usize).max(2);
            let range = f64::from(values[count - 1 - cut]) - f64::from(values[cut]);
            let spread = if range > 0.0 { range } else { typical };
            if spread > 0.0 { rule.spreads * spread } else { SIZES * median.abs().max(1.0) }
        }),
    ))
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

    fn outliers(values: Vec<f32>, features: usize) -> Outliers {
        Outliers::find(&MemoryRows::new(values, features), &mut || Ok(())).expect("reads")
    }

    fn find(values: Vec<f32>, features: usize) -> Option<Broken> {
        outliers(values, features).broken
    }

    fn normal(count: usize, seed: u64) -> impl Iterator<Item = f64> {
        let mut stream = Stream::new(seed, 0, 0, Use::Weights);
        (0..count).map(move |_| stream.normal())
    }

    #[test]
    fn one_broken_value_is_found_in_any_row() {
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
    fn heavy_tails_are_not_broken() {
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
        // Pareto with an infinite mean: the largest value is half of the sum.
        for seed in 0..10 {
            let mut stream = Stream::new(seed, 0, 0, Use::Sample);
            let values: Vec<f32> = (0..20_000).map(|_| (1.0 / (1.0 - stream.uniform())) as f32).collect();
            assert_eq!(find(values, 1), None, "Pareto, seed {seed}");
        }
    }

    #[test]
    fn a_constant_column_may_have_a_flag_but_no_huge_value() {
        let mut values = vec![3.0; 500];
        values[100] = 4.0;
        assert_eq!(find(values.clone(), 1), None);
        values[200] = 1e30;
        let found = find(values, 1).expect("broken");
        assert_eq!(found.limits, [Limit { feature: 0, least: 3.0, greatest: 4.0 }]);
    }

    #[test]
    fn frequent_and_missing_values_are_not_broken() {
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

    /// More far values than fit in memory do not hide a broken one.
    #[test]
    fn a_heavy_tail_does_not_hide_a_broken_value() {
        let values = normal(400_000, 6).map(|x| (2.5 * x).exp() as f32);
        let columns = 1500;
        let mut rows: Vec<f32> = values.collect();
        rows[123 * columns + 7] = 1e30;
        rows.truncate(rows.len() / columns * columns);
        assert_eq!(find(rows, columns).map(|broken| broken.count), Some(1));
        let mut suspect = Suspect {
            feature: 0,
            median: 0.0,
            distances_max: [1000.0, 20.0],
            least: f32::INFINITY,
            greatest: f32::NEG_INFINITY,
            farthest_kept: 0.0,
            values: 0,
            others: Vec::new(),
            kept_max: 8,
        };
        (0..10_000).for_each(|row| suspect.look(row, if row == 50 { 1e30 } else { 21.0 + row as f32 }));
        suspect.drop_nearest();
        let (limit, beyond) = suspect.beyond(0).expect("one is broken");
        assert_eq!((beyond.len(), beyond[0].row, limit.least, limit.greatest), (1, 50, 21.0, 10_020.0));
    }

    /// Unmarked missing values, and one broken value beside another.
    #[test]
    fn far_values_are_found_with_and_without_broken_ones() {
        let plain = || normal(500, 8).map(|x| (10.0 + 2.0 * x) as f32).collect::<Vec<f32>>();
        for (rows, mark) in [(3, -999.0), (1, -9999.0), (10, 1e6), (20, -999.0), (10, 1e30)] {
            let mut values = plain();
            values.iter_mut().step_by(500 / rows).take(rows).for_each(|value| *value = mark);
            let far = outliers(values.clone(), 1).far.expect("far");
            assert_eq!(far.count, rows as u64, "{mark}");
            let note = far.note_of_far(Names(&[]), None);
            assert!(note.contains(&format!("{rows} in 1 column (row 1: column 1 is {mark:e}")), "{note}");
            clip(&mut values, 1, &far.limits);
            assert!(values.iter().all(|value| (0.0..20.0).contains(value)), "{mark}");
        }
        let mut values = plain();
        (values[3], values[5], values[9]) = (2000.0, 1e5, 1e30);
        let Outliers { broken, far } = outliers(values, 1);
        assert_eq!((broken.map(|broken| broken.count), far.map(|far| far.count)), (Some(1), Some(3)));
        assert_eq!(outliers(plain(), 1), Outliers::default());
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
