//! From rows to a trained model. Pure: same specification and rows, same bits, at any thread count. It neither logs nor
//! sleeps nor reads a clock: progress goes to an observer, which stops it by `ControlFlow::Break`.

pub mod params;
pub mod trainer;

pub use params::{CheckedTrainSpec, Initialisation, Optimiser, ParamError, TrainSpec};
pub use trainer::{Event, Rows, TrainError, Trained, train};
