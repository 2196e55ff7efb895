//! What there is to see of a version: its matrices, and what decodes best.

use std::sync::Arc;

use super::{Service, ServiceError};
use crate::model::inspect;
use crate::model::{Comparison, LayerInspection, Matrix, ModelKey, ModelName, Selector};

/// What was seen.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Of which version.
    pub key: ModelKey,
    /// In the order of encoding.
    pub layers: Vec<LayerInspection>,
    /// On the rows that came along, if any did.
    pub comparison: Option<Comparison>,
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
        rows: Option<Matrix>,
    ) -> Result<Inspection, ServiceError> {
        let key = self.registry.resolve(name, selector)?;
        let loaded = self.loaded(&key).await?;
        if let Some(rows) = &rows {
            let expected = loaded.artifact.model.spec().features();
            if rows.columns() != expected {
                let message =
                    format!("has {} columns, expected {expected}: the width of the model's input", rows.columns());
                return Err(ServiceError::invalid("rows", message));
            }
        }
        // One at a time: it may take a core for a minute.
        let turn = Arc::clone(&self.inspecting).lock_owned().await;
        let looked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            if let Some(rows) = &rows {
                rows.check_finite().map_err(|error| ServiceError::invalid("rows", error))?;
            }
            let model = &loaded.artifact.model;
            let no = |error| ServiceError::NotInspected { key: key.clone(), error };
            let mut layers = inspect::layers(model).map_err(no)?;
            let comparison = rows.map(|rows| inspect::compare(model, &rows));
            for (layer, dead) in layers.iter_mut().zip(comparison.iter().flat_map(|found| &found.dead_units)) {
                layer.zero_units.extend(dead);
                layer.zero_units.sort_unstable();
                layer.zero_units.dedup();
            }
            let (tensor_bytes, untied_tensor_bytes) = (model.spec().tensor_bytes(), model.spec().untied_tensor_bytes());
            Ok(Inspection { key, layers, comparison, tensor_bytes, untied_tensor_bytes })
        });
        looked.await.unwrap_or_else(|lost| Err(ServiceError::Internal(format!("an inspection was lost: {lost}"))))
    }
}
