//! Decompositions. Code that affects training or responses sums in its own fixed order. faer computes figures for
//! display, and results that are computed once and stored: principal directions and axes.

mod axes;
mod covariance;
mod dot;
mod gram;
mod orthonormal;
mod pca;

pub use axes::{symmetric_axes, symmetric_eigenvalues};
pub use covariance::covariance;
pub use dot::dot;
pub use gram::{Defect, Gram, inverse_factor};
pub use orthonormal::orthonormalize_rows;
pub use pca::{Pca, RowsInTurn, affordable_rows};
