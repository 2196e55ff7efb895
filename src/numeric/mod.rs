//! Matrix products, activations, decompositions and random numbers. Pure functions, with no knowledge of models, files
//! or clocks.

mod activate;
pub mod activation;
mod floats;
pub mod kernels;
pub mod linalg;
pub mod losses;
pub mod matmul;
pub mod panel_matrix;
pub mod rng;
pub mod update;

pub use activation::Activation;
pub use floats::Floats;
pub use kernels::{Isa, IsaError, init, isa, vectorized};
pub use panel_matrix::{BufferPool, LANES, PanelMatrix};
