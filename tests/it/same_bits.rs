//! A job ends with the same bits in all conditions: killed at random instants, with one thread or two, with any
//! instruction set.

use std::path::Path;
use std::time::{Duration, Instant};

use halfhitch::numeric::Isa;
use halfhitch::rpc::pb;
use pb::job_service_client::JobServiceClient;
use pb::train_response::Message as Answer;
use tempfile::TempDir;

use crate::support::files::{npy_of, tensors_sha256};
use crate::support::process::ServerProcess;
use crate::support::{Random, finish, question, temporary_store};

const COLUMNS: usize = 32;
const ROWS: u64 = 6_000;
/// Gives about half a second of training for each kill.
const EPOCHS_PER_KILL: u32 = 40;
const KILLS_DEFAULT: u32 = 5;
const SEED: u64 = 20_260_727;

/// A folder with a store and the training file.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = temporary_store();
        npy_of(&place.path().join("rows.npy"), ROWS, COLUMNS, |row, values| {
            // Three nonlinear directions, and small variations.
            let turn = |factor: u64| ((row * factor) % 1009) as f32 / 1009.0 - 0.5;
            let (a, b, c) = (turn(7), turn(131), turn(499));
            for (column, value) in values.iter_mut().enumerate() {
                let at = column as f32 / COLUMNS as f32;
                *value = a * at + (b * (at + 0.3)).sin() + c * c * (1.0 - at) + 0.01 * turn(37 * column as u64 + 11);
            }
        });
        Self(place)
    }

    fn store(&self) -> std::path::PathBuf {
        self.0.path().join("store")
    }

    fn serve(&self, threads: usize, isa: Option<Isa>) -> ServerProcess {
        let (folder, threads) = (self.0.path().to_string_lossy(), threads.to_string());
        let flags = ["--train-folder", &folder, "--training-threads", &threads, "--checkpoint-seconds", "0.1"];
        let variables: Vec<_> = isa.map(|isa| ("HALFHITCH_ISA", isa.to_string())).into_iter().collect();
        ServerProcess::start_in(&self.store(), &flags, &variables)
    }
}

fn spec(epochs: u32) -> pb::TrainSpec {
    pb::TrainSpec {
        model_name: "bits".into(),
        widths: vec![COLUMNS as u32, 24, 6],
        epochs,
        batch_rows: 64,
        seed: 9,
        files: Some(pb::ServerFiles { paths: vec!["rows.npy".into()], ..Default::default() }),
        idempotency_key: "bits".into(),
        // Include everything that has state: noise, clipping, the best weights.
        regularization: Some(pb::Regularization { gaussian: 0.05, ..Default::default() }),
        optimizer: Some(pb::Optimizer { gradient_norm_max: Some(0.5), ..Default::default() }),
        ..Default::default()
    }
}

/// Starts the job or finds it, and returns its id.
async fn job(server: &ServerProcess, epochs: u32) -> String {
    let questions = vec![question(pb::train_request::Message::Spec(spec(epochs))), finish(0, 0)];
    let mut client = server.autoencoder().await;
    let mut answers = client.train(tokio_stream::iter(questions)).await.expect("accepted").into_inner();
    match answers.message().await.expect("goes well").and_then(|answer| answer.message) {
        Some(Answer::Accepted(accepted)) => accepted.job.expect("a job").id,
        other => panic!("expected `accepted`, got {other:?}"),
    }
}

/// Waits for the end of the job; on timeout, returns its current state as the error.
async fn end(server: &ServerProcess, id: &str, patience: Duration) -> Result<pb::Job, pb::Job> {
    let mut jobs = JobServiceClient::new(server.channel().await);
    let mut news = jobs.watch_job(pb::WatchJobRequest { id: id.to_owned() }).await.expect("known").into_inner();
    let mut last = pb::Job::default();
    let watching = async {
        while let Some(message) = news.message().await.expect("goes well") {
            last = message.job.expect("a job");
        }
    };
    let ended = tokio::time::timeout(patience, watching).await.is_ok();
    if ended { Ok(last) } else { Err(last) }
}

fn tensors(store: &Path, job: &pb::Job) -> String {
    assert_eq!(job.state(), pb::JobState::Succeeded, "{job:?}");
    tensors_sha256(store, "bits", job.version)
}

/// The digest of the tensors of an undisturbed job, and its duration.
async fn undisturbed(epochs: u32, threads: usize, isa: Option<Isa>) -> (String, Duration) {
    let place = Place::new();
    let server = place.serve(threads, isa);
    let began = Instant::now();
    let id = job(&server, epochs).await;
    let ended = end(&server, &id, Duration::from_mins(30)).await.expect("half an hour is enough");
    (tensors(&place.store(), &ended), began.elapsed())
}

/// `HALFHITCH_TEST_KILLS` sets the number of kills (5 by default, 100 for the published figure):
/// `HALFHITCH_TEST_KILLS=100 cargo test --test it same_bits -- --nocapture`.
#[tokio::test(flavor = "multi_thread")]
async fn random_kills_do_not_change_the_bits_of_a_job() {
    let kills = std::env::var("HALFHITCH_TEST_KILLS").map_or(KILLS_DEFAULT, |text| text.parse().expect("a number"));
    let epochs = EPOCHS_PER_KILL * kills.max(1);
    let (expected, whole) = undisturbed(epochs, 2, None).await;
    println!("{epochs} epochs, not interrupted, 2 threads: {whole:.1?}, {expected}");

    let place = Place::new();
    let mut random = Random::new(SEED);
    let (mut killed, mut trained_on) = (0, 0);
    let ended = loop {
        // Threads and instruction set may change with each restart.
        let server = place.serve(1 + killed as usize % 2, None);
        let id = job(&server, epochs).await;
        // The lives together are too short for the job to end between kills.
        let share = f64::from(random.uniform());
        let life = if killed < kills { whole.mul_f64(share / f64::from(kills)) } else { Duration::from_mins(30) };
        match end(&server, &id, life).await {
            Ok(ended) => break ended,
            Err(job) => {
                server.kill();
                killed += 1;
                let progress = job.progress.unwrap_or_default();
                trained_on += u32::from(progress.step > 0);
                println!("kill {killed} after {life:.0?}: epoch {}, step {}", progress.epoch, progress.step);
            }
        }
    };
    println!("killed {killed} times, {trained_on} times after it had trained in that life");
    assert_eq!(tensors(&place.store(), &ended), expected, "after {killed} kills");
    // If the machine was busy while the reference ran, the last kills come after the job's end.
    assert!(2 * killed >= kills, "it was killed {killed} times only");
}

#[tokio::test(flavor = "multi_thread")]
async fn thread_counts_and_instruction_sets_give_the_same_bits() {
    let (expected, _) = undisturbed(10, 2, None).await;
    let (one, _) = undisturbed(10, 1, None).await;
    assert_eq!(one, expected, "1 training thread instead of 2");
    for isa in Isa::available() {
        let (tensors, took) = undisturbed(10, 2, Some(isa)).await;
        println!("{isa}: {took:.1?}, {tensors}");
        assert_eq!(tensors, expected, "{isa}");
    }
}
