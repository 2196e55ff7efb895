//! Two models, one with rows 600 times as expensive as the other's, each with enough callers to saturate the server.

use std::path::Path;
use std::time::Duration;

use crate::callers::flood;
use crate::load::{Cores, Failure, MNIST_DEEP, Model, RunningServer, TELEMETRY};
use crate::support::Report;

/// The small model's requests are large enough to be queued; smaller ones run in the handler.
const ROWS: [usize; 2] = [128, 64];
const MODELS: [Model; 2] = [TELEMETRY, MNIST_DEEP];
/// More callers for the small model, because it responds much faster than they send the next request.
const CALLERS: [usize; 2] = [64, 16];
const CONNECTIONS: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn case_name() -> String {
    format!("fair telemetry rows={} and mnist-deep rows={}", ROWS[0], ROWS[1])
}

pub(crate) async fn run(cores: Cores, store: &Path, quick: bool, report: &mut Report) -> Result<(), Failure> {
    let scratch = tempfile::tempdir()?;
    let server = RunningServer::start(cores, store, scratch.path(), &[])?;
    let duration = Duration::from_secs_f64(if quick { 1.5 } else { 10.0 });
    let ask = |i: usize| flood(server.address, [MODELS[i]; 2], ROWS[i], CALLERS[i], CONNECTIONS, TIMEOUT, duration);
    let rate = |i: usize, results: u64| results as f64 * ROWS[i] as f64 / duration.as_secs_f64();

    let mut alone = [0.0; 2];
    for (i, alone) in alone.iter_mut().enumerate() {
        // The first run loads the model.
        for _ in 0..2 {
            let told = ask(i).await?;
            *alone = rate(i, told.iter().map(|told| told.tally.results).sum());
        }
    }
    let (small, large) = tokio::join!(ask(0), ask(1));
    for (i, told) in [small?, large?].into_iter().enumerate() {
        let case = format!("{} {}", case_name(), MODELS[i].name);
        for told in &told {
            told.tally.check(&case)?;
        }
        let results = told.iter().map(|told| told.tally.results).sum();
        report.against(&case, rate(i, results), "rows/s, vs half of alone", alone[i] / 2.0);
    }
    server.stop()?;
    Ok(())
}
