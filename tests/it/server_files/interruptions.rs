//! Copying that is killed, paused or cancelled.

use std::time::Duration;

use halfhitch::rpc::pb;
use pb::job_service_client::JobServiceClient;
use pb::train_response::Message as Answer;
use tonic::transport::Channel;

use super::{COLUMNS, Place, begin, from, left};
use crate::support::files::{csv, rows_sha256, tensors_sha256};
use crate::support::{AutoencoderClient, sample};

/// Enough files that copying takes a while, and their rows.
fn many(place: &Place) -> (Vec<String>, Vec<f32>) {
    const FILES: usize = 1_200;
    let rows = sample(500, COLUMNS, 3);
    csv(&place.file("part.csv"), COLUMNS, &rows);
    (vec!["part.csv".to_owned(); FILES], rows.repeat(FILES))
}

fn slow(name: &str, paths: &[String]) -> pb::TrainSpec {
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    pb::TrainSpec { epochs: 1, batch_rows: 4096, ..from(name, &paths, &[]) }
}

/// Waits for a job state that `wanted` accepts, and returns the job.
async fn until(mut jobs: JobServiceClient<Channel>, id: &str, wanted: impl Fn(&pb::Job) -> bool) -> pb::Job {
    let mut news = jobs.watch_job(pb::WatchJobRequest { id: id.to_owned() }).await.expect("known").into_inner();
    while let Some(message) = news.message().await.expect("goes well") {
        let job = message.job.expect("a job");
        if wanted(&job) {
            return job;
        }
    }
    panic!("the job has ended")
}

fn has_ended(job: &pb::Job) -> bool {
    matches!(job.state(), pb::JobState::Succeeded | pb::JobState::Failed | pb::JobState::Cancelled)
}

/// Starts a job and returns its id.
async fn begun(client: AutoencoderClient, spec: pb::TrainSpec) -> String {
    let mut answers = begin(client, spec).await.expect("accepted");
    match answers.message().await.expect("goes well").and_then(|answer| answer.message) {
        // The client leaves the stream; the job stays with the server.
        Some(Answer::Accepted(accepted)) => accepted.job.expect("a job").id,
        other => panic!("expected `accepted`, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_while_copying_or_training_do_not_change_the_bits() {
    let place = Place::new();
    let (paths, rows) = many(&place);
    let all = (rows.len() / COLUMNS) as u64;
    let server = place.process();
    let quiet = begun(server.autoencoder().await, slow("quiet", &paths)).await;
    let ended = until(JobServiceClient::new(server.channel().await), &quiet, has_ended).await;
    assert_eq!(ended.state(), pb::JobState::Succeeded, "{ended:?}");
    drop(server);

    let server = place.process();
    let id = begun(server.autoencoder().await, slow("killed", &paths)).await;
    let copying = |job: &pb::Job| job.row_count > 0 || job.progress.is_some();
    let job = until(JobServiceClient::new(server.channel().await), &id, copying).await;
    assert!(job.row_count < all && job.progress.is_none(), "it was too fast to be killed: {job:?}");
    server.kill();
    assert!(left(&place.store(), &id).contains(&"rows.spool".to_owned()), "some rows were copied");

    let server = place.process();
    // A graceful stop leaves no incomplete copy.
    until(JobServiceClient::new(server.channel().await), &id, copying).await;
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(left(&place.store(), &id), ["job.json"]);

    let server = place.process();
    let job = until(JobServiceClient::new(server.channel().await), &id, |job| job.progress.is_some()).await;
    assert_eq!((job.row_count, job.version), (all, 0), "all rows are there, and no version yet");
    server.kill();
    // From now on the job has its own copy of the rows.
    std::fs::remove_file(place.file("part.csv")).expect("removes");
    let server = place.process();
    let ended = until(JobServiceClient::new(server.channel().await), &id, has_ended).await;
    assert_eq!(ended.state(), pb::JobState::Succeeded, "{ended:?}");
    assert_eq!(ended.training_report.expect("a report").data_sha256, rows_sha256(&rows, &[]));
    let version = ended.version;
    assert_eq!(tensors_sha256(&place.store(), "killed", version), tensors_sha256(&place.store(), "quiet", 1));
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_can_be_paused_resumed_and_cancelled() {
    let place = Place::new();
    let (paths, rows) = many(&place);
    let server = place.server(|_| ()).await;
    let mut jobs = server.jobs().await;
    let id = begun(server.autoencoder().await, slow("paused", &paths)).await;
    until(jobs.clone(), &id, |job| job.row_count > 0).await;
    let paused = jobs.pause_job(pb::PauseJobRequest { id: id.clone() }).await.expect("pauses").into_inner().job;
    let paused = paused.expect("a job");
    assert_eq!((paused.state(), paused.row_count), (pb::JobState::Paused, 0), "it begins anew");
    assert_eq!(left(&place.store(), &id), ["job.json"], "and takes no room meanwhile");
    jobs.resume_job(pb::ResumeJobRequest { id: id.clone() }).await.expect("resumes");
    let ended = until(jobs.clone(), &id, has_ended).await;
    assert_eq!(ended.training_report.expect("a report").data_sha256, rows_sha256(&rows, &[]));

    let id = begun(server.autoencoder().await, slow("cancelled", &paths)).await;
    until(jobs.clone(), &id, |job| job.row_count > 0).await;
    let cancelling = jobs.cancel_job(pb::CancelJobRequest { id: id.clone() });
    let cancelled = tokio::time::timeout(Duration::from_secs(20), cancelling).await.expect("soon").expect("cancels");
    assert_eq!(cancelled.into_inner().job.expect("a job").state(), pb::JobState::Cancelled);
    assert_eq!(left(&place.store(), &id), ["job.json"]);
    server.stop().await;
}
