//! Trains a model from rows. Pure: the same specification and rows give the same bits at any number of threads.
//! Training does not log, sleep, read a clock or write. All of that goes through an [`Observer`], which can also stop
//! it.

mod batches;
mod calibrate;
mod checkpoint;
mod clip;
mod code_length;
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
mod observer;
mod optimizer;
mod orthogonality;
mod param_error;
mod params;
mod pca_baseline;
mod plan;
mod range_finder;
mod recipe;
mod relations;
mod robust;
mod schedule;
mod shares;
mod shift;
mod source;
mod steps;
mod trainer;
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
