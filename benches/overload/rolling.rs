//! A rolling update under load, as an orchestrator does it.
//!
//! Two servers share one store. The client knows their addresses, watches the health of each, uses the ready ones in
//! turn, and never retries. The servers are stopped one after the other; a new one starts when an old one is gone.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use halfhitch::rpc::pb;
use halfhitch::rpc::pb::model_service_client::ModelServiceClient;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::answer::Client;
use crate::callers::connect;
use crate::load::{Cores, Counts, Failure, MNIST_DEEP, RunningServer, percentile};
use crate::support::{Options, Report};

const RATE: u64 = 3_000;
const CONNECTIONS: usize = 4;
/// Maximum number of requests started per tick, when catching up.
const STARTS_PER_TICK_MAX: u64 = 100;
const TICK: Duration = Duration::from_millis(1);
/// Maximum time for a server to become ready, or to take over the writer's lock.
const WAIT_MAX: Duration = Duration::from_secs(20);
const DRAIN_SECONDS: &str = "1";
/// Number of replaced servers.
const REPLACEMENTS: usize = 4;

pub(crate) fn case_name() -> String {
    format!("rolling mnist-deep rows=1 rate={RATE}")
}

/// Servers by number, with connections to each.
type Servers = Vec<(usize, Vec<Client>)>;

/// Connections to the servers that are ready.
#[derive(Clone, Default)]
struct Ready {
    servers: Arc<Mutex<Servers>>,
}

impl Ready {
    fn with<T>(&self, work: impl FnOnce(&mut Servers) -> T) -> T {
        work(&mut self.servers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn client(&self, number: u64) -> Option<Client> {
        let number = number as usize;
        self.with(|servers| {
            let (_, clients) = servers.get(number % servers.len().max(1))?;
            Some(clients[(number / servers.len()) % clients.len()].clone())
        })
    }

    fn has(&self, server: usize) -> bool {
        self.with(|servers| servers.iter().any(|(other, _)| *other == server))
    }
}

/// A server, and the task that watches its health.
struct Member {
    number: usize,
    server: RunningServer,
    watcher: JoinHandle<()>,
}

impl Member {
    async fn start(number: usize, cores: Cores, store: &Path, scratch: &Path, ready: &Ready) -> Result<Self, Failure> {
        let scratch = scratch.join(number.to_string());
        std::fs::create_dir(&scratch)?;
        let flags = ["--warm-models", MNIST_DEEP.name, "--drain-seconds", DRAIN_SECONDS].map(str::to_owned);
        let server = RunningServer::start(cores, store, &scratch, &flags)?;
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(connect(server.address).await?);
        }
        let channel = Endpoint::from_shared(format!("http://{}", server.address))?.connect().await?;
        let watcher = tokio::spawn(watch(number, channel, clients, ready.clone()));
        let begin = Instant::now();
        while !ready.has(number) {
            if begin.elapsed() > WAIT_MAX {
                return Err("a server never became ready".into());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(Self { number, server, watcher })
    }

    /// Stops the server, and waits for its end.
    async fn stop(self, ready: &Ready) -> Result<Counts, Failure> {
        let counts = tokio::task::spawn_blocking(move || self.server.stop()).await??;
        self.watcher.abort();
        ready.with(|servers| servers.retain(|(number, _)| *number != self.number));
        Ok(counts)
    }
}

/// Keeps a server on the list while its health status is serving.
async fn watch(number: usize, channel: Channel, clients: Vec<Client>, ready: Ready) {
    let question = HealthCheckRequest { service: String::new() };
    let Ok(told) = HealthClient::new(channel).watch(question).await else { return };
    let mut told = told.into_inner();
    while let Ok(Some(status)) = told.message().await {
        let serves = status.status() == ServingStatus::Serving;
        ready.with(|servers| {
            servers.retain(|(other, _)| *other != number);
            if serves {
                servers.push((number, clients.clone()));
            }
        });
    }
    ready.with(|servers| servers.retain(|(other, _)| *other != number));
}

/// The results of requests.
#[derive(Default)]
struct Outcome {
    answered_us: Vec<f64>,
    failures: Vec<String>,
    /// Requests without a ready server.
    homeless: u64,
}

/// Starts requests at the rate until `end` is notified.
async fn offer(ready: Ready, end: Arc<tokio::sync::Notify>) -> Result<Outcome, Failure> {
    let question = MNIST_DEEP.question(1);
    let mut outcome = Outcome::default();
    let mut under_way = JoinSet::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (begin, mut started) = (Instant::now(), 0_u64);
    let ended = end.notified();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            biased;
            () = &mut ended => break,
            _ = ticks.tick() => {}
        }
        let due = (begin.elapsed().as_secs_f64() * RATE as f64) as u64;
        for _ in 0..due.saturating_sub(started).min(STARTS_PER_TICK_MAX) {
            started += 1;
            let Some(mut client) = ready.client(started) else {
                outcome.homeless += 1;
                continue;
            };
            let question = question.clone();
            under_way.spawn(async move {
                let begun = Instant::now();
                let answer = client.encode(question).await;
                (begun.elapsed(), answer.err())
            });
        }
        while let Some(ended) = under_way.try_join_next() {
            outcome.add(ended?);
        }
    }
    while let Some(ended) = under_way.join_next().await {
        outcome.add(ended?);
    }
    Ok(outcome)
}

impl Outcome {
    fn add(&mut self, (time, failure): (Duration, Option<tonic::Status>)) {
        match failure {
            None => self.answered_us.push(time.as_secs_f64() * 1e6),
            Some(status) => self.failures.push(format!("{:?}: {}", status.code(), status.message())),
        }
    }

    fn p99_us(&mut self) -> f64 {
        self.answered_us.sort_by(f64::total_cmp);
        percentile(&self.answered_us, 0.99)
    }
}

pub(crate) async fn run(cores: Cores, store: &Path, options: &Options, report: &mut Report) -> Result<(), Failure> {
    let scratch = tempfile::tempdir()?;
    let quiet_time = Duration::from_secs(if options.quick { 3 } else { 10 });
    let replacements = if options.quick { 2 } else { REPLACEMENTS };
    let ready = Ready::default();
    let mut members = Vec::new();
    for number in 0..2 {
        members.push(Member::start(number, cores, store, scratch.path(), &ready).await?);
    }
    let load = |ready: &Ready| {
        let end = Arc::new(tokio::sync::Notify::new());
        (tokio::spawn(offer(ready.clone(), Arc::clone(&end))), end)
    };

    let (offered, end) = load(&ready);
    sleep(quiet_time).await;
    end.notify_one();
    let mut quiet = offered.await??;

    let (offered, end) = load(&ready);
    let (begin, mut counted) = (Instant::now(), 0);
    for number in 2..2 + replacements {
        sleep(quiet_time / 4).await;
        // The oldest server, which is the writer.
        counted += members.remove(0).stop(&ready).await?.answered;
        takes_over(&members[0]).await?;
        members.push(Member::start(number, cores, store, scratch.path(), &ready).await?);
    }
    sleep(quiet_time / 4).await;
    end.notify_one();
    let mut rolling = offered.await??;
    let seconds = begin.elapsed().as_secs_f64();
    for member in members {
        counted += member.stop(&ready).await?.answered;
    }

    let case = case_name();
    report.against(&case, rolling.answered_us.len() as f64 / seconds, "results/s", RATE as f64);
    let (quiet_p99_us, rolling_p99_us) = (quiet.p99_us(), rolling.p99_us());
    report.against(&case, rolling_p99_us, "p99 us, vs without replacement", quiet_p99_us);
    let failed = [&quiet, &rolling].map(|outcome| outcome.failures.len() as u64 + outcome.homeless);
    report.figure(&case, failed.iter().sum::<u64>() as f64, "requests without a response");
    report.figure(&case, replacements as f64, "servers replaced");
    // The servers' counts contain no warm-up requests: loading a model at start is not a request.
    let answered = (quiet.answered_us.len() + rolling.answered_us.len()) as f64;
    report.against(&case, answered, "responses received, vs counted", counted as f64);
    for failure in quiet.failures.iter().chain(&rolling.failures).take(5) {
        report.note(failure);
    }
    if failed != [0, 0] || answered != counted as f64 {
        return Err("requests were lost".into());
    }
    Ok(())
}

/// Waits until a server holds the writer's lock; a successful write shows that.
async fn takes_over(member: &Member) -> Result<(), Failure> {
    let channel = Endpoint::from_shared(format!("http://{}", member.server.address))?.connect().await?;
    let mut models = ModelServiceClient::new(channel);
    let begin = Instant::now();
    loop {
        let question = pb::SetAliasRequest {
            name: MNIST_DEEP.name.to_owned(),
            alias: "prod".to_owned(),
            version: 1,
            expected_version: None,
        };
        match models.set_alias(question).await {
            Ok(_) => return Ok(()),
            Err(status) if begin.elapsed() > WAIT_MAX => {
                return Err(format!("the other server never took over the lock: {status:?}").into());
            }
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}
