//! What an operation does with rows: its columns, its size, its arithmetic. Its name is in [`crate::methods`].

use super::load::Size;
use crate::methods::Operation;
use crate::model::computed::Computed;
use crate::model::score::FIGURES;
use crate::model::{Decoder, Form, Scorer, Space};
use crate::numeric::{BufferPool, PanelMatrix};
use crate::registry::LoadedModel;

impl Operation {
    /// Whether its input is codes; else it is rows.
    pub fn decodes(self) -> bool {
        match self {
            Self::Decode | Self::DecodePseudoInverse => true,
            Self::Encode
            | Self::Reconstruct
            | Self::ReconstructPseudoInverse
            | Self::Score
            | Self::Explain
            | Self::Impute => false,
        }
    }

    /// Whether its response contains rows in the units of the input.
    pub fn answers_rows(self) -> bool {
        match self {
            Self::Decode
            | Self::DecodePseudoInverse
            | Self::Reconstruct
            | Self::ReconstructPseudoInverse
            | Self::Impute => true,
            Self::Encode | Self::Score | Self::Explain => false,
        }
    }

    /// Whether its response keeps the values of the request that are not missing.
    pub(super) fn keeps_values(self) -> bool {
        match self {
            Self::Impute => true,
            Self::Encode
            | Self::Decode
            | Self::Reconstruct
            | Self::DecodePseudoInverse
            | Self::ReconstructPseudoInverse
            | Self::Score
            | Self::Explain => false,
        }
    }

    /// Whether it needs [`LoadedModel::inverse`].
    pub fn needs_inverse(self) -> bool {
        match self {
            Self::DecodePseudoInverse | Self::ReconstructPseudoInverse => true,
            Self::Encode | Self::Decode | Self::Reconstruct | Self::Score | Self::Explain | Self::Impute => false,
        }
    }

    /// The request field with its rows or codes.
    pub fn field(self) -> &'static str {
        if self.decodes() { "codes" } else { "rows" }
    }

    /// Number of input columns.
    pub(super) fn columns(self, model: &LoadedModel) -> usize {
        let spec = model.artifact.model.spec();
        if self.decodes() { spec.code_length() } else { spec.features() }
    }

    /// The space of a batch. It is normalized if the model was trained on 64-bit rows, if the request has 64-bit rows,
    /// or if the response has 64-bit rows.
    pub(super) fn space(self, model: &LoadedModel, rows: Form, answer: Form) -> Space {
        let is_wide = model.artifact.model.normalizer().is_wide()
            || rows.is_wide() && !self.decodes()
            || answer.is_wide() && self.answers_rows();
        if is_wide { Space::Normalized } else { Space::Input }
    }

    /// Size of a request with `rows` rows and its response in the number format `answer`.
    pub(super) fn size(self, model: &LoadedModel, rows: usize, matrix_bytes: usize, answer: Form) -> Size {
        let spec = model.artifact.model.spec();
        let of_answer = |columns: usize| columns * answer.number_bytes();
        let answer_bytes = match self {
            Self::Encode => of_answer(spec.code_length()),
            Self::Decode | Self::DecodePseudoInverse | Self::Impute => of_answer(spec.features()),
            // Two 4-byte errors per row.
            Self::Reconstruct | Self::ReconstructPseudoInverse => of_answer(spec.features()) + 8,
            Self::Explain => of_answer(spec.features() + FIGURES),
            Self::Score => of_answer(FIGURES),
        };
        let once: usize = spec.raw().widths.windows(2).map(|pair| pair[0] * pair[1]).sum();
        let inverse = || model.inverse().map_or(once, |inverse| inverse.multiply_adds(&model.artifact.model));
        let whitening = model.scorer().map_or(0, Scorer::multiply_adds);
        let row_work = match self {
            Self::Encode | Self::Decode => once,
            Self::Reconstruct | Self::Impute => 2 * once,
            Self::DecodePseudoInverse => inverse(),
            Self::ReconstructPseudoInverse => once + inverse(),
            Self::Score => 2 * once + whitening,
            // The score, and then a forward and a gradient pass for the contributions.
            Self::Explain => 6 * once + 3 * whitening,
        };
        let bytes = rows.saturating_mul(answer_bytes).saturating_add(matrix_bytes);
        Size { rows, bytes, row_work }
    }
}

/// Computes an operation with the model's own arithmetic, on rows in `space`.
pub(super) fn of_model(
    model: &LoadedModel,
    operation: Operation,
    space: Space,
    batch: &PanelMatrix,
    buffers: &mut BufferPool,
) -> Computed {
    // Requests that need one of these are rejected earlier if the model has none.
    let inverse = || Decoder::PseudoInverse(model.inverse().expect("the model has a pseudo-inverse"));
    let scorer = || model.scorer().expect("the model has statistics");
    let autoencoder = &model.artifact.model;
    match operation {
        Operation::Encode => autoencoder.encode_in(space, batch, buffers).into(),
        Operation::Decode => autoencoder.decode_in(space, batch, Decoder::Transpose, buffers).into(),
        Operation::Reconstruct => autoencoder.reconstruct_in(space, batch, Decoder::Transpose, buffers).into(),
        Operation::DecodePseudoInverse => autoencoder.decode_in(space, batch, inverse(), buffers).into(),
        Operation::ReconstructPseudoInverse => autoencoder.reconstruct_in(space, batch, inverse(), buffers).into(),
        Operation::Impute => autoencoder.impute_in(space, batch, buffers).into(),
        Operation::Score => match space {
            Space::Input => scorer().score(autoencoder, batch, buffers).into(),
            Space::Normalized => scorer().score_normalized(autoencoder, batch, buffers).into(),
        },
        Operation::Explain => match space {
            Space::Input => scorer().explain(autoencoder, batch, buffers).into(),
            Space::Normalized => scorer().explain_normalized(autoencoder, batch, buffers).into(),
        },
    }
}
