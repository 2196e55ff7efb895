//! Compares this server with another build, such as that of the previous commit, in short alternating bursts.
//!
//! Both run on the same core, with equal stores and equal requests. A machine's speed changes from second to second, so
//! each burst is compared only with its neighbor, and the order alternates from pair to pair.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::case::{Case, ENCODE_PATH, ask};
use crate::drive::{Driver, Target};
use crate::load::{Cores, Failure, RunningServer, publish};
use crate::support::{Line, Report, median, quantile};

/// Throughput and CPU time of one burst of requests.
#[derive(Clone, Copy, Debug)]
struct Burst {
    requests_per_second: f64,
    cpu_us: f64,
}

/// A server under measurement.
struct Subject {
    server: RunningServer,
    target: Target,
}

impl Subject {
    fn start(case: &Case, cores: Cores, program: &Path, folder: &Path) -> Result<Self, Failure> {
        let store = folder.join("store");
        publish(&store)?;
        let server = RunningServer::start_program(program, cores, &store, folder, &[])?;
        let question = case.model.question(case.rows);
        let message = Bytes::from(question.encode_to_vec());
        let reply_bytes = ask(&server, question)?;
        let target = Target { address: server.address, path: ENCODE_PATH, message, reply_bytes };
        Ok(Self { server, target })
    }

    fn burst(&self, case: &Case, driver: Driver, count: usize) -> Result<Burst, Failure> {
        let before = self.server.process.scheduled("")?;
        let driven = driver.drive(&self.target, case.shape, count)?;
        let ran = (self.server.process.scheduled("")? - before).ran();
        let cpu_us = ran.as_secs_f64() * 1e6 / count as f64;
        Ok(Burst { requests_per_second: driven.requests_per_second, cpu_us })
    }
}

/// Measures one case with this build and with `other`.
pub(crate) fn measure(
    case: &Case,
    other: &Path,
    (cores, driver): (Cores, Driver),
    quick: bool,
    report: &mut Report,
) -> Result<(), Failure> {
    let (pairs, burst) = if quick { (9, Duration::from_millis(80)) } else { (60, Duration::from_millis(300)) };
    let scratch = tempfile::tempdir()?;
    let folders = [scratch.path().join("this"), scratch.path().join("other")];
    for folder in &folders {
        std::fs::create_dir(folder)?;
    }
    let this = Subject::start(case, cores, Path::new(env!("CARGO_BIN_EXE_halfhitch")), &folders[0])?;
    let other = Subject::start(case, cores, other, &folders[1])?;
    let (count, _) = case.calibrate(driver, &this.target, burst)?;
    let _ = other.burst(case, driver, count)?;

    let mut bursts: Vec<(Burst, Burst)> = Vec::new();
    for pair in 0..pairs {
        bursts.push(if pair % 2 == 0 {
            let this = this.burst(case, driver, count)?;
            (this, other.burst(case, driver, count)?)
        } else {
            let other = other.burst(case, driver, count)?;
            (this.burst(case, driver, count)?, other)
        });
    }
    let name = case.name();
    let figures = [
        ("requests/s", (|burst| burst.requests_per_second) as fn(&Burst) -> f64),
        ("server cpu us/request", |burst| burst.cpu_us),
    ];
    for (unit, figure) in figures {
        let ratios: Vec<f64> = bursts.iter().map(|(this, other)| figure(this) / figure(other)).collect();
        report.line(&Line {
            case: &name,
            figure: median(bursts.iter().map(|(this, _)| figure(this))),
            unit,
            ceiling: Some(median(bursts.iter().map(|(_, other)| figure(other)))),
            ratio: Some(median(ratios.iter().copied())),
        });
        report.figure(&name, quantile(&ratios, 0.25), &format!("{unit}: ratio, quartile 1"));
        report.figure(&name, quantile(&ratios, 0.75), &format!("{unit}: ratio, quartile 3"));
    }
    Ok(())
}
