//! EncodeStream and DecodeStream: same bits and order as single calls, and bounded memory, however slow the reader.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use halfhitch::batching::{Batcher, BatchingConfig};
use halfhitch::jobs::{Jobs, JobsConfig};
use halfhitch::registry::{Registry, RegistryConfig};
use halfhitch::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;
use halfhitch::rpc::pb::autoencoder_service_server::AutoencoderServiceServer;
use halfhitch::rpc::{Api, pb};
use halfhitch::security::Caller;
use halfhitch::service::{Lifecycle, Service};
use halfhitch::store::{LocalStore, ModelStore};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::support::eventually::eventually;
use crate::support::{
    TestServer, channel, collected, matrix, newest, numbers, sample, served, temporary_store, untrained, version,
};

fn encode(model: Option<pb::ModelRef>, columns: usize, rows: &[f32]) -> pb::EncodeStreamRequest {
    pb::EncodeStreamRequest { model, rows: Some(matrix(columns, rows)), ..Default::default() }
}

fn decode(model: Option<pb::ModelRef>, columns: usize, codes: &[f32]) -> pb::DecodeStreamRequest {
    pb::DecodeStreamRequest { model, codes: Some(matrix(columns, codes)), ..Default::default() }
}

/// All responses, and the end of the stream.
async fn encoded(
    mut client: AutoencoderServiceClient<Channel>,
    questions: impl Stream<Item = pb::EncodeStreamRequest> + Send + 'static,
) -> (Vec<pb::EncodeStreamResponse>, Result<(), Status>) {
    collected(client.encode_stream(questions).await.expect("errors come in the stream").into_inner()).await
}

/// The handlers with an untrained model `name`, and access to the queue.
struct Inside {
    address: SocketAddr,
    batcher: Batcher,
    jobs: Jobs,
    serving: tokio::task::JoinHandle<()>,
}

impl Inside {
    fn start(store: &Path, name: &str, widths: &[usize], batching: BatchingConfig) -> Self {
        let opened = LocalStore::open(store).expect("opens");
        opened.publish(&name.parse().expect("a name"), &untrained(widths)).expect("publishes");
        let registry = Registry::new(Arc::new(opened), RegistryConfig::default());
        let batcher = Batcher::start(batching, 1, Arc::default()).expect("threads");
        let jobs = Jobs::open(JobsConfig::new(store.join("jobs")), registry.clone(), Arc::default()).expect("opens");
        let api = Api::new(Service::new(registry, batcher.clone(), jobs.clone(), Lifecycle::default()));
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = incoming.local_addr().expect("bound");
        let service = AutoencoderServiceServer::new(api).max_decoding_message_size(64 << 20);
        // The server has no authentication layer here, so set the caller.
        let unrestricted = |mut request: Request<()>| {
            request.extensions_mut().insert(Caller::unrestricted());
            Ok(request)
        };
        let router = Server::builder().add_service(InterceptedService::new(service, unrestricted));
        let serving = tokio::spawn(async move { router.serve_with_incoming(incoming).await.expect("serves") });
        Self { address, batcher, jobs, serving }
    }

    async fn client(&self) -> AutoencoderServiceClient<Channel> {
        AutoencoderServiceClient::new(channel(self.address).await).max_decoding_message_size(64 << 20)
    }

    /// The number of computed rows, once the queue is empty and the number is stable.
    async fn settled(&self) -> u64 {
        eventually("the queue settles", async || {
            let before = self.batcher.stats();
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = self.batcher.stats();
            let is_settled = now == before && now.waiting_rows == 0 && now.waiting_bytes == 0;
            if is_settled { Ok(now.rows) } else { Err(now) }
        })
        .await
    }

    async fn stop(self) {
        self.serving.abort();
        self.jobs.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_keep_their_order_and_equal_single_calls() {
    let store = temporary_store();
    let server = served(store.path(), "bulk", &[20, 12, 5]).await;
    let mut client = server.autoencoder().await;
    let pieces: Vec<Vec<f32>> = (0..40).map(|i| sample(1 + (i * 37) % 300, 20, i as u64)).collect();

    let mut name = newest("bulk");
    let questions: Vec<_> = pieces.iter().map(|rows| encode(name.take(), 20, rows)).collect();
    let (codes, end) = encoded(client.clone(), tokio_stream::iter(questions)).await;
    end.expect("ends well");
    assert_eq!(codes.len(), pieces.len());
    for (rows, answer) in pieces.iter().zip(&codes) {
        let question = pb::EncodeRequest { model: newest("bulk"), rows: Some(matrix(20, rows)), ..Default::default() };
        let alone = client.encode(question).await.expect("encodes").into_inner();
        assert_eq!((answer.version, &answer.codes), (alone.version, &alone.codes));
    }

    let mut name = version("bulk", 1);
    let codes: Vec<_> = codes.into_iter().map(|answer| numbers(answer.codes)).collect();
    let questions: Vec<_> = codes.iter().map(|codes| decode(name.take(), 5, codes)).collect();
    let answers = client.decode_stream(tokio_stream::iter(questions)).await.expect("decodes").into_inner();
    let rows: Vec<_> = answers.map(|answer| answer.expect("decodes")).collect().await;
    assert_eq!(rows.len(), pieces.len());
    for (codes, answer) in codes.iter().zip(&rows) {
        let question =
            pb::DecodeRequest { model: version("bulk", 1), codes: Some(matrix(5, codes)), ..Default::default() };
        let alone = client.decode(question).await.expect("decodes").into_inner();
        assert_eq!((answer.version, &answer.rows), (alone.version, &alone.rows));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_ends_the_stream_and_names_its_message() {
    let store = temporary_store();
    let server = served(store.path(), "here", &[6, 2]).await;
    let client = server.autoencoder().await;
    let good = |model| encode(model, 6, &sample(3, 6, 1));
    let mut broken = sample(3, 6, 1);
    broken[8] = f32::NAN;
    let cases = [
        (
            vec![good(newest("here")), good(None), encode(None, 5, &sample(3, 5, 1)), good(None)],
            2,
            "message 3: ",
            "5 columns",
        ),
        (vec![good(newest("here")), encode(None, 6, &broken)], 1, "message 2: ", "row 2, column 3"),
        (vec![good(newest("here")), good(newest("there"))], 1, "message 2: ", "differs from the first message"),
        (vec![good(newest("here")), pb::EncodeStreamRequest::default()], 1, "message 2: ", "rows: is not set"),
        (vec![good(None)], 0, "message 1: ", "model: is not set"),
        (
            vec![good(newest("here")), pb::EncodeStreamRequest { code_length: 2, ..good(None) }],
            1,
            "message 2: ",
            "code_length: differs from the first message",
        ),
    ];
    for (questions, answered, number, text) in cases {
        let (given, end) = encoded(client.clone(), tokio_stream::iter(questions)).await;
        let status = end.expect_err("refused");
        assert_eq!((status.code(), given.len()), (Code::InvalidArgument, answered), "{status:?}");
        assert!(status.message().starts_with(number) && status.message().contains(text), "{status:?}");
        assert!(status.get_error_details().bad_request().is_some(), "{status:?} names no field");
    }
    let (_, end) = encoded(client.clone(), tokio_stream::iter([good(newest("nowhere"))])).await;
    assert_eq!(end.expect_err("unknown").code(), Code::NotFound);
    let question = decode(newest("here"), 2, &[0.1, 0.2]);
    let answers = client.clone().decode_stream(tokio_stream::iter([question])).await.expect("opens");
    let status = answers.into_inner().message().await.expect_err("no version");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("the newest version of here is 1"), "{status:?}");

    // An empty stream has no responses. A later message that repeats the model means the same model.
    let (given, end) = encoded(client.clone(), tokio_stream::iter([])).await;
    assert!(given.is_empty() && end.is_ok(), "{end:?}");
    let (given, end) = encoded(client, tokio_stream::iter([good(newest("here")), good(newest("here"))])).await;
    assert!(given.len() == 2 && end.is_ok(), "{end:?}");
    server.stop().await;
}

/// `count` messages of `rows` rows of 8 numbers, for version 1 of `name`. Also returns a counter of the messages read.
fn many_codes(
    name: &'static str,
    rows: usize,
    count: u64,
) -> (impl Stream<Item = pb::DecodeStreamRequest>, Arc<AtomicU64>) {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let codes = matrix(8, &sample(rows, 8, 1));
    let questions = tokio_stream::iter(0..count).map(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        pb::DecodeStreamRequest {
            model: version(name, 1),
            codes: Some(codes.clone()),
            decoder: 0,
            ..Default::default()
        }
    });
    (questions, sent)
}

/// A client sends 100 messages and reads nothing: the server computes at most `computed_max`. Then the client reads,
/// and receives all of them.
async fn check_paused_reader(rows: usize, computed_max: u64) {
    let store = temporary_store();
    let server = Inside::start(store.path(), "paused", &[64, 8], BatchingConfig::default());
    let (questions, sent) = many_codes("paused", rows, 100);
    let answers = server.client().await.decode_stream(questions).await.expect("opens").into_inner();
    let computed = server.settled().await / rows as u64;
    println!("{rows} rows a message: {} sent, {computed} computed, none read", sent.load(Ordering::Relaxed));
    assert!(
        (1..=computed_max).contains(&computed),
        "{computed} messages were computed, at most {computed_max} expected"
    );
    let answers: Vec<_> = answers.map(|answer| numbers(answer.expect("decodes").rows)).collect().await;
    assert_eq!(answers.len(), 100);
    assert!(answers.iter().all(|rows| *rows == answers[0]));
    server.stop().await;
}

/// The client's transport buffers 2 MiB, which is 8 responses; the server computes 8 ahead; its transport holds a few.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_reader_limits_the_messages_computed_ahead() {
    check_paused_reader(1024, 20).await;
}

/// A request or response has 4.5 MiB: the server reads only one ahead.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_reader_limits_the_bytes_computed_ahead() {
    check_paused_reader(16 * 1024, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_departed_client_stops_its_computation() {
    let store = temporary_store();
    let server = Inside::start(store.path(), "left", &[2048, 1024, 8], BatchingConfig::default());
    for paused in [true, false] {
        let before = server.batcher.stats().rows;
        let (questions, _) = many_codes("left", 512, 10_000);
        let mut answers = server.client().await.decode_stream(questions).await.expect("opens").into_inner();
        if !paused {
            answers.message().await.expect("decodes").expect("an answer");
        }
        drop(answers);
        let computed = server.settled().await - before;
        assert!(computed < 40 * 512, "{computed} rows were computed for nobody");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_streams_wait_and_leave_queue_space_for_single_calls() {
    let store = temporary_store();
    let batching = BatchingConfig { queue_rows_max: 100, batch_rows_max: 64, ..BatchingConfig::default() };
    let server = Inside::start(store.path(), "narrow", &[512, 256, 8], batching);
    // A reader that stops reading takes no capacity from the others.
    let (questions, _) = many_codes("narrow", 40, 1_000);
    let paused = server.client().await.decode_stream(questions).await.expect("opens");
    let streams: Vec<_> = (0..6)
        .map(|_| {
            let (questions, _) = many_codes("narrow", 40, 50);
            let address = server.address;
            tokio::spawn(async move {
                let mut client = AutoencoderServiceClient::new(channel(address).await);
                let answers = client.decode_stream(questions).await.expect("opens").into_inner();
                answers.map(|answer| answer.expect("waits rather than being refused")).collect::<Vec<_>>().await.len()
            })
        })
        .collect();
    let mut client = server.client().await;
    let row = matrix(512, &sample(50, 512, 1));
    for _ in 0..50 {
        let question = pb::EncodeRequest { model: newest("narrow"), rows: Some(row.clone()), ..Default::default() };
        client.encode(question).await.expect("half of the queue is free");
    }
    for stream in streams {
        assert_eq!(stream.await.expect("no panic"), 50);
    }
    drop(paused);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_stream_that_waits_for_its_client() {
    let store = temporary_store();
    let server = served(store.path(), "late", &[6, 2]).await;
    let (ask, questions) = mpsc::channel(1);
    ask.send(encode(newest("late"), 6, &sample(2, 6, 1))).await.expect("open");
    let mut request = Request::new(ReceiverStream::new(questions));
    request.set_timeout(Duration::from_millis(400));
    let mut answers = server.autoencoder().await.encode_stream(request).await.expect("opens").into_inner();
    answers.message().await.expect("in time").expect("an answer");
    let status = tokio::time::timeout(Duration::from_secs(10), answers.message()).await.expect("ends by itself");
    assert_eq!(status.expect_err("late").code(), Code::DeadlineExceeded);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_stop_ends_an_idle_stream_with_unavailable() {
    let store = temporary_store();
    let server = served(store.path(), "stops", &[6, 2]).await;
    let (ask, questions) = mpsc::channel(1);
    ask.send(encode(newest("stops"), 6, &sample(2, 6, 1))).await.expect("open");
    let mut client = server.autoencoder().await;
    let mut answers = client.encode_stream(ReceiverStream::new(questions)).await.expect("opens").into_inner();
    answers.message().await.expect("serves").expect("an answer");
    let started = Instant::now();
    let stopped = tokio::spawn(server.stop());
    let status = answers.message().await.expect_err("the server stops");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("responses already sent are valid"), "{status:?}");
    drop((ask, answers, client));
    stopped.await.expect("stops in order");
    assert!(started.elapsed() < Duration::from_secs(10), "an open stream kept the server for {:?}", started.elapsed());
}

/// Streams in progress when the server stops: every response is correct, and the status is OK or UNAVAILABLE.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_stop_ends_a_busy_stream_with_correct_responses() {
    let store = temporary_store();
    let server = served(store.path(), "works", &[32, 8]).await;
    let rows = sample(500, 32, 3);
    let question = pb::EncodeRequest { model: newest("works"), rows: Some(matrix(32, &rows)), ..Default::default() };
    let expected = server.autoencoder().await.encode(question).await.expect("encodes").into_inner().codes;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let (mut client, rows, expected) = (server.autoencoder().await, matrix(32, &rows), expected.clone());
        let (told, mut first) = mpsc::channel(1);
        streams.push(tokio::spawn(async move {
            let questions = tokio_stream::iter(0..100_000).map(move |_| pb::EncodeStreamRequest {
                model: newest("works"),
                rows: Some(rows.clone()),
                code_length: 0,
                ..Default::default()
            });
            let mut answers = client.encode_stream(questions).await.expect("opens").into_inner();
            let mut count = 0;
            loop {
                match answers.message().await {
                    Ok(Some(answer)) => {
                        assert_eq!(answer.codes, expected);
                        count += 1;
                        let _ = told.try_send(());
                    }
                    Ok(None) => return (count, None),
                    Err(status) => return (count, Some(status.code())),
                }
            }
        }));
        first.recv().await.expect("an answer");
    }
    server.stop().await;
    for stream in streams {
        let (count, end) = stream.await.expect("no panic");
        assert!(count < 100_000 && end == Some(Code::Unavailable), "{count} answers, then {end:?}");
    }
}

/// A version is deleted while a stream uses it: the stream ends with the error of a single call.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_keeps_its_version_and_ends_when_it_is_deleted() {
    let store = temporary_store();
    let server = served(store.path(), "fixed", &[6, 2]).await;
    let rows = sample(200, 6, 7);
    let mut client = server.autoencoder().await;
    let (ask, questions) = mpsc::channel(1);
    let question = || encode(newest("fixed"), 6, &rows[..12]);
    ask.send(question()).await.expect("open");
    let mut answers = client.encode_stream(ReceiverStream::new(questions)).await.expect("opens").into_inner();
    let first = answers.message().await.expect("encodes").expect("an answer");
    crate::support::train(&mut client, crate::support::spec("fixed", &[6, 2]), &rows).await.expect("a newer version");
    ask.send(question()).await.expect("open");
    let second = answers.message().await.expect("encodes").expect("an answer");
    assert_eq!((first.version, &first.codes), (1, &second.codes));
    assert_eq!(second.version, 1);
    let gone = pb::DeleteModelVersionRequest { name: "fixed".into(), version: 1 };
    server.models().await.delete_model_version(gone).await.expect("deletes");
    ask.send(question()).await.expect("open");
    let status = answers.message().await.expect_err("deleted");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert!(status.message().starts_with("message 3: "), "{status:?}");
    drop((ask, answers, client));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_names_a_message_above_the_size_limit() {
    let store = temporary_store();
    served(store.path(), "small", &[6, 2]).await.stop().await;
    let mut config = halfhitch::server::ServerConfig::new(store.path().to_owned());
    config.transport.message_bytes_max = 10_000;
    let server = TestServer::start_with(config).await;
    let questions = [encode(newest("small"), 6, &sample(2, 6, 1)), encode(None, 6, &sample(1000, 6, 1))];
    let (given, end) = encoded(server.autoencoder().await, tokio_stream::iter(questions)).await;
    let status = end.expect_err("too large");
    assert_eq!((status.code(), given.len()), (Code::ResourceExhausted, 1), "{status:?}");
    assert!(status.message().starts_with("message 2: ") && status.message().contains("10000"), "{status:?}");
    server.stop().await;
}
