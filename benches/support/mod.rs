//! Shared by all benchmarks: arguments, report, statistics.
#![allow(dead_code, unused_imports, reason = "each benchmark uses a part of this")]

pub(crate) mod data;
mod options;
mod report;
mod statistics;
pub(crate) mod untied;

pub(crate) use options::Options;
pub(crate) use report::{Line, Report};
pub(crate) use statistics::{mean_and_deviation, median, quantile};
