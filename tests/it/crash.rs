//! kill -9 at any moment: every published model is intact, no acknowledged row is lost, and the store is clean.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use halfhitch::rpc::pb;
use pb::train_response::Message as Answer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::process::ServerProcess;
use crate::support::{chunk, finish, matrix, question, sample, spec, temporary_store, train, version};

const COLUMNS: usize = 8;
const CHUNKS: u64 = 24;
const CHUNK_ROWS: usize = 25;

fn keyed() -> pb::TrainSpec {
    pb::TrainSpec { idempotency_key: "torture".into(), ..spec("survivor", &[COLUMNS as u32, 3]) }
}

fn chunk_values(rows: &[f32], number: u64) -> &[f32] {
    let values = CHUNK_ROWS * COLUMNS;
    &rows[(number as usize - 1) * values..][..values]
}

/// Sends chunks until `stop_after` more are acknowledged (then kills the server) or all are sent (then returns the
/// result).
async fn upload(
    server: &ServerProcess,
    rows: &[f32],
    acknowledged: &mut u64,
    stop_after: u64,
) -> Option<pb::TrainResult> {
    let (questions, receiver) = mpsc::channel(CHUNKS as usize + 2);
    questions.send(question(pb::train_request::Message::Spec(keyed()))).await.expect("room");
    let mut client = server.autoencoder().await;
    let mut answers = client.train(ReceiverStream::new(receiver)).await.expect("accepted").into_inner();
    let stop_at = *acknowledged + stop_after;
    loop {
        let answer = answers.message().await.expect("goes well").expect("an answer");
        match answer.message.expect("set") {
            Answer::Accepted(accepted) => {
                let last = accepted.last_chunk_number;
                assert!(last >= *acknowledged, "chunk {acknowledged} was acknowledged, {last} is on disk");
                for number in last + 1..=CHUNKS {
                    questions.send(chunk(number, COLUMNS, chunk_values(rows, number))).await.expect("open");
                }
                questions.send(finish(CHUNKS, CHUNKS * CHUNK_ROWS as u64)).await.expect("open");
            }
            Answer::Acknowledged(got) => {
                *acknowledged = got.number;
                if *acknowledged >= stop_at {
                    return None;
                }
            }
            Answer::Progress(_) => {}
            Answer::Result(result) => return Some(result),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_repeated_server_kills() {
    let rows = sample(CHUNKS as usize * CHUNK_ROWS, COLUMNS, 3);
    // The result of an undisturbed upload.
    let quiet = temporary_store();
    let server = ServerProcess::start(quiet.path());
    let expected =
        upload(&server, &rows, &mut 0, u64::MAX - CHUNKS).await.expect("trains").training_report.expect("one");
    drop(server);

    let store = temporary_store();
    let mut acknowledged = 0;
    let mut kills = 0;
    let result = loop {
        let server = ServerProcess::start(store.path());
        let stop_after = if acknowledged < CHUNKS / 2 { 1 + acknowledged % 4 } else { u64::MAX - CHUNKS };
        if let Some(result) = upload(&server, &rows, &mut acknowledged, stop_after).await {
            break result;
        }
        server.kill();
        kills += 1;
    };
    assert!(kills >= 3, "the server was killed {kills} times only");
    let report = result.training_report.expect("a report");
    assert_eq!(report.data_sha256, expected.data_sha256, "exactly the rows that were sent");
    assert_eq!(report.epochs, expected.epochs, "and the same training");
}

/// All files in the models' folder, as relative paths.
fn files(folder: &Path, below: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            files(&path, below, found);
        } else {
            found.push(path.strip_prefix(below).expect("below").to_string_lossy().into_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_while_it_publishes_starts_clean() {
    let store = temporary_store();
    let rows = sample(60, COLUMNS, 5);
    let question = |number| pb::EncodeRequest {
        model: version("busy", number),
        rows: Some(matrix(COLUMNS, &rows)),
        ..Default::default()
    };
    let mut codes: BTreeMap<u64, pb::EncodeResponse> = BTreeMap::new();
    for round in 0..8u64 {
        let server = ServerProcess::start(store.path());
        let mut client = server.autoencoder().await;
        // Versions published before the kill still exist and return the same bits.
        for (number, before) in &codes {
            let now = client.encode(question(*number)).await.expect("is still here").into_inner();
            assert_eq!(now, *before, "version {number} after {round} kills");
        }
        let result = train(&mut client, spec("busy", &[COLUMNS as u32, 4, 2]), &rows).await.expect("trains");
        assert!(codes.keys().all(|number| *number < result.version), "a version number came back");
        codes.insert(result.version, client.encode(question(result.version)).await.expect("encodes").into_inner());
        // Keep the server publishing, and kill it at another moment in each round.
        let mut busy = server.autoencoder().await;
        let busy_rows = rows.clone();
        let publishing = tokio::spawn(async move {
            while train(&mut busy, spec("busy", &[COLUMNS as u32, 4, 2]), &busy_rows).await.is_ok() {}
        });
        tokio::time::sleep(Duration::from_millis(11 + round * 23)).await;
        server.kill();
        publishing.await.expect("ends when the server does");
    }
    let server = ServerProcess::start(store.path());
    // Interrupted jobs restart. Their versions must not be half-written while the folder is listed.
    let mut jobs = pb::job_service_client::JobServiceClient::new(server.channel().await);
    for job in jobs
        .list_jobs(pb::ListJobsRequest { page_size: 1000, ..Default::default() })
        .await
        .expect("lists")
        .into_inner()
        .jobs
    {
        let state = job.state();
        if state == pb::JobState::Uploading {
            jobs.cancel_job(pb::CancelJobRequest { id: job.id }).await.expect("nobody goes on with it");
            continue;
        }
        let mut news = jobs.watch_job(pb::WatchJobRequest { id: job.id }).await.expect("known").into_inner();
        while news.message().await.expect("goes well").is_some() {}
    }
    let models = store.path().join("models");
    let mut found = Vec::new();
    files(&models, &models, &mut found);
    // The time of last use is stored next to a version, once a minute; it is not part of the version.
    found.retain(|file| file != "busy/index.json" && !file.ends_with("/last_use"));
    let listed = server
        .models()
        .await
        .list_model_versions(pb::ListModelVersionsRequest {
            name: "busy".into(),
            page_size: 1000,
            ..Default::default()
        })
        .await
        .expect("lists")
        .into_inner()
        .versions;
    let mut expected: Vec<_> = listed.iter().map(|one| format!("busy/{}/model.safetensors", one.version)).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "complete versions and nothing else");
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_server_exits_with_status_0() {
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    train(&mut server.autoencoder().await, spec("kept", &[COLUMNS as u32, 2]), &sample(50, COLUMNS, 1))
        .await
        .expect("trains");
    assert_eq!(server.terminate(), Some(0));
}

/// A job that was training when the server was killed restarts from its rows and ends with the same losses.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_starts_again_after_a_kill() {
    let store = temporary_store();
    let rows = sample(600, COLUMNS, 4);
    let long = || pb::TrainSpec { epochs: 400, ..keyed() };
    let server = ServerProcess::start(store.path());
    let questions = crate::support::whole_upload(long(), &rows, 200);
    let mut answers =
        server.autoencoder().await.train(tokio_stream::iter(questions)).await.expect("accepted").into_inner();
    let id = loop {
        let answer = answers.message().await.expect("goes well").expect("an answer");
        match answer.message.expect("set") {
            Answer::Progress(job) if job.progress.as_ref().is_some_and(|progress| progress.step > 0) => break job.id,
            Answer::Result(_) => panic!("it ended before it could be killed"),
            _ => {}
        }
    };
    server.kill();
    let server = ServerProcess::start(store.path());
    let mut jobs = pb::job_service_client::JobServiceClient::new(server.channel().await);
    let mut news = jobs.watch_job(pb::WatchJobRequest { id }).await.expect("remembered").into_inner();
    let mut last = None;
    while let Some(message) = news.message().await.expect("goes well") {
        last = message.job;
    }
    let last = last.expect("news");
    assert_eq!((last.state(), last.version), (pb::JobState::Succeeded, 1), "{}", last.failure);
    let undisturbed = pb::TrainSpec { model_name: "quiet".into(), idempotency_key: String::new(), ..long() };
    let quiet = train(&mut server.autoencoder().await, undisturbed, &rows).await.expect("trains");
    assert_eq!(last.training_report.expect("one").epochs, quiet.training_report.expect("one").epochs);
}
