//! The Open Inference Protocol over gRPC returns the same results as halfhitch's own API.

use std::collections::HashMap;

use half::{bf16, f16};
use halfhitch::rpc::pb as own;
use halfhitch::rpc::pb::inference as pb;
use halfhitch::rpc::pb::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use halfhitch::rpc::pb::inference::infer_parameter::ParameterChoice;
use halfhitch::rpc::pb::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use tonic::Code;
use tonic::transport::Channel;

use crate::support::{TestServer, matrix, newest, numbers, sample, served, temporary_store, version};

type Client = GrpcInferenceServiceClient<Channel>;

async fn client(server: &TestServer) -> Client {
    GrpcInferenceServiceClient::new(server.channel().await)
}

fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A request with one raw tensor: rows of 8, or codes of 3.
fn question(model: &str, version: &str, name: &str, columns: i64, values: &[f32]) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: model.to_owned(),
        model_version: version.to_owned(),
        id: "7".to_owned(),
        inputs: vec![InferInputTensor {
            name: name.to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![i64::try_from(values.len()).expect("few") / columns, columns],
            ..Default::default()
        }],
        raw_input_contents: vec![le(values).into()],
        ..Default::default()
    }
}

fn floats(raw: &[u8]) -> Vec<f32> {
    raw.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn named(operation: &str) -> HashMap<String, pb::InferParameter> {
    let choice = Some(ParameterChoice::StringParam(operation.to_owned()));
    HashMap::from([("operation".to_owned(), pb::InferParameter { parameter_choice: choice })])
}

#[tokio::test(flavor = "multi_thread")]
async fn encode_decode_and_reconstruct_match_our_own_api() {
    let store = temporary_store();
    let server = served(store.path(), "m", &[8, 3]).await;
    let mut models = server.models().await;
    let alias = own::SetAliasRequest { name: "m".into(), alias: "prod".into(), version: 1, expected_version: None };
    models.set_alias(alias).await.expect("an alias");
    let (mut client, mut ours) = (client(&server).await, server.autoencoder().await);
    let rows = sample(5, 8, 3);
    let encode = own::EncodeRequest { model: newest("m"), rows: Some(matrix(8, &rows)), ..Default::default() };
    let codes = numbers(ours.encode(encode).await.expect("encodes").into_inner().codes);
    let decode = own::DecodeRequest { model: version("m", 1), codes: Some(matrix(3, &codes)), ..Default::default() };
    let decoded = numbers(ours.decode(decode).await.expect("decodes").into_inner().rows);
    let reconstruct =
        own::ReconstructRequest { model: newest("m"), rows: Some(matrix(8, &rows)), ..Default::default() };
    let rebuilt = ours.reconstruct(reconstruct).await.expect("reconstructs").into_inner();

    let answer = client.model_infer(question("m", "", "X", 8, &rows)).await.expect("infers").into_inner();
    assert_eq!((answer.model_name.as_str(), answer.model_version.as_str(), answer.id.as_str()), ("m", "1", "7"));
    assert_eq!((answer.outputs[0].name.as_str(), &answer.outputs[0].shape[..]), ("CODE", &[5, 3][..]));
    assert_eq!(floats(&answer.raw_output_contents[0]), codes);

    let answer =
        client.model_infer(question("m:decode", "prod", "CODE", 3, &codes)).await.expect("infers").into_inner();
    assert_eq!((answer.model_version.as_str(), answer.outputs[0].name.as_str()), ("1", "X"));
    assert_eq!(floats(&answer.raw_output_contents[0]), decoded);

    let by_parameter = pb::ModelInferRequest { parameters: named("reconstruct"), ..question("m", "1", "X", 8, &rows) };
    for asked in [question("m:reconstruct", "", "X", 8, &rows), by_parameter] {
        let answer = client.model_infer(asked).await.expect("infers").into_inner();
        assert_eq!(answer.outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(), ["X_HAT", "ERROR"]);
        assert_eq!(answer.outputs[1].shape, [5, 1]);
        assert_eq!(floats(&answer.raw_output_contents[0]), numbers(rebuilt.rows.clone()));
        assert_eq!(floats(&answer.raw_output_contents[1]), rebuilt.squared_errors);
    }
    let one = InferRequestedOutputTensor { name: "ERROR".to_owned(), ..Default::default() };
    let asked = pb::ModelInferRequest { outputs: vec![one], ..question("m:reconstruct", "", "X", 8, &rows) };
    let answer = client.model_infer(asked).await.expect("infers").into_inner();
    assert_eq!((answer.outputs.len(), answer.outputs[0].name.as_str()), (1, "ERROR"));
    assert_eq!(floats(&answer.raw_output_contents[0]), rebuilt.squared_errors);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_datatype_means_the_same_numbers() {
    let store = temporary_store();
    let server = served(store.path(), "m", &[8, 3]).await;
    let mut client = client(&server).await;
    // Values that are exact in both 16-bit float types.
    let rows: Vec<f32> = (0..16).map(|i| (i as f32 - 8.0) / 4.0).collect();
    let plain = client.model_infer(question("m", "", "X", 8, &rows)).await.expect("infers").into_inner();
    let raw = |datatype: &str, bytes: Vec<u8>| {
        let mut asked = question("m", "", "X", 8, &rows);
        asked.inputs[0].datatype = datatype.to_owned();
        asked.raw_input_contents = vec![bytes.into()];
        asked
    };
    let typed = |datatype: &str, contents: pb::InferTensorContents| {
        let mut asked = raw(datatype, Vec::new());
        asked.raw_input_contents.clear();
        asked.inputs[0].contents = Some(contents);
        asked
    };
    let doubles: Vec<f64> = rows.iter().map(|value| f64::from(*value)).collect();
    for asked in [
        raw("FP16", rows.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()),
        raw("BF16", rows.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()),
        typed("FP32", pb::InferTensorContents { fp32_contents: rows.clone(), ..Default::default() }),
    ] {
        let answer = client.model_infer(asked).await.expect("infers").into_inner();
        assert_eq!(answer.raw_output_contents, plain.raw_output_contents, "answers are raw, whatever came");
    }
    let codes = floats(&plain.raw_output_contents[0]);
    let of_doubles = raw("FP64", doubles.iter().flat_map(|value| value.to_le_bytes()).collect());
    for asked in [
        of_doubles.clone(),
        typed("FP64", pb::InferTensorContents { fp64_contents: doubles.clone(), ..Default::default() }),
    ] {
        // Normalized in f64: equal except for the last bits.
        let answer = client.model_infer(asked).await.expect("infers").into_inner();
        assert_eq!(answer.outputs[0].datatype, "FP32");
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
        assert!(floats(&answer.raw_output_contents[0]).iter().zip(&codes).all(close));
    }
    let parameter = |text: &str| {
        let choice = Some(ParameterChoice::StringParam(text.to_owned()));
        [("datatype".to_owned(), pb::InferParameter { parameter_choice: choice })].into()
    };
    let asked_in = |datatype: &str| {
        let output = InferRequestedOutputTensor { name: "CODE".into(), parameters: parameter(datatype) };
        pb::ModelInferRequest { outputs: vec![output], ..of_doubles.clone() }
    };
    for (datatype, bytes) in [("FP64", 8), ("FP32", 4), ("FP16", 2), ("BF16", 2)] {
        let answer = client.model_infer(asked_in(datatype)).await.expect("infers").into_inner();
        assert_eq!(answer.outputs[0].datatype, datatype);
        assert_eq!(answer.raw_output_contents[0].len(), codes.len() * bytes);
    }
    let refused = client.model_infer(asked_in("INT64")).await.expect_err("no such answer");
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("INT64"), "{refused}");

    // 8-bit integers, as raw and as typed contents.
    let whole: Vec<f32> = (0..16).map(|i| i as f32).collect();
    let plain = client.model_infer(question("m", "", "X", 8, &whole)).await.expect("infers").into_inner();
    let numbers: Vec<u8> = (0..16).collect();
    for asked in [
        raw("UINT8", numbers.clone()),
        raw("INT8", numbers.clone()),
        typed("UINT8", pb::InferTensorContents { uint_contents: (0..16).collect(), ..Default::default() }),
        typed("INT8", pb::InferTensorContents { int_contents: (0..16).collect(), ..Default::default() }),
    ] {
        let answer = client.model_infer(asked).await.expect("infers").into_inner();
        assert_eq!(answer.raw_output_contents, plain.raw_output_contents);
    }
    let beyond = typed("INT8", pb::InferTensorContents { int_contents: vec![128; 16], ..Default::default() });
    let refused = client.model_infer(beyond).await.expect_err("more than 8 bits");
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("128"), "{refused}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_what_is_wrong_with_a_request() {
    let store = temporary_store();
    let server = served(store.path(), "m", &[8, 3]).await;
    let mut client = client(&server).await;
    let rows = sample(2, 8, 3);
    let asked = || question("m", "", "X", 8, &rows);
    let changed = |change: &dyn Fn(&mut pb::ModelInferRequest)| {
        let mut wrong = asked();
        change(&mut wrong);
        wrong
    };
    let typed = pb::InferTensorContents { fp32_contents: rows.clone(), ..Default::default() };
    let cases = [
        (changed(&|q| q.model_name = "nowhere".into()), Code::NotFound, "nowhere"),
        (changed(&|q| q.model_name = "Not a name".into()), Code::NotFound, "Request for unknown model"),
        (changed(&|q| q.model_version = "9".into()), Code::NotFound, "9"),
        (changed(&|q| q.model_version = "0".into()), Code::InvalidArgument, "version"),
        (changed(&|q| q.model_name = "m:train".into()), Code::InvalidArgument, "encode, decode or reconstruct"),
        (changed(&|q| q.parameters = named("train")), Code::InvalidArgument, "encode, decode or reconstruct"),
        (changed(&|q| q.inputs.clear()), Code::InvalidArgument, "0 tensors, expected one, X"),
        (changed(&|q| q.inputs[0].name = "Y".into()), Code::InvalidArgument, "\"Y\", expected X"),
        (changed(&|q| q.inputs[0].datatype = "INT64".into()), Code::InvalidArgument, "FP16, BF16, UINT8 or INT8"),
        (changed(&|q| q.inputs[0].shape = vec![16]), Code::InvalidArgument, "of 1 dimensions"),
        (changed(&|q| q.inputs[0].shape = vec![-1, 8]), Code::InvalidArgument, "-1 x 8"),
        (changed(&|q| q.inputs[0].shape = vec![i64::MAX, 8]), Code::InvalidArgument, "expected rows and columns"),
        (changed(&|q| q.inputs[0].shape = vec![3, 8]), Code::InvalidArgument, "64 bytes, expected 96"),
        (changed(&|q| q.inputs[0].shape = vec![4, 4]), Code::InvalidArgument, "has 8"),
        (changed(&|q| q.inputs[0].contents = Some(typed.clone())), Code::InvalidArgument, "expected one of them"),
        (changed(&|q| q.raw_input_contents.clear()), Code::InvalidArgument, "0 entries, expected one"),
        (changed(&|q| q.raw_input_contents.push(vec![1].into())), Code::InvalidArgument, "2 entries, expected one"),
        (changed(&|q| q.raw_input_contents = vec![le(&[f32::NAN; 16]).into()]), Code::InvalidArgument, "NaN"),
        (
            changed(&|q| q.outputs = vec![InferRequestedOutputTensor { name: "Z".into(), ..Default::default() }]),
            Code::InvalidArgument,
            "\"Z\", expected one of CODE",
        ),
        (question("m:decode", "", "CODE", 3, &rows[..3]), Code::InvalidArgument, "version"),
    ];
    for (wrong, code, text) in cases {
        let refused = client.model_infer(wrong).await.expect_err("refused");
        assert!(refused.code() == code && refused.message().contains(text), "{refused}, expected {code:?} {text}");
    }
    let ready = pb::ModelReadyRequest { name: "nowhere".into(), version: String::new() };
    assert_eq!(client.model_ready(ready).await.expect_err("unknown").code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn model_metadata_and_request_counts_are_reported() {
    let store = temporary_store();
    let server = served(store.path(), "m", &[8, 3]).await;
    let mut client = client(&server).await;
    assert!(client.server_live(pb::ServerLiveRequest {}).await.expect("live").into_inner().live);
    assert!(client.server_ready(pb::ServerReadyRequest {}).await.expect("ready").into_inner().ready);
    let about = client.server_metadata(pb::ServerMetadataRequest {}).await.expect("answers").into_inner();
    assert!(about.name == "halfhitch" && about.extensions.contains(&"statistics".to_owned()));
    let asked = pb::ModelReadyRequest { name: "m:decode".into(), version: "1".into() };
    assert!(client.model_ready(asked).await.expect("ready").into_inner().ready);

    let asked = pb::ModelMetadataRequest { name: "m:reconstruct".into(), version: String::new() };
    let metadata = client.model_metadata(asked).await.expect("answers").into_inner();
    assert_eq!((metadata.name.as_str(), &metadata.versions[..]), ("m:reconstruct", &["1".to_owned()][..]));
    assert_eq!((metadata.inputs[0].name.as_str(), &metadata.inputs[0].shape[..]), ("X", &[-1, 8][..]));
    assert_eq!(metadata.outputs.iter().map(|tensor| &tensor.shape[..]).collect::<Vec<_>>(), [&[-1, 8][..], &[-1, 1]]);
    let asked = pb::ModelConfigRequest { name: "m".into(), version: "1".into() };
    let config = client.model_config(asked).await.expect("answers").into_inner().config.expect("one");
    assert!(config.max_batch_size > 0);
    assert_eq!((&config.input[0].dims[..], &config.output[0].dims[..]), (&[8][..], &[3][..]), "without the rows");

    let rows = sample(5, 8, 3);
    for _ in 0..3 {
        client.model_infer(question("m", "", "X", 8, &rows)).await.expect("infers");
    }
    client.model_infer(question("m", "", "X", 4, &rows)).await.expect_err("too narrow");
    let of = |name: &str| pb::ModelStatisticsRequest { name: name.into(), version: "1".into() };
    let counted = client.model_statistics(of("m")).await.expect("answers").into_inner().model_stats;
    let [line] = &counted[..] else { panic!("one version was asked for: {counted:?}") };
    assert_eq!((line.name.as_str(), line.version.as_str(), line.inference_count), ("m", "1", 15));
    assert!((1..=3).contains(&line.execution_count) && line.last_inference > 1_700_000_000_000, "{line:?}");
    let figures = line.inference_stats.expect("some");
    let count = |duration: Option<pb::StatisticDuration>| duration.expect("some").count;
    assert_eq!((count(figures.success), count(figures.fail), count(figures.queue)), (3, 1, 3));
    assert_eq!(
        (count(figures.compute_input), count(figures.compute_infer), count(figures.compute_output)),
        (3, 3, 3),
        "stock clients refuse others"
    );
    assert!(figures.success.expect("some").ns >= figures.compute_infer.expect("some").ns);
    let other = client.model_statistics(of("m:decode")).await.expect("answers").into_inner().model_stats;
    assert_eq!((other[0].inference_count, count(other[0].inference_stats.expect("some").success)), (0, 0));

    // Unload and load again; the counters stay.
    let unload = pb::RepositoryModelUnloadRequest { model_name: "m".into(), ..Default::default() };
    client.repository_model_unload(unload).await.expect("unloads");
    let load = pb::RepositoryModelLoadRequest { model_name: "m".into(), ..Default::default() };
    client.repository_model_load(load.clone()).await.expect("loads");
    client.model_infer(question("m", "", "X", 8, &rows)).await.expect("infers");
    let counted = client.model_statistics(of("m")).await.expect("answers").into_inner().model_stats;
    assert_eq!(counted[0].inference_count, 20);
    let choice = Some(pb::model_repository_parameter::ParameterChoice::StringParam("{}".into()));
    let parameters = HashMap::from([("config".to_owned(), pb::ModelRepositoryParameter { parameter_choice: choice })]);
    let refused = client.repository_model_load(pb::RepositoryModelLoadRequest { parameters, ..load }).await;
    assert_eq!(refused.expect_err("refused").code(), Code::InvalidArgument);
    let index = client.repository_index(pb::RepositoryIndexRequest::default()).await.expect("answers").into_inner();
    assert_eq!((index.models.len(), index.models[0].state.as_str()), (1, "READY"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_continues_after_an_invalid_request() {
    let store = temporary_store();
    let server = served(store.path(), "m", &[8, 3]).await;
    let mut client = client(&server).await;
    let rows = sample(2, 8, 3);
    let with_id = |id: &str, question: pb::ModelInferRequest| pb::ModelInferRequest { id: id.to_owned(), ..question };
    let questions = vec![
        with_id("a", question("m", "", "X", 8, &rows)),
        with_id("b", question("m", "", "Y", 8, &rows)),
        with_id("c", question("m:reconstruct", "1", "X", 8, &rows)),
    ];
    let mut answers = client.model_stream_infer(tokio_stream::iter(questions)).await.expect("a stream").into_inner();
    let mut got = Vec::new();
    while let Some(answer) = answers.message().await.expect("an answer") {
        let id = answer.infer_response.map(|answer| (answer.id, answer.outputs.len())).expect("with its id");
        got.push((id, answer.error_message.contains("expected X")));
    }
    let expected = [(("a".to_owned(), 1), false), (("b".to_owned(), 0), true), (("c".to_owned(), 2), false)];
    assert_eq!(got, expected);
    server.stop().await;
}
