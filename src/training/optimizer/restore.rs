//! Saves and restores the state of an optimizer, with the same bits.

use std::collections::HashMap;

use super::Optimizer;
use super::state::Scalars;

/// Why a state does not belong to this optimizer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::training) enum RestoreError {
    /// A tensor of this optimizer is missing.
    #[error("the optimizer's {0} is missing")]
    Missing(String),
    /// A tensor has the length of another model.
    #[error("the optimizer's {name} has {got} numbers, expected {expected}")]
    Length {
        /// Name of the tensor.
        name: String,
        /// Numbers saved.
        got: usize,
        /// Parameters of the model.
        expected: usize,
    },
    /// A tensor belongs to another method.
    #[error("the optimizer's {0} is not a part of this method")]
    Unknown(String),
}

impl Optimizer {
    /// All tensors of the state, by name: `first.0.weight` is the first moment of the matrix of layer 0, in the layout
    /// of [`Weights::panels`](crate::numeric::matmul::Weights::panels).
    pub(in crate::training) fn tensors(&self) -> Vec<(String, &[f32])> {
        let tensors = self.tensors.iter();
        tensors
            .flat_map(|tensor| tensor.kept().into_iter().map(|(kind, kept)| (full(kind, &tensor.name), kept)))
            .collect()
    }

    /// All tensors of the state, mutable, by name.
    pub(in crate::training) fn tensors_mut(&mut self) -> Vec<(String, &mut [f32])> {
        let mut all = Vec::new();
        for tensor in &mut self.tensors {
            let name = tensor.name.clone();
            all.extend(tensor.kept_mut().into_iter().map(|(kind, kept)| (full(kind, &name), kept)));
        }
        all
    }

    /// The scalars of the state.
    pub(in crate::training) fn scalars(&self) -> Scalars {
        self.scalars
    }

    /// Restores a state from [`Optimizer::scalars`] and [`Optimizer::tensors`], of the same method and shapes.
    ///
    /// # Errors
    /// If a tensor is missing, unknown, or of another length; the state is then unspecified.
    pub(in crate::training) fn restore(
        &mut self,
        scalars: Scalars,
        tensors: Vec<(String, Vec<f32>)>,
    ) -> Result<(), RestoreError> {
        let mut tensors: HashMap<String, Vec<f32>> = tensors.into_iter().collect();
        for (name, values) in self.tensors_mut() {
            let Some(kept) = tensors.remove(&name) else { return Err(RestoreError::Missing(name)) };
            if kept.len() != values.len() {
                return Err(RestoreError::Length { name, got: kept.len(), expected: values.len() });
            }
            values.copy_from_slice(&kept);
        }
        // The first by name: the same state always gives the same message.
        if let Some(name) = tensors.into_keys().min() {
            return Err(RestoreError::Unknown(name));
        }
        self.scalars = scalars;
        Ok(())
    }
}

fn full(kind: &str, name: &str) -> String {
    format!("{kind}.{name}")
}
