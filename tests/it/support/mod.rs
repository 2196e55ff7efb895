//! A real server on a free port with a temporary store, its clients, and seeded data.

#[path = "../../../benches/support/data.rs"]
pub(crate) mod data;
pub(crate) mod eventually;
pub(crate) mod files;
pub(crate) mod process;
mod random;
pub(crate) mod raw;
#[path = "../../../benches/support/untied.rs"]
pub(crate) mod untied;

use std::net::SocketAddr;
use std::path::Path;

use halfhitch::model::normalization::Normalizer;
use halfhitch::model::spec::RawModelSpec;
use halfhitch::model::{Artifact, Autoencoder, Loss, ModelSpec, NormalizationKind, TiedLayer};
use halfhitch::numeric::Activation;
use halfhitch::numeric::matmul::Weights;
use halfhitch::rpc::pb;
use halfhitch::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;
use halfhitch::rpc::pb::job_service_client::JobServiceClient;
use halfhitch::rpc::pb::model_service_client::ModelServiceClient;
use halfhitch::server::{self, ServerConfig, ServerError};
pub(crate) use random::Random;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Channel;

/// Client of the autoencoder service.
pub(crate) type AutoencoderClient = AutoencoderServiceClient<Channel>;

/// A server in the test process.
#[derive(Debug)]
pub(crate) struct TestServer {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl TestServer {
    /// Starts a server with default settings and the store `store`.
    pub(crate) async fn start(store: &Path) -> Self {
        Self::start_with(ServerConfig::new(store.to_owned())).await
    }

    pub(crate) async fn start_with(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server::run(listener, config, async {
            let _ = stopped.await;
        }));
        Self { address, stop, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn channel(&self) -> Channel {
        channel(self.address).await
    }

    pub(crate) async fn autoencoder(&self) -> AutoencoderServiceClient<Channel> {
        AutoencoderServiceClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }

    pub(crate) async fn models(&self) -> ModelServiceClient<Channel> {
        ModelServiceClient::new(self.channel().await)
    }

    pub(crate) async fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel().await)
    }

    /// Shuts the server down in order; panics if it fails.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.expect("the server does not panic").expect("the server ends well");
    }
}

/// Connects to the server. The listener is already bound, so the first attempt succeeds.
pub(crate) async fn channel(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).expect("a URL").connect().await.expect("the server listens")
}

pub(crate) fn temporary_store() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// `rows` rows of `columns` features that lie near a plane of `columns / 2` dimensions, row-major.
pub(crate) fn sample(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let mut uniform = move || random.uniform() - 0.5;
    let hidden = (columns / 2).max(1);
    let mut values = Vec::with_capacity(rows * columns);
    for _ in 0..rows {
        let z: Vec<f32> = (0..hidden).map(|_| uniform()).collect();
        for column in 0..columns {
            let mixed: f32 =
                z.iter().enumerate().map(|(i, z)| z * (((column * 7 + i * 3) % 11) as f32 / 11.0 - 0.4)).sum();
            values.push(mixed + 0.02 * uniform() + column as f32 * 0.1);
        }
    }
    values
}

/// Values as a matrix of the API in its fast form, little-endian bytes.
pub(crate) fn matrix(columns: usize, values: &[f32]) -> pb::Matrix {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    pb::Matrix {
        rows: (values.len() / columns) as u32,
        columns: columns as u32,
        values: Some(pb::matrix::Values::Float32Le(bytes.into())),
        ..Default::default()
    }
}

/// Values as a matrix of the API in its convenient form, a list of floats.
pub(crate) fn float_matrix(columns: usize, values: &[f32]) -> pb::Matrix {
    pb::Matrix {
        rows: (values.len() / columns) as u32,
        columns: columns as u32,
        values: Some(pb::matrix::Values::Floats(pb::FloatList { values: values.to_vec() })),
        ..Default::default()
    }
}

/// The values of a response matrix in any form, as 32-bit floats.
pub(crate) fn numbers(matrix: Option<pb::Matrix>) -> Vec<f32> {
    halfhitch::rpc::convert::matrix("matrix", matrix).expect("values").into_values().to_f32()
}

/// The values of a response matrix in any form, as 64-bit floats.
pub(crate) fn wide_numbers(matrix: Option<pb::Matrix>) -> Vec<f64> {
    halfhitch::rpc::convert::matrix("matrix", matrix).expect("values").into_values().to_f64()
}

/// Values of 64 bits as a matrix of the API.
pub(crate) fn wide_matrix(columns: usize, values: &[f64]) -> pb::Matrix {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    pb::Matrix {
        rows: (values.len() / columns) as u32,
        columns: columns as u32,
        values: Some(pb::matrix::Values::Float64Le(bytes.into())),
        ..Default::default()
    }
}

pub(crate) fn newest(name: &str) -> Option<pb::ModelRef> {
    Some(pb::ModelRef { name: name.to_owned(), selector: None })
}

pub(crate) fn version(name: &str, version: u64) -> Option<pb::ModelRef> {
    Some(pb::ModelRef { name: name.to_owned(), selector: Some(pb::model_ref::Selector::Version(version)) })
}

pub(crate) fn alias(name: &str, alias: &str) -> Option<pb::ModelRef> {
    Some(pb::ModelRef { name: name.to_owned(), selector: Some(pb::model_ref::Selector::Alias(alias.to_owned())) })
}

/// A specification with 3 epochs, for short training.
pub(crate) fn spec(name: &str, widths: &[u32]) -> pb::TrainSpec {
    pb::TrainSpec { model_name: name.to_owned(), widths: widths.to_vec(), epochs: 3, seed: 1, ..Default::default() }
}

pub(crate) fn question(message: pb::train_request::Message) -> pb::TrainRequest {
    pb::TrainRequest { message: Some(message) }
}

pub(crate) fn chunk(number: u64, columns: usize, values: &[f32]) -> pb::TrainRequest {
    question(pb::train_request::Message::Chunk(pb::RowChunk {
        number,
        rows: Some(matrix(columns, values)),
        role: pb::RowRole::Training.into(),
    }))
}

pub(crate) fn finish(chunk_count: u64, row_count: u64) -> pb::TrainRequest {
    question(pb::train_request::Message::Finish(pb::TrainFinish { chunk_count, row_count }))
}

/// All messages of a `Train` stream for `values`, in chunks of `chunk_rows` rows.
pub(crate) fn whole_upload(spec: pb::TrainSpec, values: &[f32], chunk_rows: usize) -> Vec<pb::TrainRequest> {
    let columns = spec.widths[0] as usize;
    let mut questions = vec![question(pb::train_request::Message::Spec(spec))];
    let chunks = values.chunks(chunk_rows * columns);
    let count = chunks.len() as u64;
    questions.extend(chunks.enumerate().map(|(i, values)| chunk(i as u64 + 1, columns, values)));
    questions.push(finish(count, (values.len() / columns) as u64));
    questions
}

/// Trains a model and waits for the result.
pub(crate) async fn train(
    client: &mut AutoencoderServiceClient<Channel>,
    spec: pb::TrainSpec,
    values: &[f32],
) -> Result<pb::TrainResult, Status> {
    let questions = whole_upload(spec, values, 64);
    let mut answers = client.train(tokio_stream::iter(questions)).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        if let Some(pb::train_response::Message::Result(result)) = answer.message {
            return Ok(result);
        }
    }
    Err(Status::unknown("the stream ended without a result"))
}

/// A server with one trained model `name` of `widths`.
pub(crate) async fn served(store: &Path, name: &str, widths: &[u32]) -> TestServer {
    let server = TestServer::start(store).await;
    let rows = sample(200, widths[0] as usize, 7);
    train(&mut server.autoencoder().await, spec(name, widths), &rows).await.expect("trains");
    server
}

/// An untrained model of `widths` with small weights, for tests of sizes that take long to train.
pub(crate) fn untrained(widths: &[usize]) -> Artifact {
    let elu = Activation::Elu { alpha: 1.0 };
    let layers = widths
        .windows(2)
        .map(|pair| {
            let values: Vec<f32> = sample(pair[1], pair[0], 5).into_iter().map(|value| (value % 1.0) * 0.05).collect();
            TiedLayer {
                weight: Weights::from_row_major(pair[1], pair[0], &values),
                encoder_bias: vec![0.0; pair[1]],
                decoder_bias: vec![0.0; pair[0]],
                gain: None,
            }
        })
        .collect();
    let mut encoder_activations = vec![elu; widths.len() - 1];
    let mut decoder_activations = encoder_activations.clone();
    encoder_activations[widths.len() - 2] = Activation::Linear;
    decoder_activations[0] = Activation::Linear;
    let spec = ModelSpec::new(RawModelSpec {
        widths: widths.to_vec(),
        encoder_activations,
        decoder_activations,
        loss: Loss::SquaredError,
        normalization: NormalizationKind::None,
        gain: false,
        feature_names: vec![],
        missing_values: false,
        ordered_code: false,
    })
    .expect("a valid specification");
    let normalizer = Normalizer::none();
    Artifact {
        model: Autoencoder::new(spec, normalizer, layers),
        report: None,
        statistics: None,
        sha256: String::new(),
    }
}

/// Imports an untrained model; returns the size of its file in bytes.
pub(crate) async fn import(server: &process::ServerProcess, name: &str, widths: &[usize]) -> usize {
    use pb::import_model_version_request::Message as Import;
    let target = Import::Target(pb::ImportTarget { name: name.into() });
    let file = untrained(widths).to_bytes();
    let chunks: Vec<_> = file.chunks(1 << 20).map(|chunk| Import::Chunk(chunk.to_vec().into())).collect();
    let messages =
        std::iter::once(target).chain(chunks).map(|message| pb::ImportModelVersionRequest { message: Some(message) });
    let mut models = server.models().await;
    models.import_model_version(tokio_stream::iter(messages.collect::<Vec<_>>())).await.expect("imports");
    file.len()
}

/// All responses of a stream, and how it ended.
pub(crate) async fn collected<T>(mut answers: tonic::Streaming<T>) -> (Vec<T>, Result<(), Status>) {
    let mut given = Vec::new();
    loop {
        match answers.message().await {
            Ok(Some(answer)) => given.push(answer),
            Ok(None) => return (given, Ok(())),
            Err(status) => return (given, Err(status)),
        }
    }
}
