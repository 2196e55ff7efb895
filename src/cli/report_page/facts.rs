//! The content of a page.

use super::codes::ByLength;
use super::image::ImageChoice;
use super::measured::Measured;
use super::scores::Scores;
use crate::rpc::pb;

/// The content of a page.
pub(super) struct Facts {
    pub(super) version: pb::ModelVersion,
    /// The inspection, or why the server cannot inspect matrices of this size.
    pub(super) inspection: Result<pb::InspectModelResponse, String>,
    pub(super) measured: Option<Measured>,
    /// Errors by code length, if the codes can be truncated.
    pub(super) by_length: Option<ByLength>,
    /// Scores of the rows, or why the server cannot compute them.
    pub(super) scores: Option<Result<Scores, String>>,
    pub(super) image: Option<ImageChoice>,
}

impl Facts {
    pub(super) fn code_length(&self) -> usize {
        self.version.spec.as_ref().and_then(|spec| spec.widths.last().copied()).unwrap_or_default() as usize
    }
}
