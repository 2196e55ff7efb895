//! Start and stop: ready when models are warm; not ready but still serving while it drains; every accepted call gets a
//! response. Also settings that change at run time.

use std::fs;
use std::path::Path;
use std::time::Duration;

use halfhitch::rpc::pb;
use halfhitch::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;
use halfhitch::server::ServerConfig;
use halfhitch::service::UpkeepConfig;
use halfhitch::store::{LocalStore, ModelCatalogue, ModelStore};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::eventually::eventually;
use crate::support::process::{ServerProcess, halfhitch};
use crate::support::{TestServer, matrix, newest, numbers, sample, temporary_store, untrained, version};

fn publish(store: &Path, name: &str) -> u64 {
    let store = LocalStore::open(store).expect("a store");
    store.publish(&name.parse().expect("a name"), &untrained(&[8, 4, 2])).expect("published").number()
}

async fn health(client: &mut HealthClient<Channel>, name: &str) -> Result<ServingStatus, Code> {
    let question = HealthCheckRequest { service: name.to_owned() };
    client.check(question).await.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

async fn becomes(client: &mut HealthClient<Channel>, name: &str, expected: Result<ServingStatus, Code>) {
    eventually(&format!("{name:?} becomes {expected:?}"), async || {
        let now = health(client, name).await;
        if now == expected { Ok(()) } else { Err(now) }
    })
    .await;
}

fn encode(name: &str) -> pb::EncodeRequest {
    pb::EncodeRequest { model: newest(name), rows: Some(matrix(8, &sample(3, 8, 1))), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_and_model_reports_its_health() {
    let folder = temporary_store();
    publish(folder.path(), "m");
    let server = TestServer::start(folder.path()).await;
    let mut client = HealthClient::new(server.channel().await);
    becomes(&mut client, "", Ok(ServingStatus::Serving)).await;
    for name in ["halfhitch.v1.ModelService", "inference.GRPCInferenceService", "models/m", "models/m@1"] {
        assert_eq!(health(&mut client, name).await, Ok(ServingStatus::Serving), "{name}");
    }
    for name in ["m", "halfhitch.v1", "models/", "models/x", "models/m@2", "models/m@prod", "models/M@@"] {
        assert_eq!(health(&mut client, name).await, Err(Code::NotFound), "{name}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_watchers_see_new_aliases_and_the_shutdown() {
    let folder = temporary_store();
    publish(folder.path(), "other");
    let server = TestServer::start(folder.path()).await;
    let mut client = HealthClient::new(server.channel().await);
    becomes(&mut client, "", Ok(ServingStatus::Serving)).await;
    let watch = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let mut of_model = client.watch(watch("models/other@prod")).await.expect("watched").into_inner();
    let mut of_server = client.watch(watch("")).await.expect("watched").into_inner();
    let mut next = async || of_model.message().await.expect("told").map(|told| told.status());
    assert_eq!(next().await, Some(ServingStatus::ServiceUnknown));
    let mut models = server.models().await;
    let name_it =
        pb::SetAliasRequest { name: "other".to_owned(), alias: "prod".to_owned(), version: 1, ..Default::default() };
    models.set_alias(name_it).await.expect("aliased");
    assert_eq!(next().await, Some(ServingStatus::Serving));
    server.stop().await;
    assert_eq!(next().await, Some(ServingStatus::NotServing));
    assert_eq!(next().await, None);
    assert_eq!(of_server.message().await.expect("told").map(|told| told.status()), Some(ServingStatus::Serving));
    assert_eq!(of_server.message().await.expect("told").map(|told| told.status()), Some(ServingStatus::NotServing));
    assert_eq!(of_server.message().await.expect("the end"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_ready_once_warm_models_are_loaded() {
    let folder = temporary_store();
    let warm_models = vec!["late".parse().expect("a reference")];
    let config = ServerConfig {
        upkeep: UpkeepConfig { warm_models, ..UpkeepConfig::default() },
        ..ServerConfig::new(folder.path().to_owned())
    };
    let server = TestServer::start_with(config).await;
    let mut client = HealthClient::new(server.channel().await);
    // The server serves but is not ready, for twice the scan interval of the store.
    for _ in 0..100 {
        assert_eq!(health(&mut client, "").await, Ok(ServingStatus::NotServing));
        sleep(Duration::from_millis(10)).await;
    }
    let mut autoencoder = server.autoencoder().await;
    let spec = crate::support::spec("late", &[8, 2]);
    crate::support::train(&mut autoencoder, spec, &sample(200, 8, 1)).await.expect("trained");
    becomes(&mut client, "", Ok(ServingStatus::Serving)).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_excludes_versions_unless_they_have_an_alias() {
    let folder = temporary_store();
    for _ in 0..3 {
        publish(folder.path(), "m");
    }
    let policies = "latest:1".parse().expect("a policy");
    let config = ServerConfig {
        upkeep: UpkeepConfig { policies, ..UpkeepConfig::default() },
        ..ServerConfig::new(folder.path().to_owned())
    };
    let server = TestServer::start_with(config).await;
    becomes(&mut HealthClient::new(server.channel().await), "", Ok(ServingStatus::Serving)).await;
    let mut client = server.autoencoder().await;
    let of = |number| pb::EncodeRequest { model: version("m", number), ..encode("m") };
    assert_eq!(client.encode(encode("m")).await.expect("the newest").into_inner().version, 3);
    let refused = client.encode(of(1)).await.expect_err("left out");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("latest:1"), "{refused:?}");
    let mut models = server.models().await;
    let name_it =
        pb::SetAliasRequest { name: "m".to_owned(), alias: "old".to_owned(), version: 1, ..Default::default() };
    models.set_alias(name_it).await.expect("aliased");
    assert_eq!(client.encode(of(1)).await.expect("aliased").into_inner().version, 1);
    server.stop().await;
}

/// Encodes repeatedly, each call on a new connection, until one is rejected; returns the number of successful calls.
async fn encode_until_refused(client: AutoencoderServiceClient<Channel>) -> usize {
    let mut client = client;
    for answered in 0..1_000_000 {
        match client.encode(encode("m")).await {
            Ok(answer) => assert_eq!(numbers(answer.into_inner().codes).len(), 6),
            Err(status) => {
                // The error can also come from the client's transport, before it sent the request.
                let is_clients = std::error::Error::source(&status).is_some();
                assert!(status.code() == Code::Unavailable || is_clients, "{status:?}");
                return answered;
            }
        }
    }
    panic!("it never stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_is_not_ready_but_serves() {
    let folder = temporary_store();
    publish(folder.path(), "m");
    let server = ServerProcess::start_with(folder.path(), &["--drain-seconds", "2"]);
    let mut probe = HealthClient::new(crate::support::channel(server.address()).await);
    becomes(&mut probe, "", Ok(ServingStatus::Serving)).await;
    let busy = tokio::spawn(encode_until_refused(server.autoencoder().await));
    server.signal("TERM");
    becomes(&mut probe, "", Ok(ServingStatus::NotServing)).await;
    // New clients are still served.
    let mut late = server.autoencoder().await;
    late.encode(encode("m")).await.expect("it drains, and serves");
    assert!(busy.await.expect("no panic") > 0);
    assert_eq!(server.wait().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_the_server_at_once() {
    let folder = temporary_store();
    publish(folder.path(), "m");
    // Longer than any test lasts.
    let server =
        ServerProcess::start_with(folder.path(), &["--drain-seconds", "3600", "--shutdown-grace-seconds", "7200"]);
    let mut probe = HealthClient::new(crate::support::channel(server.address()).await);
    becomes(&mut probe, "", Ok(ServingStatus::Serving)).await;
    server.signal("TERM");
    becomes(&mut probe, "", Ok(ServingStatus::NotServing)).await;
    server.signal("TERM");
    assert_eq!(server.wait().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_completes_all_accepted_requests() {
    let folder = temporary_store();
    publish(folder.path(), "m");
    let log = folder.path().join("log");
    let flags = ["--serving-threads", "1", "--queue-rows-max", "4096", "--log-format", "json"];
    let file = fs::File::create(&log).expect("a file");
    let server = ServerProcess::start_logging(folder.path(), &flags, file);
    let mut probe = HealthClient::new(crate::support::channel(server.address()).await);
    becomes(&mut probe, "", Ok(ServingStatus::Serving)).await;
    let mut callers = JoinSet::new();
    for _ in 0..32 {
        let mut client = server.autoencoder().await;
        callers.spawn(async move {
            let rows = sample(500, 8, 1);
            let mut answered = 0;
            for _ in 0..100_000 {
                let question =
                    pb::EncodeRequest { model: newest("m"), rows: Some(matrix(8, &rows)), ..Default::default() };
                match client.encode(question).await {
                    Ok(answer) => {
                        assert_eq!(numbers(answer.into_inner().codes).len(), 1000);
                        answered += 1;
                    }
                    // The queue is full: not accepted.
                    Err(status) if status.code() == Code::ResourceExhausted => {}
                    Err(status) => {
                        // The client's transport creates this status for a request that it did not send, or that
                        // crossed with GOAWAY. A status from the server carries headers.
                        let unsent = matches!(status.code(), Code::Cancelled | Code::Internal)
                            && status.metadata().is_empty()
                            && std::error::Error::source(&status).is_some();
                        assert!(unsent || status.code() == Code::Unavailable, "{status:?}");
                        return answered;
                    }
                }
            }
            panic!("it never stops");
        });
    }
    sleep(Duration::from_millis(300)).await;
    server.signal("TERM");
    assert_eq!(server.wait().await, Some(0));
    let answered: u64 = callers.join_all().await.into_iter().sum();
    assert!(answered > 0);
    // Every response arrived: the server completes what it accepts.
    let log = fs::read_to_string(log).expect("a log");
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let stopped = lines.rfind(|line| line["fields"]["message"] == "stopped").expect("its last line");
    assert_eq!(stopped["fields"]["answered"].as_u64(), Some(answered));
    assert_eq!(stopped["fields"]["cancelled_rows"].as_u64(), Some(0), "accepted and then lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_reload_on_sighup_and_on_file_changes() {
    let folder = temporary_store();
    let store = folder.path().join("store");
    for _ in 0..2 {
        publish(&store, "m");
    }
    let file = folder.path().join("halfhitch.toml");
    fs::write(&file, "version_policy = \"all\"\n").expect("written");
    let server = ServerProcess::start_with(&store, &["--config", file.to_str().expect("text")]);
    let mut client = server.autoencoder().await;
    let first = || pb::EncodeRequest { model: version("m", 1), ..encode("m") };
    client.encode(first()).await.expect("all versions are served");
    let mut comes = async |expected: Option<Code>| {
        eventually(&format!("the response is {expected:?}"), async || {
            let now = client.encode(first()).await.err().map(|status| status.code());
            if now == expected { Ok(()) } else { Err(now) }
        })
        .await;
    };
    // Change only the file.
    fs::write(&file, "version_policy = \"latest:1\"\n").expect("written");
    comes(Some(Code::FailedPrecondition)).await;
    // An invalid file changes nothing and does not stop the server.
    fs::write(&file, "version_policy = \"newest\"\n").expect("written");
    server.signal("HUP");
    sleep(Duration::from_millis(200)).await;
    comes(Some(Code::FailedPrecondition)).await;
    fs::write(&file, "version_policy = [\"m=all\"]\n").expect("written");
    server.signal("HUP");
    comes(None).await;
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_a_read_only_root_serves_and_reports_health() {
    let folder = temporary_store();
    let Some(server) = ServerProcess::start_on_read_only_root(folder.path()) else {
        eprintln!("skipped: this machine permits no mount namespaces");
        return;
    };
    let mut client = server.autoencoder().await;
    let spec = crate::support::spec("m", &[8, 2]);
    crate::support::train(&mut client, spec, &sample(200, 8, 1)).await.expect("trained");
    client.encode(encode("m")).await.expect("encoded");
    let health = |service: &str| {
        let mut command = halfhitch();
        command.args(["--server", &server.url(), "health", "--service", service]);
        command.output().expect("it runs").status.code()
    };
    assert_eq!([health(""), health("models/m"), health("models/x")], [Some(0), Some(0), Some(1)]);
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_removes_only_unneeded_versions() {
    let folder = temporary_store();
    for _ in 0..5 {
        publish(folder.path(), "m");
    }
    {
        let store = LocalStore::open(folder.path()).expect("a store");
        let key = halfhitch::model::ModelKey {
            name: "m".parse().expect("a name"),
            version: halfhitch::model::Version::new(2).expect("not zero"),
        };
        store.set_alias(&key, &"prod".parse().expect("an alias"), None).expect("aliased");
    }
    // An unfinished upload starts from version 1, so version 1 is published while all versions are kept.
    let server = ServerProcess::start(folder.path());
    let (questions, receiver) = tokio::sync::mpsc::channel(1);
    let spec = pb::TrainSpec {
        base: version("m", 1),
        idempotency_key: "goes on".to_owned(),
        widths: Vec::new(),
        ..crate::support::spec("n", &[])
    };
    questions.send(crate::support::question(pb::train_request::Message::Spec(spec))).await.expect("room");
    let mut client = server.autoencoder().await;
    let upload = client.train(tokio_stream::wrappers::ReceiverStream::new(receiver)).await.expect("begun");
    let accepted = { upload }.into_inner().message().await.expect("told");
    assert!(accepted.is_some());
    drop(questions);
    assert_eq!(server.terminate(), Some(0));
    let flags = ["--retention-versions", "1", "--retention-days", "0", "--warm-models", "m@3"];
    let server = ServerProcess::start_with(folder.path(), &flags);
    let there = |number: u64| folder.path().join(format!("models/m/{number}")).exists();
    eventually("version 4 is removed", async || if there(4) { Err("it is there") } else { Ok(()) }).await;
    assert_eq!([1, 2, 3, 4, 5].map(there), [true, true, true, false, true]);
    assert_eq!(server.terminate(), Some(0));
}
