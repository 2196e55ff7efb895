//! Sends equal requests and times each.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use bytes::Bytes;

use crate::load::{Failure, percentile};
use crate::{h2load, tonic_client};

/// The address, path and content of the requests.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) path: &'static str,
    /// The request, without the gRPC frame.
    pub(crate) message: Bytes,
    /// Size of every response, without the gRPC frame; any other size is an error.
    pub(crate) reply_bytes: usize,
}

/// Concurrency. `connections` divides `callers`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) callers: usize,
    pub(crate) connections: usize,
}

/// The result of a run in which every request succeeded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driven {
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Driven {
    /// Computes the result from (start, duration) of each request, in microseconds.
    pub(crate) fn of(times: &[(f64, f64)]) -> Result<Self, Failure> {
        let first = times.iter().map(|(start, _)| *start).min_by(f64::total_cmp).ok_or("no request was timed")?;
        let last = times.iter().map(|(start, duration)| start + duration).fold(first, f64::max);
        let mut durations: Vec<f64> = times.iter().map(|(_, duration)| *duration).collect();
        durations.sort_by(f64::total_cmp);
        Ok(Self {
            requests_per_second: times.len() as f64 * 1e6 / (last - first).max(1.0),
            p50_us: percentile(&durations, 0.5),
            p99_us: percentile(&durations, 0.99),
        })
    }
}

/// The load generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// h2load of nghttp2: takes very little CPU time, but does not see `grpc-status`.
    H2load,
    /// A tonic client in this process: sees everything, but is itself the limit for small messages.
    Tonic,
}

impl Driver {
    /// h2load if it is installed.
    pub(crate) fn choose() -> Self {
        let asked = Command::new("h2load").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if asked.is_ok_and(|status| status.success()) { Self::H2load } else { Self::Tonic }
    }

    /// Sends `count` requests; fails on any response of another size.
    pub(crate) fn drive(self, target: &Target, shape: Shape, count: usize) -> Result<Driven, Failure> {
        match self {
            Self::H2load => h2load::drive(target, shape, count),
            Self::Tonic => tonic_client::drive(target, shape, count),
        }
    }
}
