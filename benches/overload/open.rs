//! Callers at a fixed rate with short deadlines, some of which cancel.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use halfhitch::numeric::rng::{GOLDEN, mix};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::answer::{Client, Tally, ask};
use crate::callers::connect;
use crate::load::{Cores, Failure, MNIST_DEEP, RunningServer, cpu_of};
use crate::memory::Watch;
use crate::support::{Options, Report};

const CONNECTIONS: usize = 8;
const TIMEOUT: Duration = Duration::from_millis(50);
/// One of this many callers cancels at a random instant before its deadline.
const DEPARTING_EVERY: u64 = 5;
/// Maximum number of requests in flight; bounds the generator's own memory.
const IN_FLIGHT_MAX: usize = 20_000;
/// Maximum number of requests started per tick, when catching up.
const STARTS_PER_TICK_MAX: u64 = 1_000;
const TICK: Duration = Duration::from_millis(1);

fn case_name(rate: u64) -> String {
    format!("open mnist-deep rows=1 deadline-ms={} rate={rate}", TIMEOUT.as_millis())
}

pub(crate) async fn run(cores: Cores, store: &Path, options: &Options, report: &mut Report) -> Result<(), Failure> {
    let (rates, duration): (&[u64], f64) = if options.quick {
        (&[2_000, 8_000, 16_000, 32_000], 3.0)
    } else {
        (&[1_000, 2_000, 4_000, 8_000, 12_000, 16_000, 24_000, 32_000], 10.0)
    };
    let rates: Vec<u64> = rates.iter().copied().filter(|rate| options.wants(&case_name(*rate))).collect();
    if rates.is_empty() {
        return Ok(());
    }
    let scratch = tempfile::tempdir()?;
    let server = RunningServer::start(cores, store, scratch.path(), &[])?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(connect(server.address).await?);
    }
    // This loads the model, without a deadline.
    clients[0].encode(MNIST_DEEP.question(1)).await?;
    // Continue with the other rates after a failure.
    let mut checked = Ok(());
    for rate in rates {
        let watch = Watch::start(server.process.memory());
        let (start, cpu) = (Instant::now(), cpu_of(std::process::id())?);
        let (started, tally) = offer(&clients, rate, Duration::from_secs_f64(duration)).await?;
        let seconds = start.elapsed().as_secs_f64();
        let busy = cpu_of(std::process::id())?.saturating_sub(cpu).as_secs_f64() / seconds;
        let case = case_name(rate);
        report.against(&case, tally.results as f64 / seconds, "results/s", started as f64 / seconds);
        if let Some((middle, last)) = watch.stop() {
            report.against(&case, last, "RssAnon KiB, last third", middle);
        }
        report.figure(&case, busy, "generator's core, busy");
        tally.print(&case, report);
        checked = checked.and(tally.check(&case));
    }
    server.stop()?;
    checked
}

/// Starts `rate` callers per second; returns their number and the tally of responses.
async fn offer(clients: &[Client], rate: u64, duration: Duration) -> Result<(u64, Tally), Failure> {
    let question = MNIST_DEEP.question(1);
    let in_flight = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    let mut tally = Tally::default();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (begin, mut started) = (Instant::now(), 0);
    while begin.elapsed() < duration {
        ticks.tick().await;
        let due = (begin.elapsed().as_secs_f64() * rate as f64) as u64;
        for _ in 0..due.saturating_sub(started).min(STARTS_PER_TICK_MAX) {
            if in_flight.load(Ordering::Relaxed) >= IN_FLIGHT_MAX {
                break;
            }
            started += 1;
            let mut client = clients[started as usize % clients.len()].clone();
            let (question, in_flight) = (question.clone(), Arc::clone(&in_flight));
            in_flight.fetch_add(1, Ordering::Relaxed);
            callers.spawn(async move {
                let answer = ask(&mut client, question, TIMEOUT);
                let answer = match patience(started) {
                    None => Some(answer.await),
                    // Dropping the request resets its stream.
                    Some(patience) => tokio::time::timeout(patience, answer).await.ok(),
                };
                in_flight.fetch_sub(1, Ordering::Relaxed);
                answer
            });
        }
        while let Some(answer) = callers.try_join_next() {
            count(&mut tally, answer?.as_ref());
        }
    }
    while let Some(answer) = callers.join_next().await {
        count(&mut tally, answer?.as_ref());
    }
    Ok((started, tally))
}

fn count(tally: &mut Tally, answer: Option<&crate::answer::Answer>) {
    match answer {
        Some(answer) => tally.add(answer),
        None => tally.departed += 1,
    }
}

/// How long this caller waits before it cancels; `None`: until the response.
fn patience(number: u64) -> Option<Duration> {
    // A hash of the number, so that the same callers cancel in every run.
    let z = mix(number.wrapping_mul(GOLDEN));
    z.is_multiple_of(DEPARTING_EVERY).then(|| TIMEOUT.mul_f64((z >> 11) as f64 / (1u64 << 53) as f64))
}
