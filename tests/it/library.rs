//! The library beside a server: the same rows give the same model and the same bits.

use halfhitch::Model;
use halfhitch::ndarray::Array2;
use halfhitch::rpc::pb;
use halfhitch::training::TrainSpec;

use crate::support::{TestServer, matrix, newest, numbers, sample, spec, temporary_store, train, version};

const FEATURES: usize = 8;

fn rows_of(count: usize, seed: u64) -> Array2<f32> {
    Array2::from_shape_vec((count, FEATURES), sample(count, FEATURES, seed)).expect("whole rows")
}

fn values(rows: &Array2<f32>) -> Vec<f32> {
    rows.iter().copied().collect()
}

#[track_caller]
fn check_same_bits<'a>(ours: impl IntoIterator<Item = &'a f32>, theirs: &[f32]) {
    let ours: Vec<u32> = ours.into_iter().map(|value| value.to_bits()).collect();
    assert_eq!(ours, theirs.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
}

/// Compares every operation of `model` with version 1 of the server's model `m`.
async fn check_operations(server: &TestServer, model: &Model, rows: &Array2<f32>) {
    let mut client = server.autoencoder().await;
    let matrix = Some(matrix(FEATURES, &values(rows)));
    let request = pb::EncodeRequest { model: newest("m"), rows: matrix.clone(), ..Default::default() };
    let theirs = client.encode(request).await.expect("encodes").into_inner().codes;
    let codes = model.encode(rows.view()).expect("encodes");
    check_same_bits(&codes, &numbers(theirs.clone()));

    let decode = |decoder: pb::Decoder| pb::DecodeRequest {
        model: version("m", 1),
        codes: theirs.clone(),
        decoder: decoder.into(),
        ..Default::default()
    };
    let [transposed, inverted] = [pb::Decoder::Transpose, pb::Decoder::PseudoInverse].map(decode);
    let theirs = client.decode(transposed).await.expect("decodes").into_inner().rows;
    check_same_bits(&model.decode(codes.view()).expect("decodes"), &numbers(theirs));
    let theirs = client.decode(inverted).await.expect("decodes").into_inner();
    check_same_bits(&model.decode_pseudo_inverse(codes.view()).expect("decodes"), &numbers(theirs.rows));
    let condition = model.pseudo_inverse().expect("no matrix is singular").condition();
    let trust = theirs.pseudo_inverse.expect("said with the rows");
    assert_eq!((trust.condition, trust.is_regularized), condition);

    for (decoder, ours) in [
        (pb::Decoder::Transpose, model.reconstruct(rows.view())),
        (pb::Decoder::PseudoInverse, model.reconstruct_pseudo_inverse(rows.view())),
    ] {
        let (decoder, ours) = (decoder.into(), ours.expect("reconstructs"));
        let request =
            pb::ReconstructRequest { model: newest("m"), rows: matrix.clone(), decoder, ..Default::default() };
        let theirs = client.reconstruct(request).await.expect("reconstructs").into_inner();
        check_same_bits(&ours.rows, &numbers(theirs.rows));
        check_same_bits(&ours.squared_errors, &theirs.squared_errors);
        check_same_bits(&ours.squared_errors_input_units, &theirs.squared_errors_input_units);
    }

    let request = pb::ScoreRequest { model: newest("m"), rows: matrix.clone(), ..Default::default() };
    let theirs = client.score(request).await.expect("scores").into_inner();
    let ours = model.score(rows.view()).expect("scores");
    check_same_bits(&ours.scores, &theirs.scores);
    check_same_bits(&ours.squared_errors, &theirs.squared_errors);
    check_same_bits(&ours.code_distances, &theirs.code_distances);
    check_same_bits(&ours.changes, &theirs.changes);
    assert_eq!(ours.p_values.to_vec(), theirs.p_values);

    let reasons = FEATURES as u32;
    let request = pb::ScoreRequest { model: newest("m"), rows: matrix.clone(), reasons, ..Default::default() };
    let theirs = client.score(request).await.expect("scores").into_inner().reasons;
    let explanation = model.explain(rows.view()).expect("explains");
    assert_eq!((explanation.scores, theirs.len()), (ours, rows.nrows()));
    for (contributions, reasons) in explanation.contributions.rows().into_iter().zip(theirs) {
        assert_eq!(reasons.features.len(), FEATURES);
        for reason in reasons.features {
            assert_eq!(contributions[reason.feature as usize].to_bits(), reason.contribution.to_bits());
        }
    }

    if model.spec().raw().missing_values {
        let request = pb::ImputeRequest { model: newest("m"), rows: matrix, ..Default::default() };
        let theirs = client.impute(request).await.expect("imputes").into_inner().rows;
        check_same_bits(&model.impute(rows.view()).expect("imputes"), &numbers(theirs));
    }
}

async fn check(missing_values: bool) {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut rows = rows_of(600, 7);
    let mut other_rows = rows_of(300, 8);
    if missing_values {
        rows.iter_mut().step_by(11).for_each(|value| *value = f32::NAN);
        other_rows.iter_mut().step_by(5).for_each(|value| *value = f32::NAN);
    }
    let asked = pb::TrainSpec { missing_values, ..spec("m", &[FEATURES as u32, 12, 3]) };
    train(&mut server.autoencoder().await, asked, &values(&rows)).await.expect("trains");
    let served = Model::load(store.path().join("models/m/1/model.safetensors")).expect("loads");

    let mut ours = TrainSpec::new("m".parse().expect("a name"), vec![FEATURES, 12, 3]);
    (ours.epochs, ours.seed, ours.missing_values) = (Some(3), 1, missing_values);
    let trained = Model::train(rows.view(), &ours).expect("trains");
    let [of_server, of_library] = [&served, &trained].map(|model| model.report().expect("a report"));
    assert_eq!((&of_server.epochs, &of_server.data_sha256), (&of_library.epochs, &of_library.data_sha256));

    for model in [&served, &trained] {
        check_operations(&server, model, &other_rows).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_has_the_bits_of_a_server() {
    check(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_has_the_bits_of_a_server_with_missing_values() {
    check(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_codes_have_the_bits_of_a_server() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let rows = rows_of(300, 7);
    let mut client = server.autoencoder().await;
    train(&mut client, spec("m", &[FEATURES as u32, 12, 3]), &values(&rows)).await.expect("trains");
    let request = pb::CanonicalizeModelVersionRequest { model: newest("m") };
    server.models().await.canonicalize_model_version(request).await.expect("makes version 2");
    let model = Model::load(store.path().join("models/m/2/model.safetensors")).expect("loads");
    let rows_sent = Some(matrix(FEATURES, &values(&rows)));
    let request = pb::EncodeRequest { model: version("m", 2), rows: rows_sent, code_length: 2, ..Default::default() };
    let theirs = client.encode(request).await.expect("encodes").into_inner().codes;
    let codes = model.encode_truncated(rows.view(), 2).expect("encodes");
    assert_eq!(codes.dim(), (300, 2));
    check_same_bits(&codes, &numbers(theirs.clone()));
    let request = pb::DecodeRequest { model: version("m", 2), codes: theirs, ..Default::default() };
    let theirs = client.decode(request).await.expect("decodes").into_inner().rows;
    check_same_bits(&model.decode(codes.view()).expect("decodes"), &numbers(theirs));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn training_from_a_model_has_the_bits_of_a_server() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let (first, second) = (rows_of(400, 7), rows_of(500, 8));
    let widths = [FEATURES as u32, 12, 3];
    let mut client = server.autoencoder().await;
    train(&mut client, spec("m", &widths), &values(&first)).await.expect("trains");
    let continued = pb::TrainSpec { base: version("m", 1), ..spec("m", &widths) };
    train(&mut client, continued, &values(&second)).await.expect("trains");
    let [base, served] = [1, 2]
        .map(|number| Model::load(store.path().join(format!("models/m/{number}/model.safetensors"))).expect("loads"));
    let mut ours = TrainSpec::new("m".parse().expect("a name"), Vec::new());
    (ours.epochs, ours.seed) = (Some(3), 1);
    let trained = Model::train_from(&base, second.view(), &ours).expect("trains");
    let [of_server, of_library] = [&served, &trained].map(|model| model.report().expect("a report"));
    assert_eq!((&of_server.epochs, &of_server.data_sha256), (&of_library.epochs, &of_library.data_sha256));
    assert_eq!(of_server.base_validation, of_library.base_validation);
    assert_eq!(trained.encode(first.view()).expect("encodes"), served.encode(first.view()).expect("encodes"));
    assert_eq!(trained.score(first.view()).expect("scores"), served.score(first.view()).expect("scores"));
    server.stop().await;
}
