//! `halfhitch train --follow`: trains on rows that keep coming, and prints one line per round.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;

use super::cancel::{cancel, lies_with_the_rows};
use super::client::{Context, named_matrix};
use super::data::ColumnsOfFiles;
use super::live::Display;
use super::{CliError, report};
use crate::client::chunk_rows;
use crate::client::upload::{RETRIES_MAX, RETRY_PAUSE, is_broken_connection};
use crate::files::{FileError, ReadOptions};
use crate::rpc::pb;
use crate::rpc::pb::train_request::Message as RequestMessage;
use crate::rpc::pb::train_response::Message as ResponseMessage;

/// Maximum rows of a chunk. Rounds end at chunk boundaries, so chunks stay small.
const CHUNK_ROWS_MAX: usize = 1000;
/// Maximum age of a chunk: it is then sent with the rows that it has.
const CHUNK_AGE_MAX: Duration = Duration::from_millis(500);
/// Maximum chunks kept in memory until the server has stored them.
const CHUNKS_KEPT_MAX: usize = 32;
/// Maximum rows that were read and are not in a chunk yet.
const ROWS_READ_MAX: usize = 1000;

/// Rows between the files and the server.
struct PendingRows {
    coming: mpsc::Receiver<Result<Vec<f64>, FileError>>,
    /// Column count and column names, set when the first file is opened.
    of_files: Arc<OnceLock<(usize, Vec<String>)>>,
    chunk_rows: usize,
    /// Values of the next chunk, row-major, and the time of its first row.
    next: Vec<f64>,
    since: Option<Instant>,
    /// Chunks that the server may not have stored yet.
    kept: VecDeque<pb::RowChunk>,
    chunks: u64,
    rows: u64,
    ended: bool,
}

impl PendingRows {
    /// Reads the files in order on a separate thread, because standard input may block.
    fn read(
        files: Vec<String>,
        (options, of_files): (ReadOptions, ColumnsOfFiles),
        columns: usize,
        publish_rows: u64,
    ) -> Self {
        let (sender, coming) = mpsc::channel(ROWS_READ_MAX);
        // The thread is not joined: it may block on standard input after the command has ended.
        let known = Arc::new(OnceLock::new());
        let tells = Arc::clone(&known);
        std::thread::spawn(move || {
            if let Err(error) = each_row(&files, (&options, of_files), columns, &tells, &sender) {
                let _ = sender.blocking_send(Err(error));
            }
        });
        let by_round = usize::try_from(publish_rows).ok().filter(|rows| *rows > 0).unwrap_or(usize::MAX);
        let chunk_rows = chunk_rows(columns).min(CHUNK_ROWS_MAX).min(by_round);
        Self {
            coming,
            of_files: known,
            chunk_rows,
            next: Vec::new(),
            since: None,
            kept: VecDeque::new(),
            chunks: 0,
            rows: 0,
            ended: false,
        }
    }

    /// The next chunk, once it is full or old enough; `None` at the end. Cancel safe: a dropped call loses no rows.
    async fn chunk(&mut self) -> Result<Option<pb::RowChunk>, CliError> {
        while self.next.len() < self.chunk_rows * self.columns() {
            let old = self.since.map(|since| since + CHUNK_AGE_MAX);
            let row = tokio::select! {
                row = self.coming.recv() => row,
                () = sleep_until(old.unwrap_or_else(Instant::now)), if old.is_some() => break,
            };
            match row {
                Some(row) => self.next.extend(row?),
                None => break,
            }
            self.since.get_or_insert_with(Instant::now);
        }
        if self.next.is_empty() {
            self.ended = true;
            return Ok(None);
        }
        let values = std::mem::take(&mut self.next);
        self.since = None;
        self.chunks += 1;
        self.rows += (values.len() / self.columns()) as u64;
        let names = self.of_files.get().map_or(&[][..], |(_, names)| names);
        let rows = Some(named_matrix(self.columns(), &values, names));
        let chunk = pb::RowChunk { number: self.chunks, rows, role: pb::RowRole::Training.into() };
        self.kept.push_back(chunk.clone());
        Ok(Some(chunk))
    }

    /// Number of columns; 1 until the first file is opened.
    fn columns(&self) -> usize {
        self.of_files.get().map_or(1, |(columns, _)| *columns)
    }

    /// Drops kept chunks up to this number: the server has stored them.
    fn are_safe(&mut self, number: u64) {
        while self.kept.front().is_some_and(|chunk| chunk.number <= number) {
            self.kept.pop_front();
        }
    }

    fn finish(&self) -> RequestMessage {
        RequestMessage::Finish(pb::TrainFinish { chunk_count: self.chunks, row_count: self.rows })
    }
}

fn each_row(
    files: &[String],
    (options, mut of_files): (&ReadOptions, ColumnsOfFiles),
    columns: usize,
    tells: &OnceLock<(usize, Vec<String>)>,
    sender: &mpsc::Sender<Result<Vec<f64>, FileError>>,
) -> Result<(), FileError> {
    for path in files {
        let mut reader = of_files.open_live(path, options, columns)?;
        tells.get_or_init(|| (reader.columns(), of_files.names().to_vec()));
        loop {
            let mut row = Vec::with_capacity(reader.columns());
            if reader.next_rows(&mut row, 1)? == 0 {
                break;
            }
            if sender.blocking_send(Ok(row)).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Sends rows until they end, and prints each round. Reconnects after a broken connection.
pub(super) async fn run(
    context: &Context,
    spec: pb::TrainSpec,
    files: Vec<String>,
    read: (ReadOptions, ColumnsOfFiles),
) -> Result<(), CliError> {
    let columns = spec.widths.first().copied().unwrap_or_default() as usize;
    let publish_rows = spec.incremental.map_or(0, |incremental| incremental.publish_rows);
    let mut rows = PendingRows::read(files, read, columns, publish_rows);
    let display = Display::new(context.json);
    let (mut printed, mut retries) = (0, 0);
    loop {
        let before = (printed, rows.chunks);
        let error = match attempt(context, &spec, &mut rows, &display, &mut printed).await {
            Ok(()) => {
                display.finish();
                return Ok(());
            }
            Err(error) => context.clarified(error).await,
        };
        if before != (printed, rows.chunks) {
            retries = 0;
        }
        let broken = match &error {
            CliError::Status(status) => is_broken_connection(status),
            CliError::NoServer { .. } => rows.chunks > 0,
            _ => false,
        };
        if !broken || retries == RETRIES_MAX {
            if lies_with_the_rows(&error) {
                cancel_open_round(context, &spec, &display).await;
            }
            display.finish();
            return Err(error);
        }
        let pause = RETRY_PAUSE * 2u32.pow(retries);
        retries += 1;
        display.say(&format!("the connection broke, retrying in {pause:?} ({retries} of {RETRIES_MAX})"));
        tokio::time::sleep(pause).await;
    }
}

/// Cancels the round whose upload is open. Rounds with all their rows continue.
async fn cancel_open_round(context: &Context, spec: &pb::TrainSpec, display: &Display) {
    let key = format!("{}#", spec.idempotency_key);
    let Ok(mut jobs) = context.jobs().await else { return };
    let Ok(newest) = jobs.list_jobs(pb::ListJobsRequest::default()).await else { return };
    let is_open = |job: &pb::Job| job.state() == pb::JobState::Uploading && job.idempotency_key.starts_with(&key);
    for job in newest.into_inner().jobs.iter().filter(|job| is_open(job)) {
        display.say(&cancel(context, &job.id).await);
    }
}

/// Sends rows on one connection. `printed` is the newest round whose result was printed.
async fn attempt(
    context: &Context,
    spec: &pb::TrainSpec,
    rows: &mut PendingRows,
    display: &Display,
    printed: &mut u64,
) -> Result<(), CliError> {
    let mut client = context.autoencoder().await?;
    // Capacity for all kept chunks, `spec` and `finish`: sending never blocks, so responses are always read.
    let (requests, receiver) = mpsc::channel::<pb::TrainRequest>(CHUNKS_KEPT_MAX + 2);
    let ask = async |message| {
        // If the stream has ended, its response says why.
        let _ = requests.send(pb::TrainRequest { message: Some(message) }).await;
    };
    ask(RequestMessage::Spec(spec.clone())).await;
    let mut answers = client.train(ReceiverStream::new(receiver)).await?.into_inner();
    let accepted = match answers.message().await?.and_then(|answer| answer.message) {
        Some(ResponseMessage::Accepted(accepted)) => accepted,
        other => return Err(CliError::Failed(format!("expected `accepted` from the server, got {other:?}"))),
    };
    rows.are_safe(accepted.last_chunk_number);
    for chunk in &rows.kept {
        ask(RequestMessage::Chunk(chunk.clone())).await;
    }
    if rows.ended {
        ask(rows.finish()).await;
    }
    loop {
        let sends = !rows.ended && rows.kept.len() < CHUNKS_KEPT_MAX;
        tokio::select! {
            answer = answers.message() => match answer? {
                None if rows.ended => return Ok(()),
                None => return Err(CliError::Failed("the server ended the stream before the last row".to_owned())),
                Some(pb::TrainResponse { message: Some(ResponseMessage::Acknowledged(one)) }) => {
                    rows.are_safe(one.number);
                    display.acknowledged(&one);
                }
                // After a reconnect the server repeats the newest results.
                Some(pb::TrainResponse { message: Some(ResponseMessage::Result(result)) })
                    if result.round > *printed =>
                {
                    *printed = result.round;
                    print_round(context, &result);
                }
                Some(_) => {}
            },
            chunk = rows.chunk(), if sends => match chunk? {
                Some(chunk) => ask(RequestMessage::Chunk(chunk)).await,
                None => ask(rows.finish()).await,
            },
        }
    }
}

/// Prints the result of a round.
fn print_round(context: &Context, result: &pb::TrainResult) {
    if context.json {
        out_line!(
            "{}",
            json!({
                "round": result.round,
                "job_id": result.job_id,
                "model_name": result.model_name,
                "version": (result.version > 0).then_some(result.version),
                "kept_back": result.kept_back,
                "failure": result.failure,
                "training_report": result.training_report.as_ref().map(report::report_json),
            })
        );
    } else {
        out_line!("{}", line(result));
    }
}

fn line(result: &pb::TrainResult) -> String {
    let round = result.round;
    if !result.failure.is_empty() {
        return format!("round {round}: {}", result.failure);
    }
    if !result.kept_back.is_empty() {
        return format!("round {round}: not published: {}", result.kept_back);
    }
    let report = result.training_report.clone().unwrap_or_default();
    let mut text = format!("round {round}: {}@{} is published", result.model_name, result.version);
    if let Some(validation) = &report.validation {
        text.push_str(&format!(", validation loss {:.4}", validation.loss));
    }
    if let Some(base) = &report.base_validation {
        text.push_str(&format!(" ({}@{} has {:.4})", report.base_model_name, report.base_version, base.loss));
    }
    text.push_str(&format!(", {} rows", report.training_rows));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_of(values: &[f32], columns: usize, publish_rows: u64) -> (tempfile::TempDir, PendingRows) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.csv");
        let text: String = values
            .chunks(columns)
            .map(|row| row.iter().map(ToString::to_string).collect::<Vec<_>>().join(",") + "\n")
            .collect();
        std::fs::write(&path, text).expect("writes");
        let files = vec![path.display().to_string()];
        (folder, PendingRows::read(files, (ReadOptions::default(), ColumnsOfFiles::default()), columns, publish_rows))
    }

    #[tokio::test]
    async fn chunks_are_kept_until_they_are_safe() {
        let values: Vec<f32> = (0..50).map(|i| i as f32).collect();
        let (_folder, mut rows) = rows_of(&values, 2, 10);
        let mut sizes = Vec::new();
        while let Some(chunk) = rows.chunk().await.expect("reads") {
            sizes.push(chunk.rows.expect("rows").rows);
        }
        assert_eq!((sizes.iter().sum::<u32>(), rows.rows, rows.chunks), (25, 25, sizes.len() as u64));
        assert!(sizes.iter().all(|rows| *rows <= 10), "{sizes:?}");
        rows.are_safe(rows.chunks - 1);
        assert_eq!(rows.kept.len(), 1);
    }

    #[test]
    fn each_round_has_a_one_line_summary() {
        let result = pb::TrainResult { round: 2, model_name: "m".into(), version: 3, ..Default::default() };
        assert!(line(&result).starts_with("round 2: m@3 is published"));
        let kept = pb::TrainResult { round: 3, kept_back: "it is worse".into(), ..Default::default() };
        assert_eq!(line(&kept), "round 3: not published: it is worse");
    }
}
