//! Maps between the units of the input and the normalized space in which a model works.
//!
//! A missing value is NaN, in the units of the input and in the normalized space. A model that accepts missing values
//! replaces them by the mean of the feature.

use super::spec::NormalizationKind;
use crate::numeric::PanelMatrix;

/// A learned affine map per feature: normalized = (x - offset) / scale. No vectors for [`NormalizationKind::None`].
#[derive(Clone, Debug, PartialEq)]
pub struct Normalizer {
    /// How offset and scale were learned.
    pub kind: NormalizationKind,
    /// (d_0,), or empty for `None`.
    pub offset: Vec<f32>,
    /// (d_0,), each finite and above 0, or empty for `None`.
    pub scale: Vec<f32>,
    /// (d_0,): normalized value that replaces a missing one; empty if no value may be missing.
    pub fill: Vec<f32>,
    /// (d_0,): the offsets in f64 if the model was trained on 64-bit rows, else empty. `offset` has them rounded.
    pub exact_offset: Vec<f64>,
}

/// The range of a feature is too large for f32.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("feature {} spans {minimum} to {maximum}, more than a 32-bit float can hold: scale the values down", feature + 1)]
pub struct RangeTooLarge {
    /// Index of the feature, from 0; the message counts from 1.
    pub feature: usize,
    /// Smallest value.
    pub minimum: f32,
    /// Largest value.
    pub maximum: f32,
}

/// Running statistics of one feature.
#[derive(Clone, Copy, Debug)]
struct Summary {
    minimum: f32,
    maximum: f32,
    mean: f64,
    /// Sum of squared distances to the mean (Welford 1962).
    squares: f64,
    /// Rows in which the feature is missing.
    missing: f64,
}

/// Learns a [`Normalizer`] from a stream of rows.
#[derive(Clone, Debug)]
pub struct Learner {
    summaries: Vec<Summary>,
    count: f64,
}

impl Learner {
    /// A learner for rows of `features` numbers.
    pub fn new(features: usize) -> Self {
        let first =
            Summary { minimum: f32::INFINITY, maximum: f32::NEG_INFINITY, mean: 0.0, squares: 0.0, missing: 0.0 };
        Self { summaries: vec![first; features], count: 0.0 }
    }

    /// Adds a row to the statistics.
    pub fn add(&mut self, row: &[f32]) {
        self.count += 1.0;
        // One division per row, not per number.
        let share = 1.0 / self.count;
        for (summary, &value) in self.summaries.iter_mut().zip(row) {
            if value.is_nan() {
                summary.missing += 1.0;
                continue;
            }
            let share = if summary.missing == 0.0 { share } else { 1.0 / (self.count - summary.missing) };
            summary.minimum = summary.minimum.min(value);
            summary.maximum = summary.maximum.max(value);
            let before = f64::from(value) - summary.mean;
            summary.mean += before * share;
            summary.squares += before * (f64::from(value) - summary.mean);
        }
    }

    /// Smallest and largest value of feature `j` so far.
    ///
    /// # Panics
    /// If the feature does not exist.
    pub fn range(&self, j: usize) -> (f32, f32) {
        (self.summaries[j].minimum, self.summaries[j].maximum)
    }

    /// Mean squared distance of feature `j` to its mean so far; a row in which it is missing counts as 0.
    ///
    /// # Panics
    /// If the feature does not exist.
    pub fn variance(&self, j: usize) -> f64 {
        self.summaries[j].squares / self.count
    }

    /// Share of missing values among all values so far.
    pub fn missing_share(&self) -> f64 {
        let missing: f64 = self.summaries.iter().map(|summary| summary.missing).sum();
        missing / (self.count * self.summaries.len() as f64)
    }

    /// The first feature that is missing in every row so far.
    pub fn first_without_values(&self) -> Option<usize> {
        self.summaries.iter().position(|summary| summary.missing == self.count)
    }

    /// The learned normalizer, for rows that may have missing values.
    ///
    /// # Errors
    /// As [`Learner::normalizer`].
    pub fn normalizer_with_fill(
        &self,
        kind: NormalizationKind,
        range: Option<(f32, f32)>,
    ) -> Result<Normalizer, RangeTooLarge> {
        let mut normalizer = self.normalizer(kind, range)?;
        let means = self.summaries.iter().enumerate();
        normalizer.fill = means.map(|(j, summary)| normalizer.value(j, summary.mean as f32)).collect();
        Ok(normalizer)
    }

    /// The learned normalizer. `range` is the common range for the unit interval, if it is known.
    pub fn normalizer(&self, kind: NormalizationKind, range: Option<(f32, f32)>) -> Result<Normalizer, RangeTooLarge> {
        if kind == NormalizationKind::None {
            return Ok(Normalizer::none());
        }
        let Self { summaries, count } = self;
        let features = summaries.len();
        let common = range.unwrap_or_else(|| {
            let minimum = summaries.iter().fold(f32::INFINITY, |least, s| least.min(s.minimum));
            let maximum = summaries.iter().fold(f32::NEG_INFINITY, |most, s| most.max(s.maximum));
            (minimum, maximum)
        });
        let (mut offset, mut scale) = (Vec::with_capacity(features), Vec::with_capacity(features));
        for (feature, summary) in summaries.iter().enumerate() {
            let (from, width) = match kind {
                NormalizationKind::Standardize | NormalizationKind::Robust => {
                    (summary.mean as f32, (summary.squares / (count - summary.missing)).sqrt() as f32)
                }
                NormalizationKind::MinMax => (summary.minimum, summary.maximum - summary.minimum),
                NormalizationKind::UnitInterval => (common.0, common.1 - common.0),
                NormalizationKind::None => (0.0, 1.0),
            };
            if !from.is_finite() || !width.is_finite() {
                return Err(RangeTooLarge { feature, minimum: summary.minimum, maximum: summary.maximum });
            }
            offset.push(from);
            // A constant feature (or one that varies only by rounding) has no width: it becomes 0.
            let constant = summary.minimum == summary.maximum && kind != NormalizationKind::UnitInterval;
            let width = if constant || width < f32::MIN_POSITIVE { 1.0 } else { width };
            if !((summary.minimum - from) / width).is_finite() || !((summary.maximum - from) / width).is_finite() {
                return Err(RangeTooLarge { feature, minimum: summary.minimum, maximum: summary.maximum });
            }
            scale.push(width);
        }
        Ok(Normalizer { kind, offset, scale, fill: Vec::new(), exact_offset: Vec::new() })
    }
}

impl Normalizer {
    /// A normalizer that changes nothing and accepts no missing values.
    pub fn none() -> Self {
        Self {
            kind: NormalizationKind::None,
            offset: Vec::new(),
            scale: Vec::new(),
            fill: Vec::new(),
            exact_offset: Vec::new(),
        }
    }

    /// Whether the model was trained on 64-bit rows.
    pub fn is_wide(&self) -> bool {
        !self.exact_offset.is_empty()
    }

    /// The offset of feature `j` in 64 bits.
    pub fn exact_offset_of(&self, j: usize) -> f64 {
        match (self.exact_offset.get(j), self.offset.get(j)) {
            (Some(offset), _) => *offset,
            (None, Some(offset)) => f64::from(*offset),
            (None, None) => 0.0,
        }
    }

    /// Normalizes a 64-bit value of feature `j` in 64 bits and rounds it once. A missing value stays NaN. The result is
    /// infinite if it exceeds 32 bits.
    pub fn normalized(&self, j: usize, x: f64) -> f32 {
        match self.scale.get(j) {
            Some(scale) => ((x - self.exact_offset_of(j)) / f64::from(*scale)) as f32,
            None => x as f32,
        }
    }

    /// Denormalizes a value of feature `j` to the units of the input, in 64 bits.
    pub fn denormalized(&self, j: usize, x: f32) -> f64 {
        match self.scale.get(j) {
            Some(scale) => f64::from(x) * f64::from(*scale) + self.exact_offset_of(j),
            None => f64::from(x),
        }
    }

    /// The normalizer for rows from which `shift` (one number per feature) has been subtracted: its offset is 0.
    ///
    /// # Panics
    /// If the shift is not this normalizer's offset.
    #[must_use]
    pub fn without_offset(&self, shift: &[f64]) -> Self {
        assert!((0..self.offset.len()).all(|j| self.exact_offset_of(j) == shift[j]), "the shift is the offset");
        Self { offset: vec![0.0; self.offset.len()], exact_offset: Vec::new(), ..self.clone() }
    }

    /// Turns a normalizer of rows from which `shift` (one number per feature) was subtracted into one of rows in the
    /// units of the input.
    #[must_use]
    pub fn with_shift(self, shift: &[f64]) -> Self {
        if self.offset.is_empty() {
            return self;
        }
        let exact_offset: Vec<f64> = shift.iter().zip(&self.offset).map(|(a, b)| a + f64::from(*b)).collect();
        Self { offset: exact_offset.iter().map(|offset| *offset as f32).collect(), exact_offset, ..self }
    }

    /// Whether values may be missing.
    pub fn takes_missing(&self) -> bool {
        !self.fill.is_empty()
    }

    /// Replaces every missing value by the mean of its feature, in place. Shape (n, d_0), normalized space.
    pub fn fill_missing(&self, x: &mut PanelMatrix) {
        if self.takes_missing() {
            x.each_column_mut(|j, part| {
                let fill = self.fill[j];
                part.iter_mut().for_each(|x| *x = if x.is_nan() { fill } else { *x });
            });
        }
    }

    /// Input units to normalized space, in place; missing values stay NaN. Shape (n, d_0).
    pub fn apply(&self, rows: &mut PanelMatrix) {
        if self.offset.is_empty() {
            return;
        }
        rows.each_column_mut(|j, part| {
            let (offset, scale) = (self.offset[j], self.scale[j]);
            part.iter_mut().for_each(|x| *x = (*x - offset) / scale);
        });
    }

    /// [`Normalizer::apply`] from `rows` into `x`, which is overwritten.
    pub fn apply_to(&self, rows: &PanelMatrix, x: &mut PanelMatrix) {
        if self.offset.is_empty() {
            x.map_from(rows, |value| value);
        } else {
            x.map_columns_from(rows, [&self.offset, &self.scale], |value, [offset, scale]| (value - offset) / scale);
        }
    }

    /// Normalized space to input units, in place. Shape (n, d_0).
    pub fn undo(&self, rows: &mut PanelMatrix) {
        if self.offset.is_empty() {
            return;
        }
        rows.each_column_mut(|j, part| {
            let (offset, scale) = (self.offset[j], self.scale[j]);
            part.iter_mut().for_each(|x| *x = *x * scale + offset);
        });
    }

    /// Normalizes one value of feature `j`, and fills it if it is missing: the same bits as [`Normalizer::apply`] and
    /// [`Normalizer::fill_missing`].
    pub fn value(&self, j: usize, x: f32) -> f32 {
        if let (true, Some(fill)) = (x.is_nan(), self.fill.get(j)) {
            return *fill;
        }
        match (self.offset.get(j), self.scale.get(j)) {
            (Some(offset), Some(scale)) => (x - offset) / scale,
            _ => x,
        }
    }

    /// Shift of feature `j` in the normalized space: |offset| / scale.
    pub fn shift(&self, j: usize) -> f32 {
        match (self.offset.get(j), self.scale.get(j)) {
            (Some(offset), Some(scale)) => (offset / scale).abs(),
            _ => 0.0,
        }
    }

    /// A distance of 1 in feature `j` of the normalized space, in the units of the input.
    pub fn unit(&self, j: usize) -> f32 {
        self.scale.get(j).copied().unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [[f32; 3]; 4] = [[0.0, 10.0, 7.0], [255.0, 20.0, 7.0], [100.0, 30.0, 7.0], [45.0, 40.0, 7.0]];

    fn learn(kind: NormalizationKind, range: Option<(f32, f32)>) -> Normalizer {
        learn_from(&ROWS, kind, range).expect("small numbers")
    }

    fn learn_from<const D: usize>(
        rows: &[[f32; D]],
        kind: NormalizationKind,
        range: Option<(f32, f32)>,
    ) -> Result<Normalizer, RangeTooLarge> {
        let mut learner = Learner::new(D);
        rows.iter().for_each(|row| learner.add(row));
        learner.normalizer(kind, range)
    }

    fn normalized(normalizer: &Normalizer) -> Vec<Vec<f32>> {
        let mut lanes = PanelMatrix::zeros(4, 3);
        lanes.load(0, &ROWS.concat());
        normalizer.apply(&mut lanes);
        (0..3).map(|j| lanes.column(j)).collect()
    }

    #[test]
    fn standardized_features_have_mean_0_and_variance_1() {
        let columns = normalized(&learn(NormalizationKind::Standardize, None));
        for column in &columns[..2] {
            let mean = column.iter().sum::<f32>() / 4.0;
            let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 4.0;
            assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5, "{column:?}");
        }
        assert_eq!(columns[2], [0.0; 4], "a constant feature becomes 0");
    }

    #[test]
    fn ranges_are_per_feature_or_common() {
        assert_eq!(normalized(&learn(NormalizationKind::MinMax, None))[1][3], 1.0);
        assert_eq!(normalized(&learn(NormalizationKind::MinMax, None))[2], [0.0; 4]);
        let common = learn(NormalizationKind::UnitInterval, None);
        assert_eq!((common.offset[1], common.scale[1]), (0.0, 255.0));
        let given = learn(NormalizationKind::UnitInterval, Some((0.0, 510.0)));
        assert_eq!(normalized(&given)[0][1], 0.5);
    }

    #[test]
    fn missing_values_are_skipped_and_filled_with_the_mean() {
        let nan = f32::NAN;
        let gaps = [[0.0, nan], [255.0, 20.0], [nan, 30.0], [45.0, 40.0]];
        for kind in [NormalizationKind::None, NormalizationKind::Standardize, NormalizationKind::MinMax] {
            let mut learner = Learner::new(2);
            gaps.iter().for_each(|row| learner.add(row));
            let found = learner.normalizer_with_fill(kind, None).expect("small numbers");
            for j in 0..2 {
                let present: Vec<[f32; 1]> = gaps.iter().map(|row| [row[j]]).filter(|row| !row[0].is_nan()).collect();
                let alone = learn_from(&present, kind, None).expect("small numbers");
                let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs());
                assert!(found.offset.is_empty() || close(&found.offset[j..=j], &alone.offset), "{kind:?}");
                assert!(found.scale.is_empty() || close(&found.scale[j..=j], &alone.scale), "{kind:?}");
                let mean = present.iter().map(|row| row[0]).sum::<f32>() / 3.0;
                assert!((found.fill[j] - found.value(j, mean)).abs() < 1e-6, "{kind:?}");
                assert_eq!(found.value(j, nan).to_bits(), found.fill[j].to_bits());
            }
            assert!((learner.missing_share() - 0.25).abs() < 1e-12);
            assert_eq!(learner.first_without_values(), None);
        }
        let mut learner = Learner::new(2);
        [[1.0, nan], [2.0, nan]].iter().for_each(|row| learner.add(row));
        assert_eq!(learner.first_without_values(), Some(1));
    }

    #[test]
    fn undoing_gives_the_input_back() {
        for kind in [
            NormalizationKind::None,
            NormalizationKind::Standardize,
            NormalizationKind::MinMax,
            NormalizationKind::UnitInterval,
        ] {
            let normalizer = learn(kind, None);
            let mut lanes = PanelMatrix::zeros(4, 3);
            lanes.load(0, &ROWS.concat());
            normalizer.apply(&mut lanes);
            for (i, row) in ROWS.iter().enumerate() {
                for (j, x) in row.iter().enumerate() {
                    assert_eq!(lanes.at(i, j).to_bits(), normalizer.value(j, *x).to_bits());
                }
            }
            normalizer.undo(&mut lanes);
            for (i, row) in ROWS.iter().enumerate() {
                for (j, x) in row.iter().enumerate() {
                    assert!((lanes.at(i, j) - x).abs() <= 1e-4, "{kind:?}");
                }
            }
        }
    }

    #[test]
    fn a_shifted_normalizer_maps_64_bit_values_there_and_back() {
        let shift = [1_700_000_000.0, 1e12 + 1.0, 0.0];
        let of_shifted = learn(NormalizationKind::Standardize, None);
        let whole = of_shifted.clone().with_shift(&shift);
        assert!(whole.is_wide() && !of_shifted.is_wide());
        for row in ROWS {
            for (j, x) in row.into_iter().enumerate() {
                let wide = shift[j] + f64::from(x);
                let close = (whole.normalized(j, wide) - of_shifted.value(j, x)).abs();
                assert!(close < 1e-5, "feature {j}: {close}");
                assert!((whole.denormalized(j, whole.normalized(j, wide)) - wide).abs() < 1e-3, "feature {j}");
            }
        }
        let exact: Vec<f64> = (0..3).map(|j| whole.exact_offset_of(j)).collect();
        let again = whole.without_offset(&exact);
        assert_eq!((again.offset, again.scale.clone()), (vec![0.0; 3], of_shifted.scale));
        assert_eq!(Normalizer::none().with_shift(&shift), Normalizer::none());
    }

    #[test]
    fn a_range_beyond_floats_is_refused() {
        let rows = [[f32::MAX], [-f32::MAX], [-f32::MAX], [-f32::MAX]];
        for kind in [NormalizationKind::MinMax, NormalizationKind::Standardize] {
            let error = learn_from(&rows, kind, None);
            assert_eq!(error, Err(RangeTooLarge { feature: 0, minimum: -f32::MAX, maximum: f32::MAX }));
        }
    }
}
