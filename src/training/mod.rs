//! Trains a model from rows. Pure: the same specification and rows give the same bits at any number of threads.
//! Training does not log, sleep, read a clock or write. All of that goes through an [`Observer`], which can also stop
//! it.

pub mod batches;
mod calibrate;
mod checkpoint;
mod clip;
pub mod code_length;
mod columns;
mod corruption;
mod defects;
mod error;
mod evaluate;
pub mod gate;
pub mod init;
mod linear;
mod nested;
mod notes;
pub mod observer;
pub mod optimizer;
mod orthogonality;
mod param_error;
pub mod params;
pub mod pca_baseline;
mod plan;
pub mod range_finder;
pub mod recipe;
mod relations;
mod robust;
pub mod schedule;
mod shares;
mod shift;
pub mod source;
mod steps;
pub mod trainer;
mod trial;
mod trim;
mod value_kind;

pub use error::{CheckpointError, TrainError};
pub use observer::{Event, Next, Observer};
pub use param_error::ParamError;
pub use params::{Base, CheckedTrainSpec, Initialization, TrainSpec};
pub use recipe::{OptimizerKind, OptimizerSpec, Regularization, Schedule};
pub use source::{MemoryRows, RowSource, SourceError};
pub use trainer::{Start, Trained, held_out, train};
