//! `Train` from the first message to the version it publishes.

use halfhitch::rpc::pb;
use pb::train_response::Message as Answer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::support::{
    TestServer, chunk, finish, matrix, newest, numbers, question, sample, spec, temporary_store, train, version,
    whole_upload,
};

#[tokio::test(flavor = "multi_thread")]
async fn rows_become_a_version_that_encodes_and_decodes() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let rows = sample(300, 12, 1);
    let mut spec = spec("plane", &[12, 8, 6]);
    spec.epochs = 60;
    let result = train(&mut client, spec, &rows).await.expect("trains");
    assert_eq!((result.model_name.as_str(), result.version), ("plane", 1));
    let report = result.training_report.expect("a report");
    let validation = report.validation.expect("validation rows");
    assert!(validation.squared_error < 0.5 * 12.0, "better than the mean: {validation:?}");
    assert!(validation.explained_variance > 0.5, "{validation:?}");
    assert!(validation.pca_squared_error > 0.0);
    assert_eq!(report.epochs.len(), 60);
    assert_eq!(report.training_rows + validation.rows, 300);

    let question = pb::EncodeRequest { model: newest("plane"), rows: Some(matrix(12, &rows)), ..Default::default() };
    let encoded = client.encode(question).await.expect("encodes").into_inner();
    assert_eq!(encoded.version, 1);
    let question = pb::DecodeRequest { model: version("plane", 1), codes: encoded.codes, ..Default::default() };
    let decoded = client.decode(question).await.expect("decodes").into_inner();
    let question =
        pb::ReconstructRequest { model: newest("plane"), rows: Some(matrix(12, &rows)), ..Default::default() };
    let reconstructed = client.reconstruct(question).await.expect("reconstructs").into_inner();
    let decoded = numbers(decoded.rows);
    assert_eq!(decoded, numbers(reconstructed.rows), "decode after encode is reconstruct");
    for (i, error) in reconstructed.squared_errors_input_units.iter().enumerate() {
        let expected: f32 = (0..12).map(|j| (rows[i * 12 + j] - decoded[i * 12 + j]).powi(2)).sum();
        assert!((error - expected).abs() <= 1e-4 * expected.max(1e-3), "row {i}: {error} for {expected}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_seed_gives_the_same_tensors() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let rows = sample(150, 10, 2);
    for name in ["one", "two"] {
        train(&mut client, spec(name, &[10, 7, 3]), &rows).await.expect("trains");
    }
    let mut other = spec("three", &[10, 7, 3]);
    other.seed = 2;
    train(&mut client, other, &rows).await.expect("trains");
    let codes = async |name: &str| {
        let question = pb::EncodeRequest { model: newest(name), rows: Some(matrix(10, &rows)), ..Default::default() };
        let codes = server.autoencoder().await.encode(question).await.expect("encodes").into_inner().codes;
        numbers(codes).into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    assert_eq!(codes("one").await, codes("two").await);
    assert_ne!(codes("one").await, codes("three").await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn test_rows_are_measured_and_not_trained_on() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let rows = sample(200, 8, 3);
    let mut questions = whole_upload(spec("tested", &[8, 3]), &rows, 100);
    questions.pop();
    let role = pb::RowRole::Test.into();
    let test = pb::RowChunk { number: 3, rows: Some(matrix(8, &sample(40, 8, 4))), role };
    questions.push(question(pb::train_request::Message::Chunk(test)));
    questions.push(finish(3, 240));
    let mut answers =
        server.autoencoder().await.train(tokio_stream::iter(questions)).await.expect("accepted").into_inner();
    let mut report = None;
    while let Some(answer) = answers.message().await.expect("goes well") {
        if let Some(Answer::Result(result)) = answer.message {
            report = result.training_report;
        }
    }
    let report = report.expect("a report");
    assert_eq!(report.test.expect("test figures").rows, 40);
    assert_eq!(report.training_rows + report.validation.expect("validation figures").rows, 200);
    server.stop().await;
}

/// A `Train` stream that the test controls message by message.
struct Stream {
    questions: mpsc::Sender<pb::TrainRequest>,
    answers: tonic::Streaming<pb::TrainResponse>,
}

impl Stream {
    async fn open(server: &TestServer, spec: pb::TrainSpec) -> Self {
        let (questions, receiver) = mpsc::channel(4);
        questions.send(question(pb::train_request::Message::Spec(spec))).await.expect("room");
        let mut client = server.autoencoder().await;
        let answers = client.train(ReceiverStream::new(receiver)).await.expect("accepted").into_inner();
        Self { questions, answers }
    }

    async fn next(&mut self) -> Result<Answer, tonic::Status> {
        let answer = self.answers.message().await?;
        Ok(answer.and_then(|answer| answer.message).expect("an answer before the stream ends"))
    }

    async fn accepted(&mut self) -> pb::TrainAccepted {
        match self.next().await.expect("accepted") {
            Answer::Accepted(accepted) => accepted,
            other => panic!("expected `accepted`, got {other:?}"),
        }
    }

    async fn send(&self, question: pb::TrainRequest) {
        self.questions.send(question).await.expect("the stream is open");
    }

    async fn acknowledged(&mut self) -> pb::ChunkAcknowledged {
        match self.next().await.expect("acknowledged") {
            Answer::Acknowledged(acknowledged) => acknowledged,
            other => panic!("expected `acknowledged`, got {other:?}"),
        }
    }

    async fn error(&mut self) -> tonic::Status {
        loop {
            match self.answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without an error"),
                Err(status) => return status,
            }
        }
    }

    async fn result(&mut self) -> pb::TrainResult {
        loop {
            if let Answer::Result(result) = self.next().await.expect("goes well") {
                return result;
            }
        }
    }
}

fn keyed(key: &str) -> pb::TrainSpec {
    pb::TrainSpec { idempotency_key: key.to_owned(), ..spec("keyed", &[6, 2]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_resumes_after_the_last_acknowledged_chunk() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let rows = sample(30, 6, 5);
    let mut stream = Stream::open(&server, keyed("resume")).await;
    let first = stream.accepted().await;
    assert_eq!(first.last_chunk_number, 0);
    for number in 1..=2 {
        stream.send(chunk(number, 6, &rows[(number as usize - 1) * 60..number as usize * 60])).await;
        assert_eq!(stream.acknowledged().await.row_count, number * 10);
    }
    drop(stream);

    let mut stream = Stream::open(&server, keyed("resume")).await;
    let again = stream.accepted().await;
    assert_eq!(again.last_chunk_number, 2);
    assert_eq!(again.job.expect("a job").id, first.job.expect("a job").id);
    // A chunk sent twice is acknowledged twice and stored once.
    stream.send(chunk(2, 6, &rows[60..120])).await;
    assert_eq!(stream.acknowledged().await.row_count, 20);
    stream.send(chunk(3, 6, &rows[120..])).await;
    assert_eq!(stream.acknowledged().await.row_count, 30);
    stream.send(finish(3, 30)).await;
    let resumed = stream.result().await;

    // The same rows in one upload give the same tensors: the digest of the rows agrees, and so do the losses.
    let mut whole = keyed("whole");
    whole.model_name = "keyed-whole".into();
    let result = train(&mut server.autoencoder().await, whole, &rows).await.expect("trains");
    let (resumed, whole) = (resumed.training_report.expect("a report"), result.training_report.expect("a report"));
    assert_eq!(resumed.data_sha256, whole.data_sha256);
    assert_eq!(resumed.epochs, whole.epochs);

    // The key of a finished job returns that job with its result.
    let mut stream = Stream::open(&server, keyed("resume")).await;
    assert_eq!(stream.accepted().await.last_chunk_number, 3);
    assert_eq!(stream.result().await.version, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stream_takes_over() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut first = Stream::open(&server, keyed("over")).await;
    first.accepted().await;
    let mut second = Stream::open(&server, keyed("over")).await;
    second.accepted().await;
    assert_eq!(first.error().await.code(), Code::Aborted);
    second.send(chunk(1, 6, &sample(20, 6, 1))).await;
    assert_eq!(second.acknowledged().await.number, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_one_specification() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    Stream::open(&server, keyed("mine")).await.accepted().await;
    let mut other = keyed("mine");
    other.epochs = 4;
    assert_eq!(Stream::open(&server, other).await.error().await.code(), Code::AlreadyExists);
    server.stop().await;
}

#[track_caller]
fn check(status: &tonic::Status, code: Code, text: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(text), "{:?} does not say {text:?}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_messages_are_rejected_and_the_upload_can_resume() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let rows = sample(20, 6, 6);
    let open = async || {
        let mut stream = Stream::open(&server, keyed("sums")).await;
        stream.accepted().await;
        stream
    };
    let mut stream = open().await;
    stream.send(chunk(1, 6, &rows)).await;
    stream.acknowledged().await;
    stream.send(finish(2, 20)).await;
    check(&stream.error().await, Code::InvalidArgument, "2");
    let mut stream = open().await;
    stream.send(finish(1, 21)).await;
    check(&stream.error().await, Code::InvalidArgument, "21");
    let mut stream = open().await;
    stream.send(chunk(0, 6, &rows)).await;
    check(&stream.error().await, Code::InvalidArgument, "start at 1");
    let mut stream = open().await;
    stream.send(chunk(1, 6, &rows[..60])).await;
    check(&stream.error().await, Code::InvalidArgument, "chunk 1 was received before with other rows");
    let mut stream = open().await;
    stream.send(chunk(3, 6, &rows)).await;
    stream.send(finish(3, 60)).await;
    check(&stream.error().await, Code::InvalidArgument, "finish counts 3 chunks");
    let mut stream = open().await;
    stream.send(chunk(2, 5, &rows[..10])).await;
    check(&stream.error().await, Code::InvalidArgument, "6");
    let mut stream = open().await;
    let mut broken = rows[..12].to_vec();
    broken[7] = f32::NAN;
    stream.send(chunk(2, 6, &broken)).await;
    check(&stream.error().await, Code::InvalidArgument, "NaN");
    let mut stream = open().await;
    stream.send(question(pb::train_request::Message::Spec(keyed("sums")))).await;
    check(&stream.error().await, Code::InvalidArgument, "second `spec`");
    let mut stream = open().await;
    stream.send(finish(1, 20)).await;
    assert_eq!(stream.result().await.version, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_completes_if_its_client_leaves_after_finish() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut stream = Stream::open(&server, keyed("leaves")).await;
    let id = stream.accepted().await.job.expect("a job").id;
    stream.send(chunk(1, 6, &sample(50, 6, 1))).await;
    stream.acknowledged().await;
    stream.send(finish(1, 50)).await;
    // The first message after `finish` confirms it.
    stream.next().await.expect("goes well");
    drop(stream);
    let mut jobs = server.jobs().await;
    let mut news = jobs.watch_job(pb::WatchJobRequest { id }).await.expect("attaches").into_inner();
    let mut last = None;
    while let Some(message) = news.message().await.expect("goes well") {
        last = message.job;
    }
    let last = last.expect("news");
    assert_eq!(last.state(), pb::JobState::Succeeded);
    assert_eq!(last.version, 1);
    assert!(last.training_report.is_some());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_what_is_wrong_in_a_specification() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let base = || spec("bad", &[6, 2]);
    let cases: Vec<(pb::TrainSpec, &str)> = vec![
        (pb::TrainSpec { model_name: "Bad Name".into(), ..base() }, "model name"),
        (pb::TrainSpec { widths: vec![], ..base() }, "width"),
        (pb::TrainSpec { widths: vec![6], ..base() }, "width"),
        (pb::TrainSpec { widths: vec![6, 0, 2], ..base() }, "0"),
        (pb::TrainSpec { widths: vec![6, 70_000], ..base() }, "65536"),
        (pb::TrainSpec { widths: vec![65_536, 65_536], ..base() }, "parameters"),
        (pb::TrainSpec { widths: vec![4; 18], ..base() }, "2 to 17"),
        (pb::TrainSpec { epochs: 1_000_000, ..base() }, "100000"),
        (pb::TrainSpec { batch_rows: 100_000, ..base() }, "65536"),
        (pb::TrainSpec { validation_fraction: Some(1.5), ..base() }, "1.5"),
        (pb::TrainSpec { validation_fraction: Some(f64::NAN), ..base() }, "NaN"),
        (pb::TrainSpec { feature_names: vec!["a".into()], ..base() }, "6"),
        (
            pb::TrainSpec { optimizer: Some(pb::Optimizer { learning_rate: -1.0, ..Default::default() }), ..base() },
            "-1",
        ),
        (
            pb::TrainSpec {
                loss: pb::Loss::BinaryCrossEntropy.into(),
                normalization: pb::Normalization::Standardize.into(),
                ..base()
            },
            "standardize",
        ),
        (
            pb::TrainSpec { time_budget: Some(prost_types::Duration { seconds: 60, nanos: 0 }), ..base() },
            "together with epochs",
        ),
        (
            pb::TrainSpec { epochs: 0, time_budget: Some(prost_types::Duration { seconds: -60, nanos: 0 }), ..base() },
            "-60 s",
        ),
        (
            pb::TrainSpec {
                regularization: Some(pb::Regularization { masking: 0.99, ..Default::default() }),
                ..base()
            },
            "regularization.masking is 0.99",
        ),
        (
            pb::TrainSpec { optimizer: Some(pb::Optimizer { momentum: Some(1.0), ..Default::default() }), ..base() },
            "optimizer.momentum is 1",
        ),
        (pb::TrainSpec { idempotency_key: "ü".into(), ..base() }, "ASCII"),
    ];
    for (spec, text) in cases {
        let shown = format!("{spec:?}");
        let error = Stream::open(&server, spec).await.error().await;
        assert_eq!(error.code(), Code::InvalidArgument, "{shown}: {error:?}");
        let message = error.message().to_lowercase();
        assert!(message.contains(&text.to_lowercase()), "{shown}: {message:?} does not say {text:?}");
    }
    server.stop().await;
}
