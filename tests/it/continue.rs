//! Training that starts from a version: its lineage, and the gate that rejects a version that is not better.

use halfhitch::rpc::pb;
use tonic::Code;

use crate::support::process::ServerProcess;
use crate::support::{TestServer, alias, newest, sample, spec, temporary_store, train, version, whole_upload};

/// A specification that continues `base`, with the widths of the base.
fn from(base: Option<pb::ModelRef>, name: &str) -> pb::TrainSpec {
    pb::TrainSpec { base, widths: Vec::new(), ..spec(name, &[]) }
}

/// Like `whole_upload`, for a specification without widths.
fn upload(spec: pb::TrainSpec, columns: u32, values: &[f32]) -> Vec<pb::TrainRequest> {
    let mut questions = whole_upload(pb::TrainSpec { widths: vec![columns], ..Default::default() }, values, 64);
    questions[0] = crate::support::question(pb::train_request::Message::Spec(spec));
    questions
}

async fn go_on(server: &TestServer, spec: pb::TrainSpec, values: &[f32]) -> Result<pb::TrainResult, tonic::Status> {
    let questions = upload(spec, 6, values);
    let mut answers = server.autoencoder().await.train(tokio_stream::iter(questions)).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        if let Some(pb::train_response::Message::Result(result)) = answer.message {
            return Ok(result);
        }
    }
    Err(tonic::Status::unknown("the stream ended without a result"))
}

fn report(result: &pb::TrainResult) -> &pb::TrainingReport {
    result.training_report.as_ref().expect("a report")
}

#[tokio::test(flavor = "multi_thread")]
async fn training_continues_from_a_number_an_alias_or_the_newest() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let rows = sample(300, 6, 1);
    let first = pb::TrainSpec { feature_names: ('a'..='f').map(String::from).collect(), ..spec("plane", &[6, 5, 3]) };
    train(&mut server.autoencoder().await, first, &rows).await.expect("trains");
    let alias_request =
        pb::SetAliasRequest { name: "plane".into(), alias: "good".into(), version: 1, expected_version: None };
    server.models().await.set_alias(alias_request).await.expect("sets");
    for (number, base) in (2..).zip([version("plane", 1), alias("plane", "good"), newest("plane")]) {
        let result = go_on(&server, from(base, "plane"), &rows).await.expect("trains");
        assert_eq!((result.version, result.kept_back.as_str()), (number, ""));
        assert!(!result.job_id.is_empty());
        let report = report(&result);
        let expected = if number == 4 { 3 } else { 1 };
        assert_eq!((report.base_model_name.as_str(), report.base_version), ("plane", expected));
        let (old, new) = (report.base_validation.expect("measured"), report.validation.expect("measured"));
        assert_eq!(old.rows, new.rows);
        assert!(new.loss < 1.2 * old.loss, "{} after {}", new.loss, old.loss);
    }
    // Another model continues from it and resembles it.
    let other = go_on(&server, from(version("plane", 2), "other"), &rows).await.expect("trains");
    assert_eq!((other.version, report(&other).base_model_name.as_str()), (1, "plane"));
    let request = pb::GetModelVersionRequest { model: newest("other") };
    let described = server.models().await.get_model_version(request).await.expect("there").into_inner().version;
    let described = described.expect("a version");
    let shape = described.spec.expect("a shape");
    assert_eq!((shape.widths.as_slice(), shape.feature_names.len()), (&[6, 5, 3][..], 6));
    assert_eq!(described.training_report.expect("a report").base_version, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_or_incompatible_bases_are_rejected() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let rows = sample(120, 6, 1);
    train(&mut server.autoencoder().await, spec("plane", &[6, 3]), &rows).await.expect("trains");
    for base in [newest("nobody"), version("plane", 9), alias("plane", "gone")] {
        let refused = go_on(&server, from(base, "plane"), &rows).await.expect_err("refused");
        assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    }
    let base = || from(newest("plane"), "plane");
    let cases: [(&str, pb::TrainSpec); 7] = [
        ("widths", pb::TrainSpec { widths: vec![6, 2], ..base() }),
        ("loss", pb::TrainSpec { loss: pb::Loss::SquaredError.into(), ..base() }),
        ("initialization", pb::TrainSpec { initialization: pb::Initialization::He.into(), ..base() }),
        ("gain", pb::TrainSpec { gain: true, ..base() }),
        ("publish_if_better", pb::TrainSpec { publish_if_better: true, ..spec("plane", &[6, 3]) }),
        ("publish_if_better", pb::TrainSpec { publish_if_better: true, validation_fraction: Some(0.0), ..base() }),
        (
            "fresh_without_base",
            pb::TrainSpec { fresh_without_base: true, widths: vec![6, 3], ..from(version("plane", 1), "plane") },
        ),
    ];
    for (field, spec) in cases {
        let refused = go_on(&server, spec, &rows).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(field), "{refused:?}");
    }
    let same = go_on(&server, pb::TrainSpec { widths: vec![6, 3], ..base() }, &rows).await.expect("trains");
    assert_eq!(same.version, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn training_starts_fresh_without_a_base_if_requested() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let rows = sample(120, 6, 1);
    let asked = || pb::TrainSpec {
        fresh_without_base: true,
        publish_if_better: true,
        hidden_activation: pb::Activation::Relu.into(),
        ..pb::TrainSpec { base: newest("plane"), ..spec("plane", &[6, 5, 3]) }
    };
    let first = go_on(&server, asked(), &rows).await.expect("trains");
    assert_eq!((first.version, report(&first).base_version), (1, 0));
    let second = go_on(&server, asked(), &rows).await.expect("trains");
    assert_eq!(report(&second).base_version, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_if_better_publishes_only_better_versions() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let rows = sample(600, 6, 1);
    let long = pb::TrainSpec { epochs: 200, ..spec("plane", &[6, 5, 3]) };
    train(&mut server.autoencoder().await, long, &rows).await.expect("trains");
    let gated = |epochs, learning_rate| pb::TrainSpec {
        publish_if_better: true,
        epochs,
        optimizer: Some(pb::Optimizer { learning_rate, ..Default::default() }),
        ..from(newest("plane"), "plane")
    };
    let worse = go_on(&server, gated(1, 0.3), &rows).await.expect("trains");
    assert_eq!(worse.version, 0, "{worse:?}");
    let (old, new) = (report(&worse).base_validation.expect("measured"), report(&worse).validation.expect("measured"));
    assert!(new.loss >= old.loss);
    for figure in [new.loss, old.loss] {
        assert!(worse.kept_back.contains(&format!("{figure:.6}")), "{}", worse.kept_back);
    }
    let mut jobs = server.jobs().await;
    let job = jobs.get_job(pb::GetJobRequest { id: worse.job_id.clone() }).await.expect("known").into_inner().job;
    let job = job.expect("a job");
    assert_eq!((job.state(), job.version), (pb::JobState::Succeeded, 0));
    assert_eq!(job.kept_back, worse.kept_back);
    assert!(job.training_report.is_some());
    let listed = jobs.list_jobs(pb::ListJobsRequest::default()).await.expect("lists").into_inner().jobs;
    assert_eq!(listed[0].kept_back, worse.kept_back);
    let mut news = jobs.watch_job(pb::WatchJobRequest { id: worse.job_id }).await.expect("known").into_inner();
    let last = news.message().await.expect("goes well").expect("news").job.expect("a job");
    assert_eq!(last.kept_back, worse.kept_back);
    // Rows of another plane: a model that learns them is better on them.
    let moved: Vec<f32> = sample(600, 6, 3).iter().map(|x| 2.0 * x + 1.0).collect();
    let better = go_on(&server, gated(30, 0.005), &moved).await.expect("trains");
    assert_eq!((better.version, better.kept_back.as_str()), (2, ""));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_keeps_its_base_after_a_crash_and_fails_without_it() {
    let store = temporary_store();
    let server = ServerProcess::start_with(store.path(), &["--checkpoint-seconds", "1"]);
    let rows = sample(400, 6, 1);
    let mut client = server.autoencoder().await;
    train(&mut client, spec("plane", &[6, 5, 3]), &rows).await.expect("trains");
    let long = pb::TrainSpec { epochs: 100_000, idempotency_key: "long".into(), ..from(newest("plane"), "long") };
    let mut answers = client.train(tokio_stream::iter(upload(long, 6, &rows))).await.expect("accepted").into_inner();
    // Wait until it trains: then its base is resolved.
    let id = loop {
        let answer = answers.message().await.expect("goes well").expect("an answer");
        if let Some(pb::train_response::Message::Progress(job)) = answer.message
            && job.progress.as_ref().is_some_and(|progress| progress.step > 0)
        {
            break job.id;
        }
    };
    train(&mut client, spec("plane", &[6, 5, 3]), &rows).await.expect("trains");
    server.kill();
    let journal = store.path().join("jobs").join(&id).join("job.json");
    let text = std::fs::read_to_string(journal).expect("a journal");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["job"]["beginning"]["from"]["version"], 1, "version 2 came after it had begun");
    // The base is deleted meanwhile: the job fails with a clear error.
    let server = TestServer::start_with({
        std::fs::remove_dir_all(store.path().join("models").join("plane").join("1")).expect("removes");
        halfhitch::server::ServerConfig::new(store.path().to_owned())
    })
    .await;
    let mut news = server.jobs().await.watch_job(pb::WatchJobRequest { id }).await.expect("known").into_inner();
    let mut last = pb::Job::default();
    while let Some(message) = news.message().await.expect("goes well") {
        last = message.job.expect("a job");
    }
    assert_eq!(last.state(), pb::JobState::Failed);
    assert!(last.failure.contains("no longer exists") && last.failure.contains("plane"), "{}", last.failure);
    server.stop().await;
}
