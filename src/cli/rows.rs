//! `halfhitch encode`, `decode`, `reconstruct`: read a file, send it in requests, write the results in order.

use std::io::IsTerminal;

use futures_util::stream::{self, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::client::{Context, answered, named_matrix, print_notes};
use super::reading::{self, ReadArgs, print_notes_at_end};
use super::{CliError, report, writing};
use crate::client::{Connection, model_ref, patiently, request_rows};
use crate::files::{FileError, Format, RowReader, RowWriter};
use crate::model::{Form, Matrix};
use crate::rpc::pb;
use crate::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;

/// Maximum requests in flight.
pub(super) const REQUESTS_MAX: usize = 4;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  halfhitch encode digits rows.npy -o codes.npy     the newest version\n  halfhitch encode digits@prod rows.csv             the version behind an alias, CSV to standard output\n  halfhitch decode digits@3 codes.npy -o rows.npy   codes belong to the version that created them"
)]
pub(super) struct RowsArgs {
    /// Model: NAME, NAME@VERSION or NAME@ALIAS
    model: String,
    /// Rows: .csv, .npy, .npz, .parquet, .jsonl and others (docs/guide.md), plain or compressed; - for standard input
    file: String,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct EncodeArgs {
    #[command(flatten)]
    rows: RowsArgs,
    /// Keep only the first COUNT numbers of each code; needs a version from `halfhitch models canonicalize` or trained
    /// with --nested-dropout; 0 keeps all [default: 0]
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    code_length: u32,
}

#[derive(Debug, clap::Args)]
pub(super) struct DecodeArgs {
    #[command(flatten)]
    rows: RowsArgs,
    #[command(flatten)]
    decoder: DecoderArgs,
}

#[derive(Debug, clap::Args)]
struct DecoderArgs {
    /// Decoder: the transpose of each matrix, as trained, or its pseudo-inverse; `halfhitch inspect` shows which has
    /// the lower error
    #[arg(long, value_enum, default_value = "transpose")]
    decoder: DecoderChoice,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DecoderChoice {
    Transpose,
    PseudoInverse,
}

impl From<DecoderArgs> for pb::Decoder {
    fn from(args: DecoderArgs) -> Self {
        match args.decoder {
            DecoderChoice::Transpose => Self::Transpose,
            DecoderChoice::PseudoInverse => Self::PseudoInverse,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct ReconstructArgs {
    #[command(flatten)]
    rows: RowsArgs,
    #[command(flatten)]
    decoder: DecoderArgs,
    /// Write the error of each row to this file: in normalized space, and in input units
    #[arg(long, value_name = "FILE")]
    errors: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct WriteArgs {
    /// Output file: .npy, .parquet or .csv; - for standard output. The file appears when it is complete; it may replace
    /// the input
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(super) output: String,
    /// Format of the output, if the file name does not determine it
    #[arg(long, value_enum)]
    output_format: Option<OutputFormat>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum OutputFormat {
    Csv,
    Npy,
    Parquet,
}

impl WriteArgs {
    pub(super) fn format(&self) -> Option<Format> {
        self.output_format.map(|format| match format {
            OutputFormat::Csv => Format::Csv,
            OutputFormat::Npy => Format::Npy,
            OutputFormat::Parquet => Format::Parquet,
        })
    }
}

/// The response of one of the calls in [`Call`].
struct RowsResponse {
    version: u64,
    values: Matrix,
    errors: Vec<f32>,
    errors_input_units: Vec<f32>,
    pseudo_inverse: Option<pb::PseudoInverse>,
    notes: Vec<String>,
    /// Names of the remaining columns; empty if no column was left out.
    kept_names: Vec<String>,
}

/// Format of returned codes. It is the same for all blocks of a file, whatever format the requests have.
const CODES: pb::AnswerFormat = pb::AnswerFormat::Float32Le;
/// Format of returned rows: 64-bit floats if the version was trained on 64-bit rows.
pub(super) const ROWS: pb::AnswerFormat = pb::AnswerFormat::AsTrained;

#[derive(Clone, Copy)]
enum Call {
    /// With the number of code numbers to keep; 0 keeps all.
    Encode(u32),
    Decode(pb::Decoder),
    Reconstruct(pb::Decoder),
}

/// Writes the values of a response in their own precision.
fn write(writer: &mut dyn RowWriter, answer: &Matrix) -> Result<(), FileError> {
    match answer.form() {
        Form::Float64Le => writer.write(answer.values().to_f64().as_slice().into(), answer.columns()),
        _ => writer.write(answer.values().to_f32().as_slice().into(), answer.columns()),
    }
}

/// Sends one request; retries while the server is full.
async fn call(
    client: AutoencoderServiceClient<Connection>,
    call: Call,
    model: pb::ModelRef,
    (columns, names): (usize, &[String]),
    values: Vec<f64>,
) -> Result<RowsResponse, CliError> {
    patiently(|| call_once(client.clone(), call, model.clone(), (columns, names), &values)).await
}

async fn call_once(
    mut client: AutoencoderServiceClient<Connection>,
    call: Call,
    model: pb::ModelRef,
    (columns, names): (usize, &[String]),
    values: &[f64],
) -> Result<RowsResponse, CliError> {
    let (model, rows) = (Some(model), Some(named_matrix(columns, values, names)));
    let (mut pseudo_inverse, mut notes) = (None, Vec::new());
    let (version, matrix, errors, errors_input_units) = match call {
        Call::Encode(code_length) => {
            let answer = client
                .encode(pb::EncodeRequest { model, rows, code_length, answer_format: CODES.into() })
                .await?
                .into_inner();
            notes = answer.notes;
            (answer.version, answer.codes, Vec::new(), Vec::new())
        }
        Call::Decode(decoder) => {
            let request = pb::DecodeRequest { model, codes: rows, decoder: decoder.into(), answer_format: ROWS.into() };
            let answer = client.decode(request).await?.into_inner();
            pseudo_inverse = answer.pseudo_inverse;
            (answer.version, answer.rows, Vec::new(), Vec::new())
        }
        Call::Reconstruct(decoder) => {
            let request = pb::ReconstructRequest { model, rows, decoder: decoder.into(), answer_format: ROWS.into() };
            let answer = client.reconstruct(request).await?.into_inner();
            (pseudo_inverse, notes) = (answer.pseudo_inverse, answer.notes);
            (answer.version, answer.rows, answer.squared_errors, answer.squared_errors_input_units)
        }
    };
    let kept_names = matrix.as_ref().map_or(Vec::new(), |matrix| matrix.column_names.clone());
    let values = answered(matrix)?;
    Ok(RowsResponse { version, values, errors, errors_input_units, pseudo_inverse, notes, kept_names })
}

pub(super) async fn encode(context: &Context, args: EncodeArgs) -> Result<(), CliError> {
    run(context, Call::Encode(args.code_length), args.rows, |_| Ok(())).await.map(|_| ())
}

pub(super) async fn decode(context: &Context, args: DecodeArgs) -> Result<(), CliError> {
    run(context, Call::Decode(args.decoder.into()), args.rows, |_| Ok(())).await.map(|_| ())
}

pub(super) async fn reconstruct(context: &Context, args: ReconstructArgs) -> Result<(), CliError> {
    if let Some(errors) = &args.errors {
        writing::check_apart(("--errors", errors), ("--output", &args.rows.write.output))?;
        writing::check_keeps_input(("--errors", errors), &args.rows.file)?;
    }
    let mut file = args.errors.as_deref().map(|path| writing::rows("--errors", path, None)).transpose()?;
    if let Some(file) = &mut file {
        file.set_names(&["squared_error", "squared_error_input_units"].map(str::to_owned));
    }
    let (mut sum, mut sum_input_units, mut rows) = (0.0, 0.0, 0usize);
    let model = args.rows.model.clone();
    let version = run(context, Call::Reconstruct(args.decoder.into()), args.rows, |answer| {
        sum += answer.errors.iter().map(|error| f64::from(*error)).sum::<f64>();
        sum_input_units += answer.errors_input_units.iter().map(|error| f64::from(*error)).sum::<f64>();
        rows += answer.errors.len();
        if let Some(file) = &mut file {
            let pairs: Vec<f32> =
                answer.errors.iter().zip(&answer.errors_input_units).flat_map(|(a, b)| [*a, *b]).collect();
            file.write(pairs.as_slice().into(), 2)?;
        }
        Ok(())
    })
    .await?;
    if let Some(file) = file {
        file.finish()?;
    }
    let (mean, mean_input_units) = (sum / rows.max(1) as f64, sum_input_units / rows.max(1) as f64);
    if context.json {
        note_line!(
            "{}",
            json!({
                "model": model,
                "version": version,
                "rows": rows,
                "squared_error": mean,
                "squared_error_input_units": mean_input_units,
            })
        );
    } else {
        note_line!(
            "{rows} rows: reconstruction error {mean:.6} per row ({mean_input_units:.6} in input units), \
             version {version}"
        );
    }
    Ok(())
}

/// Sends a file in requests and writes the results in order. Returns the version that served them.
async fn run(
    context: &Context,
    kind: Call,
    args: RowsArgs,
    mut seen: impl FnMut(&RowsResponse) -> Result<(), CliError>,
) -> Result<u64, CliError> {
    let model = model_ref(&args.model)?;
    // Opens the output first, so that an unwritable path fails before rows are read and sent.
    let mut writer = writing::rows("--output", &args.write.output, args.write.format())?;
    let mut reader = match kind {
        Call::Decode(_) => reading::open(&args.file, &args.read.options())?,
        _ => reading::open_rows_for(context, &model, &args.file, &args.read).await?,
    };
    let columns = reader.columns();
    // Codes have no feature names.
    let column_names = if matches!(kind, Call::Decode(_)) { Vec::new() } else { args.read.names(reader.as_ref()) };
    let block_rows = request_rows(columns);
    let client = context.autoencoder().await?;
    // The first response names the version; the other requests use the same version.
    let mut first = Vec::new();
    reader.next_rows(&mut first, block_rows)?;
    let first_rows = (first.len() / columns) as u64;
    let first = call(client.clone(), kind, model.clone(), (columns, &column_names), first).await;
    let first = first.map_err(|error| error.in_file(&args.file, 0))?;
    print_notes(context, &first.notes);
    let version = first.version;
    if let Some(trust) = &first.pseudo_inverse {
        note_line!("{}", caution(trust));
    }
    let model = pb::ModelRef { selector: Some(pb::model_ref::Selector::Version(version)), ..model };
    // If columns were left out, the response names the remaining ones.
    let features = if first.kept_names.is_empty() { reader.names() } else { &first.kept_names };
    writer.set_names(&names(kind, first.values.columns(), features));
    let bar = progress_bar(context, reader.rows_hint());
    seen(&first)?;
    let mut rows = first.values.rows();
    write(writer.as_mut(), &first.values)?;
    let mut answers = stream::iter(Blocks { path: args.file.clone(), reader, block_rows, next_row: first_rows })
        .map(|block| {
            let (client, model, path, names) = (client.clone(), model.clone(), &args.file, &column_names);
            async move {
                let Block { first_row, values } = block?;
                let answer = call(client, kind, model, (columns, names), values).await;
                answer.map_err(|error| error.in_file(path, first_row))
            }
        })
        .buffered(REQUESTS_MAX);
    while let Some(answer) = answers.next().await {
        let answer = answer?;
        seen(&answer)?;
        rows += answer.values.rows();
        bar.set_position(rows as u64);
        write(writer.as_mut(), &answer.values)?;
    }
    bar.finish_and_clear();
    writer.finish()?;
    if !matches!(kind, Call::Reconstruct(_)) && args.write.output != "-" {
        if context.json {
            note_line!(
                "{}",
                json!({ "model": args.model, "version": version, "rows": rows, "output": args.write.output })
            );
        } else {
            let what = if matches!(kind, Call::Encode(_)) { "codes" } else { "rows" };
            note_line!(
                "{rows} {what} of version {version} in {} ({})",
                args.write.output,
                report::bytes(std::fs::metadata(&args.write.output).map_or(0, |data| data.len()))
            );
        }
    }
    Ok(version)
}

/// Column names of the results; empty if they have none.
fn names(kind: Call, columns: usize, features: &[String]) -> Vec<String> {
    match kind {
        Call::Encode(_) => (1..=columns).map(|column| format!("code_{column}")).collect(),
        Call::Reconstruct(_) => features.to_vec(),
        Call::Decode(_) => Vec::new(),
    }
}

/// The note on rows that the pseudo-inverse decoded.
fn caution(trust: &pb::PseudoInverse) -> String {
    let exact = if trust.is_linear_approximation {
        "a linear approximation, since the model is not linear"
    } else {
        "the rows encode to exactly these codes, since the model is linear"
    };
    let regularized = if trust.is_regularized { ", regularized" } else { "" };
    format!("decoded with the pseudo-inverse: {exact} (condition number {:.3}{regularized})", trust.condition)
}

/// A progress bar on a terminal; a counter if the number of rows is unknown.
pub(super) fn progress_bar(context: &Context, rows: Option<u64>) -> ProgressBar {
    if context.json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match rows {
        Some(rows) => (ProgressBar::new(rows), "{bar:30} {pos}/{len} rows, {per_sec}, {eta} left"),
        None => (ProgressBar::no_length(), "{spinner} {pos} rows, {per_sec}"),
    };
    ProgressStyle::with_template(template).map_or(bar.clone(), |style| bar.with_style(style))
}

/// Reads the rest of a file block by block.
pub(super) struct Blocks {
    /// Name of the file in notes.
    pub(super) path: String,
    pub(super) reader: Box<dyn RowReader>,
    pub(super) block_rows: usize,
    /// Index of the next row of the file, from 0.
    pub(super) next_row: u64,
}

/// A block of rows of a file.
pub(super) struct Block {
    /// Index of its first row in the file, from 0.
    pub(super) first_row: u64,
    /// Row-major.
    pub(super) values: Vec<f64>,
}

impl Iterator for Blocks {
    type Item = Result<Block, FileError>;
    fn next(&mut self) -> Option<Self::Item> {
        let mut block = Vec::new();
        match self.reader.next_rows(&mut block, self.block_rows) {
            Ok(0) => {
                print_notes_at_end(&self.path, self.reader.as_ref());
                None
            }
            Ok(rows) => {
                let first_row = self.next_row;
                self.next_row += rows as u64;
                Some(Ok(Block { first_row, values: block }))
            }
            Err(error) => Some(Err(error)),
        }
    }
}
