//! What operators see of the process beside its figures: logs, and traces of calls.

pub mod call;
pub mod ids;
mod logs;
mod spans;
pub mod traces;

pub use logs::{LogError, LogFormat, init};
