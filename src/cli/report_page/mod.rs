//! `halfhitch report`: one HTML page about a model, which needs nothing but itself.

mod about;
mod chart;
mod codes;
mod errors;
mod examples;
mod figures;
mod image;
mod matrices;
mod measured;
mod page;
mod scores;
mod training;

use std::io::Write;
use std::path::Path;

use serde_json::json;
use tonic::Code;

use super::client::{Context, matrix, model_ref};
use super::reading::{self, FirstRows, ReadArgs};
use super::{CliError, report, writing};
use crate::files::FileError;
use crate::rpc::pb;
use codes::ByLength;
use image::ImageChoice;
use measured::Measured;
use scores::Scores;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  halfhitch report digits -o digits.html                         how it was trained, and its matrices\n  halfhitch report digits@3 rows.npy -o digits.html              and what version 3 makes of these rows\n  halfhitch report faces rows.npy --image 32x24 -o faces.html    rows that are images of 32 x 24 pixels"
)]
pub(super) struct ReportArgs {
    /// NAME, NAME@VERSION or NAME@ALIAS
    model: String,
    /// Rows to measure on, the first 8 MiB of them: .csv, .npy, .npz, .parquet, .jsonl and others (README); - for
    /// standard input
    file: Option<String>,
    /// Where the page goes, replaced if it exists; - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: String,
    /// Rows are images of this size, for example 28x28; none: they are no images [default: seen from whether their length
    /// is a square of at least 64]
    #[arg(long, value_name = "WIDTHxHEIGHT", requires = "file")]
    image: Option<ImageChoice>,
    #[command(flatten)]
    read: ReadArgs,
}

/// What a page tells of.
struct Facts {
    version: pb::ModelVersion,
    /// Or why the server does not look at matrices of this size.
    inspection: Result<pb::InspectModelResponse, String>,
    measured: Option<Measured>,
    /// Of versions whose codes can be cut short.
    by_length: Option<ByLength>,
    /// Of the rows, or why there are none.
    scores: Option<Result<Scores, String>>,
    image: Option<ImageChoice>,
}

impl Facts {
    fn code_length(&self) -> usize {
        self.version.spec.as_ref().and_then(|spec| spec.widths.last().copied()).unwrap_or_default() as usize
    }
}

pub(super) async fn run(context: &Context, args: ReportArgs) -> Result<(), CliError> {
    let model = model_ref(&args.model)?;
    if let Some(file) = &args.file {
        writing::check_keeps_input(("--output", &args.output), file)?;
    }
    // A page that cannot be written is better known before rows are sent.
    let mut output = writing::output("--output", &args.output)?;
    let mut client = context.models().await?;
    let request = pb::GetModelVersionRequest { model: Some(model) };
    let version = client.get_model_version(request).await?.into_inner().version.unwrap_or_default();
    let columns = version.spec.as_ref().and_then(|spec| spec.widths.first().copied()).unwrap_or_default() as usize;
    if let Some(image) = args.image {
        image.check(columns)?;
    }
    let features = version.spec.as_ref().map_or(&[][..], |spec| &spec.feature_names);
    let rows = args
        .file
        .as_deref()
        .map(|file| reading::first_rows(file, &args.read, Some((columns, features))))
        .transpose()?;
    // The rest is of the version that was found, whatever is published meanwhile.
    let exact =
        pb::ModelRef { name: version.name.clone(), selector: Some(pb::model_ref::Selector::Version(version.version)) };
    let inspection = inspect(context, exact.clone(), rows.as_ref()).await?;
    let mut facts = Facts { version, inspection, measured: None, by_length: None, scores: None, image: args.image };
    if let Some(rows) = rows {
        let measured = measured::measure(context, &exact, file_name(args.file.as_deref()), rows).await?;
        facts.by_length = codes::measure(context, &exact, &measured, facts.code_length()).await?;
        facts.scores = Some(scores::measure(context, &exact, &measured).await?);
        facts.measured = Some(measured);
    }
    let page = page::page(&facts)?;
    let path = output.path().to_owned();
    output.write_all(page.as_bytes()).map_err(|source| FileError::Io { path, source })?;
    output.finish()?;
    told(context, &args.output, &facts, page.len());
    Ok(())
}

async fn inspect(
    context: &Context,
    model: pb::ModelRef,
    rows: Option<&FirstRows>,
) -> Result<Result<pb::InspectModelResponse, String>, CliError> {
    let rows = rows.map(|rows| matrix(rows.columns, &rows.values));
    let request = pb::InspectModelRequest { model: Some(model), rows, validation_sample: false };
    match context.models().await?.inspect_model(request).await {
        Ok(answer) => Ok(Ok(answer.into_inner())),
        // Of matrices that are too large to look into, the rest can still be told.
        Err(status) if status.code() == Code::FailedPrecondition => Ok(Err(status.message().to_owned())),
        Err(status) => Err(status.into()),
    }
}

/// How the page calls the rows: where they lie on this machine is nobody's business.
fn file_name(path: Option<&str>) -> String {
    match path {
        None | Some("-") => "standard input".to_owned(),
        Some(path) => Path::new(path).file_name().map_or(path.into(), |name| name.to_string_lossy().into_owned()),
    }
}

fn told(context: &Context, output: &str, facts: &Facts, page_bytes: usize) {
    let (name, version) = (&facts.version.name, facts.version.version);
    if context.json {
        let rows = facts.measured.as_ref().map(Measured::row_count);
        let told =
            json!({ "model": name, "version": version, "rows": rows, "output": output, "page_bytes": page_bytes });
        note_line!("{told}");
    } else {
        let output = if output == "-" { "standard output" } else { output };
        note_line!("{output}: {name} version {version}, {}", report::bytes(page_bytes as u64));
    }
}
