//! Ten times the callers that saturate the server, each waiting for its response.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::callers::{CallerCounts, flood, probe};
use crate::load::{Cores, EMBED, Failure, MNIST_DEEP, Model, RunningServer, TELEMETRY, cpu_of};
use crate::memory::Watch;
use crate::support::Report;

const MODELS: [Model; 2] = [MNIST_DEEP, EMBED];
const ROWS: usize = 64;
const CONNECTIONS: usize = 8;
/// Deadline of every request, including those of the small model.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Numbers of callers tried to find the one that saturates.
const CALLERS: [usize; 4] = [4, 8, 16, 32];
/// A number of callers saturates if it reaches this share of the throughput with more callers.
const SATURATED_SHARE: f64 = 0.95;
/// 16 requests: ten times the saturating callers fill it. The default of 65,536 rows would need 1024 callers.
const QUEUE_ROWS_MAX: usize = 1024;

/// The result under one load.
#[derive(Debug)]
struct Outcome {
    flood: [CallerCounts; 2],
    small: CallerCounts,
    wall: Duration,
    memory_kib: Option<(f64, f64)>,
    /// Share of its one core that this process used; near 1, the generator is the limit.
    generator_busy: f64,
}

impl Outcome {
    fn rows_per_second(&self) -> f64 {
        let results: u64 = self.flood.iter().map(|told| told.tally.results).sum();
        results as f64 * ROWS as f64 / self.wall.as_secs_f64()
    }

    /// Arithmetic done, in GFLOP/s: comparable even if the models' shares of the rows shift.
    fn gflops(&self) -> f64 {
        let flops = self
            .flood
            .iter()
            .zip(MODELS)
            .map(|(told, model)| told.tally.results as f64 * ROWS as f64 * model.flops_per_row());
        flops.sum::<f64>() / self.wall.as_secs_f64() / 1e9
    }
}

pub(crate) fn case_name() -> String {
    format!("closed mnist-deep+embed rows={ROWS} queue-rows-max={QUEUE_ROWS_MAX}")
}

pub(crate) async fn run(cores: Cores, store: &Path, quick: bool, report: &mut Report) -> Result<(), Failure> {
    let scratch = tempfile::tempdir()?;
    let flags = ["--queue-rows-max".to_owned(), QUEUE_ROWS_MAX.to_string()];
    let server = RunningServer::start(cores, store, scratch.path(), &flags)?;
    let (short, long) = if quick { (1.5, 8.0) } else { (6.0, 60.0) };
    let (short, long) = (Duration::from_secs_f64(short), Duration::from_secs_f64(long));
    let name = case_name();

    // This loads the models.
    let mut answered = load(&server, 4, Duration::from_millis(300)).await?.answered();
    let alone = probe(server.address, TELEMETRY, TIMEOUT, short);
    let alone = tokio::task::spawn_blocking(move || alone.join()).await?.map_err(|_| "the probe panicked")??;
    answered += alone.tally.results;

    let mut levels = Vec::new();
    for callers in CALLERS {
        let outcome = load(&server, callers, short).await?;
        answered += outcome.answered();
        report.figure(&format!("{name} callers={callers}"), outcome.rows_per_second(), "rows/s");
        levels.push((callers, outcome));
    }
    let most = levels.iter().map(|(_, outcome)| outcome.rows_per_second()).fold(0.0, f64::max);
    let saturated = levels.iter().find(|(_, outcome)| outcome.rows_per_second() >= SATURATED_SHARE * most);
    let (callers, saturated) = saturated.ok_or("no level of callers was measured")?;
    let most_gflops = levels.iter().map(|(_, outcome)| outcome.gflops()).fold(0.0, f64::max);

    let flooded = load(&server, 10 * callers, long).await?;
    answered += flooded.answered();
    let case = format!("{name} callers={}", 10 * callers);
    report.against(&case, flooded.rows_per_second(), "rows/s", most);
    report.against(&case, flooded.gflops(), "GFLOP/s", most_gflops);
    if let Some((middle, last)) = flooded.memory_kib {
        report.against(&case, last, "RssAnon KiB, last third", middle);
    }
    report.figure(&case, flooded.generator_busy, "generator's core, busy");
    for (model, told) in MODELS.iter().zip(&flooded.flood) {
        let case = format!("{case} {}", model.name);
        report.against(&case, told.p99_us() / 1e3, "p99 of accepted ms", TIMEOUT.as_secs_f64() * 1e3);
        told.tally.print(&case, report);
    }

    let small = format!("{case} telemetry");
    report.figure(&small, alone.p99_us(), "p99 us, alone");
    report.figure(&small, saturated.small.p99_us(), "p99 us, saturated");
    report.against(&small, flooded.small.p99_us(), "p99 us, flooded", alone.p99_us());
    flooded.small.tally.print(&small, report);

    let gave_up: u64 = levels.iter().map(|(_, outcome)| outcome.gave_up()).sum::<u64>() + flooded.gave_up();
    for told in levels.iter().map(|(_, outcome)| outcome).chain([&flooded]).flat_map(Outcome::everybody) {
        told.tally.check(&name)?;
    }
    // The server may have counted a result for callers that gave up.
    let counted = server.stop()?.answered;
    if !(answered..=answered + gave_up).contains(&counted) {
        return Err(format!("void: callers got {answered} results, the server counts {counted}").into());
    }
    Ok(())
}

impl Outcome {
    fn everybody(&self) -> impl Iterator<Item = &CallerCounts> {
        self.flood.iter().chain([&self.small])
    }

    fn answered(&self) -> u64 {
        self.everybody().map(|told| told.tally.results).sum()
    }

    fn gave_up(&self) -> u64 {
        self.everybody().map(|told| told.tally.gave_up).sum()
    }
}

/// Runs `callers` callers of the large models and a few of the small one.
async fn load(server: &RunningServer, callers: usize, duration: Duration) -> Result<Outcome, Failure> {
    let watch = Watch::start(server.process.memory());
    let (start, cpu) = (Instant::now(), cpu_of(std::process::id())?);
    let small = probe(server.address, TELEMETRY, TIMEOUT, duration);
    let flood = flood(server.address, MODELS, ROWS, callers, CONNECTIONS, TIMEOUT, duration).await?;
    let wall = start.elapsed();
    let generator_busy = cpu_of(std::process::id())?.saturating_sub(cpu).as_secs_f64() / wall.as_secs_f64();
    let small = tokio::task::spawn_blocking(move || small.join()).await?.map_err(|_| "the probe panicked")??;
    Ok(Outcome { flood, small, wall, memory_kib: watch.stop(), generator_busy })
}
