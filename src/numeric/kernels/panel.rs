//! The unit of the layout of matrices.

/// Rows of a panel of W, X or Y: the number of lanes of the widest vector.
pub const PANEL: usize = 16;
