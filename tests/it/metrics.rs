//! `/metrics` agrees exactly with the callers' counts; health probes; an admin port that tolerates any input.

mod page;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use halfhitch::rpc::pb;
use halfhitch::rpc::pb::inference as oip;
use halfhitch::rpc::pb::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use halfhitch::server::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use self::page::{Metrics, Watched, ask};
use crate::support::eventually::eventually;
use crate::support::{
    AutoencoderClient, collected, matrix, newest, sample, spec, temporary_store, train, version, whole_upload,
};
use crate::traces::Collector;

/// One caller's results, by method and code.
type Counted = BTreeMap<(String, String), u64>;

fn count<T>(counted: &mut Counted, method: &str, outcome: &Result<T, tonic::Status>) {
    let code = outcome.as_ref().err().map_or(Code::Ok, tonic::Status::code);
    let word = match code {
        Code::Ok => "ok",
        Code::InvalidArgument => "invalid_argument",
        Code::NotFound => "not_found",
        Code::FailedPrecondition => "failed_precondition",
        other => panic!("{other:?} was not expected"),
    };
    *counted.entry((method.to_owned(), word.to_owned())).or_default() += 1;
}

/// One caller: valid and invalid requests, with both APIs.
async fn call(server: Channel, seed: u64) -> Counted {
    let mut counted = Counted::new();
    let mut client = pb::autoencoder_service_client::AutoencoderServiceClient::new(server.clone());
    let mut inference = GrpcInferenceServiceClient::new(server);
    for round in 0..20 {
        let values = sample(1 + (round % 5) as usize * 40, 8, seed + round);
        let rows = || Some(matrix(8, &values));
        let encode = pb::EncodeRequest { model: newest("m"), rows: rows(), ..Default::default() };
        count(&mut counted, "Encode", &client.encode(encode.clone()).await);
        let narrow = pb::EncodeRequest { rows: Some(matrix(4, &values)), ..encode.clone() };
        count(&mut counted, "Encode", &client.encode(narrow).await);
        let missing = pb::EncodeRequest { model: version("m", 9), ..encode.clone() };
        count(&mut counted, "Encode", &client.encode(missing).await);
        let unnamed = pb::DecodeRequest { model: newest("m"), codes: Some(matrix(2, &values)), ..Default::default() };
        count(&mut counted, "Decode", &client.decode(unnamed).await);
        let reconstruct = pb::ReconstructRequest { model: newest("m"), rows: rows(), ..Default::default() };
        count(&mut counted, "Reconstruct", &client.reconstruct(reconstruct).await);
        let infer = oip::ModelInferRequest {
            model_name: "m".to_owned(),
            inputs: vec![oip::model_infer_request::InferInputTensor {
                name: "X".to_owned(),
                datatype: "FP32".to_owned(),
                shape: vec![i64::try_from(values.len() / 8).expect("few"), 8],
                ..Default::default()
            }],
            raw_input_contents: vec![values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()],
            ..Default::default()
        };
        count(&mut counted, "ModelInfer", &inference.model_infer(infer.clone()).await);
        let empty = oip::ModelInferRequest { raw_input_contents: Vec::new(), ..infer };
        count(&mut counted, "ModelInfer", &inference.model_infer(empty).await);
    }
    counted
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_match_what_the_callers_counted() {
    let folder = temporary_store();
    let server = Watched::start(ServerConfig::new(folder.path().to_owned())).await;
    let mut client = pb::autoencoder_service_client::AutoencoderServiceClient::new(server.channel().await);
    train(&mut client, spec("m", &[8, 2]), &sample(300, 8, 1)).await.expect("trained");
    let mut callers = JoinSet::new();
    for caller in 0..6 {
        callers.spawn(call(server.channel().await, 100 * caller));
    }
    let mut expected = Counted::new();
    for counted in callers.join_all().await {
        for (what, count) in counted {
            *expected.entry(what).or_default() += count;
        }
    }
    // A call that its client gave up is counted as such.
    let nowhere =
        pb::EncodeRequest { model: newest("nowhere"), rows: Some(matrix(8, &sample(1, 8, 1))), ..Default::default() };
    assert_eq!(client.encode(nowhere).await.expect_err("unknown").code(), Code::NotFound);

    let metrics = server.metrics().await;
    let mut counted = metrics.calls("m");
    // The upload names the model too.
    assert!(counted.remove(&("Train".to_owned(), "ok".to_owned())).is_none_or(|trained| trained == 1));
    assert_eq!(counted, expected);
    assert_eq!(metrics.calls("").get(&("Encode".to_owned(), "not_found".to_owned())), Some(&1));
    // Histograms count every served request, and no other.
    let of = |operation: &str| {
        metrics.get(&format!("halfhitch_request_seconds_count{{model=\"m\",operation=\"{operation}\"}}")) as u64
    };
    let ok = |method: &str| expected[&(method.to_owned(), "ok".to_owned())];
    assert_eq!(of("encode"), ok("Encode") + ok("ModelInfer"));
    assert_eq!(of("reconstruct"), ok("Reconstruct"));
    let rows = metrics.get("halfhitch_batch_rows_sum{model=\"m\",operation=\"reconstruct\"}");
    assert_eq!(rows as u64, 6 * (0..20).map(|round| 1 + (round % 5) * 40).sum::<u64>());
    // Every failed call has a cause.
    let causes: f64 =
        metrics.0.iter().filter(|(name, _)| name.starts_with("halfhitch_refusals_total")).map(|(_, v)| v).sum();
    let failed: u64 = expected.iter().filter(|((_, code), _)| code != "ok").map(|(_, count)| count).sum();
    assert_eq!(causes as u64, failed + 1);
    for gauge in ["halfhitch_queued_rows", "halfhitch_queued_bytes", "halfhitch_queue_oldest_seconds"] {
        assert_eq!(metrics.get(gauge), 0.0, "{gauge}");
    }
    assert_eq!(metrics.get("halfhitch_jobs{state=\"succeeded\"}"), 1.0);
    assert_eq!(metrics.get("halfhitch_versions{model=\"m\"}"), 1.0);
    assert_eq!(metrics.get("halfhitch_resident_models"), 1.0);
    assert_eq!(metrics.get("halfhitch_store_writable"), 1.0);
    assert_eq!(metrics.get("halfhitch_readiness{state=\"ready\"}"), 1.0);
    assert!(metrics.get("halfhitch_received_bytes_total") > 1e5 && metrics.get("halfhitch_sent_bytes_total") > 1e4);
    assert!(metrics.get("process_resident_memory_bytes") > 1e6 && metrics.get("process_open_fds") > 3.0);
    #[cfg(target_os = "linux")]
    {
        let max = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        assert_eq!(metrics.0.get("process_max_fds").copied(), max.map(|max| max as f64));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_calls_and_connections_are_counted() {
    let folder = temporary_store();
    let server = Watched::start(ServerConfig::new(folder.path().to_owned())).await;
    let channel = server.channel().await;
    let mut client = pb::job_service_client::JobServiceClient::new(channel.clone());
    let mut autoencoder = pb::autoencoder_service_client::AutoencoderServiceClient::new(channel);
    // An upload that is started and abandoned.
    let (questions, receiver) = tokio::sync::mpsc::channel(1);
    let begin = pb::TrainSpec { idempotency_key: "k".to_owned(), ..spec("m", &[8, 2]) };
    questions.send(crate::support::question(pb::train_request::Message::Spec(begin))).await.expect("room");
    let answers = autoencoder.train(tokio_stream::wrappers::ReceiverStream::new(receiver)).await.expect("begun");
    drop((questions, answers));
    client.list_jobs(pb::ListJobsRequest::default()).await.expect("listed");
    assert_eq!(server.metrics().await.get("halfhitch_open_connections"), 1.0);
    drop((client, autoencoder));
    let metrics = eventually("the upload and its connection have ended", async || {
        let metrics = server.metrics().await;
        let left = metrics.calls("").contains_key(&("Train".to_owned(), "cancelled".to_owned()));
        if metrics.get("halfhitch_open_connections") == 0.0 && left { Ok(metrics) } else { Err(metrics.0) }
    })
    .await;
    assert_eq!(metrics.get("halfhitch_refusals_total{cause=\"left\"}"), 1.0);
    assert_eq!(metrics.get("halfhitch_accepted_connections_total"), 1.0);
    server.stop().await;
}

fn row_of_zeros(columns: i64) -> oip::ModelInferRequest {
    oip::ModelInferRequest {
        model_name: "m".to_owned(),
        inputs: vec![oip::model_infer_request::InferInputTensor {
            name: "X".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, columns],
            ..Default::default()
        }],
        raw_input_contents: vec![vec![0; 4 * columns as usize].into()],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_counts_as_one_call_even_if_requests_fail() {
    let folder = temporary_store();
    let mut config = ServerConfig::new(folder.path().to_owned());
    config.transport.message_bytes_max = 4096;
    let server = Watched::start(config).await;
    let channel = server.channel().await;
    let mut client = AutoencoderClient::new(channel.clone());
    train(&mut client, spec("m", &[8, 2]), &sample(300, 8, 1)).await.expect("trained");
    let mut inference = GrpcInferenceServiceClient::new(channel);
    let questions = tokio_stream::iter([8, 7, 8, 9].map(row_of_zeros));
    let answers = inference.model_stream_infer(questions).await.expect("begun");
    let (answers, end) = collected(answers.into_inner()).await;
    end.expect("ended well");
    let failed: Vec<bool> = answers.iter().map(|answer| !answer.error_message.is_empty()).collect();
    assert_eq!(failed, [false, true, false, true]);
    let metrics = server.metrics().await;
    let (method, ok) = ("ModelStreamInfer".to_owned(), "ok".to_owned());
    assert_eq!(metrics.calls("m").into_iter().filter(|((of, _), _)| *of == method).collect::<Counted>(), {
        Counted::from([((method.clone(), ok), 1)])
    });
    let refused = metrics.0.iter().filter(|(series, _)| series.starts_with("halfhitch_refusals_total"));
    assert_eq!(refused.map(|(_, count)| count).sum::<f64>(), 0.0);
    assert_eq!(metrics.get("halfhitch_request_seconds_count{model=\"m\",operation=\"encode\"}"), 2.0);

    // A stream that ends with an error is counted once with that error, not with the failure of an earlier request.
    let unknown = oip::ModelInferRequest { model_name: "nowhere".to_owned(), ..row_of_zeros(8) };
    let questions = tokio_stream::iter([unknown, row_of_zeros(2000)]);
    let answers = inference.model_stream_infer(questions).await.expect("begun");
    let (answers, end) = collected(answers.into_inner()).await;
    assert_eq!((answers.len(), end.expect_err("above the limit").code()), (1, Code::ResourceExhausted));
    let metrics = server.metrics().await;
    let refused = |cause: &str| metrics.get(&format!("halfhitch_refusals_total{{cause=\"{cause}\"}}"));
    assert_eq!((refused("too_large"), refused("unknown")), (1.0, 0.0));
    server.stop().await;
}

/// Starts an endless training; returns its stream and the job's id.
async fn endless(client: &mut AutoencoderClient, name: &str) -> (tonic::Streaming<pb::TrainResponse>, String) {
    let spec = pb::TrainSpec { epochs: 100_000, ..spec(name, &[8, 2]) };
    let questions = whole_upload(spec, &sample(300, 8, 1), 300);
    let mut answers = client.train(tokio_stream::iter(questions)).await.expect("accepted").into_inner();
    loop {
        let answer = answers.message().await.expect("goes well").expect("an answer");
        if let Some(pb::train_response::Message::Progress(job)) = answer.message {
            return (answers, job.id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_jobs_and_trained_rows_are_counted() {
    let folder = temporary_store();
    let server = Watched::start(ServerConfig::new(folder.path().to_owned())).await;
    let channel = server.channel().await;
    let mut client = AutoencoderClient::new(channel.clone());
    let mut rows = 0;
    for (epochs, seed) in [(3, 1), (5, 2)] {
        let spec = pb::TrainSpec { epochs, seed, ..spec("m", &[8, 2]) };
        let report = train(&mut client, spec, &sample(300, 8, seed)).await.expect("trained").training_report;
        let report = report.expect("a report");
        rows += report.training_rows * report.epochs.len() as u64;
    }
    // A job that cannot start trains on no row.
    let outside = pb::TrainSpec {
        loss: pb::Loss::BinaryCrossEntropy.into(),
        normalization: pb::Normalization::None.into(),
        ..spec("outside", &[8, 2])
    };
    train(&mut client, outside, &sample(300, 8, 1)).await.expect_err("values outside of 0 to 1");
    let metrics = server.metrics().await;
    assert_eq!(metrics.get("halfhitch_trained_rows_total") as u64, rows);
    assert_eq!(metrics.ended_jobs(), [2.0, 1.0, 0.0]);

    let (answers, id) = endless(&mut client, "endless").await;
    let (last, best) =
        ("halfhitch_validation_loss{model=\"endless\"}", "halfhitch_best_validation_loss{model=\"endless\"}");
    let (mut lowest, mut seen) = (f64::INFINITY, 0);
    let metrics = eventually("three losses are seen", async || {
        let metrics = server.metrics().await;
        if let Some(best) = metrics.0.get(best) {
            // The page may already contain epochs that this test missed.
            assert!(*best <= lowest.min(metrics.0[last]), "{best} after {lowest}");
            (lowest, seen) = (*best, seen + 1);
        }
        if seen == 3 { Ok(metrics) } else { Err(metrics.0) }
    })
    .await;
    assert!(metrics.get("halfhitch_trained_rows_total") as u64 > rows);
    let mut jobs = pb::job_service_client::JobServiceClient::new(channel);
    jobs.cancel_job(pb::CancelJobRequest { id }).await.expect("cancelled");
    let metrics = server.metrics().await;
    assert_eq!(metrics.ended_jobs(), [2.0, 1.0, 1.0]);
    assert!(!metrics.0.contains_key(last) && !metrics.0.contains_key(best), "it does not run any more");
    drop((answers, client, jobs));
    server.stop().await;

    // Jobs that ended before the restart are listed, but not counted by this process.
    let server = Watched::start(ServerConfig::new(folder.path().to_owned())).await;
    let metrics = server.metrics().await;
    assert_eq!((metrics.ended_jobs(), metrics.get("halfhitch_trained_rows_total")), ([0.0; 3], 0.0));
    assert_eq!(metrics.get("halfhitch_jobs{state=\"succeeded\"}"), 2.0);
    server.stop().await;
}

/// Sends calls that ask for a trace to a server that allows one per second; returns the counts of its metrics.
async fn traced(endpoint: SocketAddr, calls: u32, is_over: impl Fn([u64; 3]) -> bool) -> [u64; 3] {
    let folder = temporary_store();
    let mut config = ServerConfig::new(folder.path().to_owned());
    config.traces.otlp_endpoint = Some(format!("http://{endpoint}"));
    (config.traces.trace_ratio, config.traces.traces_per_second_max) = (0.0, 1);
    let server = Watched::start(config).await;
    let mut client = pb::job_service_client::JobServiceClient::new(server.channel().await);
    for _ in 0..calls {
        let mut request = tonic::Request::new(pb::ListJobsRequest::default());
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().expect("ASCII");
        request.metadata_mut().insert("traceparent", parent);
        client.list_jobs(request).await.expect("listed");
    }
    let counts = eventually("every call is counted", async || {
        let metrics = server.metrics().await;
        let counts = ["exported_spans", "dropped_spans", "limited_traces"]
            .map(|what| metrics.get(&format!("halfhitch_{what}_total")) as u64);
        if is_over(counts) { Ok(counts) } else { Err(counts) }
    })
    .await;
    server.stop().await;
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn exported_and_dropped_spans_are_counted() {
    let (collector, address) = Collector::start().await;
    let [exported, dropped, limited] =
        traced(address, 20, |[exported, _, limited]| exported > 0 && exported + limited >= 20).await;
    // Each traced call has one span.
    assert_eq!((exported + limited, dropped), (20, 0));
    assert_eq!(collector.spans().len() as u64, exported);
    assert!(limited > 0, "one a second is not so many");
    // No collector is listening.
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    let [exported, dropped, limited] = traced(nobody, 1, |[_, dropped, _]| dropped > 0).await;
    assert_eq!([exported, dropped, limited], [0, 1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_series_of_a_deleted_model_disappear() {
    let folder = temporary_store();
    let server = Watched::start(ServerConfig::new(folder.path().to_owned())).await;
    let channel = server.channel().await;
    let mut client = pb::autoencoder_service_client::AutoencoderServiceClient::new(channel.clone());
    train(&mut client, spec("m", &[8, 2]), &sample(300, 8, 1)).await.expect("trained");
    let encode =
        pb::EncodeRequest { model: newest("m"), rows: Some(matrix(8, &sample(1, 8, 1))), ..Default::default() };
    client.encode(encode.clone()).await.expect("encoded");
    let of_model = |metrics: &Metrics| metrics.0.keys().filter(|series| series.contains("model=\"m\"")).count();
    assert!(of_model(&server.metrics().await) > 5);
    let mut models = pb::model_service_client::ModelServiceClient::new(channel);
    let delete = pb::DeleteModelVersionRequest { name: "m".to_owned(), version: 1 };
    models.delete_model_version(delete).await.expect("deleted");
    client.encode(encode).await.expect_err("gone");
    assert_eq!(of_model(&server.metrics().await), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_serves_probes_despite_bad_requests() {
    let folder = temporary_store();
    let server = Watched::start(ServerConfig::new(folder.path().to_owned())).await;
    eventually("the server is ready", async || match server.get("/readyz").await {
        (200, text) if text == "ready\n" => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(server.get("/livez").await.0, 200);
    assert_eq!(server.get("/").await.0, 404);
    assert_eq!(server.get("/metrics/../etc/passwd").await.0, 404);
    assert_eq!(
        ask(server.admin, "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .await
            .0,
        405
    );
    let long = "x".repeat(1 << 20);
    let (code, _) = ask(server.admin, &format!("GET /livez HTTP/1.1\r\nhost: x\r\nlong: {long}\r\n\r\n")).await;
    assert!([0, 431].contains(&code), "{code}");
    ask(server.admin, "\0\0\0 not http\r\n\r\n").await;
    // Clients that start a request and stop delay no others.
    let mut slow = Vec::new();
    for _ in 0..10 {
        let mut connection = TcpStream::connect(server.admin).await.expect("connects");
        connection.write_all(b"GET /livez HT").await.expect("sent");
        slow.push(connection);
    }
    assert_eq!(server.get("/livez").await.0, 200);
    server.stop().await;
}
