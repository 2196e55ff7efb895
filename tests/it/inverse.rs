//! Decoding with the transpose and with the pseudo-inverse, and InspectModel.

use futures_util::future::join_all;
use halfhitch::numeric::matmul::Weights;
use halfhitch::rpc::pb;
use halfhitch::store::{LocalStore, ModelStore};
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::process::{ServerProcess, halfhitch};
use crate::support::{
    TestServer, collected, matrix, newest, numbers, sample, spec, temporary_store, train, untrained, version,
};

fn decode(name: &str, codes: &[f32], length: usize, decoder: i32) -> pb::DecodeRequest {
    pb::DecodeRequest { model: version(name, 1), codes: Some(matrix(length, codes)), decoder, ..Default::default() }
}

/// A linear model of 8 features and code length 3, hardly trained: its rows are not orthonormal.
async fn linear(server: &TestServer, name: &str) {
    let mut spec = spec(name, &[8, 3]);
    spec.epochs = 1;
    spec.initialization = pb::Initialization::Glorot.into();
    spec.normalization = pb::Normalization::None.into();
    train(&mut server.autoencoder().await, spec, &sample(200, 8, 1)).await.expect("trains");
}

#[tokio::test(flavor = "multi_thread")]
async fn pseudo_inverse_decoding_gives_rows_with_the_same_code() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    linear(&server, "linear").await;
    let mut client = server.autoencoder().await;
    let codes = sample(20, 3, 2);
    let inverse = pb::Decoder::PseudoInverse.into();
    let answer = client.decode(decode("linear", &codes, 3, inverse)).await.expect("decodes").into_inner();
    let trust = answer.pseudo_inverse.expect("said with the rows");
    assert!(!trust.is_linear_approximation && !trust.is_regularized && trust.condition >= 1.0, "{trust:?}");
    let rows = answer.rows;
    let back = pb::EncodeRequest { model: newest("linear"), rows: rows.clone(), ..Default::default() };
    let back = numbers(client.encode(back).await.expect("encodes").into_inner().codes);
    assert!(codes.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-3), "{codes:?} {back:?}");

    // A row alone has the same bits as in a batch.
    let rows = numbers(rows);
    let alone = client.decode(decode("linear", &codes[3..6], 3, inverse)).await.expect("decodes").into_inner();
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&numbers(alone.rows)), bits(&rows[8..16]));

    // Reconstruct supports both decoders; only the pseudo-inverse has figures in the response.
    let question = |decoder: i32| pb::ReconstructRequest {
        model: newest("linear"),
        rows: Some(matrix(8, &sample(30, 8, 3))),
        decoder,
        ..Default::default()
    };
    let inverted = client.reconstruct(question(inverse)).await.expect("reconstructs").into_inner();
    let transposed =
        client.reconstruct(question(pb::Decoder::Transpose.into())).await.expect("reconstructs").into_inner();
    assert!(inverted.pseudo_inverse.is_some() && transposed.pseudo_inverse.is_none());
    assert_ne!(numbers(inverted.rows), numbers(transposed.rows));
    server.stop().await;
}

/// The responses of a stream to messages with these decoders; the first message names the model.
async fn decode_stream(
    server: &TestServer,
    name: &str,
    messages: &[(&[f32], pb::Decoder)],
) -> (Vec<pb::DecodeStreamResponse>, Result<(), tonic::Status>) {
    let mut model = version(name, 1);
    let question = |(codes, decoder): &(&[f32], pb::Decoder)| pb::DecodeStreamRequest {
        model: model.take(),
        codes: Some(matrix(3, codes)),
        decoder: (*decoder).into(),
        ..Default::default()
    };
    let questions: Vec<_> = messages.iter().map(question).collect();
    let answers = server.autoencoder().await.decode_stream(tokio_stream::iter(questions)).await;
    collected(answers.expect("errors come in the stream").into_inner()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_uses_the_decoder_of_its_first_message() {
    use pb::Decoder::{PseudoInverse, Transpose, Unspecified};

    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    linear(&server, "linear").await;
    let mut client = server.autoencoder().await;
    let (some, others) = (sample(20, 3, 2), sample(7, 3, 5));
    for (first, later) in [(PseudoInverse, Unspecified), (PseudoInverse, PseudoInverse), (Unspecified, Transpose)] {
        let (answers, end) = decode_stream(&server, "linear", &[(&some, first), (&others, later)]).await;
        end.expect("ends well");
        assert_eq!(answers.len(), 2);
        for (codes, answer) in [&some, &others].into_iter().zip(answers) {
            let alone = client.decode(decode("linear", codes, 3, first.into())).await.expect("decodes").into_inner();
            assert_eq!((answer.version, answer.rows), (1, alone.rows));
            assert_eq!(answer.pseudo_inverse, alone.pseudo_inverse);
            assert_eq!(answer.pseudo_inverse.is_some(), first == PseudoInverse);
        }
    }
    for (first, later) in [(PseudoInverse, Transpose), (Unspecified, PseudoInverse)] {
        let (answers, end) = decode_stream(&server, "linear", &[(&some, first), (&others, later)]).await;
        let refused = end.expect_err("another decoder");
        assert_eq!((answers.len(), refused.code()), (1, Code::InvalidArgument), "{refused}");
        assert!(refused.message().starts_with("message 2: decoder: differs from the first message"), "{refused}");
    }
    let codes = Some(matrix(3, &some));
    let question = pb::DecodeStreamRequest { model: version("linear", 1), codes, decoder: 7, ..Default::default() };
    let answers = client.decode_stream(tokio_stream::iter([question])).await.expect("opens").into_inner();
    let refused = collected(answers).await.1.expect_err("no such decoder");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("message 1: decoder: ") && refused.message().contains('7'), "{refused}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonlinear_model_reports_a_linear_approximation() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut spec = spec("bent", &[6, 5, 2]);
    spec.hidden_activation = pb::Activation::Elu.into();
    train(&mut server.autoencoder().await, spec, &sample(200, 6, 7)).await.expect("trains");
    let question = decode("bent", &[0.5, -0.5], 2, pb::Decoder::PseudoInverse.into());
    let answer = server.autoencoder().await.decode(question).await.expect("decodes").into_inner();
    assert!(answer.pseudo_inverse.expect("said").is_linear_approximation);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_decodings_and_inspections_are_rejected() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    linear(&server, "linear").await;
    let mut client = server.autoencoder().await;
    let unknown = client.decode(decode("linear", &[1.0, 2.0, 3.0], 3, 7)).await.expect_err("no such decoder");
    assert_eq!(unknown.code(), Code::InvalidArgument);
    assert!(unknown.message().contains("decoder") && unknown.message().contains('7'), "{unknown}");
    let mut newest_version = decode("linear", &[1.0, 2.0, 3.0], 3, pb::Decoder::PseudoInverse.into());
    newest_version.model = newest("linear");
    let unnamed = client.decode(newest_version).await.expect_err("codes belong to a version");
    assert_eq!(unnamed.code(), Code::InvalidArgument);

    let mut models = server.models().await;
    let narrow =
        pb::InspectModelRequest { model: newest("linear"), rows: Some(matrix(7, &[0.0; 7])), ..Default::default() };
    let narrow = models.inspect_model(narrow).await.expect_err("7 of 8 columns");
    assert!(narrow.code() == Code::InvalidArgument && narrow.message().contains("expected 8"), "{narrow}");
    let broken = pb::InspectModelRequest {
        model: newest("linear"),
        rows: Some(matrix(8, &[f32::NAN; 8])),
        ..Default::default()
    };
    let broken = models.inspect_model(broken).await.expect_err("NaN");
    assert!(broken.code() == Code::InvalidArgument && broken.message().contains("NaN"), "{broken}");
    let nowhere = pb::InspectModelRequest { model: newest("nowhere"), rows: None, ..Default::default() };
    assert_eq!(models.inspect_model(nowhere).await.expect_err("unknown").code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_singular_model_can_be_inspected_but_not_inverted() {
    let store = temporary_store();
    let mut artifact = untrained(&[8, 3]);
    let mut weights = artifact.model.layers()[0].weight.to_row_major();
    weights[8..16].fill(0.0);
    artifact.model.layers_mut()[0].weight = Weights::from_row_major(3, 8, &weights);
    let name = "dead".parse().expect("a name");
    LocalStore::open(store.path()).expect("opens").publish(&name, &artifact).expect("publishes");
    let server = TestServer::start(store.path()).await;
    let question = decode("dead", &[0.1, 0.2, 0.3], 3, pb::Decoder::PseudoInverse.into());
    let refused = server.autoencoder().await.decode(question).await.expect_err("singular");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for part in ["dead version 1", "layer 1", "2 of its 3"] {
        assert!(refused.message().contains(part), "{refused}");
    }
    let codes: &[f32] = &[0.1, 0.2, 0.3];
    let (answers, end) = decode_stream(&server, "dead", &[(codes, pb::Decoder::PseudoInverse)]).await;
    let streamed = end.expect_err("singular");
    assert_eq!((answers.len(), streamed.code()), (0, Code::FailedPrecondition));
    assert_eq!(streamed.message(), format!("message 1: {}", refused.message()));
    let looked = pb::InspectModelRequest {
        model: newest("dead"),
        rows: Some(matrix(8, &sample(50, 8, 1))),
        ..Default::default()
    };
    let seen = server.models().await.inspect_model(looked).await.expect("is looked at").into_inner();
    assert_eq!((seen.layers[0].rank, &seen.layers[0].dead_units[..]), (2, &[1][..]));
    let found = seen.comparison.expect("rows were sent");
    assert!(found.no_pseudo_inverse.contains("singular") && found.pseudo_inverse_squared_error.is_none(), "{found:?}");
    assert!(found.transpose_squared_error > found.pca_squared_error, "{found:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_inspections_get_a_retry_delay() {
    let store = temporary_store();
    let name = "wide".parse().expect("a name");
    LocalStore::open(store.path()).expect("opens").publish(&name, &untrained(&[700, 700])).expect("publishes");
    let server = TestServer::start(store.path()).await;
    let models = server.models().await;
    let inspect = || {
        let mut models = models.clone();
        async move {
            models
                .inspect_model(pb::InspectModelRequest { model: newest("wide"), rows: None, ..Default::default() })
                .await
        }
    };
    // The first inspection takes longer than all requests need to arrive.
    let answers = join_all((0..16).map(|_| inspect())).await;
    let (seen, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert!(seen.len() >= 4 && !refused.is_empty(), "{} seen, {} refused", seen.len(), refused.len());
    for status in refused.into_iter().filter_map(Result::err) {
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.get_details_retry_info().is_some(), "{status}");
    }
    inspect().await.expect("there is room again");
    server.stop().await;
}

#[test]
fn inspect_prints_text_and_json() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    let rows = sample(120, 6, 4);
    let text: String =
        rows.chunks(6).map(|row| row.iter().map(f32::to_string).collect::<Vec<_>>().join(",") + "\n").collect();
    std::fs::write(folder.path().join("rows.csv"), text).expect("writes");
    let run = |args: &[&str]| {
        let output = halfhitch().current_dir(folder.path()).args(["--server", &server.url()]).args(args).output();
        let output = output.expect("the binary runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        (String::from_utf8(output.stdout).expect("text"), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    run(&["train", "seen", "rows.csv", "--widths", "6,4,2", "--epochs", "3", "--hidden-activation", "elu"]);
    let (text, _) = run(&["inspect", "seen", "rows.csv"]);
    for part in ["4x6", "2x4", "transpose", "pseudo-inverse", "PCA", "untied", "120 rows"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let seen: serde_json::Value =
        serde_json::from_str(&run(&["--json", "inspect", "seen", "rows.csv"]).0).expect("JSON");
    assert_eq!(seen["layers"][0]["singular_values"].as_array().map(Vec::len), Some(4));
    assert_eq!(seen["layers"][1]["row_norms"].as_array().map(Vec::len), Some(2));
    let comparison = &seen["comparison"];
    let figure = |name: &str| comparison[name].as_f64().expect(name);
    assert!(figure("pca_squared_error") < figure("spread") && figure("transpose_squared_error") > 0.0, "{seen}");
    assert!(run(&["inspect", "seen"]).0.contains("name a file of rows"));

    run(&["encode", "seen", "rows.csv", "-o", "codes.npy"]);
    let (_, said) = run(&["decode", "seen@1", "codes.npy", "-o", "back.npy", "--decoder", "pseudo-inverse"]);
    assert!(said.contains("linear approximation") && said.contains("condition number"), "{said}");
    let (_, said) = run(&["decode", "seen@1", "codes.npy", "-o", "back.npy"]);
    assert!(!said.contains("pseudo-inverse"), "{said}");
}
