//! From rows to a trained model. Pure: same specification and rows, same bits, at any number of threads. It neither logs
//! nor sleeps nor reads a clock: progress goes to an observer, which stops it by `ControlFlow::Break`.

pub mod batches;
pub mod init;
pub mod optimizer;
pub mod params;
pub mod schedule;
pub mod source;
pub mod trainer;
pub mod yardstick;

pub use batches::Rows;
pub use params::{CheckedTrainSpec, Initialisation, Optimiser, ParamError, TrainSpec};
pub use source::{MemoryRows, RowSource, SourceError};
pub use trainer::{Event, TrainError, Trained, train};
