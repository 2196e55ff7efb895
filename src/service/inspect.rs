//! What there is to see of a version: its matrices, and what decodes best.

use std::sync::Arc;

use super::{Service, ServiceError};
use crate::model::inspect::{Inspection, inspect};
use crate::model::{Matrix, Missing, ModelKey, ModelName, Selector, sample};

/// Inspections that run or wait at once; more are refused. Each keeps its rows meanwhile.
pub(super) const INSPECTIONS_MAX: usize = 4;

/// What to measure on.
#[derive(Clone, Debug)]
pub enum InspectionRows {
    /// Nothing.
    None,
    /// Rows as wide as the model's input.
    Sent(Matrix),
    /// The validation sample of the version.
    Sample,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Of which version.
    pub key: ModelKey,
    /// Its matrices, and what became of the rows that came along.
    pub seen: Inspection,
    /// Each matrix once.
    pub tensor_bytes: u64,
    /// With a matrix of its own for every decoder layer.
    pub untied_tensor_bytes: u64,
}

impl Service {
    /// Looks at a version, and measures it on `rows`.
    pub async fn inspect(
        &self,
        name: &ModelName,
        selector: &Selector,
        rows: InspectionRows,
    ) -> Result<Inspected, ServiceError> {
        let key = self.registry.resolve(name, selector)?;
        let loaded = self.loaded(&key).await?;
        if let InspectionRows::Sent(rows) = &rows {
            let expected = loaded.artifact.model.spec().features();
            if rows.columns() != expected {
                let message =
                    format!("has {} columns, expected {expected}: the width of the model's input", rows.columns());
                return Err(ServiceError::invalid("rows", message));
            }
        }
        let (key_of_error, full) = (key.clone(), |_| ServiceError::InspectionsFull { max: INSPECTIONS_MAX });
        let place = Arc::clone(&self.inspections).try_acquire_owned().map_err(full)?;
        // One at a time: it may take a core for a minute. Who leaves meanwhile leaves the rest to its end.
        let turn = Arc::clone(&self.inspecting).lock_owned().await;
        let store = Arc::clone(self.registry.store());
        let looked = tokio::task::spawn_blocking(move || {
            let _place_and_turn = (place, turn);
            let model = &loaded.artifact.model;
            let rows = match rows {
                InspectionRows::None => None,
                InspectionRows::Sent(rows) => {
                    let missing = Missing::from(model.normalizer().takes_missing());
                    rows.check_values(missing).map_err(|error| ServiceError::invalid("rows", error))?;
                    Some(rows)
                }
                InspectionRows::Sample => {
                    let bytes = store.read_sample(&key)?.ok_or_else(|| ServiceError::NoSample { key: key.clone() })?;
                    let rows = sample::from_bytes(&bytes, model.spec().features());
                    Some(rows.map_err(|error| ServiceError::DamagedSample { key: key.clone(), error })?)
                }
            };
            let seen = inspect(model, rows.as_ref());
            let seen = seen.map_err(|error| ServiceError::NotInspected { key: key_of_error, error })?;
            let (tensor_bytes, untied_tensor_bytes) = (model.spec().tensor_bytes(), model.spec().untied_tensor_bytes());
            Ok(Inspected { key, seen, tensor_bytes, untied_tensor_bytes })
        });
        looked.await.unwrap_or_else(|lost| Err(ServiceError::Internal(format!("an inspection was lost: {lost}"))))
    }
}
