//! `halfhitch jobs`: lists and controls training jobs.

use clap::Subcommand;

use super::client::Context;
use super::live::Display;
use super::{CliError, report};
use crate::rpc::pb;

#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// List all jobs that the server remembers, newest first
    List,
    /// Show one job
    Show {
        /// Id of the job
        id: String,
    },
    /// Show the progress of a job until it ends
    Watch {
        /// Id of the job
        id: String,
    },
    /// Pause a queued or running job until it is resumed
    Pause {
        /// Id of the job
        id: String,
    },
    /// Queue a paused job again
    Resume {
        /// Id of the job
        id: String,
    },
    /// Cancel a job and remove its rows
    Cancel {
        /// Id of the job
        id: String,
    },
}

pub(super) async fn run(context: &Context, command: JobsCommand) -> Result<(), CliError> {
    let mut client = context.jobs().await?;
    match command {
        JobsCommand::List => {
            let mut page_token = String::new();
            let mut any = false;
            loop {
                let page = client.list_jobs(pb::ListJobsRequest { page_size: 0, page_token }).await?.into_inner();
                for job in page.jobs {
                    if context.json {
                        out_line!("{}", report::job_json(&job));
                        continue;
                    }
                    if !any {
                        out_line!("{:<36}  {:<10} {:<24} {:>10}  version", "id", "state", "model", "rows");
                    }
                    any = true;
                    let version = match job.version {
                        0 if job.kept_back.is_empty() => String::new(),
                        0 => "not published".to_owned(),
                        version => version.to_string(),
                    };
                    out_line!(
                        "{:<36}  {:<10} {:<24} {:>10}  {version}",
                        job.id,
                        state(&job),
                        job.model_name,
                        job.row_count
                    );
                }
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    return Ok(());
                }
            }
        }
        JobsCommand::Show { id } => {
            let job = client.get_job(pb::GetJobRequest { id }).await?.into_inner().job;
            print_job(context, &job.unwrap_or_default());
            Ok(())
        }
        JobsCommand::Watch { id } => {
            let mut news = client.watch_job(pb::WatchJobRequest { id }).await?.into_inner();
            let mut display = Display::new(context.json);
            let mut last = pb::Job::default();
            while let Some(message) = news.message().await? {
                last = message.job.unwrap_or_default();
                display.progress(&last);
            }
            display.finish();
            print_job(context, &last);
            if last.state() == pb::JobState::Succeeded {
                Ok(())
            } else {
                Err(CliError::Failed(format!("job {} ended as {}", last.id, state(&last))))
            }
        }
        JobsCommand::Pause { id } => {
            let job = client.pause_job(pb::PauseJobRequest { id }).await?.into_inner().job;
            print_job(context, &job.unwrap_or_default());
            Ok(())
        }
        JobsCommand::Resume { id } => {
            let job = client.resume_job(pb::ResumeJobRequest { id }).await?.into_inner().job;
            print_job(context, &job.unwrap_or_default());
            Ok(())
        }
        JobsCommand::Cancel { id } => {
            let job = client.cancel_job(pb::CancelJobRequest { id }).await?.into_inner().job;
            print_job(context, &job.unwrap_or_default());
            Ok(())
        }
    }
}

fn state(job: &pb::Job) -> String {
    report::short(job.state().as_str_name(), "JOB_STATE_")
}

fn print_job(context: &Context, job: &pb::Job) {
    if context.json {
        out_line!("{}", report::job_json(job));
        return;
    }
    out_line!("job {} for {}: {}", job.id, job.model_name, state(job));
    out_line!(
        "  rows: {} to train on, {} to test on, in {} chunks",
        job.row_count,
        job.test_row_count,
        job.chunk_count
    );
    if let Some(progress) = &job.progress {
        out_line!(
            "  epoch {} of {}, training loss {:.4}",
            progress.epoch,
            progress.epoch_count,
            progress.training_loss
        );
    }
    if job.version > 0 {
        out_line!("  published: {}@{}", job.model_name, job.version);
    }
    if !job.kept_back.is_empty() {
        out_line!("  not published: {}", job.kept_back);
    }
    if !job.failure.is_empty() {
        out_line!("  failure: {}", job.failure);
    }
    if job.state() == pb::JobState::Paused {
        out_line!("  to resume: halfhitch jobs resume {}", job.id);
    }
    if job.state() == pb::JobState::Uploading && !job.idempotency_key.is_empty() {
        out_line!("  to resume: halfhitch train ... --idempotency-key {}", job.idempotency_key);
    }
}
