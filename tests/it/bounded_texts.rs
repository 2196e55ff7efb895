//! Error statuses stay short, however long the request: clients cannot receive a status whose headers are too large.

use std::fmt::Debug;

use halfhitch::rpc::pb;
use tonic::{Code, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{TestServer, collected, matrix, question, sample, served, spec, temporary_store};

/// Maximum size of all headers of a status.
const STATUS_BYTES_MAX: usize = 4096;

#[track_caller]
fn check<T: Debug>(what: &str, result: Result<Response<T>, Status>) {
    check_status(what, &result.expect_err("refused"));
}

#[track_caller]
fn check_status(what: &str, status: &Status) {
    assert_ne!(status.code(), Code::Internal, "{what}: {status:?}");
    let headers = status.clone().into_http::<()>().headers().clone();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    assert!(bytes < STATUS_BYTES_MAX, "{what}: {bytes} bytes");
}

fn named(name: &str, selector: Option<pb::model_ref::Selector>) -> Option<pb::ModelRef> {
    Some(pb::ModelRef { name: name.to_owned(), selector })
}

async fn train(server: &TestServer, messages: Vec<pb::TrainRequest>) -> Status {
    let answers = server.autoencoder().await.train(tokio_stream::iter(messages)).await;
    match answers {
        Ok(answers) => collected(answers.into_inner()).await.1.expect_err("refused"),
        Err(status) => status,
    }
}

/// Sends training specifications in which every text is long.
async fn check_training(server: &TestServer, long: &str) {
    let base = || spec("n", &[6, 2]);
    let specs = [
        pb::TrainSpec { model_name: long.to_owned(), ..base() },
        pb::TrainSpec { idempotency_key: long.to_owned(), ..base() },
        pb::TrainSpec { feature_names: vec![long.to_owned(); 6], ..base() },
        pb::TrainSpec { feature_names: vec![long.chars().take(100).collect::<String>() + "\n"; 6], ..base() },
        pb::TrainSpec { feature_names: vec!["a".into(); 100_000], ..base() },
        pb::TrainSpec { widths: vec![70_000; 100_000], ..base() },
        pb::TrainSpec { widths: vec![5; 17], base: named("m", None), ..base() },
        pb::TrainSpec { base: named(long, None), ..base() },
        pb::TrainSpec { base: named("m", Some(pb::model_ref::Selector::Alias(long.to_owned()))), ..base() },
        pb::TrainSpec { files: Some(pb::ServerFiles { paths: vec![long.to_owned()], ..Default::default() }), ..base() },
    ];
    for spec in specs {
        let shown = format!("Train {:?}", spec.encoded_fields());
        let status = train(server, vec![question(pb::train_request::Message::Spec(spec))]).await;
        check_status(&shown, &status);
    }
}

#[tokio::test]
async fn error_statuses_stay_short_for_long_texts() {
    let store = temporary_store();
    let server = served(store.path(), "m", &[6, 2]).await;
    let (mut rows, mut models, mut jobs) = (server.autoencoder().await, server.models().await, server.jobs().await);
    let mut health = HealthClient::new(server.channel().await);
    for long in ["x".repeat(300_000), "ß\n".repeat(100_000), "7".repeat(300_000), "../".repeat(100_000)] {
        let some = || Some(matrix(6, &sample(2, 6, 1)));
        let name = || named(&long, None);
        let alias = || named("m", Some(pb::model_ref::Selector::Alias(long.clone())));
        for model in [name(), alias()] {
            check(
                "Encode",
                rows.encode(pb::EncodeRequest { model: model.clone(), rows: some(), ..Default::default() }).await,
            );
            check(
                "Decode",
                rows.decode(pb::DecodeRequest { model: model.clone(), codes: some(), ..Default::default() }).await,
            );
            let request = pb::ReconstructRequest { model: model.clone(), rows: some(), ..Default::default() };
            check("Reconstruct", rows.reconstruct(request).await);
            check(
                "Score",
                rows.score(pb::ScoreRequest { model: model.clone(), rows: some(), ..Default::default() }).await,
            );
            check(
                "Impute",
                rows.impute(pb::ImputeRequest { model: model.clone(), rows: some(), ..Default::default() }).await,
            );
            let message = pb::EncodeStreamRequest { model: model.clone(), rows: some(), ..Default::default() };
            let answers = rows.encode_stream(tokio_stream::iter([message])).await.expect("opens").into_inner();
            check_status("EncodeStream", &collected(answers).await.1.expect_err("refused"));
            let message = pb::DecodeStreamRequest { model: model.clone(), codes: some(), ..Default::default() };
            let answers = rows.decode_stream(tokio_stream::iter([message])).await.expect("opens").into_inner();
            check_status("DecodeStream", &collected(answers).await.1.expect_err("refused"));
            check(
                "GetModelVersion",
                models.get_model_version(pb::GetModelVersionRequest { model: model.clone() }).await,
            );
            check(
                "InspectModel",
                models.inspect_model(pb::InspectModelRequest { model: model.clone(), ..Default::default() }).await,
            );
            let request = pb::CanonicalizeModelVersionRequest { model: model.clone() };
            check("CanonicalizeModelVersion", models.canonicalize_model_version(request).await);
            let request = pb::OrthonormalizeModelVersionRequest { model: model.clone(), rows: some(), publish: false };
            check("OrthonormalizeModelVersion", models.orthonormalize_model_version(request).await);
            let answers = models.export_model_version(pb::ExportModelVersionRequest { model }).await;
            let status = match answers {
                Ok(answers) => collected(answers.into_inner()).await.1.expect_err("refused"),
                Err(status) => status,
            };
            check_status("ExportModelVersion", &status);
        }
        let page = || (10, long.clone());
        let (page_size, page_token) = page();
        // Any text can be a page token; the call succeeds or fails with a short status.
        if let Err(status) = models.list_models(pb::ListModelsRequest { page_size, page_token }).await {
            check_status("ListModels", &status);
        }
        let (page_size, page_token) = page();
        let request = pb::ListModelVersionsRequest { name: "m".into(), page_size, page_token };
        check("ListModelVersions", models.list_model_versions(request).await);
        let request = pb::ListModelVersionsRequest { name: long.clone(), ..Default::default() };
        check("ListModelVersions", models.list_model_versions(request).await);
        let request = pb::SetAliasRequest { name: "m".into(), alias: long.clone(), version: 1, expected_version: None };
        check("SetAlias", models.set_alias(request).await);
        let request = pb::DeleteAliasRequest { name: "m".into(), alias: long.clone(), expected_version: None };
        check("DeleteAlias", models.delete_alias(request).await);
        check(
            "DeleteModelVersion",
            models.delete_model_version(pb::DeleteModelVersionRequest { name: long.clone(), version: 1 }).await,
        );
        let target = pb::ImportTarget { name: long.clone() };
        let target = pb::import_model_version_request::Message::Target(target);
        let message = pb::ImportModelVersionRequest { message: Some(target) };
        check("ImportModelVersion", models.import_model_version(tokio_stream::iter([message])).await);
        check("GetJob", jobs.get_job(pb::GetJobRequest { id: long.clone() }).await);
        check("CancelJob", jobs.cancel_job(pb::CancelJobRequest { id: long.clone() }).await);
        check("Health", health.check(HealthCheckRequest { service: long.chars().take(400).collect() }).await);

        check_training(&server, &long).await;
        let names = pb::Matrix { column_names: vec![long.clone(); 6], ..matrix(6, &sample(2, 6, 1)) };
        let request = pb::EncodeRequest { model: named("m", None), rows: Some(names), ..Default::default() };
        // The model has no feature names, so these names do not matter.
        rows.encode(request).await.expect("encodes");
    }
    server.stop().await;
}

/// The fields of a specification that are set, abbreviated.
trait EncodedFields {
    fn encoded_fields(&self) -> String;
}

impl EncodedFields for pb::TrainSpec {
    fn encoded_fields(&self) -> String {
        format!("{self:?}").chars().take(120).collect()
    }
}
