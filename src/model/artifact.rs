//! Bytes of a safetensors file to and from a model.

use std::sync::Arc;

use super::{Autoencoder, TrainingReport};

/// A model with its report: what a version's file holds.
#[derive(Debug)]
pub struct Artifact {
    /// The model.
    pub model: Autoencoder,
    /// How it came to be; none for a file from elsewhere without one.
    pub report: Option<Arc<TrainingReport>>,
    /// SHA-256 recorded in the file (hexadecimal); empty before it was written.
    pub sha256: String,
}

/// Why a file is refused. TODO(A): variants, each naming what was expected and what came.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ArtifactError {
    /// Placeholder of the skeleton.
    #[error("{0}")]
    Other(String),
}

impl Artifact {
    /// The file: canonical, the same model and report give the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        todo!()
    }
    /// Reads a file of the store; it must carry a checksum that fits.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ArtifactError> {
        let _ = bytes;
        todo!()
    }
    /// Reads a file from elsewhere: only the specification is required; a checksum, if there is one, must fit.
    pub fn import(bytes: &[u8]) -> Result<Self, ArtifactError> {
        let _ = bytes;
        todo!()
    }
}
