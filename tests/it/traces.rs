//! Observability of a call: trailers, log lines, and a trace sent to a test collector.

use std::collections::HashMap;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use halfhitch::rpc::pb;
use halfhitch::server::ServerConfig;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Request, Response, Status};

use crate::support::process::ServerProcess;
use crate::support::{AutoencoderClient, TestServer, matrix, newest, sample, spec, temporary_store, train};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
/// Wide enough that a few rows are not a tiny request.
const WIDTHS: [u32; 2] = [128, 64];

/// A collector that stores the received traces.
#[derive(Clone, Default)]
pub(crate) struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(crate) async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (collector, address) = (Self::default(), listener.local_addr().expect("bound"));
        let service = TraceServiceServer::new(collector.clone());
        let served = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(served.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, address)
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    fn service_names(&self) -> Vec<String> {
        let requests = self.0.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let attributes =
            resources.filter_map(|resource| resource.resource.as_ref()).flat_map(|found| &found.attributes);
        let names = attributes.filter(|attribute| attribute.key == "service.name");
        names.filter_map(|name| text(name.value.as_ref()?.value.as_ref()?)).collect()
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The text and integer attributes of a span.
fn attributes(span: &Span) -> HashMap<String, String> {
    let pair = |attribute: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        Some((attribute.key.clone(), text(attribute.value.as_ref()?.value.as_ref()?)?))
    };
    span.attributes.iter().filter_map(pair).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

/// A server with the model `m`, one serving thread, and a collector; only calls that ask for a trace are traced.
async fn traced(store: &std::path::Path, collector: SocketAddr) -> (TestServer, AutoencoderClient) {
    let mut config = ServerConfig::new(store.to_owned());
    config.executor.serving_threads = 1;
    config.traces.otlp_endpoint = Some(format!("http://{collector}"));
    config.traces.trace_ratio = 0.0;
    let server = TestServer::start_with(config).await;
    let mut client = server.autoencoder().await;
    train(&mut client, spec("m", &WIDTHS), &sample(200, WIDTHS[0] as usize, 7)).await.expect("trains");
    (server, client)
}

fn question(rows: usize, metadata: &[(&'static str, &str)]) -> Request<pb::EncodeRequest> {
    let columns = WIDTHS[0] as usize;
    let rows = Some(matrix(columns, &sample(rows, columns, 3)));
    let mut request = Request::new(pb::EncodeRequest { model: newest("m"), rows, ..Default::default() });
    for (name, value) in metadata {
        let value = AsciiMetadataValue::try_from(value.as_bytes()).expect("HTTP takes it");
        request.metadata_mut().insert(*name, value);
    }
    request
}

#[track_caller]
fn number(metadata: &MetadataMap, name: &str) -> u64 {
    let value = metadata.get(name).unwrap_or_else(|| panic!("no {name} in {metadata:?}"));
    value.to_str().expect("text").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_links_client_queue_and_batch() {
    let store = temporary_store();
    let (collector, address) = Collector::start().await;
    let (server, mut client) = traced(store.path(), address).await;
    let answer = client.encode(question(100, &[("traceparent", &traceparent("01")), ("x-request-id", "mine")]));
    let answer = answer.await.expect("encodes");
    assert_eq!(number(answer.metadata(), "halfhitch-batch-rows"), 100);
    server.stop().await;

    let spans = collector.spans();
    assert_eq!(spans.len(), 7, "{spans:#?}");
    assert_eq!(collector.service_names()[0], "halfhitch");
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}"));
    let call = named("halfhitch.v1.AutoencoderService/Encode");
    assert_eq!((hex(&call.trace_id), hex(&call.parent_span_id)), (TRACE.to_owned(), CALLER.to_owned()));
    let said = attributes(call);
    for (name, value) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "halfhitch.v1.AutoencoderService"),
        ("rpc.method", "Encode"),
        ("rpc.grpc.status_code", "0"),
        ("halfhitch.model", "m"),
        ("halfhitch.version", "1"),
        ("halfhitch.rows", "100"),
        ("halfhitch.request_id", "mine"),
        ("client.address", "127.0.0.1"),
    ] {
        assert_eq!(said.get(name).map(String::as_str), Some(value), "{name} in {said:?}");
    }
    let mut before = call.start_time_unix_nano;
    for name in ["receive", "queue", "assemble", "compute", "reply"] {
        let part = named(name);
        assert_eq!((&part.trace_id, &part.parent_span_id), (&call.trace_id, &call.span_id), "{name}");
        assert!(before <= part.start_time_unix_nano, "{name} begins in order");
        assert!(part.start_time_unix_nano <= part.end_time_unix_nano, "{name}");
        assert!(part.end_time_unix_nano <= call.end_time_unix_nano, "{name} ends within the call");
        before = part.end_time_unix_nano;
    }
    let (batch, links) = (named("batch"), &named("compute").links);
    assert_eq!(links.len(), 1);
    assert_eq!((&links[0].trace_id, &links[0].span_id), (&batch.trace_id, &batch.span_id));
    assert_ne!(batch.trace_id, call.trace_id);
    let said = attributes(batch);
    assert_eq!((said["halfhitch.rows"].as_str(), said["halfhitch.requests"].as_str()), ("100", "1"));
    assert_eq!((said["halfhitch.model"].as_str(), said["halfhitch.operation"].as_str()), ("m@1", "Encode"));
}

/// Calls that wait behind a large one share a batch. Their timing depends on the machine, so the test retries.
#[tokio::test(flavor = "multi_thread")]
async fn callers_of_one_batch_link_to_the_same_span() {
    for _ in 0..20 {
        let store = temporary_store();
        let (collector, address) = Collector::start().await;
        let (server, client) = traced(store.path(), address).await;
        let mut callers = vec![tokio::spawn({
            let mut client = client.clone();
            async move { client.encode(question(20_000, &[])).await.map(|_| ()) }
        })];
        for _ in 0..16 {
            let mut client = client.clone();
            callers.push(tokio::spawn(async move {
                client.encode(question(30, &[("traceparent", &traceparent("01"))])).await.map(|_| ())
            }));
        }
        for caller in callers {
            caller.await.expect("no panic").expect("encodes");
        }
        server.stop().await;
        let spans = collector.spans();
        let mut callers_of: HashMap<Vec<u8>, usize> = HashMap::new();
        for link in spans.iter().filter(|span| span.name == "compute").flat_map(|span| &span.links) {
            *callers_of.entry(link.span_id.clone()).or_default() += 1;
        }
        for (batch, callers) in &callers_of {
            let found: Vec<&Span> = spans.iter().filter(|span| span.span_id == *batch).collect();
            assert_eq!(found.len(), 1, "a batch has one span");
            let said = attributes(found[0]);
            assert!(said["halfhitch.requests"].parse::<usize>().expect("a number") >= *callers, "{said:?}");
        }
        assert_eq!(callers_of.values().sum::<usize>(), 16);
        if callers_of.values().any(|callers| *callers > 1) {
            return;
        }
    }
    panic!("no two calls were in one batch");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_calls_with_a_valid_sampled_traceparent_are_traced() {
    let store = temporary_store();
    let (collector, address) = Collector::start().await;
    let (server, mut client) = traced(store.path(), address).await;
    for parent in [&traceparent("00"), "00-nonsense-01", &traceparent("01").to_uppercase(), &traceparent("zz"), ""] {
        client.encode(question(1, &[("traceparent", parent)])).await.expect("as if there were none");
    }
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    grpc.ready().await.expect("connected");
    let codec = tonic_prost::ProstCodec::<pb::EncodeRequest, pb::EncodeResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/who.Knows/What");
    let unknown = grpc.unary(question(1, &[("traceparent", &traceparent("01"))]), path, codec).await;
    assert_eq!(unknown.expect_err("unknown").code(), Code::Unimplemented);
    server.stop().await;
    let names: Vec<String> = collector.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["_OTHER/_OTHER"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_collector_does_not_change_responses() {
    let store = temporary_store();
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    let (server, mut client) = traced(store.path(), nobody).await;
    let plain = client.encode(question(50, &[])).await.expect("encodes").into_inner();
    for _ in 0..20 {
        let traced = client.encode(question(50, &[("traceparent", &traceparent("01"))])).await.expect("encodes");
        assert_eq!(traced.into_inner(), plain);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_report_the_cost_of_a_call() {
    let store = temporary_store();
    let (_, nobody) = Collector::start().await;
    let (server, mut client) = traced(store.path(), nobody).await;

    // As a stream of one response, whose trailers arrive separately.
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    grpc.ready().await.expect("connected");
    let codec = tonic_prost::ProstCodec::<pb::EncodeRequest, pb::EncodeResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/halfhitch.v1.AutoencoderService/Encode");
    let answer = grpc.server_streaming(question(40, &[("x-request-id", "abc-1")]), path, codec).await.expect("encodes");
    assert_eq!(answer.metadata().get("x-request-id"), None, "a trailer is no header");
    let mut answers = answer.into_inner();
    let trailers = answers.trailers().await.expect("no error").expect("trailers");
    assert_eq!(trailers.get("x-request-id").expect("echoed"), "abc-1");
    assert_eq!(number(&trailers, "halfhitch-batch-rows"), 40);
    assert!(number(&trailers, "halfhitch-compute-us") > 0);
    number(&trailers, "halfhitch-queue-us");

    let tiny = client.encode(question(1, &[])).await.expect("encodes");
    assert_eq!(number(tiny.metadata(), "halfhitch-queue-us"), 0, "it was computed at once");
    assert_eq!(number(tiny.metadata(), "halfhitch-batch-rows"), 1);
    let ours = tiny.metadata().get("x-request-id").expect("one was made").to_str().expect("text").to_owned();
    assert!(ours.len() == 16 && ours.bytes().all(|byte| byte.is_ascii_hexdigit()), "{ours}");

    let mut wrong = question(1, &[("x-request-id", "abc-2")]);
    wrong.get_mut().model = newest("nobody");
    let error = client.encode(wrong).await.expect_err("unknown");
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(error.metadata().get("x-request-id").expect("echoed"), "abc-2");
    assert_eq!(number(error.metadata(), "halfhitch-batch-rows"), 0);

    let long = "x".repeat(129);
    for hostile in ["two words", "tab\there", "ü", &long, ""] {
        let answer = client.encode(question(1, &[("x-request-id", hostile)])).await.expect("encodes");
        let id = answer.metadata().get("x-request-id").expect("one was made").to_str().expect("text");
        assert_eq!(id.len(), 16, "{hostile:?} is replaced");
    }
    let listed = server.models().await.list_models(pb::ListModelsRequest::default()).await.expect("lists");
    assert!(listed.metadata().get("x-request-id").is_some());
    assert!(listed.metadata().get("halfhitch-queue-us").is_none(), "nothing was computed in batches");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_describes_each_call_without_secrets() {
    let (store, folder) = (temporary_store(), temporary_store());
    let path = folder.path().join("log");
    let flags = ["--log", "debug", "--log-format", "json"];
    let server = ServerProcess::start_logging(store.path(), &flags, File::create(&path).expect("creates"));
    let mut client = server.autoencoder().await;
    train(&mut client, spec("m", &WIDTHS), &sample(200, WIDTHS[0] as usize, 7)).await.expect("trains");
    let secret = "Bearer hush-hush";
    let metadata = [("x-request-id", "find-\"me\""), ("traceparent", &*traceparent("00")), ("authorization", secret)];
    client.encode(question(40, &metadata)).await.expect("encodes");
    let mut wrong = question(1, &[("x-request-id", "and-me"), ("authorization", secret)]);
    wrong.get_mut().model = newest("nobody");
    client.encode(wrong).await.expect_err("unknown");
    assert_eq!(server.terminate(), Some(0));

    let log = std::fs::read_to_string(&path).expect("written");
    assert!(!log.contains("hush"), "a secret is in the log");
    let lines: Vec<serde_json::Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |id: &str| {
        let found: Vec<_> =
            lines.iter().filter(|line| line["request_id"] == id && line["fields"]["message"] == "call").collect();
        assert_eq!(found.len(), 1, "one line of {id}");
        found[0].clone()
    };
    let line = of("find-\"me\"");
    assert_eq!((&line["trace_id"], &line["level"]), (&TRACE.into(), &"DEBUG".into()));
    let fields = &line["fields"];
    assert_eq!((&fields["method"], &fields["code"]), (&"Encode".into(), &"Ok".into()));
    assert_eq!((&fields["model"], &fields["rows"]), (&"m@1".into(), &40.into()));
    assert_eq!(fields["peer"], "127.0.0.1");
    let us = |name: &str| fields[name].as_u64().unwrap_or_else(|| panic!("no {name} in {fields}"));
    assert!(us("queue_us") + us("compute_us") <= us("total_us"), "{fields}");
    let fields = &of("and-me")["fields"];
    assert_eq!((&fields["model"], &fields["code"]), (&"nobody".into(), &"NotFound".into()));
}

/// A collector that speaks only HTTP/1.1: stores the request lines with headers, and the bodies.
#[derive(Clone, Default)]
struct HttpCollector(Arc<Mutex<Vec<(String, ExportTraceServiceRequest)>>>);

impl HttpCollector {
    async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (collector, address) = (Self::default(), listener.local_addr().expect("bound"));
        let taken = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(taken.clone().serve(stream));
            }
        });
        (collector, address)
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        let head = loop {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
            if let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
                break String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            }
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.expect("a length").trim().parse().expect("a number");
        let begin = head.len() + 4;
        while bytes.len() < begin + length {
            assert!(stream.read_buf(&mut bytes).await.expect("open") > 0, "all of it comes");
        }
        let request = ExportTraceServiceRequest::decode(&bytes[begin..]).expect("protobuf");
        self.0.lock().unwrap().push((head, request));
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.expect("open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_speaks_http_gets_traces() {
    let store = temporary_store();
    crate::support::served(store.path(), "m", &WIDTHS).await.stop().await;
    for (variable, path) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "post /v1/traces http/1.1"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "post /mine http/1.1"),
    ] {
        let (collector, address) = HttpCollector::start().await;
        let url =
            if variable.contains("TRACES") { format!("http://{address}/mine") } else { format!("http://{address}") };
        let variables = [
            (variable, url),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=mine".to_owned()),
            ("OTEL_SERVICE_NAME", "embeddings".to_owned()),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test".to_owned()),
        ];
        let server = ServerProcess::start_in(store.path(), &[], &variables);
        let mut client = server.autoencoder().await;
        client.encode(question(100, &[("traceparent", &traceparent("01"))])).await.expect("encodes");
        drop(client);
        server.signal("TERM");
        assert_eq!(server.wait().await, Some(0));
        let taken = collector.0.lock().unwrap().clone();
        assert!(!taken.is_empty(), "{variable}: nothing came");
        let (head, request) = &taken[0];
        assert!(head.starts_with(path), "{head}");
        for line in ["content-type: application/x-protobuf", "x-key: mine", &format!("host: {address}")] {
            assert!(head.contains(line), "{head:?} does not say {line:?}");
        }
        let resource = request.resource_spans[0].resource.as_ref().expect("a resource");
        let said: Vec<(String, String)> = resource
            .attributes
            .iter()
            .filter_map(|one| Some((one.key.clone(), text(one.value.as_ref()?.value.as_ref()?)?)))
            .collect();
        for (key, value) in [("service.name", "embeddings"), ("deployment.environment", "test")] {
            assert!(said.contains(&(key.to_owned(), value.to_owned())), "{said:?}");
        }
        let spans = taken.iter().flat_map(|(_, request)| &request.resource_spans);
        let spans: usize = spans.flat_map(|resource| &resource.scope_spans).map(|scope| scope.spans.len()).sum();
        assert!(spans >= 5, "{spans} spans");
    }
}

/// Operators set these variables for all programs of a machine.
#[tokio::test(flavor = "multi_thread")]
async fn invalid_otel_variables_do_not_prevent_startup() {
    let store = temporary_store();
    crate::support::served(store.path(), "m", &WIDTHS).await.stop().await;
    for (variable, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.invalid:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector.invalid:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/v1/traces"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense ://"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "===,,"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_SDK_DISABLED", "true"),
    ] {
        let mut variables = vec![(variable, value.to_owned())];
        if variable != "OTEL_EXPORTER_OTLP_ENDPOINT" {
            variables.push(("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1".to_owned()));
        }
        let server = ServerProcess::start_in(store.path(), &[], &variables);
        let mut client = server.autoencoder().await;
        client.encode(question(1, &[])).await.unwrap_or_else(|status| panic!("{variable}={value}: {status:?}"));
        drop(client);
        server.kill();
    }
}
