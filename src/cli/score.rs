//! `halfhitch score`: scores how unusual the rows of a file are, and names the features that contribute most.

use std::io::BufWriter;

use futures_util::stream::{self, StreamExt};
use serde_json::json;

use super::client::{Context, named_matrix, print_notes};
use super::reading::{self, ReadArgs};
use super::rows::{Block, Blocks, REQUESTS_MAX, progress_bar};
use super::{CliError, writing};
use crate::client::{model_ref, patiently, request_rows};
use crate::files::FileError;
use crate::files::output::Output;
use crate::rpc::pb;
use crate::text::counted;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  halfhitch score sensors today.csv                            one line per row: score, p-value, main features\n  halfhitch score sensors today.csv --false-alarm-rate 0.001   also whether it is an alarm\n  halfhitch score sensors today.npy --only-alarms --false-alarm-rate 0.001 -o alarms.csv\n\nA p-value is the share of held-out rows that are at least as unusual. If the training rows contain\nanomalies, train with --trim 0.1."
)]
pub(super) struct ScoreArgs {
    /// Model: NAME, NAME@VERSION or NAME@ALIAS
    model: String,
    /// Rows: .csv, .npy, .npz, .parquet, .jsonl and others (docs/guide.md), plain or compressed; - for standard input
    file: String,
    /// Number of features to name per row, those that contribute most, 0 to 100; a positive contribution means that the
    /// value is too high
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    reasons: u32,
    /// Raise an alarm for p-values up to this share, 0 to 1; at most this share of normal rows raises one
    #[arg(long, value_name = "SHARE")]
    false_alarm_rate: Option<f64>,
    /// Write only rows that are alarms
    #[arg(long, requires = "false_alarm_rate")]
    only_alarms: bool,
    /// Output CSV file; - for standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: String,
    #[command(flatten)]
    read: ReadArgs,
}

/// Writes the CSV output.
struct Lines {
    writer: csv::Writer<BufWriter<Output>>,
    path: String,
    alarms: bool,
    reasons: usize,
    only_alarms: bool,
    rows: u64,
    alarm_count: u64,
}

impl Lines {
    fn create(args: &ScoreArgs, output: Output, features: usize) -> Result<Self, CliError> {
        let path = output.path().to_owned();
        let mut lines = Self {
            writer: csv::Writer::from_writer(BufWriter::new(output)),
            path,
            alarms: args.false_alarm_rate.is_some(),
            reasons: features.min(args.reasons as usize),
            only_alarms: args.only_alarms,
            rows: 0,
            alarm_count: 0,
        };
        let head = ["row", "score", "p_value", "squared_error", "code_distance"].map(str::to_owned);
        let alarm = lines.alarms.then(|| "alarm".to_owned());
        let reasons = (1..=lines.reasons).flat_map(|i| [format!("reason_{i}"), format!("contribution_{i}")]);
        let head: Vec<String> = head.into_iter().chain(alarm).chain(reasons).collect();
        lines.write(&head)?;
        Ok(lines)
    }

    fn add(&mut self, answer: &pb::ScoreResponse) -> Result<(), CliError> {
        let rows = answer.scores.len();
        let lists = [answer.p_values.len(), answer.squared_errors.len(), answer.code_distances.len()];
        let wanted = |wanted: bool, length: usize| !wanted || length == rows;
        let whole = wanted(self.alarms, answer.alarms.len()) && wanted(self.reasons > 0, answer.reasons.len());
        if lists.iter().any(|length| *length != rows) || !whole {
            return Err(CliError::Failed("the server's response does not have one value per row".to_owned()));
        }
        for row in 0..rows {
            self.rows += 1;
            let alarm = self.alarms && answer.alarms[row];
            self.alarm_count += u64::from(alarm);
            if self.only_alarms && !alarm {
                continue;
            }
            let mut line = vec![
                self.rows.to_string(),
                answer.scores[row].to_string(),
                answer.p_values[row].to_string(),
                answer.squared_errors[row].to_string(),
                answer.code_distances[row].to_string(),
            ];
            line.extend(self.alarms.then(|| u8::from(alarm).to_string()));
            let reasons = answer.reasons.get(row).map_or(&[][..], |reasons| &reasons.features);
            for place in 0..self.reasons {
                // Unnamed features are numbered from 1, as columns are.
                let name = |reason: &pb::Reason| match reason.name.as_str() {
                    "" => (reason.feature + 1).to_string(),
                    name => name.to_owned(),
                };
                let reason = reasons.get(place);
                line.push(reason.map_or(String::new(), name));
                line.push(reason.map_or(String::new(), |reason| reason.contribution.to_string()));
            }
            self.write(&line)?;
        }
        Ok(())
    }

    fn write(&mut self, line: &[String]) -> Result<(), CliError> {
        let path = self.path.clone();
        self.writer.write_record(line).map_err(|error| {
            // Keeps the I/O error, so that a closed pipe is recognized and is not a failure.
            let source = match error.into_kind() {
                csv::ErrorKind::Io(source) => source,
                other => std::io::Error::other(format!("{other:?}")),
            };
            CliError::from(FileError::Io { path, source })
        })
    }

    /// Completes the file and moves it to its path.
    fn finish(self) -> Result<(), CliError> {
        let Self { mut writer, path, .. } = self;
        let failed = |source| FileError::Io { path: path.clone(), source };
        writer.flush().map_err(failed)?;
        let Ok(output) = writer.into_inner() else {
            return Err(CliError::Failed(format!("{path}: some rows were not written")));
        };
        Ok(output.into_inner().map_err(|error| failed(error.into_error()))?.finish()?)
    }
}

pub(super) async fn run(context: &Context, args: ScoreArgs) -> Result<(), CliError> {
    let model = model_ref(&args.model)?;
    // Opens the output first, so that an unwritable path fails before rows are read and sent.
    let output = writing::output("--output", &args.output)?;
    let mut reader = reading::open_rows_for(context, &model, &args.file, &args.read).await?;
    let (columns, names) = (reader.columns(), args.read.names(reader.as_ref()));
    let block_rows = request_rows(columns);
    let client = context.autoencoder().await?;
    let ask = |model: pb::ModelRef, values: Vec<f64>| {
        let request = pb::ScoreRequest {
            model: Some(model),
            rows: Some(named_matrix(columns, &values, &names)),
            reasons: args.reasons,
            false_alarm_rate: args.false_alarm_rate,
        };
        let client = client.clone();
        async move {
            patiently(|| {
                let (mut client, request) = (client.clone(), request.clone());
                async move { Ok::<_, CliError>(client.score(request).await?.into_inner()) }
            })
            .await
        }
    };
    // The first response names the version; the other requests use the same version.
    let mut first = Vec::new();
    reader.next_rows(&mut first, block_rows)?;
    let first_rows = (first.len() / columns) as u64;
    let first = ask(model.clone(), first).await.map_err(|error| error.in_file(&args.file, 0))?;
    print_notes(context, &first.notes);
    let (version, threshold, held_out) = (first.version, first.threshold, first.calibration_rows);
    let model = pb::ModelRef { selector: Some(pb::model_ref::Selector::Version(version)), ..model };
    let bar = progress_bar(context, reader.rows_hint());
    let mut lines = Lines::create(&args, output, columns)?;
    lines.add(&first)?;
    let blocks = stream::iter(Blocks { path: args.file.clone(), reader, block_rows, next_row: first_rows });
    let ask = &ask;
    let mut answers = blocks
        .map(|block| {
            let model = model.clone();
            let path = &args.file;
            async move {
                let Block { first_row, values } = block?;
                ask(model, values).await.map_err(|error| error.in_file(path, first_row))
            }
        })
        .buffered(REQUESTS_MAX);
    while let Some(answer) = answers.next().await {
        lines.add(&answer?)?;
        bar.set_position(lines.rows);
    }
    bar.finish_and_clear();
    let (rows, alarms) = (lines.rows, lines.alarms.then_some(lines.alarm_count));
    lines.finish()?;
    if context.json {
        let said = json!({
            "model": args.model, "version": version, "rows": rows, "calibration_rows": held_out,
            "threshold": threshold, "alarms": alarms,
        });
        note_line!("{said}");
        return Ok(());
    }
    let found = match (alarms, threshold) {
        (Some(alarms), Some(threshold)) => format!(": {}, scores above {threshold:.3}", counted(alarms, "alarm")),
        _ => String::new(),
    };
    let rows = counted(rows, "row");
    note_line!("{rows} scored by version {version} against {held_out} held-out rows{found}");
    Ok(())
}
