//! What a command shows of a job while it goes on, on standard error.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::report;
use crate::rpc::pb;

/// Progress on standard error: a bar on a terminal, lines elsewhere, JSON lines where asked.
pub(super) struct Display {
    bar: Option<ProgressBar>,
    json: bool,
    /// Where there is no bar: the epoch that is under way, and what was last said of it.
    latest: (u32, String),
}

impl Display {
    pub(super) fn new(json: bool) -> Self {
        let bar = (!json && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, json, latest: (0, String::new()) }
    }

    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    pub(super) fn accepted(&self, job: &pb::Job, spec: &pb::TrainSpec, last_chunk: u64) {
        if self.json {
            return;
        }
        let resumed = if last_chunk > 0 { format!(", going on after chunk {last_chunk}") } else { String::new() };
        self.say(&format!(
            "job {} trains {} (idempotency key {}){resumed}",
            job.id, spec.model_name, spec.idempotency_key
        ));
    }

    pub(super) fn acknowledged(&self, acknowledged: &pb::ChunkAcknowledged) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{} rows are safe on the server's disk", acknowledged.row_count));
        }
    }

    pub(super) fn progress(&mut self, job: &pb::Job) {
        if self.json {
            eprintln!("{}", report::job_json(job));
            return;
        }
        let Some(progress) = &job.progress else {
            if let Some(bar) = &self.bar {
                bar.set_message(report::short(job.state().as_str_name(), "JOB_STATE_"));
            }
            return;
        };
        let text = progress_text(progress);
        if let Some(bar) = &self.bar {
            if bar.length() != Some(progress.step_count) {
                bar.set_length(progress.step_count);
                if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
                    bar.set_style(style);
                }
            }
            bar.set_position(progress.step);
            bar.set_message(text);
        } else {
            // A line as an epoch closes; of many epochs, one every so often.
            let (epoch, said) = &self.latest;
            if progress.epoch > *epoch && *epoch > 0 && epoch % (progress.epoch_count / 20).max(1) == 0 {
                eprintln!("{said}");
            }
            self.latest = (progress.epoch, text);
        }
    }

    pub(super) fn finish(&self) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None if self.latest.0 > 0 => eprintln!("{}", self.latest.1),
            None => {}
        }
    }
}

fn progress_text(progress: &pb::Progress) -> String {
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
