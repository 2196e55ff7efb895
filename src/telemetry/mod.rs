//! What operators observe of the process: logs, traces of calls, and metrics.

pub mod call;
mod collector;
pub mod ids;
mod logs;
pub mod measures;
pub mod metrics;
pub mod rate_limit;
mod spans;
pub mod traces;

pub use logs::{LogError, LogFormat, init};
