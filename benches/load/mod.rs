//! Tools to put load on a real server: cores, models, processes.
#![allow(dead_code, unused_imports, reason = "each benchmark uses a part of this")]

mod cores;
mod latency;
mod models;
mod process;
mod server;

pub(crate) use cores::Cores;
pub(crate) use latency::percentile;
pub(crate) use models::{EMBED, MNIST_DEEP, Model, TELEMETRY, publish};
pub(crate) use process::{Failure, Memory, Owned, cpu_of, cpu_of_this_thread};
pub(crate) use server::{Counts, RunningServer};
