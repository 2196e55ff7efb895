//! Bulk streams with more rows than the server can process, together with single calls: neither may starve the other.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use halfhitch::executor::spawn_training;
use halfhitch::rpc::pb::{EncodeRequest, EncodeStreamRequest};
use tokio::task::JoinSet;

use crate::answer::Client;
use crate::callers::{connect, flood, probe};
use crate::load::{Cores, Failure, MNIST_DEEP, RunningServer};
use crate::support::Report;

const STREAMS: usize = 8;
const CONNECTIONS: usize = 2;
const ROWS: usize = 256;
/// More single calls than the server can process.
const FLOOD_CALLERS: usize = 64;
const FLOOD_ROWS: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn case_name() -> String {
    format!("bulk mnist-deep streams={STREAMS} rows={ROWS}")
}

pub(crate) async fn run(cores: Cores, store: &Path, quick: bool, report: &mut Report) -> Result<(), Failure> {
    let scratch = tempfile::tempdir()?;
    let server = RunningServer::start(cores, store, scratch.path(), &[])?;
    let duration = Duration::from_secs_f64(if quick { 1.5 } else { 10.0 });
    let address = server.address;
    let ask = async || {
        let singles = probe(address, MNIST_DEEP, TIMEOUT, duration);
        tokio::task::spawn_blocking(move || singles.join()).await?.map_err(|_| Failure::from("the probe panicked"))?
    };

    // The first run loads the model.
    streams(address, duration / 5).await?;
    let (alone, bulk_alone) = (ask().await?, streams(address, duration).await?);
    let (beside, bulk) = tokio::join!(ask(), streams(address, duration));
    let (beside, bulk) = (beside?, bulk?);
    let case = format!("{} with single rows", case_name());
    report.against(&case, bulk, "rows/s, vs alone", bulk_alone);
    report.against(&case, beside.p99_us(), "p99 us of single rows, vs alone", alone.p99_us());

    let models = [MNIST_DEEP; 2];
    let flooding = flood(address, models, FLOOD_ROWS, FLOOD_CALLERS, CONNECTIONS, TIMEOUT, duration);
    let (flooded, bulk) = tokio::join!(flooding, streams(address, duration));
    let case = format!("{} with {FLOOD_CALLERS} callers of {FLOOD_ROWS} rows", case_name());
    report.against(&case, bulk?, "rows/s, vs alone", bulk_alone);
    let flooded = flooded?;
    for told in flooded.iter().chain([&alone, &beside]) {
        told.tally.check(&case)?;
    }
    let results: u64 = flooded.iter().map(|told| told.tally.results).sum();
    report.figure(&case, results as f64 * FLOOD_ROWS as f64 / duration.as_secs_f64(), "rows/s of the callers");
    server.stop()?;
    Ok(())
}

/// Rows per second of all streams. Runs on a thread with lower priority than the probe's.
async fn streams(address: SocketAddr, duration: Duration) -> Result<f64, Failure> {
    let streams = spawn_training("streams", move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let mut clients = Vec::new();
            for _ in 0..CONNECTIONS {
                clients.push(connect(address).await?);
            }
            let until = Instant::now() + duration;
            let mut reading = JoinSet::new();
            for stream in 0..STREAMS {
                reading.spawn(read(clients[stream % CONNECTIONS].clone(), until));
            }
            let mut rows = 0;
            while let Some(read) = reading.join_next().await {
                rows += read??;
            }
            Ok::<f64, Failure>(rows as f64 / duration.as_secs_f64())
        })
    });
    streams?.await??
}

/// One stream: the number of rows received until then.
async fn read(mut client: Client, until: Instant) -> Result<usize, Failure> {
    let EncodeRequest { model, rows, .. } = MNIST_DEEP.question(ROWS);
    let questions = futures_util::stream::repeat(EncodeStreamRequest { model, rows, ..Default::default() });
    let mut answers = client.encode_stream(questions).await?.into_inner();
    let mut rows = 0;
    while Instant::now() < until {
        let answer = answers.next().await.ok_or("the stream ended")??;
        rows += answer.codes.map_or(0, |codes| codes.rows as usize);
    }
    Ok(rows)
}
