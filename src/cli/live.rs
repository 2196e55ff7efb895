//! Progress of a job on standard error: a chart in a terminal, lines elsewhere, JSON lines with --json. No output uses
//! color.

use std::time::Duration;

use console::Term;
use indicatif::{ProgressBar, ProgressStyle};

use super::picture::Picture;
use super::report;
use crate::client::upload::UploadObserver;
use crate::rpc::pb;

/// Interval of the spinner during the upload.
const SPIN_INTERVAL: Duration = Duration::from_millis(200);

/// Progress on standard error.
pub(super) struct Display {
    /// Keeps its lines at the bottom of the terminal and redraws them together. `None` without a terminal, or with a
    /// dumb one.
    bar: Option<ProgressBar>,
    json: bool,
    picture: Picture,
    /// Without a bar: the current epoch and its newest line.
    latest: (u32, String),
}

impl Display {
    pub(super) fn new(json: bool) -> Self {
        let bar = ProgressBar::new_spinner();
        let bar = (!json && !bar.is_hidden()).then_some(bar);
        if let Some(bar) = &bar {
            bar.enable_steady_tick(SPIN_INTERVAL);
        }
        Self { bar, json, picture: Picture::default(), latest: (0, String::new()) }
    }

    /// Prints a line that stays on the screen.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => note_line!("{text}"),
        }
    }

    pub(super) fn accepted(&self, job: &pb::Job, spec: &pb::TrainSpec, last_chunk: u64) {
        if self.json {
            return;
        }
        let resumed = if last_chunk > 0 { format!(", resuming after chunk {last_chunk}") } else { String::new() };
        self.say(&format!(
            "job {} trains {} (idempotency key {}){resumed}",
            job.id, spec.model_name, spec.idempotency_key
        ));
    }

    pub(super) fn acknowledged(&self, acknowledged: &pb::ChunkAcknowledged) {
        for note in &acknowledged.notes {
            self.say(&format!("note: {note}"));
        }
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{} rows are stored on the server", acknowledged.row_count));
        }
    }

    pub(super) fn progress(&mut self, job: &pb::Job) {
        if self.json {
            note_line!("{}", report::job_json(job));
            return;
        }
        let Some(progress) = &job.progress else {
            if let Some(bar) = &self.bar {
                bar.set_message(before_training(job));
            }
            return;
        };
        if let Some(bar) = &self.bar {
            self.picture.add(progress);
            draw(bar, &self.picture);
        } else {
            // Prints a line when an epoch ends; with many epochs, only about 20 lines in total.
            let (epoch, said) = &self.latest;
            if progress.epoch > *epoch && *epoch > 0 && epoch % (progress.epoch_count / 20).max(1) == 0 {
                note_line!("{said}");
            }
            self.latest = (progress.epoch, line(progress));
        }
    }

    pub(super) fn finish(&self) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None if self.latest.0 > 0 => note_line!("{}", self.latest.1),
            None => {}
        }
    }
}

impl UploadObserver for Display {
    fn accepted(&mut self, job: &pb::Job, spec: &pb::TrainSpec, last_chunk_number: u64) {
        Self::accepted(self, job, spec, last_chunk_number);
    }

    fn acknowledged(&mut self, acknowledged: &pb::ChunkAcknowledged) {
        Self::acknowledged(self, acknowledged);
    }

    fn progress(&mut self, job: &pb::Job) {
        Self::progress(self, job);
    }
}

/// The status text of a job before training.
fn before_training(job: &pb::Job) -> String {
    let state = report::short(job.state().as_str_name(), "JOB_STATE_");
    match job.row_count + job.test_row_count {
        rows if rows > 0 && job.state() == pb::JobState::Running => format!("{state}: {rows} rows received"),
        _ => state,
    }
}

/// Redraws only when progress arrives.
fn draw(bar: &ProgressBar, picture: &Picture) {
    bar.disable_steady_tick();
    if let Ok(style) = ProgressStyle::with_template("{msg}") {
        bar.set_style(style);
    }
    // Leaves the last column free: some terminals would wrap the line.
    let (_, columns) = Term::stderr().size();
    bar.set_message(picture.lines(usize::from(columns).saturating_sub(1)).join("\n"));
}

/// Progress as one line of text.
fn line(progress: &pb::Progress) -> String {
    let mut text = format!("epoch {}/{}, loss {:.4}", progress.epoch, progress.epoch_count, progress.training_loss);
    if let Some(loss) = progress.validation_loss {
        text.push_str(&format!(", validation {loss:.4}"));
    }
    if let Some(explained) = progress.explained_variance {
        text.push_str(&format!(", variance explained {:.1} %", 100.0 * explained));
    }
    if let Some(explained) = progress.pca_explained_variance {
        text.push_str(&format!(" (PCA {:.1} %)", 100.0 * explained));
    }
    if progress.rows_per_second > 0.0 {
        text.push_str(&format!(", {:.0} rows/s", progress.rows_per_second));
    }
    if let Some(left) = &progress.time_left {
        text.push_str(&format!(", {} s left", left.seconds));
    }
    text
}
