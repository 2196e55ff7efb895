//! Authentication and authorization.

mod certificates;

use std::fs;
use std::path::{Path, PathBuf};

use halfhitch::methods::Method;
use halfhitch::rpc::pb;
use halfhitch::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;
use halfhitch::rpc::pb::job_service_client::JobServiceClient;
use halfhitch::rpc::pb::model_service_client::ModelServiceClient;
use halfhitch::security::CallerLimits;
use halfhitch::security::credentials::Fingerprint;
use halfhitch::server::{Security, SecurityConfig, ServerConfig};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::support::eventually::eventually;
use crate::support::{TestServer, matrix, newest, sample, served, spec, temporary_store, train};

fn entry(name: &str, token: &str, more: &str) -> String {
    format!("[[token]]\nname = \"{name}\"\nsha256 = \"{}\"\n{more}\n", Fingerprint::of(token.as_bytes()))
}

/// Sends a bearer token, or none.
fn with_token(token: Option<&'static str>) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |mut request| {
        if let Some(token) = token {
            let value = MetadataValue::try_from(format!("Bearer {token}")).expect("a header");
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// A store with two models, and a credentials file next to it.
async fn prepared(text: &str) -> (TempDir, PathBuf) {
    let folder = temporary_store();
    let server = served(&folder.path().join("store"), "open-a", &[6, 2]).await;
    let rows = sample(200, 6, 7);
    train(&mut server.autoencoder().await, spec("secret-b", &[6, 2]), &rows).await.expect("trains");
    server.stop().await;
    let path = folder.path().join("credentials.toml");
    fs::write(&path, text).expect("writes");
    (folder, path)
}

async fn start(folder: &Path, security: SecurityConfig) -> TestServer {
    TestServer::start_with(ServerConfig { security, ..ServerConfig::new(folder.join("store")) }).await
}

fn question(model: &str) -> pb::EncodeRequest {
    pb::EncodeRequest { model: newest(model), rows: Some(matrix(6, &sample(2, 6, 1))), ..Default::default() }
}

async fn encode(channel: &Channel, token: Option<&'static str>, model: &str) -> Result<(), Status> {
    let mut client = AutoencoderServiceClient::with_interceptor(channel.clone(), with_token(token));
    client.encode(question(model)).await.map(|_| ())
}

async fn set_alias(channel: &Channel, token: &'static str) -> Code {
    let mut client = ModelServiceClient::with_interceptor(channel.clone(), with_token(Some(token)));
    let alias = pb::SetAliasRequest { name: "open-a".into(), alias: "prod".into(), version: 1, expected_version: None };
    client.set_alias(alias).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_grant_only_their_roles_and_models() {
    let credentials = entry("reader", "t-infer", "roles = [\"infer\"]\nmodels = [\"open-\"]")
        + &entry("maker", "t-train", "roles = [\"train\"]")
        + &entry("other-maker", "t-open", "roles = [\"train\"]\nmodels = [\"open-\"]")
        + &entry("boss", "t-admin", "roles = [\"admin\"]")
        + &entry("gone", "t-old", "roles = [\"admin\"]\nexpires = 2020-01-01");
    let (folder, path) = prepared(&credentials).await;
    let server = start(folder.path(), SecurityConfig { credentials: Some(path), ..Default::default() }).await;
    let channel = server.channel().await;

    let missing = encode(&channel, None, "open-a").await.expect_err("missing");
    assert_eq!(missing.code(), Code::Unauthenticated);
    for token in ["wrong", "t-old", ""] {
        let refused = encode(&channel, Some(token), "open-a").await.expect_err("refused");
        assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, missing.message()), "{token}");
    }
    encode(&channel, Some("t-infer"), "open-a").await.expect("its own model");
    for model in ["secret-b", "nothing-like-it"] {
        let refused = encode(&channel, Some("t-infer"), model).await.expect_err("another's");
        assert_eq!(refused.code(), Code::PermissionDenied, "{model}: {refused:?}");
    }
    assert_eq!(encode(&channel, Some("t-train"), "open-a").await.expect_err("role").code(), Code::PermissionDenied);
    encode(&channel, Some("t-admin"), "secret-b").await.expect("an admin may");
    assert_eq!(set_alias(&channel, "t-infer").await, Code::PermissionDenied);
    assert_eq!(set_alias(&channel, "t-train").await, Code::PermissionDenied);
    assert_eq!(set_alias(&channel, "t-admin").await, Code::Ok);

    let mut models = ModelServiceClient::with_interceptor(channel.clone(), with_token(Some("t-infer")));
    let listed = models.list_models(pb::ListModelsRequest::default()).await.expect("lists").into_inner();
    let names: Vec<&str> = listed.models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(names, ["open-a"]);

    let jobs = |token| JobServiceClient::with_interceptor(channel.clone(), with_token(Some(token)));
    let all = jobs("t-train").list_jobs(pb::ListJobsRequest::default()).await.expect("lists").into_inner().jobs;
    assert_eq!(all.len(), 2);
    let seen = jobs("t-open").list_jobs(pb::ListJobsRequest::default()).await.expect("lists").into_inner().jobs;
    assert_eq!(seen.len(), 1);
    let hidden = all.iter().find(|job| job.id != seen[0].id).expect("another").id.clone();
    let asked = jobs("t-open").get_job(pb::GetJobRequest { id: hidden }).await.expect_err("hidden");
    assert_eq!(asked.code(), Code::NotFound);

    let mut maker: AutoencoderServiceClient<InterceptedService<Channel, _>> =
        AutoencoderServiceClient::with_interceptor(channel.clone(), with_token(Some("t-open")));
    let refused = train_code(&mut maker, "secret-c").await;
    assert_eq!(refused, Code::PermissionDenied);
    assert_eq!(train_code(&mut maker, "open-c").await, Code::Ok);

    let mut health = HealthClient::new(channel.clone());
    health.check(HealthCheckRequest::default()).await.expect("probes need no credential");
    server.stop().await;
}

async fn train_code<F>(client: &mut AutoencoderServiceClient<InterceptedService<Channel, F>>, model: &str) -> Code
where
    F: FnMut(Request<()>) -> Result<Request<()>, Status> + Clone + Send + 'static,
{
    let questions = crate::support::whole_upload(spec(model, &[6, 2]), &sample(100, 6, 1), 50);
    let mut answers = match client.train(tokio_stream::iter(questions)).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return status.code(),
    };
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Code::Ok,
            Err(status) => return status.code(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_reload_and_a_broken_file_changes_nothing() {
    let (folder, path) = prepared(&entry("a", "t-a", "roles = [\"infer\"]")).await;
    let config = SecurityConfig { credentials: Some(path.clone()), ..Default::default() };
    let server = start(folder.path(), config).await;
    let channel = server.channel().await;
    encode(&channel, Some("t-a"), "open-a").await.expect("known");

    fs::write(&path, entry("b", "t-b", "roles = [\"infer\"]")).expect("writes");
    eventually("the new token is accepted", async || encode(&channel, Some("t-b"), "open-a").await).await;
    let revoked = encode(&channel, Some("t-a"), "open-a").await.expect_err("revoked");
    assert_eq!(revoked.code(), Code::Unauthenticated);
    server.stop().await;

    let security = Security::open(SecurityConfig { credentials: Some(path.clone()), ..Default::default() });
    let security = security.expect("opens");
    let peer = security.gate().peer(None, None);
    let may = |token: &str| {
        let path = "/halfhitch.v1.AutoencoderService/Encode";
        security.gate().admit(Some(Method::Encode), path, Some(token.as_bytes()), &peer).is_ok()
    };
    fs::write(&path, "[[token]]\nname = 1").expect("writes");
    security.reload();
    assert!(may("t-b"), "a broken file changes nothing");
    fs::remove_file(&path).expect("removes");
    security.reload();
    assert!(may("t-b"), "nor does one that is gone");
    fs::write(&path, entry("c", "t-c", "roles = [\"infer\"]")).expect("writes");
    security.reload();
    assert!(may("t-c") && !may("t-b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_limits_do_not_affect_other_callers() {
    let credentials = entry("few", "t-few", "roles = [\"infer\"]\nrows_max = 1")
        + &entry("slow", "t-slow", "roles = [\"infer\"]\nrequests_per_second_max = 1")
        + &entry("small", "t-small", "roles = [\"infer\"]\nbytes_max = 20")
        + &entry("free", "t-free", "roles = [\"infer\"]");
    let (folder, path) = prepared(&credentials).await;
    let caller = CallerLimits { requests_max: 1000, ..Default::default() };
    let server = start(folder.path(), SecurityConfig { credentials: Some(path), caller, ..Default::default() }).await;
    let channel = server.channel().await;
    for (token, limit) in [("t-few", "rows_max"), ("t-small", "bytes_max")] {
        let refused = encode(&channel, Some(token), "open-a").await.expect_err("too much");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(refused.message().contains(limit), "{refused:?}");
        assert!(refused.get_error_details().retry_info().is_some(), "{refused:?}");
    }
    encode(&channel, Some("t-slow"), "open-a").await.expect("the first of the second");
    let refused = encode(&channel, Some("t-slow"), "open-a").await.expect_err("the next");
    assert!(refused.message().contains("requests_per_second_max"), "{refused:?}");
    for _ in 0..20 {
        encode(&channel, Some("t-free"), "open-a").await.expect("no limit");
    }
    server.stop().await;
}

/// A stream with one request served, open for more.
struct Asking {
    ask: mpsc::Sender<pb::EncodeStreamRequest>,
    answers: tonic::Streaming<pb::EncodeStreamResponse>,
}

impl Asking {
    async fn begin(channel: &Channel, token: Option<&'static str>) -> Self {
        let mut client = AutoencoderServiceClient::with_interceptor(channel.clone(), with_token(token));
        let (ask, questions) = mpsc::channel(1);
        ask.send(Self::question()).await.expect("open");
        let answers = client.encode_stream(ReceiverStream::new(questions)).await.expect("opens").into_inner();
        let mut asking = Self { ask, answers };
        asking.answers.message().await.expect("serves").expect("an answer");
        asking
    }

    fn question() -> pb::EncodeStreamRequest {
        let pb::EncodeRequest { model, rows, .. } = question("open-a");
        pb::EncodeStreamRequest { model, rows, ..Default::default() }
    }

    async fn ask(&mut self) -> Code {
        let _ = self.ask.send(Self::question()).await;
        self.answers.message().await.map_or_else(|status| status.code(), |_| Code::Ok)
    }

    /// Sends requests until the stream ends; returns its code.
    async fn until_ended(&mut self) -> Code {
        eventually("the stream ends", async || match self.ask().await {
            Code::Ok => Err("it continues"),
            code => Ok(code),
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_credential_is_removed() {
    let (stays, goes) = (entry("a", "t-stays", "roles = [\"infer\"]"), entry("b", "t-goes", "roles = [\"infer\"]"));
    let (folder, path) = prepared(&format!("{stays}{goes}")).await;
    let server = start(folder.path(), SecurityConfig { credentials: Some(path.clone()), ..Default::default() }).await;
    let channel = server.channel().await;
    let mut of_one = Asking::begin(&channel, Some("t-stays")).await;
    let mut of_another = Asking::begin(&channel, Some("t-goes")).await;
    // The same entry at another position, with another limit: the stream continues.
    let stays = stays.replace("roles", "rows_max = 1000\nroles");
    fs::write(&path, entry("c", "t-new", "roles = [\"admin\"]") + &stays).expect("writes");
    assert_eq!(of_another.until_ended().await, Code::Unauthenticated);
    assert_eq!(of_one.ask().await, Code::Ok);
    server.stop().await;
}

const ROLES: [&str; 3] = ["infer", "train", "admin"];
const UNAUTHENTICATED: [Code; 3] = [Code::Unauthenticated; 3];

/// The results of three calls with one credential, one for each role: encode, train, set an alias.
async fn asked(channel: &Channel, token: Option<&str>) -> [Code; 3] {
    // Leaked, because interceptors need a `'static` token; there are only as many as table entries.
    let token: Option<&'static str> = token.map(|token| &*token.to_owned().leak());
    let encoded = encode(channel, token, "open-a").await.map_or_else(|status| status.code(), |()| Code::Ok);
    let mut maker = AutoencoderServiceClient::with_interceptor(channel.clone(), with_token(token));
    let trained = train_code(&mut maker, "open-t").await;
    let mut models = ModelServiceClient::with_interceptor(channel.clone(), with_token(token));
    let alias = pb::SetAliasRequest { name: "open-a".into(), alias: "prod".into(), version: 1, expected_version: None };
    let set = models.set_alias(alias).await.map_or_else(|status| status.code(), |_| Code::Ok);
    [encoded, trained, set]
}

fn of_role(role: &str) -> [Code; 3] {
    let may = |other| if role == "admin" || role == other { Code::Ok } else { Code::PermissionDenied };
    ROLES.map(may)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_valid_tokens_of_the_right_role_are_accepted() {
    let one = |role: &str, state: &str, more: &str| {
        let token = format!("{role}-{state}");
        entry(&token, &token, &format!("roles = [\"{role}\"]{more}"))
    };
    let stays: String =
        ROLES.iter().map(|role| one(role, "good", "") + &one(role, "old", "\nexpires = 2020-01-01")).collect();
    let goes: String = ROLES.iter().map(|role| one(role, "revoked", "")).collect();
    let (folder, path) = prepared(&format!("{stays}{goes}")).await;
    let server = start(folder.path(), SecurityConfig { credentials: Some(path.clone()), ..Default::default() }).await;
    let channel = server.channel().await;
    assert_eq!(asked(&channel, None).await, UNAUTHENTICATED, "missing");
    for role in ROLES {
        for state in ["good", "revoked"] {
            assert_eq!(asked(&channel, Some(&format!("{role}-{state}"))).await, of_role(role), "{role}, {state}");
        }
        for state in ["old", "wrong"] {
            assert_eq!(asked(&channel, Some(&format!("{role}-{state}"))).await, UNAUTHENTICATED, "{role}, {state}");
        }
    }
    fs::write(&path, stays).expect("writes");
    for role in ROLES {
        let revoked = format!("{role}-revoked");
        eventually(&format!("{revoked} is refused"), async || match asked(&channel, Some(&revoked)).await {
            UNAUTHENTICATED => Ok(()),
            codes => Err(codes),
        })
        .await;
        assert_eq!(asked(&channel, Some(&format!("{role}-good"))).await, of_role(role), "{role}");
    }
    server.stop().await;
}

/// Starts an upload with an idempotency key, and returns the job's id.
async fn begin_with_key(channel: &Channel, token: &'static str, model: &str, key: &str) -> Result<String, Status> {
    let mut client = AutoencoderServiceClient::with_interceptor(channel.clone(), with_token(Some(token)));
    let spec = pb::TrainSpec { idempotency_key: key.into(), ..spec(model, &[6, 2]) };
    let (questions, receiver) = mpsc::channel(1);
    let message = Some(pb::train_request::Message::Spec(spec));
    questions.send(pb::TrainRequest { message }).await.expect("room");
    let mut answers = client.train(ReceiverStream::new(receiver)).await?.into_inner();
    match answers.message().await?.and_then(|answer| answer.message) {
        Some(pb::train_response::Message::Accepted(accepted)) => Ok(accepted.job.expect("a job").id),
        other => panic!("expected `accepted`, got {other:?}"),
    }
}

/// A tenant must not learn another tenant's idempotency keys or job ids, even after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn idempotency_keys_are_separate_for_each_credential() {
    let credentials = entry("tenant-a", "t-a", "roles = [\"train\"]\nmodels = [\"a-\"]")
        + &entry("tenant-b", "t-b", "roles = [\"train\"]\nmodels = [\"b-\"]")
        + &entry("twin-of-a", "t-c", "roles = [\"train\"]\nmodels = [\"a-\"]");
    let (folder, path) = prepared(&credentials).await;
    let security = SecurityConfig { credentials: Some(path), ..Default::default() };
    let mut ids = Vec::new();
    for restart in 0..2 {
        let server = start(folder.path(), security.clone()).await;
        let channel = server.channel().await;
        for (token, model) in [("t-b", "b-m"), ("t-a", "a-m"), ("t-c", "a-other")] {
            let id = begin_with_key(&channel, token, model, "2026-11-27").await.expect("a key of its own");
            if restart == 0 {
                assert!(!ids.contains(&id), "{token} was given the job of another");
                ids.push(id);
            } else {
                assert!(ids.contains(&id), "{token} finds its own job again");
            }
        }
        let taken = begin_with_key(&channel, "t-a", "a-else", "2026-11-27").await.expect_err("its own key is taken");
        assert_eq!(taken.code(), Code::AlreadyExists, "{taken:?}");
        assert!(taken.message().contains(&ids[1]), "{taken:?}");
        server.stop().await;
    }
}
