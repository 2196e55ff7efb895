//! Callers in a closed loop: each waits for its answer, and when refused as long as it is told.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use halfhitch::executor::spawn_training;
use halfhitch::rpc::pb::EncodeRequest;
use tokio::time::MissedTickBehavior;
use tonic::transport::Endpoint;

use crate::answer::{Answer, Client, Tally, ask};
use crate::load::{Failure, Model, percentile};

/// Answers may be larger than tonic's default.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Callers of the probe, and how often each asks: what they ask for is the same alone and in the flood, so that
/// neither their own load nor what they leave for the others depends on how fast they are answered.
const PROBE_CALLERS: usize = 4;
const PROBE_EVERY: Duration = Duration::from_millis(4);

/// What one kind of callers was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogThrottle {
    pub(crate) tally: Tally,
    /// Of requests that got a result, sorted, in microseconds.
    latencies_us: Vec<f64>,
}

impl LogThrottle {
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

/// `callers` of `models` in turn, over `connections`, for `duration`: what the callers of each model were told.
///
/// On a thread that gives way to the probe's, whose figures would else be those of waiting for this one.
pub(crate) async fn flood(
    address: SocketAddr,
    models: [Model; 2],
    rows: usize,
    callers: usize,
    connections: usize,
    timeout: Duration,
    duration: Duration,
) -> Result<[LogThrottle; 2], Failure> {
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
) -> Result<[LogThrottle; 2], Failure> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(connect(address).await?);
    }
    let until = Instant::now() + duration;
    let questions = models.map(|model| model.question(rows));
    let tasks: Vec<_> = (0..callers)
        .map(|i| {
            // Both models over every connection.
            let client = clients[(i / 2) % connections].clone();
            tokio::spawn(call(client, questions[i % 2].clone(), timeout, until, None))
        })
        .collect();
    let mut told = [Vec::new(), Vec::new()];
    for (i, task) in tasks.into_iter().enumerate() {
        told[i % 2].push(task.await?);
    }
    Ok(told.map(LogThrottle::gather))
}

/// Callers of single rows, on a thread and a connection of their own: the flood's client shall not delay them.
pub(crate) fn probe(
    address: SocketAddr,
    model: Model,
    timeout: Duration,
    duration: Duration,
) -> thread::JoinHandle<Result<LogThrottle, Failure>> {
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
            Ok(LogThrottle::gather(told))
        })
    });
    probe.expect("a thread starts")
}

/// Asks until then: again at once, or every so often at most.
async fn call(
    mut client: Client,
    question: EncodeRequest,
    timeout: Duration,
    until: Instant,
    every: Option<Duration>,
) -> LogThrottle {
    let mut told = LogThrottle::default();
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
            // A fault that is at once there again would fill the tally with itself.
            Answer::Expired | Answer::GaveUp | Answer::OwnFault | Answer::Untyped(_) => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    told
}
