//! Truncated codes: canonical codes, and those of nested dropout.

use halfhitch::rpc::pb;
use halfhitch::store::{LocalStore, ModelStore};
use tonic::Code;

use crate::support::{
    TestServer, collected, matrix, newest, numbers, sample, spec, temporary_store, train, untrained, version,
};

fn question(of: Option<pb::ModelRef>, rows: &[f32], code_length: u32) -> pb::EncodeRequest {
    pb::EncodeRequest { model: of, rows: Some(matrix(8, rows)), code_length, ..Default::default() }
}

/// A linear code of four numbers.
async fn trained(server: &TestServer, name: &str) {
    let mut spec = spec(name, &[8, 6, 4]);
    spec.hidden_activation = pb::Activation::Elu.into();
    train(&mut server.autoencoder().await, spec, &sample(300, 8, 7)).await.expect("trains");
}

/// Canonicalizes the newest version, which creates another one.
async fn canonicalized(server: &TestServer, name: &str) -> pb::CanonicalizeModelVersionResponse {
    let request = pb::CanonicalizeModelVersionRequest { model: newest(name) };
    server.models().await.canonicalize_model_version(request).await.expect("makes one").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canonical_version_keeps_results_and_allows_truncation() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    trained(&server, "m").await;
    let made = canonicalized(&server, "m").await;
    let described = made.version.expect("described");
    assert_eq!((described.version, made.code_variances.len()), (2, 4));
    assert!(made.code_variances.is_sorted_by(|a, b| a >= b), "{:?}", made.code_variances);
    let report = described.training_report.expect("that of its base");
    assert!(report.notes.iter().any(|note| note.contains("m version 1")), "{:?}", report.notes);

    let mut client = server.autoencoder().await;
    let rows = sample(50, 8, 3);
    let mut rebuilt = Vec::new();
    for number in [1, 2] {
        let question = pb::ReconstructRequest {
            model: version("m", number),
            rows: Some(matrix(8, &rows)),
            decoder: 0,
            ..Default::default()
        };
        rebuilt.push(numbers(client.reconstruct(question).await.expect("reconstructs").into_inner().rows));
    }
    let size = rebuilt[0].iter().fold(0.0f32, |most, value| most.max(value.abs()));
    assert!(rebuilt[0].iter().zip(&rebuilt[1]).all(|(a, b)| (a - b).abs() < 1e-5 * size));

    let whole = client.encode(question(version("m", 2), &rows, 0)).await.expect("encodes").into_inner();
    let whole = numbers(whole.codes);
    let short = client.encode(question(version("m", 2), &rows, 3)).await.expect("encodes").into_inner().codes;
    let short = numbers(short);
    for (short, whole) in short.chunks_exact(3).zip(whole.chunks_exact(4)) {
        assert_eq!(short, &whole[..3]);
    }
    // A missing code number counts as 0.
    let mut filled = whole.clone();
    filled.iter_mut().skip(3).step_by(4).for_each(|value| *value = 0.0);
    let decode = |columns, codes: &[f32]| pb::DecodeRequest {
        model: version("m", 2),
        codes: Some(matrix(columns, codes)),
        decoder: 0,
        ..Default::default()
    };
    let from_short = numbers(client.decode(decode(3, &short)).await.expect("decodes").into_inner().rows);
    let from_filled = numbers(client.decode(decode(4, &filled)).await.expect("decodes").into_inner().rows);
    assert_eq!(from_short, from_filled);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_canonicalizations_and_truncations_are_rejected() {
    let store = temporary_store();
    let foreign = "foreign".parse().expect("a name");
    LocalStore::open(store.path()).expect("opens").publish(&foreign, &untrained(&[8, 4])).expect("publishes");
    let server = TestServer::start(store.path()).await;
    trained(&server, "m").await;
    let mut bent = spec("bent", &[8, 4]);
    bent.code_activation = pb::Activation::Tanh.into();
    train(&mut server.autoencoder().await, bent, &sample(300, 8, 7)).await.expect("trains");
    let mut models = server.models().await;
    let mut client = server.autoencoder().await;
    for (name, why) in [("foreign", "no statistics"), ("bent", "expected linear"), ("nowhere", "nowhere")] {
        let request = pb::CanonicalizeModelVersionRequest { model: newest(name) };
        let refused = models.canonicalize_model_version(request).await.expect_err("cannot be");
        let expected = if name == "nowhere" { Code::NotFound } else { Code::FailedPrecondition };
        assert!(refused.code() == expected && refused.message().contains(why), "{refused}");
    }
    let rows = sample(2, 8, 1);
    let refused = client.encode(question(newest("m"), &rows, 3)).await.expect_err("not canonical");
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("canonicalize"), "{refused}");
    let short = pb::DecodeRequest {
        model: version("m", 1),
        codes: Some(matrix(3, &[0.0; 3])),
        decoder: 0,
        ..Default::default()
    };
    assert_eq!(client.decode(short).await.expect_err("not canonical").code(), Code::InvalidArgument);
    let request = pb::CanonicalizeModelVersionRequest { model: newest("m") };
    models.canonicalize_model_version(request.clone()).await.expect("makes one");
    let refused = models.canonicalize_model_version(request).await.expect_err("done");
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("already"), "{refused}");
    // After completion the codes would exceed the queue: rejected before allocating.
    let many = pb::DecodeRequest {
        model: version("m", 2),
        codes: Some(matrix(1, &vec![0.0; 70_000])),
        decoder: 0,
        ..Default::default()
    };
    let refused = client.decode(many).await.expect_err("too many rows");
    assert!(refused.message().contains("70000 rows") && refused.message().contains("65536"), "{refused}");
    let refused = client.encode(question(newest("m"), &rows, 5)).await.expect_err("too long");
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("at most 4"), "{refused}");
    let long = pb::DecodeRequest {
        model: version("m", 2),
        codes: Some(matrix(5, &[0.0; 5])),
        decoder: 0,
        ..Default::default()
    };
    assert_eq!(client.decode(long).await.expect_err("too long").code(), Code::InvalidArgument);
    server.stop().await;
}

fn piece(of: Option<pb::ModelRef>, rows: &[f32], code_length: u32) -> pb::EncodeStreamRequest {
    pb::EncodeStreamRequest { model: of, rows: Some(matrix(8, rows)), code_length, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_truncate_and_decode_codes_like_single_calls() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    trained(&server, "m").await;
    canonicalized(&server, "m").await;
    let mut client = server.autoencoder().await;

    let pieces: Vec<Vec<f32>> = (1..=3).map(|i| sample(40 * i, 8, i as u64)).collect();
    // Messages without a model, and messages that repeat it.
    let lengths = [3, 0, 3];
    let mut model = newest("m");
    let questions: Vec<_> =
        pieces.iter().zip(lengths).map(|(rows, length)| piece(model.take(), rows, length)).collect();
    let answers = client.encode_stream(tokio_stream::iter(questions)).await.expect("opens").into_inner();
    let (answers, end) = collected(answers).await;
    end.expect("ends well");
    assert_eq!(answers.len(), 3);
    for (rows, answer) in pieces.iter().zip(&answers) {
        let alone = client.encode(question(version("m", 2), rows, 3)).await.expect("encodes").into_inner();
        assert_eq!((answer.version, &answer.codes), (2, &alone.codes));
        assert_eq!(answer.codes.as_ref().map(|codes| codes.columns), Some(3));
    }

    // Each message can have another code length.
    let codes: Vec<_> = [3, 1, 4].into_iter().map(|length| matrix(length, &sample(30, length, 5))).collect();
    let questions: Vec<_> = codes
        .iter()
        .map(|codes| pb::DecodeStreamRequest {
            model: version("m", 2),
            codes: Some(codes.clone()),
            decoder: 0,
            ..Default::default()
        })
        .collect();
    let answers = client.decode_stream(tokio_stream::iter(questions)).await.expect("opens").into_inner();
    let (answers, end) = collected(answers).await;
    end.expect("ends well");
    assert_eq!(answers.len(), 3);
    for (codes, answer) in codes.iter().zip(&answers) {
        let alone =
            pb::DecodeRequest { model: version("m", 2), codes: Some(codes.clone()), decoder: 0, ..Default::default() };
        let alone = client.decode(alone).await.expect("decodes").into_inner();
        assert_eq!((answer.version, &answer.rows), (2, &alone.rows));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_reject_invalid_code_lengths() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    trained(&server, "m").await;
    canonicalized(&server, "m").await;
    let mut client = server.autoencoder().await;
    let rows = sample(2, 8, 1);
    let first = |number, length| piece(version("m", number), &rows, length);
    let later = |length| piece(None, &rows, length);
    let cases = [
        (vec![first(1, 3)], 0, Code::FailedPrecondition, "canonicalize"),
        (vec![first(2, 5)], 0, Code::InvalidArgument, "code_length: is 5, expected at most 4"),
        (vec![first(2, 3), later(3), later(2)], 2, Code::InvalidArgument, "code_length: differs"),
        (vec![first(2, 0), later(3)], 1, Code::InvalidArgument, "code_length: differs"),
    ];
    for (questions, answered, code, text) in cases {
        let answers = client.encode_stream(tokio_stream::iter(questions)).await.expect("opens").into_inner();
        let (answers, end) = collected(answers).await;
        let refused = end.expect_err(text);
        assert_eq!((answers.len(), refused.code()), (answered, code), "{refused}");
        let start = format!("message {}: ", answered + 1);
        assert!(refused.message().starts_with(&start) && refused.message().contains(text), "{refused}");
    }
    for (number, length) in [(1, 3), (2, 5)] {
        let codes = Some(matrix(length, &vec![0.0; length]));
        let question = pb::DecodeStreamRequest { model: version("m", number), codes, decoder: 0, ..Default::default() };
        let answers = client.decode_stream(tokio_stream::iter([question])).await.expect("opens").into_inner();
        let refused = collected(answers).await.1.expect_err("not as long as codes are");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_dropout_codes_can_be_truncated_directly() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let mut asked = spec("m", &[8, 6, 4]);
    asked.code_activation = pb::Activation::Tanh.into();
    asked.regularization = Some(pb::Regularization { nested_dropout: 0.5, ..Default::default() });
    train(&mut client, asked, &sample(300, 8, 7)).await.expect("trains");
    let request = pb::GetModelVersionRequest { model: newest("m") };
    let described = server.models().await.get_model_version(request).await.expect("there").into_inner().version;
    assert!(described.and_then(|version| version.spec).expect("a specification").ordered_code);

    let rows = sample(50, 8, 3);
    let whole = numbers(client.encode(question(newest("m"), &rows, 0)).await.expect("encodes").into_inner().codes);
    let short = numbers(client.encode(question(newest("m"), &rows, 2)).await.expect("encodes").into_inner().codes);
    assert!(short.chunks_exact(2).zip(whole.chunks_exact(4)).all(|(short, whole)| short == &whole[..2]));
    let filled: Vec<f32> = short.chunks_exact(2).flat_map(|code| [code[0], code[1], 0.0, 0.0]).collect();
    let mut rebuilt = Vec::new();
    for (columns, codes) in [(2, &short), (4, &filled)] {
        let question = pb::DecodeRequest {
            model: version("m", 1),
            codes: Some(matrix(columns, codes)),
            decoder: 0,
            ..Default::default()
        };
        rebuilt.push(numbers(client.decode(question).await.expect("decodes").into_inner().rows));
    }
    assert_eq!(rebuilt[0], rebuilt[1]);
    server.stop().await;
}
