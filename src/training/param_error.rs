//! Errors of training parameters, and the check of a number's range.

use std::fmt::Display;

use crate::model::SpecError;
use crate::model::text::shown;

/// Largest size of a mini-batch in the forward and backward passes, in bytes.
pub(super) const BATCH_BYTES_MAX: u64 = 4 << 30;

/// Why parameters are rejected. `field` is the name in the API.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ParamError {
    /// The shape of the model is not valid.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A number is out of range.
    #[error("{field} is {got}, expected {expected}")]
    Range {
        /// Name of the field in the API.
        field: &'static str,
        /// The value.
        got: String,
        /// The accepted range.
        expected: &'static str,
    },
    /// Two fields exclude each other.
    #[error("{field} is set together with {other}, expected one of them")]
    Both {
        /// Name of the field in the API.
        field: &'static str,
        /// The other field.
        other: &'static str,
    },
    /// The base already defines the field.
    #[error("{field} is set together with base, which already defines it: leave it unset")]
    OfBase {
        /// Name of the field in the API.
        field: &'static str,
    },
    /// The widths differ from those of the base.
    #[error(
        "widths are {}, those of the base are {expected:?}: leave them out, or train without a base",
        shown(&format!("{got:?}"))
    )]
    BaseWidths {
        /// The widths of the request.
        got: Vec<usize>,
        /// The widths of the base.
        expected: Vec<usize>,
    },
    /// The activations of a mini-batch would not fit in memory.
    #[error(
        "batch_rows is {got}, expected at most {expected} for these widths: more would take over {} GiB in the \
         forward and backward passes", BATCH_BYTES_MAX >> 30
    )]
    BatchTooLarge {
        /// The requested number of rows.
        got: u32,
        /// The largest number of rows for these widths.
        expected: u64,
    },
    /// A field requires another value of another field.
    #[error("{field} is set, which needs {needs}, got {got}")]
    Needs {
        /// Name of the field in the API.
        field: &'static str,
        /// The requirement.
        needs: &'static str,
        /// The value found instead.
        got: String,
    },
}

impl ParamError {
    /// The field of the API's `TrainSpec` that is wrong.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Spec(error) => error.field(),
            Self::Range { field, .. }
            | Self::Both { field, .. }
            | Self::Needs { field, .. }
            | Self::OfBase { field } => field,
            Self::BaseWidths { .. } => "widths",
            Self::BatchTooLarge { .. } => "batch_rows",
        }
    }
}

/// Rejects a value that is set and not allowed.
pub(super) fn check<T: Copy + Display>(
    field: &'static str,
    value: Option<T>,
    allowed: impl Fn(T) -> bool,
    expected: &'static str,
) -> Result<(), ParamError> {
    match value {
        Some(got) if !allowed(got) => Err(ParamError::Range { field, got: got.to_string(), expected }),
        _ => Ok(()),
    }
}
