//! The metadata of a model file: canonical JSON under one key.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::ArtifactError;
use super::format_version::FORMAT_VERSION;
use crate::model::invariants::RELATION_NUMBERS_MAX;
use crate::model::spec::RawModelSpec;
use crate::model::statistics::{CALIBRATION_ROWS_MAX, STATISTICS_CODE_MAX};
use crate::model::{ModelSpec, Statistics, TrainingReport};
use crate::text::first_chars;

/// The key in the file's `__metadata__`.
pub(super) const KEY: &str = "halfhitch";

const SHA256: &str = "sha256";

/// The checked metadata.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) spec: ModelSpec,
    pub(super) report: Option<TrainingReport>,
    pub(super) statistics: Option<Figures>,
    /// The SHA-256 recorded in the file.
    pub(super) sha256: Option<String>,
    /// Whether the file has a format version; imported files may lack it.
    names_version: bool,
    /// The canonical JSON without `sha256`, which the checksum covers.
    pub(super) canonical: String,
}

/// The numbers of [`Statistics`] that are not stored as tensors.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Figures {
    pub(super) calibration_rows: usize,
    pub(super) code_rows: u64,
    pub(super) residual_variance: f64,
    /// Number of constant columns.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) constant_columns: usize,
    /// Number of linear relations between columns.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) relations: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Figures {
    fn check(&self, spec: &ModelSpec) -> Result<(), ArtifactError> {
        let refused = |reason: String| Err(ArtifactError::Statistics { reason });
        if !Statistics::are_possible(spec) {
            let (got, max) = (spec.code_length(), STATISTICS_CODE_MAX);
            return refused(format!("the code has {got} numbers, expected at most {max}"));
        }
        if self.calibration_rows > CALIBRATION_ROWS_MAX {
            let got = self.calibration_rows;
            return refused(format!("`calibration_rows` is {got}, expected at most {CALIBRATION_ROWS_MAX}"));
        }
        if self.residual_variance.is_nan() || self.residual_variance < 0.0 {
            return refused(format!("`residual_variance` is {}, expected at least 0", self.residual_variance));
        }
        let features = spec.features();
        if self.constant_columns > features {
            return refused(format!("`constant_columns` is {}, expected at most {features}", self.constant_columns));
        }
        let most = features.min(RELATION_NUMBERS_MAX / features);
        if self.relations > most {
            return refused(format!("`relations` is {}, expected at most {most}", self.relations));
        }
        Ok(())
    }
}

/// The metadata as stored in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMetadata {
    format_version: Option<u64>,
    specification: RawModelSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    report: Option<TrainingReport>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    statistics: Option<Figures>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl Metadata {
    /// Parses and checks the text of the key.
    pub(super) fn read(text: &str) -> Result<Self, ArtifactError> {
        let invalid = |error: serde_json::Error| ArtifactError::Metadata { reason: error.to_string() };
        let mut value: Value = serde_json::from_str(text).map_err(invalid)?;
        // Checked first: another version may have other fields.
        match value.get("format_version") {
            None => {}
            Some(version) if version.as_u64() == Some(FORMAT_VERSION) => {}
            Some(other) => {
                return Err(ArtifactError::FormatVersion { got: first_chars(&other.to_string(), 80).to_owned() });
            }
        }
        let raw: RawMetadata = serde_json::from_str(text).map_err(invalid)?;
        if let Some(object) = value.as_object_mut() {
            object.remove(SHA256);
        }
        let canonical = canonical(value);
        let spec = ModelSpec::new(raw.specification)?;
        raw.statistics.as_ref().map_or(Ok(()), |figures| figures.check(&spec))?;
        Ok(Self {
            spec,
            report: raw.report,
            statistics: raw.statistics,
            sha256: raw.sha256,
            names_version: raw.format_version.is_some(),
            canonical,
        })
    }

    /// Rejects forms that a file of the store never has.
    pub(super) fn check_canonical(&self, text: &str) -> Result<(), ArtifactError> {
        let sha256 = self.sha256.as_deref().ok_or(ArtifactError::NoChecksum)?;
        let with_checksum = serde_json::from_str(&self.canonical).map(|value| with_checksum(value, sha256));
        if !with_checksum.is_ok_and(|expected| expected == text) {
            return Err(ArtifactError::NotCanonical { what: "the metadata is not canonical JSON" });
        }
        if !self.names_version {
            return Err(ArtifactError::FormatVersion { got: "missing".to_owned() });
        }
        Ok(())
    }
}

/// The text of the key: canonical JSON with `sha256`. `checksum` computes it from the JSON without `sha256`.
pub(super) fn write(
    spec: &ModelSpec,
    report: Option<&TrainingReport>,
    statistics: Option<&Statistics>,
    checksum: impl FnOnce(&str) -> String,
) -> String {
    let raw = RawMetadata {
        format_version: Some(FORMAT_VERSION),
        specification: spec.raw().clone(),
        report: report.cloned(),
        statistics: statistics.map(|statistics| Figures {
            calibration_rows: statistics.calibration.len(),
            code_rows: statistics.code_rows,
            residual_variance: statistics.residual_variance,
            constant_columns: statistics.invariants.constants.len(),
            relations: statistics.invariants.centers.len(),
        }),
        sha256: None,
    };
    // Through text: it writes an f32 with its own shortest digits; a `Value` would write the digits of an f64.
    let text = serde_json::to_string(&raw).expect("plain structures with text keys serialize");
    let value: Value = serde_json::from_str(&text).expect("what was just written is JSON");
    let sha256 = checksum(&canonical(value.clone()));
    with_checksum(value, &sha256)
}

/// JSON with sorted keys and no white space.
fn canonical(mut value: Value) -> String {
    value.sort_all_objects();
    value.to_string()
}

fn with_checksum(mut value: Value, sha256: &str) -> String {
    if let Some(object) = value.as_object_mut() {
        object.insert(SHA256.to_owned(), Value::from(sha256));
    }
    canonical(value)
}
