//! A training job together with callers that saturate the server: the speed of both.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use halfhitch::rpc::pb;
use halfhitch::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;
use halfhitch::rpc::pb::job_service_client::JobServiceClient;
use halfhitch::rpc::pb::train_request::Message as Question;
use halfhitch::rpc::pb::train_response::Message as Answer;
use tonic::transport::{Channel, Endpoint};

use crate::callers::{CallerCounts, flood, probe};
use crate::load::{Cores, Failure, MNIST_DEEP, RunningServer, TELEMETRY};
use crate::support::Report;

const CALLERS: usize = 16;
const ROWS: usize = 64;
/// Number of callers of single rows of a small model.
const TINY_CALLERS: usize = 64;
const CONNECTIONS: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(2);
const WIDTHS: [u32; 3] = [256, 128, 16];
const TRAINING_ROWS: usize = 8192;
/// More epochs than the benchmark lasts.
const EPOCHS: u32 = 10_000;
const START_WAIT_MAX: Duration = Duration::from_mins(1);

pub(crate) fn case_name() -> String {
    format!("training with mnist-deep rows={ROWS} callers={CALLERS}")
}

pub(crate) async fn run(cores: Cores, store: &Path, quick: bool, report: &mut Report) -> Result<(), Failure> {
    let scratch = tempfile::tempdir()?;
    let server = RunningServer::start(cores, store, scratch.path(), &[])?;
    let duration = Duration::from_secs_f64(if quick { 2.0 } else { 15.0 });
    let address = server.address;
    let serve = async || -> Result<CallerCounts, Failure> {
        let [told, others] = flood(address, [MNIST_DEEP; 2], ROWS, CALLERS, CONNECTIONS, TIMEOUT, duration).await?;
        Ok(told.and(others))
    };
    let ask = async || {
        let singles = probe(address, TELEMETRY, TIMEOUT, duration);
        tokio::task::spawn_blocking(move || singles.join()).await?.map_err(|_| Failure::from("the probe panicked"))?
    };

    // These load the models.
    ask().await?;
    serve().await?;
    let (singles_alone, serving_alone) = (ask().await?, serve().await?);
    let mut job = Job::start(address).await?;
    let training_alone = job.steps_in(async || {
        tokio::time::sleep(duration).await;
        Ok(())
    });
    let (training_alone, ()) = training_alone.await?;
    let singles = ask().await?;
    let cpu = server.process.scheduled("train-")?;
    let (training, serving) = job.steps_in(serve).await?;
    let cpu = server.process.scheduled("train-")? - cpu;
    // Single rows run in the handler, so the serving threads are idle.
    let tiny_cpu = server.process.scheduled("train-")?;
    let [tiny, others] = flood(address, [TELEMETRY; 2], 1, TINY_CALLERS, CONNECTIONS, TIMEOUT, duration).await?;
    let tiny = tiny.and(others);
    let tiny_cpu = server.process.scheduled("train-")? - tiny_cpu;
    job.cancel().await?;
    // Measure again, because the load of the machine changes within a minute.
    let serving_alone = [serving_alone, serve().await?];

    let case = case_name();
    report.against(&case, training, "training steps/s, vs alone", training_alone);
    report.figure(&case, cpu.ran_share(), "of its runnable time, it ran");
    report.figure(&case, tiny_cpu.ran_share(), "the same with single rows");
    let rate = |told: &CallerCounts| told.tally.results as f64 * ROWS as f64 / duration.as_secs_f64();
    let alone = |figure: &dyn Fn(&CallerCounts) -> f64| serving_alone.iter().map(figure).sum::<f64>() / 2.0;
    report.against(&case, rate(&serving), "rows/s served, vs alone", alone(&rate));
    report.against(&case, serving.p99_us(), "p99 us of these, vs alone", alone(&CallerCounts::p99_us));
    report.against(&case, singles.p99_us(), "p99 us of single rows, unsaturated", singles_alone.p99_us());
    for told in serving_alone.iter().chain([&singles_alone, &singles, &serving, &tiny]) {
        told.tally.check(&case)?;
    }
    server.stop()?;
    Ok(())
}

/// A running training job.
struct Job {
    client: JobServiceClient<Channel>,
    id: String,
}

impl Job {
    /// Sends rows, and waits for the end of the first step.
    async fn start(address: SocketAddr) -> Result<Self, Failure> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
        let spec = pb::TrainSpec {
            model_name: "trained-beside".to_owned(),
            widths: WIDTHS.to_vec(),
            epochs: EPOCHS,
            // Prevents early stopping.
            patience_epochs: Some(EPOCHS),
            ..pb::TrainSpec::default()
        };
        let values = (0..TRAINING_ROWS * WIDTHS[0] as usize).map(|i| ((i * i) as f32 * 0.37).sin());
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        let rows = pb::Matrix {
            rows: TRAINING_ROWS as u32,
            columns: WIDTHS[0],
            values: Some(pb::matrix::Values::Float32Le(Bytes::from(bytes))),
            ..Default::default()
        };
        let chunk = pb::RowChunk { number: 1, rows: Some(rows), role: pb::RowRole::Training.into() };
        let finish = pb::TrainFinish { chunk_count: 1, row_count: TRAINING_ROWS as u64 };
        let questions = [Question::Spec(spec), Question::Chunk(chunk), Question::Finish(finish)]
            .map(|message| pb::TrainRequest { message: Some(message) });
        let mut trainer = AutoencoderServiceClient::new(channel.clone());
        let mut answers = trainer.train(futures_util::stream::iter(questions)).await?.into_inner();
        while let Some(answer) = tokio::time::timeout(START_WAIT_MAX, answers.message()).await?? {
            if let Some(Answer::Progress(job)) = answer.message
                && job.progress.is_some_and(|progress| progress.step > 0)
            {
                return Ok(Self { client: JobServiceClient::new(channel), id: job.id });
            }
        }
        Err("training ended before its first step".into())
    }

    async fn step(&mut self) -> Result<u64, Failure> {
        let job = self.client.get_job(pb::GetJobRequest { id: self.id.clone() }).await?.into_inner().job;
        Ok(job.and_then(|job| job.progress).ok_or("the job does not train")?.step)
    }

    /// Steps per second while `work` runs.
    async fn steps_in<T>(&mut self, work: impl AsyncFnOnce() -> Result<T, Failure>) -> Result<(f64, T), Failure> {
        let (start, step) = (Instant::now(), self.step().await?);
        let result = work().await?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(((self.step().await? - step) as f64 / seconds, result))
    }

    async fn cancel(mut self) -> Result<(), Failure> {
        self.client.cancel_job(pb::CancelJobRequest { id: self.id }).await?;
        Ok(())
    }
}
