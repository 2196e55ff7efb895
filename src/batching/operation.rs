//! Operations on rows or codes.

use crate::model::{Form, Space};
use crate::registry::LoadedModel;
use crate::registry::usage::KINDS;

/// Operation on rows or codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Rows to codes.
    Encode,
    /// Codes to rows.
    Decode,
    /// Rows to rows, with reconstruction errors.
    Reconstruct,
    /// Codes to rows, with the pseudo-inverse of each matrix.
    DecodePseudoInverse,
    /// Rows to rows, with reconstruction errors, likewise with the pseudo-inverse.
    ReconstructPseudoInverse,
    /// Rows to anomaly scores: squared errors and squared distances of their codes.
    Score,
    /// Like [`Operation::Score`], with the contribution of each feature.
    Explain,
    /// Rows with missing values to complete rows; only for models that accept missing values.
    Impute,
}

/// Each operation has its own counters.
const _: () = assert!((Operation::Impute as usize) < KINDS, "every operation has counters");

impl Operation {
    /// All operations, in the order of their numbers.
    pub const ALL: [Self; KINDS] = [
        Self::Encode,
        Self::Decode,
        Self::Reconstruct,
        Self::DecodePseudoInverse,
        Self::ReconstructPseudoInverse,
        Self::Score,
        Self::Explain,
        Self::Impute,
    ];

    /// Name for labels, in snake case.
    pub fn word(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Decode => "decode",
            Self::Reconstruct => "reconstruct",
            Self::DecodePseudoInverse => "decode_pseudo_inverse",
            Self::ReconstructPseudoInverse => "reconstruct_pseudo_inverse",
            Self::Score => "score",
            Self::Explain => "explain",
            Self::Impute => "impute",
        }
    }

    /// Whether it needs [`LoadedModel::inverse`].
    pub fn needs_inverse(self) -> bool {
        matches!(self, Self::DecodePseudoInverse | Self::ReconstructPseudoInverse)
    }

    /// Whether it needs [`LoadedModel::scorer`].
    pub fn needs_scorer(self) -> bool {
        matches!(self, Self::Score | Self::Explain)
    }

    /// Whether its input is codes.
    pub fn decodes(self) -> bool {
        matches!(self, Self::Decode | Self::DecodePseudoInverse)
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

    /// The space of a batch. It is normalized if the model was trained on 64-bit rows, if the request has 64-bit rows,
    /// or if the response has 64-bit rows.
    pub(super) fn space(self, model: &LoadedModel, rows: Form, answer: Form) -> Space {
        let is_wide = model.artifact.model.normalizer().is_wide()
            || rows.is_wide() && !self.decodes()
            || answer.is_wide() && self.answers_rows();
        if is_wide { Space::Normalized } else { Space::Input }
    }
}
