//! The model file: reads and writes a model with its report as safetensors bytes.
//!
//! # Format, version 1
//!
//! A [safetensors](https://github.com/huggingface/safetensors) file: 8 bytes (little-endian length of the header), the
//! header (JSON, padded with spaces), the data. Tensors are F32. `normalisation.offset` is F64 if the version was
//! trained on 64-bit rows. l counts encoder layers from 0, `d_0` is the number of features and `d_K` the length of the
//! code:
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `encoder.{l}.weight` | (`d_{l+1}`, `d_l`), row-major | `W_l`: the decoder layer uses its transpose, so it is stored once |
//! | `encoder.{l}.bias` | (d_{l+1}) | |
//! | `decoder.{l}.bias` | (`d_l`) | bias of the decoder layer that uses the transpose of `encoder.{l}.weight` |
//! | `decoder.{l}.gain` | (`d_{l+1}`) | multiplies that layer's input; only with `gain`, and never on a linear code |
//! | `normalisation.offset`, `normalisation.scale` | (`d_0`) | normalized = (x - offset) / scale; absent with `none` |
//! | `normalisation.fill` | (`d_0`) | normalized value that replaces a missing one; only with `"missing_values":true` in the specification |
//! | `statistics.code_mean` | (`d_K`) | this tensor and those below only with `statistics` in the metadata |
//! | `statistics.code_covariance` | (`d_K`, `d_K`) | |
//! | `statistics.curvature` | (`d_0`) | |
//! | `statistics.calibration` | (`calibration_rows`) | ascending |
//! | `statistics.constant_columns`, `statistics.constant_values` | (`constant_columns`) | only if `constant_columns` is above 0: columns from 0, ascending, and their normalized values |
//! | `statistics.relations` | (`relations`, `d_0`), row-major | only if `relations` is above 0: a of `a·x = c` between normalized columns |
//! | `statistics.relation_centers`, `statistics.relation_deviations` | (`relations`) | c, and the largest deviation from it, above 0 |
//!
//! `__metadata__` has the key `halfhitch`. Its value is canonical JSON (keys sorted, no white space):
//!
//! ```json
//! {"format_version":1,
//!  "report":{"best_epoch":15},
//!  "sha256":"…",
//!  "specification":{"widths":[64,32,8],
//!    "encoder_activations":[{"kind":"elu","alpha":1.0},{"kind":"linear"}],
//!    "decoder_activations":[{"kind":"linear"},{"kind":"elu","alpha":1.0}],
//!    "loss":"squared_error","normalisation":"standardise","gain":false,"feature_names":[]}}
//! ```
//!
//! The metadata key `statistics` is optional, for example
//! `"statistics":{"calibration_rows":500,"code_rows":9000,"residual_variance":0.25}`.
//!
//! `sha256` is computed over the data (everything after the header) and then this JSON without `sha256`. The data holds
//! the F64 tensors and then the others, each group in the order of names, without gaps. Shapes follow from the
//! specification. So the checksum covers everything that the file means, and [`Artifact::from_bytes`] rejects any other
//! form of the header.
//!
//! Names in the file keep the spelling of the first version: `normalisation`, `standardise`.
//!
//! A file from another program needs only `specification` (see `tests/golden/make.py`); [`Artifact::import`] reads it.

mod error;
mod format_version;
mod header;
mod metadata;
mod tensors;

use std::sync::Arc;

use safetensors::SafeTensors;

use self::header::Header;
use self::metadata::Metadata;
use super::{Autoencoder, ModelSpec, Statistics, TrainingReport};
use crate::text::first_chars;

pub use self::error::ArtifactError;
pub use self::format_version::FORMAT_VERSION;
pub use self::header::{HEADER_BYTES_MAX, header_bytes};
pub(super) use self::tensors::hexadecimal;

/// A model with its report: the content of a version's file.
#[derive(Debug)]
pub struct Artifact {
    /// The model.
    pub model: Autoencoder,
    /// How the model was trained; `None` if an imported file has no report.
    pub report: Option<Arc<TrainingReport>>,
    /// Statistics of the codes and, if rows were held out, what scores need. `None` for a model that was trained
    /// elsewhere, or whose code is too long.
    pub statistics: Option<Statistics>,
    /// SHA-256 recorded in the file (hexadecimal); empty before the file is written.
    pub sha256: String,
}

/// Where a file comes from, which sets how strict the checks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Written by [`Artifact::to_bytes`]: requires a checksum and the canonical form.
    Store,
    /// Written by another program.
    Elsewhere,
}

impl Artifact {
    /// The bytes of the file. The format is canonical: the same model and report give the same bytes. `sha256` is
    /// computed, not taken from `self`.
    ///
    /// # Panics
    /// If the report makes the header longer than [`HEADER_BYTES_MAX`]; neither training nor importing creates such a
    /// report.
    pub fn to_bytes(&self) -> Vec<u8> {
        let spec = self.model.spec();
        let tensors = tensors::of(&self.model, self.statistics.as_ref());
        let (report, statistics) = (self.report.as_deref(), self.statistics.as_ref());
        let text = metadata::write(spec, report, statistics, |canonical| tensors::checksum(&tensors, canonical));
        assert!(header::length_with(&text) <= HEADER_BYTES_MAX, "the report fits a header of {HEADER_BYTES_MAX} bytes");
        let metadata = [(metadata::KEY.to_owned(), text)].into();
        safetensors::serialize(tensors, Some(metadata)).expect("shapes and lengths agree, and the header is short")
    }

    /// Reads a file of the store, which must have a matching checksum.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ArtifactError> {
        Self::read(bytes, Origin::Store)
    }

    /// Reads a file from another program. Only the specification is required; a checksum, if present, must match.
    /// Metadata keys other than `halfhitch` are ignored.
    pub fn import(bytes: &[u8]) -> Result<Self, ArtifactError> {
        let artifact = Self::read(bytes, Origin::Elsewhere)?;
        // The header may be shorter in the file than in our form, which must also fit when the model is published.
        let (report, statistics) = (artifact.report.as_deref(), artifact.statistics.as_ref());
        let text = metadata::write(artifact.model.spec(), report, statistics, |_| "0".repeat(64));
        let got = header::length_with(&text) as u64;
        if got > HEADER_BYTES_MAX as u64 {
            return Err(ArtifactError::HeaderLength { got, max: HEADER_BYTES_MAX });
        }
        Ok(artifact)
    }

    /// Reads what a listing shows of a version from the first [`header_bytes`] bytes of its file. Does not verify the
    /// checksum: that needs the data.
    pub fn peek(prefix: &[u8]) -> Result<(ModelSpec, Option<TrainingReport>, String), ArtifactError> {
        let (_, metadata) = read_header(prefix, Origin::Store)?;
        Ok((metadata.spec, metadata.report, metadata.sha256.unwrap_or_default()))
    }

    /// Whether the first numbers of a code are the best few and missing ones count as 0: the codes are canonical (see
    /// [`super::canonical`]) or trained with nested dropout.
    pub fn has_ordered_codes(&self) -> bool {
        self.model.spec().raw().ordered_code || self.statistics.as_ref().is_some_and(Statistics::are_canonical)
    }

    fn read(bytes: &[u8], origin: Origin) -> Result<Self, ArtifactError> {
        let (header, metadata) = read_header(bytes, origin)?;
        let expected = header.length as u64 + tensors::bytes(&metadata, header.is_wide());
        let got = bytes.len() as u64;
        if got < expected {
            return Err(ArtifactError::Truncated { got, expected });
        }
        if got > expected {
            return Err(ArtifactError::TrailingBytes { got, expected });
        }
        // The crate checks that offsets have no gaps or overlaps and fit shapes and file. Names, types and shapes have
        // been checked above, and the number of tensors is small.
        let file = SafeTensors::deserialize(bytes).map_err(|e| ArtifactError::Layout { reason: e.to_string() })?;
        let computed = tensors::checksum_of_bytes(&bytes[header.length..], &metadata.canonical);
        match &metadata.sha256 {
            Some(recorded) if *recorded != computed => {
                let expected = first_chars(recorded, 80).to_owned();
                return Err(ArtifactError::Checksum { got: computed, expected });
            }
            _ => {}
        }
        let statistics = metadata.statistics.map(|figures| tensors::load_statistics(figures, &file)).transpose()?;
        let model = tensors::load(metadata.spec, &file)?;
        let (report, sha256) = (metadata.report.map(Arc::new), metadata.sha256.unwrap_or_default());
        Ok(Self { model, report, statistics, sha256 })
    }
}

/// Reads and checks everything before the data: the form of the header, the metadata, and the required tensors.
fn read_header(bytes: &[u8], origin: Origin) -> Result<(Header, Metadata), ArtifactError> {
    let header = Header::read(bytes)?;
    let text = header.metadata.as_deref().ok_or(ArtifactError::NoMetadata)?;
    let metadata = Metadata::read(text)?;
    if origin == Origin::Store {
        metadata.check_canonical(text)?;
        header.check_canonical()?;
    }
    header.check_tensors(&tensors::shapes(&metadata))?;
    Ok((header, metadata))
}

#[cfg(test)]
mod tests;
