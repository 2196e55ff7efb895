//! The weights that training starts from.

use crate::model::{Autoencoder, ModelSpec, Normalizer};
use crate::training::init;
use crate::training::notes::Notes;
use crate::training::params::{CheckedTrainSpec, Initialization};
use crate::training::pca_baseline::PcaBaseline;

/// The base as the initial model, with the code order of this training.
pub(super) fn begun(base: &Autoencoder, spec: &CheckedTrainSpec) -> Autoencoder {
    base.clone().with_ordered_code(spec.spec().regularization.orders_codes())
}

/// A model with initial weights as requested, or as affordable.
pub(super) fn first_weights(
    spec: &CheckedTrainSpec,
    model: ModelSpec,
    normalizer: Normalizer,
    baseline: &PcaBaseline,
    notes: &mut Notes,
) -> Autoencoder {
    let initialization = match spec.spec().initialization {
        None if !init::orthogonal_is_cheap(&model) => {
            notes.push("initialization: Glorot, since orthogonal weights would take long at these widths".to_owned());
            Initialization::Glorot
        }
        _ => spec.initialization(),
    };
    if initialization == Initialization::Pca {
        notes.extend(init::pca_note(&model));
    }
    init::model(model, normalizer, initialization, spec.spec().seed, Some(&baseline.pca))
}
