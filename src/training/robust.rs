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

use super::batches::each_block;
use super::clip::Limit;
use super::columns::Names;
use super::error::TrainError;
use super::source::RowSource;
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

#[cfg(test)]
mod tests;
