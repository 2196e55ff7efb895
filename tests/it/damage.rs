//! Damage to the files of a store, over gRPC: every call gets a response, no older version replaces a lost one, and no
//! message reveals the store's path.

use std::fs;
use std::path::Path;

use halfhitch::rpc::pb;
use tonic::{Code, Status};

use crate::support::{
    AutoencoderClient, TestServer, alias, collected, matrix, newest, question, sample, spec, temporary_store, train,
    version, whole_upload,
};

/// The name of a call, and a summary of its response or its error.
type CallResult = (&'static str, Result<String, Status>);

fn encode(of: Option<pb::ModelRef>) -> pb::EncodeRequest {
    pb::EncodeRequest { model: of, rows: Some(matrix(6, &sample(2, 6, 1))), ..Default::default() }
}

fn spoken<T: std::fmt::Debug>(answer: Result<tonic::Response<T>, Status>) -> Result<String, Status> {
    answer.map(|answer| format!("{:?}", answer.into_inner()))
}

/// One call of every kind that uses files of the store.
async fn every_call(server: &TestServer) -> Vec<CallResult> {
    let (mut client, mut models, mut jobs) = (server.autoencoder().await, server.models().await, server.jobs().await);
    let mut told = Vec::new();
    for (name, of) in [
        ("newest", newest("m")),
        ("version 1", version("m", 1)),
        ("version 2", version("m", 2)),
        ("prod", alias("m", "prod")),
    ] {
        told.push((name, spoken(client.encode(encode(of.clone())).await)));
        let show = pb::GetModelVersionRequest { model: of.clone() };
        told.push(("GetModelVersion", spoken(models.get_model_version(show).await)));
        let inspect = pb::InspectModelRequest { model: of.clone(), rows: None, validation_sample: true };
        told.push(("InspectModel", spoken(models.inspect_model(inspect).await)));
        let export = models.export_model_version(pb::ExportModelVersionRequest { model: of }).await;
        let exported = match export {
            Ok(answers) => collected(answers.into_inner()).await.1.map(|()| String::new()),
            Err(status) => Err(status),
        };
        told.push(("ExportModelVersion", exported));
    }
    told.push(("ListModels", spoken(models.list_models(pb::ListModelsRequest::default()).await)));
    let list = pb::ListModelVersionsRequest { name: "m".into(), ..Default::default() };
    told.push(("ListModelVersions", spoken(models.list_model_versions(list).await)));
    let set = pb::SetAliasRequest { name: "m".into(), alias: "other".into(), version: 1, expected_version: None };
    told.push(("SetAlias", spoken(models.set_alias(set).await)));
    let delete = pb::DeleteAliasRequest { name: "m".into(), alias: "other".into(), ..Default::default() };
    told.push(("DeleteAlias", spoken(models.delete_alias(delete).await)));
    let listed = jobs.list_jobs(pb::ListJobsRequest::default()).await;
    for job in listed.as_ref().map(|listed| listed.get_ref().jobs.clone()).unwrap_or_default() {
        told.push(("GetJob", spoken(jobs.get_job(pb::GetJobRequest { id: job.id.clone() }).await)));
        told.push(("PauseJob", spoken(jobs.pause_job(pb::PauseJobRequest { id: job.id }).await)));
    }
    told.push(("ListJobs", spoken(listed)));
    told.push((
        "Train",
        train(&mut client, spec("m", &[6, 2]), &sample(60, 6, 3)).await.map(|result| format!("{result:?}")),
    ));
    told
}

/// Version 1 with alias `prod` and a validation sample, version 2, and an unfinished upload.
async fn prepared(store: &Path) -> String {
    let server = TestServer::start(store).await;
    let mut client = server.autoencoder().await;
    let keeping = pb::TrainSpec { validation_sample_rows: 20, ..spec("m", &[6, 2]) };
    train(&mut client, keeping, &sample(100, 6, 1)).await.expect("trains");
    train(&mut client, spec("m", &[6, 2]), &sample(100, 6, 2)).await.expect("trains");
    let set = pb::SetAliasRequest { name: "m".into(), alias: "prod".into(), version: 1, expected_version: None };
    server.models().await.set_alias(set).await.expect("sets");
    let id = upload(client).await;
    server.stop().await;
    id
}

/// Starts an upload, sends one chunk, and ends the stream.
async fn upload(mut client: AutoencoderClient) -> String {
    let spec = pb::TrainSpec { idempotency_key: "waits".into(), ..spec("waits", &[6, 2]) };
    let mut questions = whole_upload(spec, &sample(60, 6, 4), 60);
    questions.pop().expect("finish");
    let mut answers = client.train(tokio_stream::iter(questions)).await.expect("accepted").into_inner();
    let mut id = String::new();
    while let Ok(Some(answer)) = answers.message().await {
        match answer.message {
            Some(pb::train_response::Message::Accepted(accepted)) => id = accepted.job.expect("a job").id,
            Some(pb::train_response::Message::Acknowledged(_)) => break,
            _ => {}
        }
    }
    id
}

/// Resumes the same upload and finishes it.
async fn resume(mut client: AutoencoderClient) -> Result<(), Status> {
    let spec = pb::TrainSpec { idempotency_key: "waits".into(), ..spec("waits", &[6, 2]) };
    let questions = whole_upload(spec, &sample(60, 6, 4), 60);
    let mut answers = client.train(tokio_stream::iter(questions)).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

#[cfg(unix)]
fn put(kind: &str, path: &Path) {
    use std::os::unix::fs::symlink;
    let _ = fs::remove_file(path);
    match kind {
        "missing" => {}
        "a named pipe" => {
            let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo exists");
            assert!(made.success());
        }
        "a folder" => fs::create_dir(path).expect("a folder"),
        "a symbolic link" => symlink("/dev/zero", path).expect("a link"),
        "empty" => fs::write(path, "").expect("writes"),
        _ => fs::write(path, "something else, and long enough to be taken for a header").expect("writes"),
    }
}

/// Damages each file of the store in each way, before and while a server runs.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_never_reveal_the_store_path_or_block_calls() {
    let template = temporary_store();
    let job = prepared(template.path()).await;
    let files = [
        "models/m/2/model.safetensors".to_owned(),
        "models/m/1/validation_sample.safetensors".to_owned(),
        "models/m/index.json".to_owned(),
        format!("jobs/{job}/rows.spool"),
        format!("jobs/{job}/job.json"),
    ];
    for file in &files {
        for kind in ["missing", "a named pipe", "a folder", "a symbolic link", "empty", "garbage"] {
            let store = temporary_store();
            let from = template.path().join(".");
            let copied = std::process::Command::new("cp").args(["-a", "--"]).arg(from).arg(store.path()).status();
            assert!(copied.expect("cp exists").success());
            put(kind, &store.path().join(file));
            let server = TestServer::start(store.path()).await;
            if file.ends_with("rows.spool") && kind != "empty" {
                let answer = resume(server.autoencoder().await).await.expect_err("its rows are lost");
                assert_eq!(answer.code(), Code::DataLoss, "{file} is {kind}: {answer:?}");
                assert!(answer.message().contains(&format!("the rows of job {job}")), "{kind}: {answer:?}");
            }
            let told = every_call(&server).await;
            let secret = store.path().display().to_string();
            for (call, answer) in &told {
                let text = match answer {
                    Ok(text) => text.clone(),
                    Err(status) => {
                        assert_ne!(status.code(), Code::Internal, "{file} is {kind}: {call}: {status:?}");
                        format!("{} {status:?}", status.message())
                    }
                };
                assert!(!text.contains(&secret), "{file} is {kind}: {call} tells {text}");
            }
            let code = |name: &str| {
                let (_, answer) = told.iter().find(|(call, _)| *call == name).expect("asked");
                answer.as_ref().map_or_else(Status::code, |_| Code::Ok)
            };
            match file.as_str() {
                "models/m/2/model.safetensors" => {
                    assert_eq!(code("newest"), Code::DataLoss, "{kind}: an older version is not served in its place");
                    assert_eq!(
                        (code("version 2"), code("version 1"), code("prod")),
                        (Code::DataLoss, Code::Ok, Code::Ok)
                    );
                }
                "models/m/index.json" if kind != "missing" => {
                    assert_eq!((code("prod"), code("SetAlias")), (Code::DataLoss, Code::DataLoss), "{kind}");
                    assert_eq!((code("newest"), code("version 1")), (Code::Ok, Code::Ok), "{kind}");
                }
                // Removing the index removes its aliases: that is how to recover from a damaged one.
                "models/m/index.json" => assert_eq!((code("newest"), code("prod")), (Code::Ok, Code::NotFound)),
                _ => assert_eq!((code("newest"), code("prod")), (Code::Ok, Code::Ok), "{file} is {kind}"),
            }
            server.stop().await;
        }
    }
}

/// The file is deleted while the server runs and has not loaded it: the next call and all later ones fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_model_file_is_data_loss_not_an_older_version() {
    let store = temporary_store();
    prepared(store.path()).await;
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    fs::remove_file(store.path().join("models/m/2/model.safetensors")).expect("there");
    for _ in 0..3 {
        let refused = client.encode(encode(newest("m"))).await.expect_err("it is lost");
        assert_eq!(refused.code(), Code::DataLoss, "{refused:?}");
        assert!(refused.message().contains("the file of m version 2 is missing"), "{refused:?}");
    }
    assert_eq!(client.encode(encode(version("m", 1))).await.expect("it is there").into_inner().version, 1);
    let delete = pb::DeleteModelVersionRequest { name: "m".into(), version: 2 };
    server.models().await.delete_model_version(delete).await.expect("given up");
    assert_eq!(client.encode(encode(newest("m"))).await.expect("2 was deleted").into_inner().version, 1);
    server.stop().await;
}

/// A read-only store whose lock can be taken: writing calls fail with an error that names what is denied.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_store_serves_and_reports_denied_writes() {
    use std::os::unix::fs::PermissionsExt;
    let store = temporary_store();
    prepared(store.path()).await;
    let set = |mode| {
        for folder in ["models/m", "models", "jobs", ""] {
            let path = store.path().join(folder);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        }
    };
    set(0o555);
    if fs::write(store.path().join("probe"), "").is_ok() {
        set(0o755);
        eprintln!("skipped: root is denied nothing");
        return;
    }
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    client.encode(encode(newest("m"))).await.expect("serves");
    let mut refused = vec![train(&mut client, spec("new", &[6, 2]), &sample(60, 6, 3)).await.expect_err("denied")];
    let set_alias = pb::SetAliasRequest { name: "m".into(), alias: "a".into(), version: 1, expected_version: None };
    refused.push(server.models().await.set_alias(set_alias).await.expect_err("denied"));
    for status in refused {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert!(status.message().contains("ermission denied"), "{status:?}");
        assert!(!status.message().contains(&store.path().display().to_string()), "{status:?}");
    }
    server.stop().await;
    set(0o755);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_names_the_writing_process() {
    let store = temporary_store();
    let writer = TestServer::start(store.path()).await;
    // After its first response, the server holds the lock.
    writer.models().await.list_models(pb::ListModelsRequest::default()).await.expect("lists");
    let reader = TestServer::start(store.path()).await;
    let questions = [question(pb::train_request::Message::Spec(spec("m", &[6, 2])))];
    let refused = match reader.autoencoder().await.train(tokio_stream::iter(questions)).await {
        Ok(answers) => collected(answers.into_inner()).await.1.expect_err("another server writes"),
        Err(status) => status,
    };
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let holder = format!("another server writes to it (process {} on host ", std::process::id());
    assert!(refused.message().contains(&holder), "{refused:?}");
    reader.stop().await;
    writer.stop().await;
}
