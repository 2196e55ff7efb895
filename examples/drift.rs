//! Incremental training under drift: rows arrive for five minutes, and halfway they start to come from another surface.
//!
//! `cargo run --release --example drift` prints each round when it ends, and the error of the newest version on current
//! rows. `-- --quick` takes 40 seconds.

use std::error::Error;
use std::time::Duration;

use halfhitch::client::{Client, ClientSettings};
use halfhitch::ndarray::Array2;
use halfhitch::pb;
use halfhitch::server::{self, ServerConfig};
use pb::train_request::Message as Question;
use pb::train_response::Message as Answer;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;

const FEATURES: usize = 16;
const CHUNK_ROWS: usize = 50;
const CHUNK_INTERVAL: Duration = Duration::from_millis(100);
const PUBLISH_ROWS: u64 = 1000;
const MEASURED_ROWS: usize = 500;
const MEASURED_EVERY: Duration = Duration::from_secs(5);
/// Phase between the two surfaces, in radians.
const TURNED: f32 = 1.5;

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    }

    /// Rows near a three-dimensional curved surface; a drift changes its phase.
    fn rows(&mut self, count: usize, drifted: bool) -> Array2<f32> {
        let phase = if drifted { TURNED } else { 0.0 };
        let mut rows = Array2::zeros((count, FEATURES));
        for mut row in rows.rows_mut() {
            let z = [self.uniform(), self.uniform(), self.uniform()];
            for (j, value) in row.iter_mut().enumerate() {
                let along: f32 =
                    z.iter().enumerate().map(|(i, z)| z * (((j + 1) * (i + 1)) as f32 * 0.7 + phase).sin()).sum();
                *value = along + 0.3 * (2.0 * along + phase).sin() + 0.02 * self.uniform();
            }
        }
        rows
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let length = Duration::from_secs(if quick { 40 } else { 300 });
    let folder = tempfile::tempdir()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let serving = tokio::spawn(server::run(listener, ServerConfig::new(folder.path().to_owned()), async {
        let _ = stopped.await;
    }));
    follow(&Client::connect(ClientSettings::plain(url)).await?, length).await?;
    let _ = stop.send(());
    serving.await??;
    Ok(())
}

/// The summary at the end.
#[derive(Debug, Default)]
struct Tally {
    published: u32,
    kept_back: u32,
    /// Error on current rows: just before the drift, just after it, at the end.
    errors: [f64; 3],
}

async fn follow(client: &Client, length: Duration) -> Result<(), Box<dyn Error>> {
    let spec = pb::TrainSpec {
        model_name: "drift".to_owned(),
        widths: vec![FEATURES as u32, 32, 3],
        epochs: 30,
        seed: 1,
        incremental: Some(pb::Incremental { publish_rows: PUBLISH_ROWS, publish_interval: None }),
        ..pb::TrainSpec::default()
    };
    let (questions, receiver) = mpsc::channel(16);
    questions.send(pb::TrainRequest { message: Some(Question::Spec(spec)) }).await?;
    let mut answers = client.autoencoder().train(ReceiverStream::new(receiver)).await?.into_inner();
    let (mut random, mut tally) = (Random(0x9E37_79B9_7F4A_7C15), Tally::default());
    let (began, mut chunks, mut drifted) = (Instant::now(), 0u64, false);
    let mut arrival = interval(CHUNK_INTERVAL);
    let mut measuring = interval(MEASURED_EVERY);
    arrival.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut questions = Some(questions);
    loop {
        tokio::select! {
            answer = answers.message() => match answer?.map(|answer| answer.message) {
                None => break,
                Some(Some(Answer::Result(result))) => tell(began, &result, &mut tally),
                Some(_) => {}
            },
            _ = arrival.tick(), if questions.is_some() => {
                if !drifted && began.elapsed() > length / 2 {
                    tally.errors[0] = error(client, &random.rows(MEASURED_ROWS, false)).await.unwrap_or(f64::NAN);
                    drifted = true;
                    tally.errors[1] = error(client, &random.rows(MEASURED_ROWS, true)).await.unwrap_or(f64::NAN);
                    println!("{:6.1} s  the rows drift: {}", began.elapsed().as_secs_f64(), figure(tally.errors[1]));
                }
                let ended = began.elapsed() >= length;
                let message = if ended {
                    Question::Finish(pb::TrainFinish { chunk_count: chunks, row_count: chunks * CHUNK_ROWS as u64 })
                } else {
                    chunks += 1;
                    let rows = Some(matrix(&random.rows(CHUNK_ROWS, drifted)));
                    Question::Chunk(pb::RowChunk { number: chunks, rows, role: pb::RowRole::Training.into() })
                };
                if let Some(sender) = &questions {
                    sender.send(pb::TrainRequest { message: Some(message) }).await?;
                }
                if ended {
                    questions = None;
                }
            }
            _ = measuring.tick() => {
                // There is no error before the first version.
                if let Some(error) = error(client, &random.rows(MEASURED_ROWS, drifted)).await {
                    println!("{:6.1} s  {}", began.elapsed().as_secs_f64(), figure(error));
                }
            }
        }
    }
    tally.errors[2] = error(client, &random.rows(MEASURED_ROWS, true)).await.unwrap_or(f64::NAN);
    let [before, after, end] = tally.errors;
    println!(
        "{} versions published, {} kept back; error on new rows: {before:.4} before the drift, {after:.4} after it, {end:.4} at the end",
        tally.published, tally.kept_back
    );
    if end < 0.5 * after { Ok(()) } else { Err("the error on new rows did not fall again".into()) }
}

fn figure(error: f64) -> String {
    format!("error of the newest version on current rows: {error:.4}")
}

fn tell(began: Instant, result: &pb::TrainResult, tally: &mut Tally) {
    let what = if result.version > 0 {
        tally.published += 1;
        let report = result.training_report.clone().unwrap_or_default();
        let loss = |figures: Option<pb::Evaluation>| figures.map_or("none".into(), |one| format!("{:.4}", one.loss));
        format!(
            "version {} is published: validation loss {}, base {}",
            result.version,
            loss(report.validation),
            loss(report.base_validation)
        )
    } else if result.failure.is_empty() {
        tally.kept_back += 1;
        format!("kept back: {}", result.kept_back)
    } else {
        result.failure.clone()
    };
    println!("{:6.1} s  round {}: {what}", began.elapsed().as_secs_f64(), result.round);
}

/// Mean squared error per row of the newest version, in input units; `None` if there is no version yet.
async fn error(client: &Client, rows: &Array2<f32>) -> Option<f64> {
    let errors = client.reconstruct("drift", rows.view()).await.ok()?.value.squared_errors_input_units;
    Some(errors.iter().map(|error| f64::from(*error)).sum::<f64>() / errors.len() as f64)
}

fn matrix(rows: &Array2<f32>) -> pb::Matrix {
    pb::Matrix {
        rows: rows.nrows() as u32,
        columns: rows.ncols() as u32,
        values: Some(pb::matrix::Values::Floats(pb::FloatList { values: rows.iter().copied().collect() })),
        ..Default::default()
    }
}
