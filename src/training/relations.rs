//! Finds linear relations between columns that hold in every row: totals, one column in two units, shares that add up
//! to 1.
//!
//! A pivoted Cholesky factorization of the correlation matrix selects column after column: each time the one that the
//! selected columns explain least. It ends when the unexplained variance of every other column is at most a share of
//! [`VARIANCE_MAX`]. The columns that are left are linear combinations of the selected ones (Golub and Van Loan 2013,
//! 4.2.8). Each is a relation if it also holds in the held-out rows.

use super::columns::Names;
use crate::model::Invariants;
use crate::model::invariants::{LIMIT, RELATION_NUMBERS_MAX};
use crate::model::text::first_items;
use crate::numeric::linalg::{covariance, dot};

/// Largest number of columns for the search: the factorization costs their cube, and its rows their square.
pub(super) const COLUMNS_MAX: usize = 512;
/// Fewest rows per column: with fewer, columns are explained by chance.
const ROWS_PER_COLUMN: usize = 4;
/// Limit of the examined rows: multiply-adds of their covariance; also at most [`ROWS_MAX`] rows.
const WORK_MAX: u64 = 2_000_000_000;
const ROWS_MAX: u64 = 16_384;

/// Share of a column's variance that may be rounding error.
const VARIANCE_MAX: f64 = 1e-8;
/// Largest deviation of a row, as a share of the standard deviation that the combination would have with independent
/// columns.
const DEVIATION_MAX: f64 = 1e-3;
/// Coefficients below this share of the largest are noise.
const COEFFICIENT_MIN: f64 = 1e-4;
/// Rounding error of a sum in f32, relative to its terms.
const ROUNDING: f64 = 1.0 / (1u64 << 22) as f64;

/// Number of relations that a note names.
const NAMED_MAX: usize = 3;

/// Number of training rows to examine; 0 if there are too few rows, or too many columns.
pub(super) fn wanted_rows(rows: u64, features: usize) -> u64 {
    let square = (features * features) as u64;
    let least = (ROWS_PER_COLUMN * features) as u64;
    if !(2..=COLUMNS_MAX).contains(&features) || rows < least {
        return 0;
    }
    (WORK_MAX / square).clamp(least, ROWS_MAX)
}

/// Finds relations in `training` rows and keeps those that hold in `held_out` rows. Both are row-major, normalized and
/// complete. `shifts` is the shift of each column in the normalized space.
pub(super) fn find(found: &mut Invariants, training: &[f32], held_out: &[f32], shifts: &[f32]) {
    let features = shifts.len();
    let is_constant = |column: &usize| found.constants.iter().any(|(constant, _)| constant == column);
    let varied: Vec<usize> = (0..features).filter(|column| !is_constant(column)).collect();
    let (n, rows) = (varied.len(), training.len() / features);
    if n < 2 || rows < ROWS_PER_COLUMN * n {
        return;
    }
    let packed: Vec<f32> =
        training.chunks_exact(features).flat_map(|row| varied.iter().map(|column| row[*column])).collect();
    let (means, covariance) = covariance(&packed, n, |_| true);
    let deviations: Vec<f64> = (0..n).map(|i| covariance[i * n + i].sqrt()).collect();
    if !deviations.iter().all(|deviation| *deviation > 0.0 && deviation.is_finite()) {
        return;
    }
    let correlation: Vec<f64> =
        (0..n * n).map(|at| covariance[at] / (deviations[at / n] * deviations[at % n])).collect();
    let most = features.min(RELATION_NUMBERS_MAX / features);
    for combination in combinations(&correlation, n).into_iter().take(most) {
        // Coefficients for the normalized space, with norm 1.
        let mut weights = vec![0.0f64; features];
        for ((column, value), deviation) in varied.iter().zip(&combination).zip(&deviations) {
            weights[*column] = value / deviation;
        }
        let length = weights.iter().map(|value| value * value).sum::<f64>().sqrt();
        let weights: Vec<f32> = weights.into_iter().map(|value| (value / length) as f32).collect();
        let along = |row: &[f32]| weights.iter().zip(row).map(|(a, x)| f64::from(*a) * f64::from(*x)).sum::<f64>();
        let (mut least, mut greatest) = (f64::INFINITY, f64::NEG_INFINITY);
        for row in training.chunks_exact(features) {
            let value = along(row);
            (least, greatest) = (least.min(value), greatest.max(value));
        }
        let center = f64::midpoint(least, greatest) as f32;
        let of = |rows: &[f32]| {
            rows.chunks_exact(features).map(|row| (along(row) - f64::from(center)).abs()).fold(0.0, f64::max)
        };
        let independent = (0..n).map(|i| (f64::from(weights[varied[i]]) * deviations[i]).powi(2)).sum::<f64>().sqrt();
        let size = |i: usize| means[i].abs() + 4.0 * deviations[i] + f64::from(shifts[varied[i]]);
        let rounding = ROUNDING * (0..n).map(|i| f64::from(weights[varied[i]].abs()) * size(i)).sum::<f64>();
        let (trained, held) = (of(training), of(held_out));
        let deviation = trained.max(held).max(rounding);
        // Written so that NaN gives no relation.
        let holds = trained <= DEVIATION_MAX * independent && held <= f64::from(LIMIT) * trained.max(rounding);
        if holds && deviation > 0.0 && deviation.is_finite() && center.is_finite() {
            found.relations.extend_from_slice(&weights);
            found.centers.push(center);
            found.deviations.push((deviation as f32).max(f32::MIN_POSITIVE));
        }
    }
}

/// A note on the relations, if any. Unlike a constant column, a relation is not visible in the rows.
pub(super) fn note(found: &Invariants, names: Names<'_>) -> Option<String> {
    let features = found.relations.len() / found.centers.len().max(1);
    let columns = |relation: &[f32]| {
        let of: Vec<usize> = (0..features).filter(|j| relation[*j] != 0.0).collect();
        Names::list(of.into_iter().map(|j| names.of(j)))
    };
    let groups = found.relations.chunks_exact(features.max(1)).map(columns);
    (groups.len() > 0).then(|| {
        format!(
            "linearly dependent columns: {}: a row that breaks their relation, even by other rounding, is an \
             alarm when it is scored",
            first_items(groups, NAMED_MAX, "; ", |others| format!("; {others} more such groups"))
        )
    })
}

/// Combinations (n,) of standardized columns without variance, from their correlation matrix (n, n).
fn combinations(correlation: &[f64], n: usize) -> Vec<Vec<f64>> {
    let mut order: Vec<usize> = (0..n).collect();
    // Row `i` belongs to column `order[i]`.
    let mut factor = vec![0.0; n * n];
    let mut left: Vec<f64> = vec![1.0; n];
    let mut rank = 0;
    while rank < n {
        let (next, variance) =
            (rank..n).fold((rank, f64::NEG_INFINITY), |best, i| if left[i] > best.1 { (i, left[i]) } else { best });
        if variance <= VARIANCE_MAX || !variance.is_finite() {
            break;
        }
        order.swap(rank, next);
        left.swap(rank, next);
        for column in 0..rank {
            factor.swap(rank * n + column, next * n + column);
        }
        let pivot = variance.sqrt();
        let (done, rest) = factor.split_at_mut((rank + 1) * n);
        let row = &mut done[rank * n..];
        row[rank] = pivot;
        for (other, i) in rest.chunks_exact_mut(n).zip(rank + 1..n) {
            let value = correlation[order[i] * n + order[rank]] - dot(&other[..rank], &row[..rank]);
            other[rank] = value / pivot;
            left[i] -= other[rank] * other[rank];
        }
        rank += 1;
    }
    let combination = |i: usize| {
        // Solves b·L = the row's factor, from the last column backward.
        let mut shares = factor[i * n..][..rank].to_vec();
        for k in (0..rank).rev() {
            let known: f64 = (k + 1..rank).map(|m| shares[m] * factor[m * n + k]).sum();
            shares[k] = (shares[k] - known) / factor[k * n + k];
        }
        let greatest = shares.iter().fold(1.0, |most: f64, share| most.max(share.abs()));
        let mut combination = vec![0.0; n];
        combination[order[i]] = 1.0;
        for (k, share) in shares.into_iter().enumerate() {
            if share.abs() >= COEFFICIENT_MIN * greatest {
                combination[order[k]] = -share;
            }
        }
        combination
    };
    (rank..n).map(combination).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::rng::{Stream, Use};

    /// Rows of 6 columns: three independent ones, their total, the second in another unit with an offset, and a noisy
    /// copy.
    fn rows(count: usize, seed: u64) -> Vec<f32> {
        let mut stream = Stream::new(seed, 0, 0, Use::Weights);
        let mut values = Vec::new();
        for _ in 0..count {
            let [a, b, c, noise] = [(); 4].map(|()| stream.normal() as f32);
            values.extend([a, b, c, a + b + c, 1.8 * b + 32.0, a + 0.05 * noise]);
        }
        values
    }

    #[test]
    fn totals_and_other_units_are_found_and_noise_is_not() {
        let mut found = Invariants::default();
        find(&mut found, &rows(500, 1), &rows(100, 2), &[0.0; 6]);
        assert_eq!(found.centers.len(), 2, "{found:?}");
        for relation in found.relations.chunks_exact(6) {
            assert!((relation.iter().map(|a| a * a).sum::<f32>() - 1.0).abs() < 1e-5);
            assert_eq!(relation[5], 0.0, "the noisy copy belongs to none: {relation:?}");
        }
        assert!(found.deviations.iter().all(|deviation| *deviation < 2e-4), "{found:?}");
    }

    #[test]
    fn a_note_names_the_columns_of_each_relation() {
        let mut found = Invariants::default();
        assert_eq!(note(&found, Names(&[])), None);
        find(&mut found, &rows(500, 1), &rows(100, 2), &[0.0; 6]);
        let names = ["a", "b", "c", "total", "F", "noisy"].map(str::to_owned);
        let note = note(&found, Names(&names)).expect("a note");
        let groups = note.split(": ").nth(1).expect("groups");
        let mut groups: Vec<Vec<&str>> = groups.split("; ").map(|group| group.split(", ").collect()).collect();
        groups.sort_by_key(Vec::len);
        let [pair, total] = &groups[..] else { panic!("two relations: {note}") };
        assert!(pair.len() == 2 && pair.contains(&"b") && pair.contains(&"F"), "{note}");
        assert!(total.len() == 4 && total.contains(&"total") && !total.contains(&"noisy"), "{note}");
    }

    #[test]
    fn a_relation_that_held_out_rows_break_is_dropped() {
        let mut held_out = rows(100, 2);
        held_out[3] += 0.5;
        let mut found = Invariants::default();
        find(&mut found, &rows(500, 1), &held_out, &[0.0; 6]);
        assert_eq!(found.centers.len(), 1, "the other unit alone: {found:?}");
    }

    #[test]
    fn few_rows_and_independent_columns_have_no_relation() {
        let mut stream = Stream::new(7, 0, 0, Use::Weights);
        let independent: Vec<f32> = (0..6000).map(|_| stream.normal() as f32).collect();
        let mut found = Invariants::default();
        find(&mut found, &independent, &independent[..600], &[0.0; 6]);
        find(&mut found, &rows(20, 1), &rows(5, 2), &[0.0; 6]);
        find(&mut found, &[1.0; 600], &[1.0; 60], &[0.0; 6]);
        assert_eq!(found, Invariants::default());
        assert_eq!((wanted_rows(10, 6), wanted_rows(1000, 513), wanted_rows(1 << 40, 6)), (0, 0, ROWS_MAX));
    }
}
