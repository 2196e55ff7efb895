//! Kinds of values, for the choice of a normalization.

/// The kind of values of the training rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// Pixels: many columns of integers from 0 to 255, most of which use most of one common range.
    Pixels {
        /// Whether the range is 0 to 255; otherwise it is the range of the rows.
        eight_bits: bool,
    },
    /// From 0 to 1, in one common range.
    Unit,
    /// Any other values.
    Any,
}
