//! Anomaly scores of rows, and the reasons for them.

use std::sync::Arc;
use std::time::Instant;

use super::blocking::blocking;
use super::{AllowedModel, Operation, Service, ServiceError};
use crate::batching::{Timing, Urgency};
use crate::model::score::FIGURES;
use crate::model::{AnswerFormat, Form, Matrix, Selector, Version};
use crate::registry::LoadedModel;

/// Maximum features to name for a row.
pub const REASONS_MAX: u32 = 100;
/// Larger results (in numbers) are evaluated on a blocking thread.
const NUMBERS_AT_ONCE_MAX: usize = 10_000;
/// Maximum reasons over all rows of a request: each has the name of its feature.
const REASONS_OF_ALL_MAX: usize = 262_144;

/// Form of the figures, independent of the form of the rows.
const FIGURES_FORM: AnswerFormat = AnswerFormat::Form(Form::Floats);

/// Options of a score request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScoreOptions {
    /// Number of features to name for each row.
    pub reasons: u32,
    /// Maximum share of alarms among usual rows.
    pub false_alarm_rate: Option<f64>,
}

/// Anomaly scores: one number or list per row.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    /// Squared reconstruction errors: sums over features, normalized space.
    pub squared_errors: Vec<f32>,
    /// Mahalanobis distances of the codes.
    pub code_distances: Vec<f32>,
    /// Part of the score for changes in columns and relations that never changed in training.
    pub changes: Vec<f32>,
    /// Combined scores; see [`crate::model::score`].
    pub scores: Vec<f32>,
    /// P-values among the scores of held-out rows.
    pub p_values: Vec<f64>,
    /// Whether the row is an alarm; only with a false-alarm rate.
    pub alarms: Vec<bool>,
    /// Feature index and contribution, greatest first; only with reasons.
    pub reasons: Vec<Vec<(u32, f32)>>,
}

/// Scores of all rows, and the figures to judge them by.
#[derive(Clone, Debug)]
pub struct Scored {
    /// The version that served it.
    pub version: Version,
    /// Scores by row.
    pub scores: Scores,
    /// The score above which a row is an alarm; only with a false-alarm rate.
    pub threshold: Option<f32>,
    /// Number of held-out rows behind the p-values.
    pub calibration_rows: usize,
    /// Mean squared error of the held-out rows, divided by the residual dimension.
    pub residual_variance: f64,
    /// Feature names of the model: none, or one per feature.
    pub feature_names: Vec<String>,
    /// Durations of the request.
    pub timing: Timing,
}

impl Service {
    /// Scores rows (n, d_0).
    pub async fn score(
        &self,
        model: &AllowedModel,
        selector: &Selector,
        rows: Matrix,
        options: ScoreOptions,
        deadline: Option<Instant>,
    ) -> Result<Scored, ServiceError> {
        let ScoreOptions { reasons, false_alarm_rate } = options;
        if reasons > REASONS_MAX {
            let message = format!("is {reasons}, expected at most {REASONS_MAX}");
            return Err(ServiceError::invalid("reasons", message));
        }
        let of_all = rows.rows().saturating_mul(rows.columns().min(reasons as usize));
        if of_all > REASONS_OF_ALL_MAX {
            let (count, max) = (rows.rows(), REASONS_OF_ALL_MAX);
            let message =
                format!("is {reasons} for each of {count} rows, expected at most {max} in all: send fewer rows");
            return Err(ServiceError::invalid("reasons", message));
        }
        let operation = if reasons > 0 { Operation::Explain } else { Operation::Score };
        let key = self.choose(model, selector, operation)?;
        let loaded = self.loaded(&key).await?;
        let statistics = loaded.artifact.statistics.as_ref().filter(|_| loaded.scorer().is_some());
        let statistics = statistics.ok_or_else(|| ServiceError::NoStatistics(key.clone()))?;
        let threshold = false_alarm_rate.map(|rate| {
            let refused =
                |expected: String| ServiceError::invalid("false_alarm_rate", format!("is {rate}, expected {expected}"));
            if !(0.0..=1.0).contains(&rate) {
                return Err(refused("0 to 1".to_owned()));
            }
            statistics.threshold(rate).map_err(|least| {
                let rows = statistics.calibration.len();
                refused(format!(
                    "at least {least}: {rows} held-out rows cannot resolve a smaller rate (train on more rows, \
                     or with a greater validation_fraction)"
                ))
            })
        });
        let threshold = threshold.transpose()?;
        let served = self.compute(&key, operation, rows, FIGURES_FORM, deadline, Urgency::Interactive).await?;
        let (calibration_rows, residual_variance) = (statistics.calibration.len(), statistics.residual_variance);
        let feature_names = loaded.artifact.model.spec().raw().feature_names.clone();
        let (timing, matrix, judged) = (served.output.timing, served.output.matrix, Arc::clone(&loaded));
        let scores = if matrix.rows() * matrix.columns() <= NUMBERS_AT_ONCE_MAX {
            judge(&judged, matrix, reasons, threshold)
        } else {
            blocking("a scoring task", move || Ok(judge(&judged, matrix, reasons, threshold))).await?
        };
        let version = served.version;
        Ok(Scored { version, scores, threshold, calibration_rows, residual_variance, feature_names, timing })
    }
}

/// Scores from the figures of [`crate::model::Scorer::score`] or `explain`, row by row.
fn judge(model: &LoadedModel, figures: Matrix, reasons: u32, threshold: Option<f32>) -> Scores {
    let mut all = Scores::default();
    // The caller has checked both.
    let (Some(scorer), Some(statistics)) = (model.scorer(), &model.artifact.statistics) else { return all };
    let columns = figures.columns();
    let numbers = figures.into_values().to_f32();
    for row in numbers.chunks_exact(columns) {
        let Some((figures, contributions)) = row.split_first_chunk::<FIGURES>() else { break };
        let [squared_error, squared_distance, changes] = *figures;
        let score = scorer.combined(*figures);
        all.squared_errors.push(squared_error);
        all.code_distances.push(squared_distance.sqrt());
        all.changes.push(changes);
        all.scores.push(score);
        all.p_values.push(statistics.p_value(score));
        all.alarms.extend(threshold.map(|threshold| score > threshold));
        if reasons > 0 {
            all.reasons.push(greatest(contributions, reasons as usize));
        }
    }
    all
}

/// The `count` numbers with the greatest absolute value, with their indices, greatest first.
fn greatest(numbers: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(numbers.iter().copied()).collect();
    let further = |a: &(u32, f32), b: &(u32, f32)| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0));
    if count < all.len() {
        all.select_nth_unstable_by(count, further);
        all.truncate(count);
    }
    all.sort_unstable_by(further);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_magnitudes_come_first() {
        let numbers = [1.0, -5.0, 3.0, 0.0, 5.0];
        assert_eq!(greatest(&numbers, 3), [(1, -5.0), (4, 5.0), (2, 3.0)]);
        assert_eq!(greatest(&numbers, 9).len(), 5);
        assert_eq!(greatest(&numbers, 1), [(1, -5.0)]);
        assert_eq!(greatest(&[], 3), []);
    }
}
