//! Copies between arrays and batches.

use ndarray::{ArrayView2, Axis};

use crate::model::{MatrixError, Missing, Normalizer};
use crate::numeric::{LANES, PanelMatrix};

/// Rejects infinities and, unless values may be missing, NaN; the error names the first, row by row.
pub(super) fn check_values(rows: ArrayView2<'_, f32>, missing: Missing) -> Result<(), MatrixError> {
    // Almost always all values are allowed: a loop without early exit is vectorized.
    if rows.fold(true, |allowed, value| allowed & missing.allows(*value)) {
        return Ok(());
    }
    match rows.indexed_iter().find(|(_, value)| !missing.allows(**value)) {
        Some(((row, column), value)) => Err(MatrixError::NotFinite { row, column, value: *value }),
        None => Ok(()),
    }
}

/// Copies `rows` (n, c), c at most `columns`, into `batch`, which becomes (n, `columns`). Further columns are 0. This is
/// the only copy, whatever the strides of the rows are.
pub(super) fn load(rows: ArrayView2<'_, f32>, columns: usize, batch: &mut PanelMatrix) {
    batch.reset(rows.nrows(), columns);
    match rows.to_slice() {
        Some(values) if rows.ncols() == columns => batch.load(0, values),
        _ => load_with(rows, batch, |_, value| value),
    }
}

/// Copies `rows` (n, d) into `batch` in the normalized space. Each value is normalized in 64 bits and rounded once, as
/// a server does for a model that was trained on 64-bit rows.
pub(super) fn load_normalized(rows: ArrayView2<'_, f32>, normalizer: &Normalizer, batch: &mut PanelMatrix) {
    batch.reset(rows.nrows(), rows.ncols());
    load_with(rows, batch, |column, value| normalizer.normalized(column, f64::from(value)));
}

/// Panel by panel, column by column: both sides advance by one number within a column of a panel.
fn load_with(rows: ArrayView2<'_, f32>, batch: &mut PanelMatrix, value: impl Fn(usize, f32) -> f32) {
    let panel_values = (LANES * batch.columns()).max(1);
    if rows.ncols() < batch.columns() {
        batch.values_mut().fill(0.0);
    }
    for (rows, panel) in rows.axis_chunks_iter(Axis(0), LANES).zip(batch.values_mut().chunks_mut(panel_values)) {
        let parts = panel.chunks_exact_mut(rows.nrows());
        for (j, (column, part)) in rows.columns().into_iter().zip(parts).enumerate() {
            part.iter_mut().zip(column).for_each(|(target, number)| *target = value(j, *number));
        }
    }
}
