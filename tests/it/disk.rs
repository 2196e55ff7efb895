//! A full or nearly full disk: the affected job fails with a clear reason, and nothing else is affected.

use std::path::Path;
use std::process::Command;

use halfhitch::rpc::pb;
use pb::train_response::Message as Answer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::process::ServerProcess;
use crate::support::{
    AutoencoderClient, TestServer, chunk, finish, matrix, newest, question, sample, spec, temporary_store, train,
};

const COLUMNS: usize = 16;

/// An upload that the test controls.
struct Upload {
    id: String,
    questions: mpsc::Sender<pb::TrainRequest>,
    answers: tonic::Streaming<pb::TrainResponse>,
}

impl Upload {
    async fn open(mut client: AutoencoderClient, name: &str) -> Result<Self, Status> {
        let (questions, receiver) = mpsc::channel(4);
        let spec = pb::TrainSpec { idempotency_key: name.to_owned(), ..spec(name, &[COLUMNS as u32, 4]) };
        questions.send(question(pb::train_request::Message::Spec(spec))).await.expect("room");
        let mut answers = client.train(ReceiverStream::new(receiver)).await?.into_inner();
        match answers.message().await?.and_then(|answer| answer.message) {
            Some(Answer::Accepted(accepted)) => Ok(Self { id: accepted.job.expect("a job").id, questions, answers }),
            other => panic!("expected `accepted`, got {other:?}"),
        }
    }

    /// Sends a chunk and waits until it is acknowledged.
    async fn chunk(&mut self, number: u64, rows: &[f32]) -> Result<(), Status> {
        self.questions.send(chunk(number, COLUMNS, rows)).await.expect("the stream is open");
        match self.answers.message().await?.and_then(|answer| answer.message) {
            Some(Answer::Acknowledged(got)) if got.number == number => Ok(()),
            other => panic!("expected `acknowledged`, got {other:?}"),
        }
    }

    async fn result(&mut self) -> Result<pb::TrainResult, Status> {
        while let Some(answer) = self.answers.message().await? {
            if let Some(Answer::Result(result)) = answer.message {
                return Ok(result);
            }
        }
        panic!("the stream ended without a result");
    }
}

/// Whether this machine allows the test to mount a small disk.
fn small_disks_are_possible(folder: &Path) -> bool {
    let mounted =
        Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder).output();
    mounted.is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_only_the_job_that_fills_it() {
    let store = temporary_store();
    if !small_disks_are_possible(store.path()) {
        eprintln!("skipped: no mounts without privileges here");
        return;
    }
    let server = ServerProcess::start_on_small_disk(store.path(), "3m", &["--disk-free-bytes-min", "0"]);
    let small = sample(60, COLUMNS, 1);
    train(&mut server.autoencoder().await, spec("kept", &[COLUMNS as u32, 4]), &small).await.expect("trains");
    let mut other = Upload::open(server.autoencoder().await, "other").await.expect("accepted");
    other.chunk(1, &small).await.expect("there is room");

    let large = sample(8_000, COLUMNS, 2);
    let mut upload = Upload::open(server.autoencoder().await, "large").await.expect("accepted");
    let mut number = 0;
    let error = loop {
        number += 1;
        if let Err(error) = upload.chunk(number, &large).await {
            break error;
        }
        assert!(number < 10, "there is no end to this disk");
    };
    assert!(number > 2, "{error:?}");
    assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
    let mut jobs = pb::job_service_client::JobServiceClient::new(server.channel().await);
    let job = jobs.get_job(pb::GetJobRequest { id: upload.id }).await.expect("known").into_inner().job;
    let job = job.expect("a job");
    assert_eq!(job.state(), pb::JobState::Failed);
    for text in ["is full", &job.id, "free disk space", "send the rows again"] {
        assert!(job.failure.contains(text), "{:?} does not say {text:?}", job.failure);
        assert!(error.message().contains(text), "{error:?} does not say {text:?}");
    }

    // The failed job's rows are deleted: other jobs have space again, and existing data is intact.
    other.chunk(2, &large).await.expect("there is room again");
    other.questions.send(finish(2, 8_060)).await.expect("the stream is open");
    assert_eq!(other.result().await.expect("trains").version, 1);
    let encode = pb::EncodeRequest { model: newest("kept"), rows: Some(matrix(COLUMNS, &small)), ..Default::default() };
    server.autoencoder().await.encode(encode).await.expect("encodes");
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_into_the_disk_reserve_get_a_retry_delay() {
    let store = temporary_store();
    let mut config = halfhitch::server::ServerConfig::new(store.path().to_owned());
    config.jobs.disk_free_bytes_min = u64::MAX;
    let server = TestServer::start_with(config).await;
    let Err(error) = Upload::open(server.autoencoder().await, "refused").await else { panic!("it was accepted") };
    assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
    let delay = error.get_error_details().retry_info().and_then(|info| info.retry_delay);
    assert!(delay.is_some_and(|delay| !delay.is_zero()), "{error:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_gives_a_retry_delay_and_uploads_can_resume() {
    let store = temporary_store();
    let mut config = halfhitch::server::ServerConfig::new(store.path().to_owned());
    let rows = sample(60, COLUMNS, 1);
    config.jobs.spool_bytes_max = 6_000;
    let server = TestServer::start_with(config).await;
    let mut first = Upload::open(server.autoencoder().await, "first").await.expect("accepted");
    first.chunk(1, &rows).await.expect("there is room");
    let mut second = Upload::open(server.autoencoder().await, "second").await.expect("accepted");
    let error = second.chunk(1, &rows).await.expect_err("there is no room");
    assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
    let delay = error.get_error_details().retry_info().and_then(|info| info.retry_delay);
    assert!(delay.is_some_and(|delay| !delay.is_zero()), "{error:?}");
    first.questions.send(finish(1, 60)).await.expect("the stream is open");
    first.result().await.expect("trains");
    let mut second = Upload::open(server.autoencoder().await, "second").await.expect("is still there");
    second.chunk(1, &rows).await.expect("there is room");
    server.stop().await;
}

/// The effects of PauseJob and CancelJob on a full disk are stored: a restart finds them, and cancelling frees space.
#[tokio::test(flavor = "multi_thread")]
async fn pausing_and_cancelling_jobs_works_on_a_full_disk() {
    let folder = temporary_store();
    if !small_disks_are_possible(folder.path()) {
        eprintln!("skipped: no mounts without privileges here");
        return;
    }
    let server = ServerProcess::start_on_small_disk(folder.path(), "4m", &["--disk-free-bytes-min", "0"]);
    let mut jobs = pb::job_service_client::JobServiceClient::new(server.channel().await);
    let mut uploads = Vec::new();
    for name in ["first", "second"] {
        let mut upload = Upload::open(server.autoencoder().await, name).await.expect("accepted");
        upload.chunk(1, &sample(8_000, COLUMNS, 2)).await.expect("there is room");
        uploads.push(upload);
    }
    let id = uploads[0].id.clone();
    let endless = uploads.remove(0);
    endless.questions.send(finish(1, 8_000)).await.expect("the stream is open");
    // Fill the disk to the last block with an unrelated file.
    let filler = Command::new("sh")
        .args(["-c", r#"pid=$1; dd if=/dev/zero of="/proc/$pid/root$2/filler" bs=4k 2>/dev/null; true"#, "sh"])
        .arg(server.id().to_string())
        .arg(folder.path())
        .status();
    assert!(filler.is_ok());
    let paused = jobs.pause_job(pb::PauseJobRequest { id: id.clone() }).await;
    let job = jobs.get_job(pb::GetJobRequest { id: id.clone() }).await.expect("known").into_inner().job.expect("a job");
    match paused {
        Ok(answer) => {
            let journal = Command::new("cat")
                .arg(format!("/proc/{}/root{}/jobs/{id}/job.json", server.id(), folder.path().display()))
                .output()
                .expect("cat exists");
            let state = answer.into_inner().job.expect("a job").state();
            assert_eq!((state, job.state()), (pb::JobState::Paused, pb::JobState::Paused));
            let text = String::from_utf8_lossy(&journal.stdout).into_owned();
            assert!(text.contains("\"state\":\"paused\""), "what was answered is on the disk: {text}");
        }
        // The job ended first.
        Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}"),
    }
    let waits = uploads.remove(0);
    let cancelled = jobs.cancel_job(pb::CancelJobRequest { id: waits.id }).await.expect("by the reserve").into_inner();
    assert_eq!(cancelled.job.expect("a job").state(), pb::JobState::Cancelled);
    let mut again = Upload::open(server.autoencoder().await, "again").await.expect("there is room again");
    again.chunk(1, &sample(4_000, COLUMNS, 3)).await.expect("there is room again");
    assert_eq!(server.terminate(), Some(0));
}
