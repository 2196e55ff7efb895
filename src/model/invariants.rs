//! Properties that all rows share: columns that never change, and linear relations between columns that always hold.
//!
//! A distance that divides by variances cannot judge a direction without variance. A small change along it is invisible
//! beside the noise of other directions, and a linear code reconstructs it exactly. So such directions have terms of
//! their own, computed from the input and not from the code. They do not depend on the model or on the code length.
//!
//! - A constant column. The floor of its standard deviation is half the distance between neighboring 32-bit floats at
//!   its value. A column that varied by less would have one value in every row, so a smaller variation cannot be known.
//!   A value counts as a change if its distance from the constant exceeds two limits. The first is two such float
//!   spacings, by which the same number may differ if it arrives in another width. The second is a billionth of the
//!   smallest scale of a varying column: `0.1 + 0.2 - 0.3` is no change of a 0.
//! - A relation `a·x = c` (a total of other columns, or one column in two units). Its floor is the largest deviation
//!   among the rows that were examined, and at least the rounding error. A deviation of more than [`LIMIT`] times the
//!   floor is a change.
//!
//! No training row and no held-out row has such a change. So the term of a change is its square in units of the floor,
//! plus twice the largest score of a held-out row. The row then scores higher than every held-out row.

use super::normalization::Normalizer;
use crate::numeric::matmul::Weights;
use crate::numeric::{Activation, PanelMatrix};

/// A relation is broken if its deviation exceeds this many times the largest deviation of the examined rows.
pub const LIMIT: f32 = 4.0;

/// Half the distance between neighboring 32-bit floats, relative.
const HALF_SPACING: f32 = 1.0 / (1 << 24) as f32;
/// Relative tolerance for constants: 32-bit and 64-bit rows are rounded at different steps.
const TOLERANCE: f32 = 4.0 * HALF_SPACING;

/// Rounding error of a constant 0, in units of the smallest scale of a varying column.
const NOISE: f32 = 1e-9;

/// Largest number of coefficients of all relations: (relations, features).
pub const RELATION_NUMBERS_MAX: usize = 1 << 20;

/// The invariants of all training rows and all held-out rows, in the normalized space.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Invariants {
    /// Constant columns in ascending order: index from 0, value.
    pub constants: Vec<(usize, f32)>,
    /// a of each relation: (r, d), row-major, each of norm 1.
    pub relations: Vec<f32>,
    /// c of each relation: (r,).
    pub centers: Vec<f32>,
    /// Largest |a·x - c| of each relation: (r,), each above 0.
    pub deviations: Vec<f32>,
}

impl Invariants {
    /// Size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        let Self { constants, relations, centers, deviations } = self;
        12 * constants.len() + 4 * (relations.len() + centers.len() + deviations.len())
    }
}

/// Detects rows that violate an invariant.
#[derive(Clone, Debug, Default)]
pub(super) struct Checks {
    constants: Vec<(usize, f32)>,
    relations: Option<Relations>,
    /// The term that every change adds to its square.
    base: f64,
}

#[derive(Clone, Debug)]
struct Relations {
    weights: Weights,
    /// -c of each relation.
    bias: Vec<f32>,
    deviations: Vec<f32>,
}

/// A change of a row: its feature, its term of the score, and whether the value is too large.
struct Change {
    feature: usize,
    term: f64,
    too_great: bool,
}

impl Checks {
    /// `greatest_score`: the largest score of a held-out row.
    pub(super) fn new(invariants: &Invariants, features: usize, greatest_score: f32) -> Self {
        let Invariants { constants, relations, centers, deviations } = invariants;
        let relations = (!centers.is_empty()).then(|| Relations {
            weights: Weights::from_row_major(centers.len(), features, relations),
            bias: centers.iter().map(|center| -center).collect(),
            deviations: deviations.clone(),
        });
        Self { constants: constants.clone(), relations, base: 2.0 * f64::from(greatest_score.max(0.0)) }
    }

    pub(super) fn bytes(&self) -> usize {
        let relations = self.relations.as_ref().map_or(0, |of| of.weights.panels().len() + 2 * of.bias.len());
        16 * self.constants.len() + 4 * relations
    }

    /// Multiply-adds per row.
    pub(super) fn multiply_adds(&self) -> usize {
        self.relations.as_ref().map_or(0, |of| of.weights.outputs() * of.weights.inputs())
    }

    /// Per row of `x` (n, d; normalized, NaN where a value is missing): the sum of the terms, 0 without a change.
    pub(super) fn terms(&self, normalizer: &Normalizer, x: &PanelMatrix) -> Vec<f32> {
        let mut terms = vec![0.0f64; x.rows()];
        self.each_constant_change(normalizer, x, |row, change| terms[row] += change.term);
        if let Some(relations) = &self.relations {
            let ratios = relations.ratios(x);
            for (row, term) in terms.iter_mut().enumerate() {
                *term += relations.broken(&ratios, row).map(|(_, ratio)| ratio * ratio + self.base).sum::<f64>();
            }
        }
        terms.into_iter().map(|term| term.min(f64::from(f32::MAX)) as f32).collect()
    }

    /// Calls `found(row, feature, contribution)` for every feature that explains a change, with the sign of a
    /// contribution (see [`super::Scorer::explain`]).
    pub(super) fn each_contribution(
        &self,
        normalizer: &Normalizer,
        x: &PanelMatrix,
        mut found: impl FnMut(usize, usize, f64),
    ) {
        self.each_constant_change(normalizer, x, |row, change| {
            found(row, change.feature, if change.too_great { change.term } else { -change.term });
        });
        let Some(relations) = &self.relations else { return };
        let ratios = relations.ratios(x);
        for row in 0..x.rows() {
            let broken: Vec<(usize, f64)> = relations.broken(&ratios, row).collect();
            let squares: f64 = broken.iter().map(|(_, ratio)| ratio * ratio).sum();
            if broken.is_empty() {
                continue;
            }
            // As for the other contributions: g²/h, for the relations alone, plus the same share of the base term.
            for feature in 0..x.columns() {
                let (mut slope, mut curvature) = (0.0, 0.0);
                for (relation, ratio) in &broken {
                    let by = f64::from(relations.weights.at(*relation, feature))
                        / f64::from(relations.deviations[*relation]);
                    slope += by * ratio;
                    curvature += by * by;
                }
                if slope != 0.0 {
                    let fall = slope * slope / curvature;
                    let base = self.base * broken.len() as f64 * (fall / squares);
                    found(row, feature, (fall + base).copysign(slope));
                }
            }
        }
    }

    /// The smallest scale of a varying column, in the units of the input; 0 if none is known.
    fn least_scale(&self, normalizer: &Normalizer, columns: usize) -> f32 {
        if self.constants.is_empty() || normalizer.scale.is_empty() {
            return 0.0;
        }
        let is_constant =
            |column: &usize| self.constants.binary_search_by_key(column, |(constant, _)| *constant).is_ok();
        let scales = (0..columns).filter(|column| !is_constant(column)).map(|column| normalizer.unit(column));
        let least = scales.fold(f32::INFINITY, f32::min);
        if least.is_finite() { least } else { 0.0 }
    }

    fn each_constant_change(&self, normalizer: &Normalizer, x: &PanelMatrix, mut found: impl FnMut(usize, Change)) {
        let noise = NOISE * self.least_scale(normalizer, x.columns());
        for &(feature, constant) in &self.constants {
            let shift = normalizer.shift(feature);
            let tolerance = (TOLERANCE * (constant.abs() + shift)).max(noise / normalizer.unit(feature));
            let floor = f64::from(HALF_SPACING * (constant.abs() + shift).max(1.0));
            for row in 0..x.rows() {
                let value = x.at(row, feature);
                let change = f64::from(value) - f64::from(constant);
                // A missing value is NaN, and not a change.
                if change.abs() > f64::from(tolerance) {
                    let term = (change / floor).powi(2) + self.base;
                    found(row, Change { feature, term, too_great: change > 0.0 });
                }
            }
        }
    }
}

impl Relations {
    /// (a·x - c) / deviation: (n, r).
    fn ratios(&self, x: &PanelMatrix) -> PanelMatrix {
        let mut ratios = PanelMatrix::default();
        self.weights.encode_layer(x, &self.bias, Activation::Linear, &mut ratios);
        ratios.each_column_mut(|relation, part| {
            part.iter_mut().for_each(|value| *value /= self.deviations[relation]);
        });
        ratios
    }

    /// The relations that row `row` breaks, with their ratios. None if values of the relations are missing: NaN passes
    /// no comparison.
    fn broken<'a>(&'a self, ratios: &'a PanelMatrix, row: usize) -> impl Iterator<Item = (usize, f64)> + 'a {
        (0..self.bias.len())
            .map(move |relation| (relation, ratios.at(row, relation)))
            .filter(|(_, ratio)| ratio.abs() > LIMIT)
            .map(|(relation, ratio)| (relation, f64::from(ratio.clamp(-f32::MAX, f32::MAX))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NormalizationKind;

    fn lanes(columns: usize, values: &[f32]) -> PanelMatrix {
        let mut lanes = PanelMatrix::zeros(values.len() / columns, columns);
        lanes.load(0, values);
        lanes
    }

    /// Column 1 is constant 7, and column 2 is twice column 0.
    fn checks(greatest_score: f32) -> Checks {
        let root = 5f32.sqrt();
        let invariants = Invariants {
            constants: vec![(1, 7.0)],
            relations: vec![2.0 / root, 0.0, -1.0 / root],
            centers: vec![0.0],
            deviations: vec![1e-7],
        };
        Checks::new(&invariants, 3, greatest_score)
    }

    #[test]
    fn unchanged_invariants_add_nothing() {
        let rows = lanes(3, &[1.0, 7.0, 2.0, -1.0, 7.0, -2.0, f32::NAN, 7.0, 1.0, 0.5, f32::NAN, 1.0]);
        assert_eq!(checks(5.0).terms(&Normalizer::none(), &rows), [0.0; 4]);
        assert_eq!(Checks::default().terms(&Normalizer::none(), &rows), [0.0; 4]);
    }

    #[test]
    fn a_change_beyond_the_floor_scores_above_every_held_out_row() {
        for greatest in [0.0, 12.0, 1e20] {
            let checks = checks(greatest);
            for by in [7e-6, -7e-6, 1.0, 1e6, f32::MAX, f32::INFINITY] {
                let rows = lanes(3, &[1.0, 7.0 + by, 2.0, 1.0, 7.0, 2.0 + by]);
                let terms = checks.terms(&Normalizer::none(), &rows);
                assert!(terms.iter().all(|term| *term > greatest && term.is_finite()), "{by}: {terms:?}");
                let mut named = Vec::new();
                checks.each_contribution(&Normalizer::none(), &rows, |row, feature, value| {
                    named.push((row, feature));
                    assert!(row == 1 || (value > 0.0) == (by > 0.0), "the sign of a change of {by}: {value}");
                });
                // Either column of a relation may be the wrong one.
                assert_eq!(named, [(0, 1), (1, 0), (1, 2)]);
            }
        }
    }

    /// Column 1 is constant in training; the others have standard deviations of 2.
    #[test]
    fn rounding_of_a_constant_is_not_a_change() {
        for constant in [0.0, 0.1, 9.81, 1013.2, 1e9] {
            let normalizer = Normalizer {
                kind: NormalizationKind::Standardize,
                offset: vec![5.0, constant as f32, 5.0],
                scale: vec![2.0, 1.0, 2.0],
                fill: vec![],
                exact_offset: vec![5.0, constant, 5.0],
            };
            let invariants = Invariants { constants: vec![(1, 0.0)], ..Invariants::default() };
            let checks = Checks::new(&invariants, 3, 1.0);
            let terms = |value: f64| {
                let row =
                    [normalizer.normalized(0, 4.0), normalizer.normalized(1, value), normalizer.normalized(2, 7.0)];
                checks.terms(&normalizer, &lanes(3, &row))[0]
            };
            for same in [constant, f64::from(constant as f32), constant * (1.0 - f64::EPSILON), constant + 1e-15] {
                assert_eq!(terms(same), 0.0, "{same} for {constant}");
            }
            for other in [constant * (1.0 + 1e-6) + 2e-6, constant - 2e-6 - constant * 1e-6, constant + 1e30] {
                assert!(terms(other) > 2.0, "{other} for {constant}");
            }
        }
    }

    #[test]
    fn rounding_through_64_bits_is_not_a_change() {
        // The same value, normalized through 64 bits: it differs in the last place.
        let normalizer = Normalizer {
            kind: NormalizationKind::UnitInterval,
            offset: vec![0.05; 3],
            scale: vec![0.7; 3],
            fill: vec![],
            exact_offset: vec![],
        };
        let constant = normalizer.value(1, 0.1);
        let invariants = Invariants { constants: vec![(1, constant)], ..Invariants::default() };
        let rows = lanes(3, &[0.0, constant.next_up(), 0.0, 0.0, ((0.1f64 - 0.05) / 0.7) as f32, 0.0]);
        assert_eq!(Checks::new(&invariants, 3, 1.0).terms(&normalizer, &rows), [0.0; 2]);
        let changed = lanes(3, &[0.0, normalizer.value(1, 0.1 + 1e-6), 0.0]);
        assert!(Checks::new(&invariants, 3, 1.0).terms(&normalizer, &changed)[0] > 2.0);
    }
}
