//! Inspection of a version: its matrices, and a comparison of decoders.

use std::sync::Arc;

use super::blocking::blocking;
use super::{AllowedModel, INSPECTIONS_MAX, Service, ServiceError};
use crate::model::inspect::{Inspection, inspect};
use crate::model::{Matrix, Missing, ModelKey, Selector, sample};

/// Rows to measure on.
#[derive(Clone, Debug)]
pub enum InspectionRows {
    /// No rows.
    None,
    /// Rows as wide as the model's input.
    Sent(Matrix),
    /// The validation sample stored with the version.
    Sample,
}

/// The result of an inspection.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// The inspected version.
    pub key: ModelKey,
    /// Properties of its matrices, and measurements on the rows, if there were any.
    pub seen: Inspection,
    /// Size of the tensors in bytes: each matrix once.
    pub tensor_bytes: u64,
    /// Size of the tensors in bytes if every decoder layer had a matrix of its own.
    pub untied_tensor_bytes: u64,
}

impl Service {
    /// Inspects a version, and measures it on `rows`.
    pub async fn inspect(
        &self,
        model: &AllowedModel,
        selector: &Selector,
        rows: InspectionRows,
    ) -> Result<Inspected, ServiceError> {
        let key = self.registry.resolve(model.name(), selector)?;
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
        // One at a time, because an inspection may take a core for a minute. It runs to its end even if the caller
        // leaves.
        let turn = Arc::clone(&self.inspecting).lock_owned().await;
        let store = Arc::clone(self.registry.store());
        blocking("an inspection task", move || {
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
        })
        .await
    }
}
