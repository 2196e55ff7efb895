//! Incremental training: an endless stream publishes one version after the other, even if client or server is killed.

use halfhitch::rpc::pb;
use halfhitch::server::ServerConfig;
use pb::train_response::Message as Answer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::support::process::ServerProcess;
use crate::support::{
    AutoencoderClient, TestServer, chunk, finish, matrix, newest, question, sample, spec, temporary_store,
};

const COLUMNS: usize = 6;
const CHUNK_ROWS: usize = 50;
/// Offset of the rows after the drift: both kinds are near a plane of their own.
const DRIFT: f32 = 3.0;

/// `rows` rows, before or after the drift.
fn rows(rows: usize, seed: u64, drifted: bool) -> Vec<f32> {
    let mut values = sample(rows, COLUMNS, seed);
    if drifted {
        for row in values.chunks_mut(COLUMNS) {
            row.reverse();
            row.iter_mut().enumerate().for_each(|(j, x)| *x = DRIFT * *x - j as f32 * 0.5);
        }
    }
    values
}

fn stream_spec(key: &str, publish_rows: u64) -> pb::TrainSpec {
    pb::TrainSpec {
        idempotency_key: key.to_owned(),
        epochs: 20,
        incremental: Some(pb::Incremental { publish_rows, publish_interval: None }),
        ..spec("plane", &[COLUMNS as u32, 5, 3])
    }
}

/// One connection of a training stream.
struct Stream {
    questions: mpsc::Sender<pb::TrainRequest>,
    answers: Streaming<pb::TrainResponse>,
    accepted: pb::TrainAccepted,
    /// The last acknowledgment.
    acknowledged: pb::ChunkAcknowledged,
    results: Vec<pb::TrainResult>,
}

impl Stream {
    async fn open(client: &mut AutoencoderClient, spec: pb::TrainSpec) -> Result<Self, Status> {
        let (questions, receiver) = mpsc::channel(1000);
        questions.send(question(pb::train_request::Message::Spec(spec))).await.expect("room");
        let mut answers = client.train(ReceiverStream::new(receiver)).await?.into_inner();
        let first = answers.message().await?.and_then(|answer| answer.message);
        let Some(Answer::Accepted(accepted)) = first else { panic!("{first:?}") };
        let acknowledged =
            pb::ChunkAcknowledged { number: accepted.last_chunk_number, row_count: 0, ..Default::default() };
        Ok(Self { questions, answers, accepted, acknowledged, results: Vec::new() })
    }

    /// Sends chunks `from` to the last of `values`.
    async fn send(&self, from: u64, values: &[f32]) {
        for (number, values) in (1..).zip(values.chunks(CHUNK_ROWS * COLUMNS)) {
            if number >= from {
                // If the stream has ended, its responses carry the reason.
                let _ = self.questions.send(chunk(number, COLUMNS, values)).await;
            }
        }
    }

    async fn finish(&self, values: &[f32]) {
        let chunks = values.chunks(CHUNK_ROWS * COLUMNS).count() as u64;
        let _ = self.questions.send(finish(chunks, (values.len() / COLUMNS) as u64)).await;
    }

    /// Reads the next response; false at the end.
    async fn read_next(&mut self) -> Result<bool, Status> {
        match self.answers.message().await? {
            None => return Ok(false),
            Some(pb::TrainResponse { message: Some(Answer::Acknowledged(one)) }) => self.acknowledged = one,
            Some(pb::TrainResponse { message: Some(Answer::Result(result)) }) => self.results.push(result),
            Some(_) => {}
        }
        Ok(true)
    }

    /// Reads until the result of this round arrives.
    async fn until_round(&mut self, round: u64) -> Result<(), Status> {
        while self.results.last().is_none_or(|last| last.round < round) {
            assert!(self.read_next().await?, "the stream ended before round {round}");
        }
        Ok(())
    }

    async fn until_acknowledged(&mut self, number: u64) -> Result<(), Status> {
        while self.acknowledged.number < number {
            assert!(self.read_next().await?, "the stream ended before chunk {number}");
        }
        Ok(())
    }

    async fn until_it_ends(&mut self) -> Result<(), Status> {
        while self.read_next().await? {}
        Ok(())
    }
}

async fn error_of_newest(client: &mut AutoencoderClient, values: &[f32]) -> f64 {
    let request =
        pb::ReconstructRequest { model: newest("plane"), rows: Some(matrix(COLUMNS, values)), ..Default::default() };
    let answer = client.reconstruct(request).await.expect("serves").into_inner();
    let errors = answer.squared_errors_input_units;
    errors.iter().map(|error| f64::from(*error)).sum::<f64>() / errors.len() as f64
}

/// The jobs of a stream by round; checks that each round has one job, without gaps.
async fn rounds(jobs: &mut pb::job_service_client::JobServiceClient<tonic::transport::Channel>) -> Vec<pb::Job> {
    let page = pb::ListJobsRequest { page_size: 1000, ..Default::default() };
    let mut jobs = jobs.list_jobs(page).await.expect("lists").into_inner().jobs;
    jobs.sort_by_key(|job| job.round);
    let numbers: Vec<u64> = jobs.iter().map(|job| job.round).collect();
    assert_eq!(numbers, (1..=jobs.len() as u64).collect::<Vec<_>>());
    jobs
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_follow_a_drift() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let (before, after) = (rows(4 * 200, 1, false), rows(6 * 200, 2, true));
    let (all, fresh) = ([before, after].concat(), rows(200, 9, true));
    let mut stream = Stream::open(&mut client.clone(), stream_spec("drift", 200)).await.expect("accepted");
    let mut errors = Vec::new();
    for round in 1..=10 {
        let values = &all[..round * 200 * COLUMNS];
        stream.send((round as u64 - 1) * 4 + 1, values).await;
        stream.until_round(round as u64).await.expect("goes well");
        errors.push(error_of_newest(&mut client, &fresh).await);
    }
    stream.finish(&all).await;
    stream.until_it_ends().await.expect("ends well");
    let published: Vec<u64> = stream.results.iter().filter(|one| one.version > 0).map(|one| one.round).collect();
    assert_eq!(published[0], 1, "there is nothing to be better than");
    assert!(published.iter().any(|round| *round > 4), "{published:?}");
    assert!(errors[9] < 0.3 * errors[3], "on rows after the drift: {errors:?}");
    for result in &stream.results {
        assert_eq!(result.version == 0, !result.kept_back.is_empty(), "{result:?}");
        assert_eq!(result.failure, "");
        let report = result.training_report.as_ref().expect("a report");
        let validation = report.validation.as_ref().expect("measured");
        // The round's own held-out rows, and as many of the rounds before.
        assert_eq!(validation.rows, if result.round == 1 { 40 } else { 80 }, "round {}", result.round);
    }
    let jobs = rounds(&mut server.jobs().await).await;
    assert_eq!((jobs.len(), jobs[10].state()), (11, pb::JobState::Cancelled), "no row came for the last one");
    assert_eq!(jobs[2].idempotency_key, "drift#3");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_client_resumes_without_lost_or_doubled_rows() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let all = rows(1030, 1, false);
    let spec = || stream_spec("killed", 200);
    let mut stream = Stream::open(&mut client, spec()).await.expect("accepted");
    stream.send(1, &all[..500 * COLUMNS]).await;
    stream.until_acknowledged(7).await.expect("goes well");
    drop(stream);
    // Two connections at once: the second takes over the stream.
    let mut first = Stream::open(&mut client, spec()).await.expect("accepted");
    let mut stream = Stream::open(&mut client, spec()).await.expect("accepted");
    assert_eq!(first.until_it_ends().await.expect_err("taken over").code(), Code::Aborted);
    let last = stream.accepted.last_chunk_number;
    assert!((7..=10).contains(&last), "{last}");
    // Resend some chunks, including chunks of a finished round.
    stream.send(2, &all).await;
    stream.finish(&all).await;
    stream.until_it_ends().await.expect("ends well");
    assert_eq!(stream.acknowledged, pb::ChunkAcknowledged { number: 21, row_count: 1030, ..Default::default() });
    assert_eq!(stream.results.last().expect("results").round, 6);
    let jobs = rounds(&mut server.jobs().await).await;
    assert_eq!(jobs.iter().map(|job| job.row_count).collect::<Vec<_>>(), [200, 200, 200, 200, 200, 30]);
    assert!(jobs.iter().all(|job| job.state() == pb::JobState::Succeeded), "{jobs:?}");
    // A client that reconnects after the end receives the results again, and then the end.
    let mut again = Stream::open(&mut client, spec()).await.expect("accepted");
    assert_eq!(again.accepted.last_chunk_number, 21);
    again.until_it_ends().await.expect("ends well");
    assert_eq!(again.results.iter().map(|one| one.round).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let other = pb::TrainSpec { seed: 9, ..spec() };
    let refused = Stream::open(&mut client, other).await.err().expect("another specification");
    assert_eq!(refused.code(), Code::AlreadyExists);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_resumes_every_round() {
    let store = temporary_store();
    let all = rows(1200, 1, false);
    let spec = || stream_spec("server", 100);
    let mut heard = 0;
    // Kill after this many acknowledged chunks: in the middle of a round, and near its end.
    for chunks in [3, 8, 14, 20] {
        let server = ServerProcess::start(store.path());
        let mut stream = Stream::open(&mut server.autoencoder().await, spec()).await.expect("accepted");
        let last = stream.accepted.last_chunk_number;
        assert!(last >= heard, "{heard} chunks were acknowledged, {last} are on disk");
        stream.send(last + 1, &all).await;
        stream.until_acknowledged(chunks).await.expect("goes well");
        heard = stream.acknowledged.number;
        server.kill();
    }
    let server = ServerProcess::start(store.path());
    let mut stream = Stream::open(&mut server.autoencoder().await, spec()).await.expect("accepted");
    stream.send(stream.accepted.last_chunk_number + 1, &all).await;
    stream.finish(&all).await;
    stream.until_it_ends().await.expect("ends well");
    let mut jobs = pb::job_service_client::JobServiceClient::new(server.channel().await);
    let jobs = rounds(&mut jobs).await;
    assert_eq!(jobs.iter().map(|job| job.row_count).sum::<u64>(), 1200);
    let (left, trained): (Vec<_>, Vec<_>) = jobs.iter().partition(|job| job.state() == pb::JobState::Cancelled);
    assert!(trained.iter().all(|job| job.state() == pb::JobState::Succeeded && job.row_count == 100), "{trained:?}");
    assert!(left.len() <= 1 && trained.len() == 12, "{jobs:?}");
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_ends_at_its_interval_without_new_rows() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let interval = prost_types::Duration { seconds: 1, nanos: 0 };
    let by_time = pb::TrainSpec {
        incremental: Some(pb::Incremental { publish_rows: 0, publish_interval: Some(interval) }),
        ..stream_spec("time", 0)
    };
    let all = rows(150, 1, false);
    let mut stream = Stream::open(&mut server.autoencoder().await, by_time).await.expect("accepted");
    stream.send(1, &all).await;
    stream.until_round(1).await.expect("goes well");
    assert_eq!(stream.results[0].version, 1);
    stream.finish(&all).await;
    stream.until_it_ends().await.expect("ends well");
    server.stop().await;
}

/// The newest version provides the widths.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_widths_uses_those_of_the_newest_version() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let all = rows(300, 1, false);
    for (key, widths, chunks) in [("first", vec![COLUMNS as u32, 5, 3], 1), ("then", Vec::new(), 6)] {
        let part = &all[..chunks * CHUNK_ROWS * COLUMNS];
        let asked = pb::TrainSpec { widths, ..stream_spec(key, 100) };
        let mut stream = Stream::open(&mut client, asked).await.expect("accepted");
        stream.send(1, part).await;
        stream.finish(part).await;
        stream.until_it_ends().await.expect("ends well");
        assert_eq!(stream.results.len(), chunks.div_ceil(2));
        assert!(stream.results.iter().all(|one| one.failure.is_empty()), "{:?}", stream.results);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_ends_early_at_the_row_limit_of_a_job() {
    let store = temporary_store();
    let mut config = ServerConfig::new(store.path().to_owned());
    config.jobs.job_rows_max = 120;
    let server = TestServer::start_with(config).await;
    let mut client = server.autoencoder().await;
    let all = rows(300, 1, false);
    let mut stream = Stream::open(&mut client, stream_spec("full", 10_000)).await.expect("accepted");
    stream.send(1, &all).await;
    stream.finish(&all).await;
    stream.until_it_ends().await.expect("ends well");
    assert_eq!(stream.acknowledged.number, 6);
    assert_eq!(stream.results.iter().map(|one| one.round).collect::<Vec<_>>(), [1, 2, 3]);
    // A chunk that is larger than a round may be.
    let stream = Stream::open(&mut client, stream_spec("large", 10_000)).await.expect("accepted");
    let _ = stream.questions.send(chunk(1, COLUMNS, &rows(121, 1, false))).await;
    let refused = { stream }.until_it_ends().await.expect_err("refused");
    assert!(refused.message().contains("121 rows, at most 120"), "{refused:?}");
    server.stop().await;
}

/// Errors contain the client's chunk numbers.
#[tokio::test(flavor = "multi_thread")]
async fn errors_in_later_rounds_use_chunk_numbers_of_the_stream() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let all = rows(150, 1, false);
    let mut stream = Stream::open(&mut client, stream_spec("numbers", 100)).await.expect("accepted");
    stream.send(1, &all).await;
    stream.until_acknowledged(3).await.expect("taken");
    let _ = stream.questions.send(chunk(3, COLUMNS, &rows(50, 9, false))).await;
    let refused = stream.until_it_ends().await.expect_err("refused");
    assert!(
        refused.message().starts_with("chunk.number: chunk 3 was received before")
            || refused.message().contains("chunk 3 was received before"),
        "{refused:?}"
    );
    server.stop().await;
}

/// Test rows after the last complete round belong to a round like any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_last_round_with_only_test_rows_is_rejected() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let all = rows(150, 1, false);
    let mut stream = Stream::open(&mut server.autoencoder().await, stream_spec("test", 100)).await.expect("accepted");
    stream.send(1, &all[..100 * COLUMNS]).await;
    stream.until_round(1).await.expect("goes well");
    let mut last = chunk(3, COLUMNS, &all[100 * COLUMNS..]);
    if let Some(pb::train_request::Message::Chunk(chunk)) = &mut last.message {
        chunk.role = pb::RowRole::Test.into();
    }
    let _ = stream.questions.send(last).await;
    stream.until_acknowledged(3).await.expect("taken");
    stream.finish(&all).await;
    let refused = stream.until_it_ends().await.expect_err("refused");
    assert!(refused.message().contains("received no training rows"), "{refused:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_waiting_rounds_slow_the_stream_without_failing() {
    let store = temporary_store();
    let mut config = ServerConfig::new(store.path().to_owned());
    config.jobs.open_jobs_max = 3;
    let server = TestServer::start_with(config).await;
    let all = rows(1000, 1, false);
    let mut stream = Stream::open(&mut server.autoencoder().await, stream_spec("flood", 50)).await.expect("accepted");
    stream.send(1, &all).await;
    stream.finish(&all).await;
    stream.until_it_ends().await.expect("ends well");
    assert_eq!(stream.results.iter().map(|one| one.round).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    assert!(stream.results.iter().all(|one| one.failure.is_empty()), "{:?}", stream.results);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_is_cancelled_does_not_end_the_stream() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let all = rows(400, 1, false);
    // Long enough to be cancelled on any machine.
    let long = pb::TrainSpec { epochs: 100_000, ..stream_spec("cancelled", 200) };
    let mut stream = Stream::open(&mut server.autoencoder().await, long).await.expect("accepted");
    stream.send(1, &all).await;
    stream.finish(&all).await;
    let mut jobs = server.jobs().await;
    for round in 1..=2 {
        let id = loop {
            let answer = stream.answers.message().await.expect("goes well").expect("an answer").message;
            if let Some(Answer::Progress(job)) = answer
                && job.round == round
            {
                break job.id;
            }
        };
        jobs.cancel_job(pb::CancelJobRequest { id }).await.expect("runs");
        stream.until_round(round).await.expect("goes on");
        assert!(stream.results.last().expect("a result").failure.contains("cancelled"));
    }
    stream.until_it_ends().await.expect("ends well");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_incremental_streams_are_rejected() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let good = || stream_spec("k", 100);
    let cases: [(pb::TrainSpec, &str); 5] = [
        (pb::TrainSpec { incremental: Some(pb::Incremental::default()), ..good() }, "at least one"),
        (stream_spec("k", 9), "10 to"),
        (pb::TrainSpec { base: newest("plane"), ..good() }, "base is set together with incremental"),
        (pb::TrainSpec { idempotency_key: "k".repeat(101), ..good() }, "at most 100"),
        (pb::TrainSpec { validation_fraction: Some(0.0), ..good() }, "validation rows"),
    ];
    for (spec, text) in cases {
        let refused = Stream::open(&mut client, spec).await.err().expect("refused");
        assert_eq!((refused.code(), refused.message().contains(text)), (Code::InvalidArgument, true), "{refused:?}");
    }
    let nothing = pb::TrainSpec { widths: Vec::new(), ..good() };
    assert_eq!(Stream::open(&mut client, nothing).await.err().expect("refused").code(), Code::NotFound);
    let mut stream = Stream::open(&mut client, good()).await.expect("accepted");
    stream.send(1, &rows(120, 1, false)).await;
    let _ = stream.questions.send(finish(3, 121)).await;
    let refused = stream.until_it_ends().await.expect_err("refused");
    assert!(refused.message().contains("finish counts 3 chunks and 121 rows"), "{refused:?}");
    server.stop().await;
}
