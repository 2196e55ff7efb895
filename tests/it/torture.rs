//! Clients and the server are killed at any moment, and chunks arrive twice and out of order. Each job ends with
//! exactly the acknowledged rows.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use halfhitch::rpc::pb;
use pb::train_response::Message as Answer;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::support::process::ServerProcess;
use crate::support::{AutoencoderClient, Random, chunk, finish, question, sample, spec, temporary_store};

const COLUMNS: usize = 8;
/// After this many deaths a client lives on until it has its result, or the server is killed.
const DEATHS_MAX: u32 = 6;
/// Size of the windows in which chunks are shuffled.
const SHUFFLED: usize = 12;

/// Shuffles the numbers within windows.
fn shuffle(numbers: &mut [u64], random: &mut Random) {
    for window in numbers.chunks_mut(SHUFFLED) {
        for i in (1..window.len()).rev() {
            window.swap(i, random.below(i as u64 + 1) as usize);
        }
    }
}

/// A client's data: chunks of all sizes.
struct Data {
    number: u64,
    rows: Vec<f32>,
    /// The first row of each chunk, and the end of the last.
    bounds: Vec<usize>,
}

impl Data {
    fn new(number: u64, chunks: u64) -> Self {
        let mut bounds = vec![0];
        for chunk in 0..chunks {
            bounds.push(bounds[bounds.len() - 1] + 1 + ((chunk * 7 + number * 5) % 23) as usize);
        }
        Self { number, rows: sample(bounds[bounds.len() - 1], COLUMNS, number + 1), bounds }
    }

    fn chunks(&self) -> u64 {
        self.bounds.len() as u64 - 1
    }

    fn chunk(&self, number: u64) -> pb::TrainRequest {
        let bounds = &self.bounds[number as usize - 1..][..2];
        chunk(number, COLUMNS, &self.rows[bounds[0] * COLUMNS..bounds[1] * COLUMNS])
    }

    fn spec(&self) -> pb::TrainSpec {
        let name = format!("client-{}", self.number);
        pb::TrainSpec { idempotency_key: name.clone(), epochs: 2, ..spec(&name, &[COLUMNS as u32, 3]) }
    }

    fn sha256(&self) -> String {
        let mut digest = Sha256::new();
        digest.update((self.rows.len() as u64).to_le_bytes());
        self.rows.iter().for_each(|value| digest.update(value.to_le_bytes()));
        digest.update(0u64.to_le_bytes());
        digest.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    /// The messages after chunk `last` is acknowledged: out of order, some twice, some acknowledged before.
    fn questions(&self, last: u64, random: &mut Random) -> Vec<pb::TrainRequest> {
        let mut numbers: Vec<u64> = (last + 1..=self.chunks()).collect();
        shuffle(&mut numbers, random);
        let mut sent = Vec::new();
        for (place, number) in numbers.iter().enumerate() {
            sent.push(*number);
            match random.below(4) {
                0 => sent.push(numbers[random.below(place as u64 + 1) as usize]),
                1 if last > 0 => sent.push(1 + random.below(last)),
                _ => {}
            }
        }
        let mut questions: Vec<pb::TrainRequest> = sent.into_iter().map(|number| self.chunk(number)).collect();
        questions.push(finish(self.chunks(), (self.rows.len() / COLUMNS) as u64));
        questions
    }
}

/// State shared by all clients and the test.
#[derive(Clone)]
struct World {
    address: watch::Receiver<SocketAddr>,
    /// Number of chunks acknowledged to clients.
    acknowledged: watch::Sender<u64>,
}

impl World {
    fn record(&self, number: u64, acknowledged: &mut BTreeSet<u64>) {
        if acknowledged.insert(number) {
            self.acknowledged.send_modify(|count| *count += 1);
        }
    }
}

/// A client that reconnects until it has its result.
async fn client(world: World, data: Data, seed: u64) -> (Data, pb::TrainResult, u32) {
    let mut random = Random::new(seed);
    let mut acknowledged = BTreeSet::new();
    let mut deaths = 0;
    loop {
        let life = live(&world, &data, &mut random, &mut acknowledged);
        if deaths < DEATHS_MAX {
            // The timeout drops the client at any point, which breaks its connection.
            let patience = Random::new(seed + u64::from(deaths)).below(50 * u64::from(deaths + 1));
            match tokio::time::timeout(Duration::from_millis(patience), life).await {
                Ok(Some(result)) => return (data, result, deaths),
                Ok(None) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(_) => deaths += 1,
            }
        } else if let Some(result) = life.await {
            return (data, result, deaths);
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// One connection of a client; `None` if the server is gone.
async fn live(
    world: &World,
    data: &Data,
    random: &mut Random,
    acknowledged: &mut BTreeSet<u64>,
) -> Option<pb::TrainResult> {
    let address = *world.address.borrow();
    let endpoint = tonic::transport::Channel::from_shared(format!("http://{address}")).expect("a URL");
    let mut client = AutoencoderClient::new(endpoint.connect().await.ok()?);
    let (questions, receiver) = mpsc::channel(4);
    questions.send(question(pb::train_request::Message::Spec(data.spec()))).await.expect("room");
    let mut answers = match client.train(ReceiverStream::new(receiver)).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return gone(&status),
    };
    // Dropped with this connection.
    let mut sending = JoinSet::new();
    loop {
        let answer = match answers.message().await {
            Ok(answer) => answer.expect("a result before the end").message.expect("set"),
            Err(status) => return gone(&status),
        };
        match answer {
            Answer::Accepted(accepted) => {
                let (last, heard) = (accepted.last_chunk_number, acknowledged.last().copied().unwrap_or(0));
                assert!(last >= heard, "chunk {heard} was acknowledged, {last} is on disk");
                (1..=last).for_each(|number| world.record(number, acknowledged));
                if accepted.job.expect("a job").state() != pb::JobState::Uploading {
                    continue;
                }
                let (questions, all) = (questions.clone(), data.questions(last, random));
                let pause = Duration::from_millis(random.below(8));
                sending.spawn(async move {
                    for question in all {
                        if questions.send(question).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(pause).await;
                    }
                    // Keep the stream open until the result arrives.
                    questions.closed().await;
                });
            }
            Answer::Acknowledged(got) => {
                world.record(got.number, acknowledged);
            }
            Answer::Progress(_) => {}
            Answer::Result(result) => return Some(result),
        }
    }
}

/// Accepts errors of a killed server, or of a server that still has the stream of a dead client; panics on others.
fn gone<T>(status: &Status) -> Option<T> {
    let transport = std::error::Error::source(status).is_some();
    let expected = matches!(status.code(), Code::Unavailable | Code::Aborted)
        || (transport && matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled));
    assert!(expected, "{status:?}");
    None
}

/// Runs `clients` clients with `chunks` chunks each, and kills the server `kills` times.
async fn torture(clients: u64, chunks: u64, kills: u64) {
    let began = Instant::now();
    let store = temporary_store();
    let start =
        || ServerProcess::start_with(store.path(), &["--open-jobs-max", "200", "--shutdown-grace-seconds", "5"]);
    let mut server = start();
    let (addresses, address) = watch::channel(server.address());
    let (acknowledged, mut heard) = watch::channel(0);
    let world = World { address, acknowledged };
    let mut running = JoinSet::new();
    for number in 0..clients {
        running.spawn(client(world.clone(), Data::new(number, chunks), 1000 * (number + 1)));
    }
    // The kills are spread over the work, at random moments.
    let mut random = Random::new(7);
    for kill in 1..=kills {
        let due = kill * clients * chunks / (kills + 1);
        heard.wait_for(|count| *count >= due).await.expect("the world goes on");
        tokio::time::sleep(Duration::from_millis(random.below(60))).await;
        server.kill();
        server = tokio::task::block_in_place(start);
        addresses.send_replace(server.address());
    }
    let mut deaths = 0;
    while let Some(ended) = running.join_next().await {
        let (data, result, died) = ended.expect("no panic");
        deaths += died;
        let report = result.training_report.expect("a report");
        assert_eq!(report.data_sha256, data.sha256(), "client {}: exactly the rows that were sent", data.number);
        // The version number can be higher: a number taken when the server was killed is not reused.
        let folder = store.path().join("models").join(&result.model_name);
        let published = std::fs::read_dir(&folder)
            .expect("lists")
            .filter(|entry| entry.as_ref().expect("readable").path().join("model.safetensors").exists());
        assert_eq!(published.count(), 1, "client {}: published once", data.number);
    }
    let page = pb::ListJobsRequest { page_size: 1000, ..Default::default() };
    let mut jobs = pb::job_service_client::JobServiceClient::new(server.channel().await);
    let jobs = jobs.list_jobs(page).await.expect("lists").into_inner().jobs;
    assert_eq!(jobs.len() as u64, clients, "a job a client");
    assert!(jobs.iter().all(|job| job.state() == pb::JobState::Succeeded), "{jobs:?}");
    for job in &jobs {
        let left = std::fs::read_dir(store.path().join("jobs").join(&job.id)).expect("lists");
        let left: Vec<_> = left.map(|entry| entry.expect("readable").file_name()).collect();
        assert_eq!(left, ["job.json"], "the rows are removed");
    }
    println!("{clients} clients died {deaths} times, the server {kills} times, in {:.1?}", began.elapsed());
    assert!(deaths >= clients as u32, "clients died {deaths} times only");
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_12_clients_survive_kills_exactly_once() {
    torture(12, 16, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: cargo test --test it torture -- --ignored --nocapture"]
async fn rows_of_100_clients_survive_kills_exactly_once() {
    torture(100, 40, 12).await;
}
