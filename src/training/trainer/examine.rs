//! Examines the training rows before the first step.

use crate::model::Normalizer;
use crate::model::normalization::Learner;
use crate::training::batches::{Split, each_training_row};
use crate::training::columns::{Columns, Names};
use crate::training::error::TrainError;
use crate::training::observer::LOOK_ROWS;
use crate::training::plan::SeenValues;
use crate::training::source::RowSource;
use crate::training::value_kind::ValueKind;

/// The properties of the training rows that choices depend on.
pub(super) struct Seen {
    pub(super) learner: Learner,
    pub(super) columns: Columns,
    pub(super) values: ValueKind,
}

/// Examines the training rows; ends early if `go_on` fails.
pub(super) fn look_through(
    source: &dyn RowSource,
    split: &Split,
    go_on: &mut dyn FnMut() -> Result<(), TrainError>,
) -> Result<Seen, TrainError> {
    let (mut learner, mut values, mut seen) = (Learner::new(source.features()), SeenValues::default(), 0u64);
    let mut columns = Columns::new(source.features());
    let (shift, mut as_came) = (source.shift(), Vec::new());
    each_training_row(source, split, &mut |_, row| {
        learner.add(row);
        columns.add(row, shift);
        match shift {
            None => values.add(row),
            Some(shift) => {
                as_came.clear();
                as_came.extend(row.iter().zip(shift).map(|(value, by)| (f64::from(*value) + by) as f32));
                values.add(&as_came);
            }
        }
        seen += 1;
        if seen.is_multiple_of(LOOK_ROWS) { go_on() } else { Ok(()) }
    })?;
    go_on()?;
    let values = values.kind(&learner, source.features());
    Ok(Seen { learner, columns, values })
}

/// A note on the share of missing values.
pub(super) fn missing_note(learner: &Learner) -> Option<String> {
    let percent = 100.0 * learner.missing_share();
    (percent > 0.0).then(|| format!("missing values: {percent:.2} % of the values of the training rows"))
}

pub(super) fn check_unit_interval(
    source: &dyn RowSource,
    split: &Split,
    normalizer: &Normalizer,
    learner: &Learner,
    names: Names<'_>,
    refuse: fn(u64, String, f32) -> TrainError,
) -> Result<(), TrainError> {
    let allowed = 0.0..=1.0;
    let fits = |j| {
        let (minimum, maximum) = learner.range(j);
        allowed.contains(&normalizer.value(j, minimum)) && allowed.contains(&normalizer.value(j, maximum))
    };
    if (0..source.features()).all(fits) {
        return Ok(());
    }
    // Search for the row, to name it in the error.
    each_training_row(source, split, &mut |row, values| {
        for (feature, x) in values.iter().enumerate() {
            let value = normalizer.value(feature, *x);
            if !allowed.contains(&value) {
                return Err(refuse(row + 1, names.of(feature), value));
            }
        }
        Ok(())
    })
}

pub(super) fn outside(row: u64, feature: String, value: f32) -> TrainError {
    TrainError::OutsideUnitInterval { row, feature, value }
}

pub(super) fn outside_base(row: u64, feature: String, value: f32) -> TrainError {
    TrainError::OutsideBase { row, feature, value }
}
