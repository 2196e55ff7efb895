//! `halfhitch quickstart`: trains and uses a model over gRPC, with its own server and data.

use std::path::PathBuf;
use std::time::Instant;

use flate2::read::GzDecoder;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::client::{Context, float_matrix, float_numbers};
use super::data::Source;
use super::uploading::{OnInterrupt, train};
use super::{CliError, draw, report};
use crate::client::ClientSettings;
use crate::client::upload::Ended;
use crate::rpc::pb;
use crate::server::{self, ServerConfig};

/// The UCI handwritten digits: see examples/data/README.md.
const DIGITS: &[u8] = include_bytes!("../../examples/data/digits.csv.gz");
const SIDE: usize = 8;
const FEATURES: usize = SIDE * SIDE;
const BRIGHTEST: f32 = 16.0;
const WIDTHS: [u32; 3] = [FEATURES as u32, 32, 8];
/// Row `i` is held out if `i % HELD_OUT_EACH == HELD_OUT_REST`.
const HELD_OUT_EACH: usize = 6;
const HELD_OUT_REST: usize = 5;
/// Number of digits drawn side by side.
const DRAWN: usize = 4;
/// How many times the held-out rows are encoded to measure the speed.
const SPEED_ROUNDS: usize = 100;

#[derive(Debug, clap::Args)]
pub(super) struct QuickstartArgs {
    /// Seed of all random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Passes over the training rows [default: about 4,000 steps]
    #[arg(long)]
    epochs: Option<u32>,
    /// Keep the models in this folder, for example to serve them later [default: a temporary folder, removed at the
    /// end]
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

pub(super) fn run(args: &QuickstartArgs, json: bool) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the async runtime: {error}")))?;
    runtime.block_on(async {
        let temporary = match &args.keep {
            Some(_) => None,
            None => Some(
                tempfile::tempdir()
                    .map_err(|error| CliError::Failed(format!("cannot create a temporary folder: {error}")))?,
            ),
        };
        let folder = match (&args.keep, &temporary) {
            (Some(folder), _) => folder.clone(),
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => return Err(CliError::Failed("no folder".to_owned())),
        };
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(|error| CliError::Failed(format!("cannot listen on 127.0.0.1: {error}")))?;
        let address = listener
            .local_addr()
            .map_err(|error| CliError::Failed(format!("cannot read the local address: {error}")))?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server::run(listener, ServerConfig::new(folder), async {
            let _ = stopped.await;
        }));
        let context = Context::new(ClientSettings::plain(format!("http://{address}")), json);
        let shown = show(&context, args).await;
        let _ = stop.send(());
        let served = match serving.await {
            Ok(served) => served.map_err(|error| CliError::Failed(error.to_string())),
            Err(error) => Err(CliError::Failed(format!("the server task failed: {error}"))),
        };
        shown.and(served)
    })
}

/// Training rows and held-out rows, as row-major pixels.
fn digits() -> Result<(Vec<f32>, Vec<f32>), CliError> {
    let broken = |reason: String| CliError::Failed(format!("the built-in digits are damaged: {reason}"));
    let mut records = csv::ReaderBuilder::new().has_headers(false).from_reader(GzDecoder::new(DIGITS));
    let (mut training, mut held_out) = (Vec::new(), Vec::new());
    for (number, record) in records.records().enumerate() {
        let record = record.map_err(|error| broken(error.to_string()))?;
        let target = if number % HELD_OUT_EACH == HELD_OUT_REST { &mut held_out } else { &mut training };
        for field in record.iter().take(FEATURES) {
            target.push(field.parse::<f32>().map_err(|error| broken(error.to_string()))?);
        }
    }
    Ok((training, held_out))
}

#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn show(context: &Context, args: &QuickstartArgs) -> Result<(), CliError> {
    let say = |text: &str| {
        if !context.json {
            out_line!("{text}");
        }
    };
    let (training, held_out) = digits()?;
    let held_out_rows = held_out.len() / FEATURES;
    say(&format!(
        "A server runs at {}. It trains a {}-{}-{} model on {} handwritten digits of {SIDE} x {SIDE} pixels; {held_out_rows} others are held out.",
        context.url(),
        WIDTHS[0],
        WIDTHS[1],
        WIDTHS[2],
        training.len() / FEATURES
    ));
    let spec = pb::TrainSpec {
        model_name: "digits".to_owned(),
        widths: WIDTHS.to_vec(),
        epochs: args.epochs.unwrap_or(0),
        seed: args.seed,
        idempotency_key: uuid::Uuid::new_v4().to_string(),
        ..pb::TrainSpec::default()
    };
    let source = Source::Memory { training, test: held_out.clone() };
    let Ended::Trained(result) = train(context, &spec, &source, false, OnInterrupt::Cancel).await? else {
        return Err(CliError::Failed("the job ended without a result".to_owned()));
    };
    let trained = result.training_report.unwrap_or_default();
    let test = trained.test.unwrap_or_default();

    // Checks the error in the report through Encode and Decode, as a client would call them.
    let mut client = context.autoencoder().await?;
    let version = Some(pb::model_ref::Selector::Version(result.version));
    let model = || Some(pb::ModelRef { name: "digits".to_owned(), selector: version.clone() });
    let request =
        pb::EncodeRequest { model: model(), rows: Some(float_matrix(FEATURES, &held_out)), ..Default::default() };
    let encoded = client.encode(request.clone()).await?.into_inner();
    let request_back = pb::DecodeRequest { model: model(), codes: encoded.codes.clone(), ..Default::default() };
    let decoded = client.decode(request_back).await?.into_inner();
    let (codes, code_length) = float_numbers(encoded.codes)?;
    let (back, _) = float_numbers(decoded.rows)?;
    let squared: f64 = held_out.iter().zip(&back).map(|(x, y)| f64::from(x - y).powi(2)).sum();
    let error_input_units = squared / held_out_rows as f64;
    let deviation = (error_input_units - test.squared_error_input_units).abs();
    if deviation > 1e-3 * test.squared_error_input_units {
        return Err(CliError::Failed(format!(
            "the held-out error through Encode and Decode is {error_input_units}, the report says {}",
            test.squared_error_input_units
        )));
    }
    let started = Instant::now();
    for _ in 0..SPEED_ROUNDS {
        client.encode(request.clone()).await?;
    }
    let encoded_a_second = (SPEED_ROUNDS * held_out_rows) as f64 / started.elapsed().as_secs_f64();
    let training_a_second =
        trained.training_rows as f64 * trained.epochs.len() as f64 / trained.duration_seconds.max(1e-9);

    let request = pb::GetModelVersionRequest { model: model() };
    let described = context.models().await?.get_model_version(request).await?.into_inner().version.unwrap_or_default();
    let ratio = test.squared_error / test.pca_squared_error;
    if context.json {
        out_line!(
            "{}",
            json!({
                "version": result.version,
                "seed": args.seed,
                "held_out_rows": held_out_rows,
                "squared_error": test.squared_error,
                "pca_squared_error": test.pca_squared_error,
                "ratio_to_pca": ratio,
                "squared_error_input_units": error_input_units,
                "tensor_bytes": described.tensor_bytes,
                "untied_tensor_bytes": described.untied_tensor_bytes,
                "file_bytes": described.file_bytes,
                "training_rows_per_second": training_a_second,
                "encoded_rows_per_second": encoded_a_second,
            })
        );
        return Ok(());
    }
    let drawn: Vec<usize> = (0..DRAWN).map(|i| i * held_out_rows / DRAWN).collect();
    let pictures = |values: &[f32]| {
        let images: Vec<&[f32]> = drawn.iter().map(|row| &values[row * FEATURES..(row + 1) * FEATURES]).collect();
        draw::images(&images, SIDE, BRIGHTEST)
    };
    say("\nHeld-out digits:");
    pictures(&held_out).iter().for_each(|line| say(line));
    say(&format!("\nThe same digits, decoded from codes of {code_length} numbers:"));
    pictures(&back).iter().for_each(|line| say(line));
    let first: Vec<String> = codes.iter().take(code_length).map(|value| format!("{value:.2}")).collect();
    say(&format!("\ncode of the first digit   {}", first.join(" ")));
    say(&format!(
        "reconstruction error      {:.4} per row; PCA with {code_length} components {:.4}; ratio {ratio:.3}",
        test.squared_error, test.pca_squared_error
    ));
    say(&format!(
        "size of the tensors       {}, {:.0} % of an untied model's {}; the file with its report {}",
        report::bytes(described.tensor_bytes),
        100.0 * described.tensor_bytes as f64 / described.untied_tensor_bytes as f64,
        report::bytes(described.untied_tensor_bytes),
        report::bytes(described.file_bytes)
    ));
    say(&format!(
        "speed                     trained {training_a_second:.0} rows/s, encoded {encoded_a_second:.0} rows/s over gRPC"
    ));
    for note in &trained.notes {
        say(&format!("note                      {note}"));
    }
    let store = args.keep.as_ref().map(|folder| format!(" --store {}", folder.display())).unwrap_or_default();
    say("\nNext:");
    say(&format!("  halfhitch serve{store}"));
    if args.keep.is_some() {
        say("  halfhitch models show digits");
    } else {
        say("  halfhitch train mine rows.csv --code 8        (.csv, .npy, Parquet and others; in another terminal)");
        say("  halfhitch encode mine rows.csv -o codes.npy");
    }
    say("  halfhitch train --help");
    Ok(())
}
