//! Models: names, specifications, arithmetic and file format. Pure functions, with no access to clock, disk or network.

pub mod artifact;
pub mod autoencoder;
pub mod canonical;
pub mod columns;
pub(crate) mod computed;
pub mod decode;
pub mod gradient;
pub mod gram_schmidt;
pub mod id;
pub mod inspect;
pub mod invariants;
pub mod inverse;
pub mod matrix;
pub mod normalization;
pub mod report;
pub mod sample;
pub mod score;
pub mod spec;
pub mod spectrum;
pub mod statistics;

pub use artifact::{Artifact, ArtifactError};
pub use autoencoder::{Autoencoder, Space, TiedLayer};
pub use canonical::{CanonicalError, canonicalize};
pub use columns::{ColumnError, ColumnMap, Matching, match_columns};
pub use decode::{Decoder, Reconstruction};
pub use gram_schmidt::{OrthonormalError, mean_squared_error, orthonormalize_code};
pub use id::{Alias, IdError, ModelKey, ModelName, ModelReference, Selector, Version};
pub use inspect::{Comparison, LayerInspection};
pub use invariants::Invariants;
pub use inverse::{InverseError, PseudoInverse};
pub use matrix::{AnswerFormat, Form, Matrix, MatrixError, Missing, Values};
pub use normalization::Normalizer;
pub use report::{EpochLosses, Evaluation, TrainingReport};
pub use score::Scorer;
pub use spec::{Loss, ModelSpec, NormalizationKind, SpecError};
pub use spectrum::SpectrumError;
pub use statistics::Statistics;

pub use crate::text;
