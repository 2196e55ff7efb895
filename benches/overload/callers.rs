//! Callers in a closed loop: each waits for its response and, if rejected, for the retry delay.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use halfhitch::executor::spawn_training;
use halfhitch::rpc::pb::EncodeRequest;
use tokio::time::MissedTickBehavior;
use tonic::transport::Endpoint;

use crate::answer::{Answer, Client, Tally, ask};
use crate::load::{Failure, Model, percentile};

/// Responses can be larger than tonic's default limit.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Number of probe callers, and their request interval. The interval is fixed, so that neither their own load nor what
/// they leave for others depends on the server's speed.
const PROBE_CALLERS: usize = 4;
const PROBE_EVERY: Duration = Duration::from_millis(4);

/// The responses to one kind of callers.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallerCounts {
    pub(crate) tally: Tally,
    /// Latencies of requests with a result, sorted, in microseconds.
    latencies_us: Vec<f64>,
}

impl CallerCounts {
    pub(crate) fn p99_us(&self) -> f64 {
        if self.latencies_us.is_empty() { f64::NAN } else { percentile(&self.latencies_us, 0.99) }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self::gather([self, other])
    }

    fn gather(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.tally.merge(part.tally);
            all.latencies_us.extend(part.latencies_us);
        }
        all.latencies_us.sort_by(f64::total_cmp);
        all
    }
}

pub(crate) async fn connect(address: SocketAddr) -> Result<Client, Failure> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    Ok(Client::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// Runs `callers` callers, alternating between `models`, over `connections` for `duration`. Returns the responses for
/// each model.
///
/// Runs on a thread with lower priority than the probe's; otherwise the probe's latencies would include waiting for
/// this thread.
pub(crate) async fn flood(
    address: SocketAddr,
    models: [Model; 2],
    rows: usize,
    callers: usize,
    connections: usize,
    timeout: Duration,
    duration: Duration,
) -> Result<[CallerCounts; 2], Failure> {
    let flood = spawn_training("flood", move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(call_all(address, models, rows, callers, connections, timeout, duration))
    });
    flood?.await??
}

async fn call_all(
    address: SocketAddr,
    models: [Model; 2],
    rows: usize,
    callers: usize,
    connections: usize,
    timeout: Duration,
    duration: Duration,
) -> Result<[CallerCounts; 2], Failure> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(connect(address).await?);
    }
    let until = Instant::now() + duration;
    let questions = models.map(|model| model.question(rows));
    let tasks: Vec<_> = (0..callers)
        .map(|i| {
            // Both models use every connection.
            let client = clients[(i / 2) % connections].clone();
            tokio::spawn(call(client, questions[i % 2].clone(), timeout, until, None))
        })
        .collect();
    let mut told = [Vec::new(), Vec::new()];
    for (i, task) in tasks.into_iter().enumerate() {
        told[i % 2].push(task.await?);
    }
    Ok(told.map(CallerCounts::gather))
}

/// Callers of single rows, on their own thread and connection, so that the flood's client does not delay them.
pub(crate) fn probe(
    address: SocketAddr,
    model: Model,
    timeout: Duration,
    duration: Duration,
) -> thread::JoinHandle<Result<CallerCounts, Failure>> {
    let probe = thread::Builder::new().name("probe".to_owned()).spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let client = connect(address).await?;
            let until = Instant::now() + duration;
            let question = model.question(1);
            let callers: Vec<_> = (0..PROBE_CALLERS)
                .map(|_| tokio::spawn(call(client.clone(), question.clone(), timeout, until, Some(PROBE_EVERY))))
                .collect();
            let mut told = Vec::new();
            for caller in callers {
                told.push(caller.await?);
            }
            Ok(CallerCounts::gather(told))
        })
    });
    probe.expect("a thread starts")
}

/// Sends requests until `until`: immediately again, or at most once per interval.
async fn call(
    mut client: Client,
    question: EncodeRequest,
    timeout: Duration,
    until: Instant,
    every: Option<Duration>,
) -> CallerCounts {
    let mut told = CallerCounts::default();
    let mut clock = every.map(tokio::time::interval);
    if let Some(clock) = &mut clock {
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    while Instant::now() < until {
        if let Some(clock) = &mut clock {
            clock.tick().await;
        }
        let start = Instant::now();
        let answer = ask(&mut client, question.clone(), timeout).await;
        told.tally.add(&answer);
        match answer {
            Answer::Result => told.latencies_us.push(start.elapsed().as_secs_f64() * 1e6),
            Answer::Full { retry_after } => tokio::time::sleep(retry_after).await,
            // An immediate error must not fill the tally in a tight loop.
            Answer::Expired | Answer::GaveUp | Answer::OwnFault | Answer::Untyped(_) => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    told
}
