//! `halfhitch report`: writes one self-contained HTML page about a model.

mod about;
mod chart;
mod codes;
mod errors;
mod examples;
mod facts;
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

use super::client::{Context, matrix};
use super::reading::{self, FirstRows, ReadArgs};
use super::{CliError, report, writing};
use crate::client::model_ref;
use crate::files::FileError;
use crate::rpc::pb;
use facts::Facts;
use image::ImageChoice;
use measured::Measured;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  halfhitch report digits -o digits.html                         how it was trained, and its matrices\n  halfhitch report digits@3 rows.npy -o digits.html              and how version 3 reconstructs these rows\n  halfhitch report faces rows.npy --image 32x24 -o faces.html    rows that are images of 32 x 24 pixels"
)]
pub(super) struct ReportArgs {
    /// Model: NAME, NAME@VERSION or NAME@ALIAS
    model: String,
    /// Rows to measure on, up to the first 8 MiB: .csv, .npy, .npz, .parquet, .jsonl and others (docs/guide.md); - for
    /// standard input
    file: Option<String>,
    /// Output HTML file, replaced if it exists; - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: String,
    /// Show rows as images of this size, for example 28x28; none: rows are not images [default: square images if the
    /// row length is a square of at least 64]
    #[arg(long, value_name = "WIDTHxHEIGHT", requires = "file")]
    image: Option<ImageChoice>,
    #[command(flatten)]
    read: ReadArgs,
}

pub(super) async fn run(context: &Context, args: ReportArgs) -> Result<(), CliError> {
    let model = model_ref(&args.model)?;
    if let Some(file) = &args.file {
        writing::check_keeps_input(("--output", &args.output), file)?;
    }
    // Opens the output first, so that an unwritable path fails before rows are sent.
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
    // All other requests use this version, even if a newer one is published meanwhile.
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
    print_summary(context, &args.output, &facts, page.len());
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
        // If the matrices are too large to inspect, the page shows everything else.
        Err(status) if status.code() == Code::FailedPrecondition => Ok(Err(status.message().to_owned())),
        Err(status) => Err(status.into()),
    }
}

/// The name of the rows on the page: the file name without its folder, which the page must not reveal.
fn file_name(path: Option<&str>) -> String {
    match path {
        None | Some("-") => "standard input".to_owned(),
        Some(path) => Path::new(path).file_name().map_or(path.into(), |name| name.to_string_lossy().into_owned()),
    }
}

fn print_summary(context: &Context, output: &str, facts: &Facts, page_bytes: usize) {
    let (name, version) = (&facts.version.name, facts.version.version);
    if context.json {
        let rows = facts.measured.as_ref().map(Measured::row_count);
        let summary =
            json!({ "model": name, "version": version, "rows": rows, "output": output, "page_bytes": page_bytes });
        note_line!("{summary}");
    } else {
        let output = if output == "-" { "standard output" } else { output };
        note_line!("{output}: {name} version {version}, {}", report::bytes(page_bytes as u64));
    }
}
