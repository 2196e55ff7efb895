//! The Rust client: arrays, versions, credentials and error texts.

use halfhitch::Model;
use halfhitch::client::{Client, ClientError, ClientSettings, Token};
use halfhitch::ndarray::Array2;
use halfhitch::pb;
use halfhitch::training::TrainSpec;
use tokio_stream::StreamExt;
use tonic::Code;

use crate::support::{TestServer, sample, spec, temporary_store, train};

const FEATURES: usize = 8;

fn rows_of(count: usize, seed: u64) -> Array2<f32> {
    Array2::from_shape_vec((count, FEATURES), sample(count, FEATURES, seed)).expect("whole rows")
}

async fn connected(server: &TestServer) -> Client {
    Client::connect(ClientSettings::plain(format!("http://{}", server.address()))).await.expect("connects")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_and_the_library_give_the_same_arrays() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    train(&mut server.autoencoder().await, spec("m", &[FEATURES as u32, 3]), &sample(600, FEATURES, 7))
        .await
        .expect("trains");
    let model = Model::load(store.path().join("models/m/1/model.safetensors")).expect("loads");
    let client = connected(&server).await;
    // More rows than one request has.
    let rows = rows_of(20_000, 8);
    // A task: the futures can move between threads.
    let (task, sent) = (client.clone(), rows.clone());
    let codes = tokio::spawn(async move { task.encode("m", sent.view()).await }).await.expect("no panic");
    let codes = codes.expect("encodes");
    assert_eq!((codes.version, codes.notes.len()), (1, 0));
    assert_eq!(codes.value, model.encode(rows.view()).expect("encodes"));
    let back = client.decode("m@1", codes.value.view()).await.expect("decodes").value;
    assert_eq!(back, model.decode(codes.value.view()).expect("decodes"));
    let transposed = rows.t().as_standard_layout().into_owned();
    let reconstruction = client.reconstruct("m", transposed.t()).await.expect("reconstructs").value;
    assert_eq!(reconstruction, model.reconstruct(rows.view()).expect("reconstructs"));
    assert_eq!(client.score("m", rows.view()).await.expect("scores").value, model.score(rows.view()).expect("scores"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_are_filled_as_in_the_library() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut asked = spec("m", &[FEATURES as u32, 3]);
    asked.missing_values = true;
    train(&mut server.autoencoder().await, asked, &sample(300, FEATURES, 7)).await.expect("trains");
    let model = Model::load(store.path().join("models/m/1/model.safetensors")).expect("loads");
    let mut rows = rows_of(50, 8);
    rows.iter_mut().step_by(5).for_each(|value| *value = f32::NAN);
    let whole = connected(&server).await.impute("m", rows.view()).await.expect("imputes").value;
    assert_eq!(whole, model.impute(rows.view()).expect("imputes"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_typed_and_name_rows_of_the_array() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    train(&mut server.autoencoder().await, spec("m", &[FEATURES as u32, 3]), &sample(200, FEATURES, 7))
        .await
        .expect("trains");
    let client = connected(&server).await;
    let rows = rows_of(20_000, 8);
    let code = |error: ClientError| match error {
        ClientError::Status(status) => status.code(),
        other => panic!("{other}"),
    };
    assert_eq!(code(client.encode("none", rows.view()).await.expect_err("no model")), Code::NotFound);
    assert_eq!(
        code(client.decode("m", Array2::zeros((1, 3)).view()).await.expect_err("no version")),
        Code::InvalidArgument
    );
    assert_eq!(code(client.impute("m", rows.view()).await.expect_err("no gaps")), Code::FailedPrecondition);
    let error = client.encode("m", Array2::zeros((0, FEATURES)).view()).await.expect_err("no rows");
    assert!(matches!(&error, ClientError::Invalid(text) if text.contains("0 x 8")), "{error}");
    let mut large = rows;
    large.row_mut(19_999).fill(f32::MAX);
    let error = client.reconstruct("m", large.view()).await.expect_err("too large").to_string();
    assert!(error.contains("that is row 20000 of the array"), "{error}");
    server.stop().await;
    let error = Client::connect(ClientSettings::plain("http://127.0.0.1:1".to_owned())).await.expect_err("no server");
    assert!(matches!(error, ClientError::NoServer { .. }), "{error}");
}

#[tokio::test]
async fn a_token_is_not_sent_unencrypted_to_another_machine() {
    let settings =
        ClientSettings { token: Some(Token::new("secret")), ..ClientSettings::plain("http://192.0.2.1:1".to_owned()) };
    let error = Client::connect(settings).await.expect_err("refused");
    assert!(matches!(&error, ClientError::Invalid(text) if text.contains("unencrypted")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_give_the_arrays_of_single_calls_in_order() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    train(&mut server.autoencoder().await, spec("m", &[FEATURES as u32, 3]), &sample(300, FEATURES, 7))
        .await
        .expect("trains");
    let client = connected(&server).await;
    let arrays: Vec<Array2<f32>> = (0..40).map(|seed| rows_of(1 + 13 * seed as usize, seed)).collect();
    let mut codes = client.encode_stream("m", tokio_stream::iter(arrays.clone())).await.expect("begins");
    let mut all_codes = Vec::new();
    for rows in &arrays {
        let served = codes.next().await.expect("one per array").expect("encodes");
        assert_eq!(
            (served.version, &served.value),
            (1, &client.encode("m", rows.view()).await.expect("encodes").value)
        );
        all_codes.push(served.value);
    }
    assert!(codes.next().await.is_none());
    let mut rows = client.decode_stream("m@1", tokio_stream::iter(all_codes.clone())).await.expect("begins");
    for codes in &all_codes {
        let decoded = rows.next().await.expect("one per array").expect("decodes").value;
        assert_eq!(decoded, client.decode("m@1", codes.view()).await.expect("decodes").value);
    }
    let mut broken = arrays[2].clone();
    broken[[0, 0]] = f32::NAN;
    let sent = vec![arrays[1].clone(), broken, arrays[3].clone()];
    let mut codes = client.encode_stream("m", tokio_stream::iter(sent)).await.expect("begins");
    assert!(codes.next().await.expect("the first").is_ok());
    let error = codes.next().await.expect("an error").expect_err("refused").to_string();
    assert!(error.contains("message 2"), "{error}");
    assert!(codes.next().await.is_none());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn training_gives_the_model_of_the_library() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let client = connected(&server).await;
    let rows = rows_of(400, 7);
    let mut asked = TrainSpec::new("m".parse().expect("a name"), vec![FEATURES, 12, 3]);
    (asked.epochs, asked.seed) = (Some(3), 5);
    let (mut states, transposed) = (Vec::new(), rows.t().as_standard_layout().into_owned());
    let trained = client.train(transposed.t(), &asked, |job| states.push(job.state())).await.expect("trains");
    assert_eq!((trained.version, trained.kept_back.as_str()), (1, ""));
    assert!(!states.is_empty());
    let model = Model::train(rows.view(), &asked).expect("trains");
    let codes = client.encode("m", rows.view()).await.expect("encodes").value;
    assert_eq!(codes, model.encode(rows.view()).expect("encodes"));
    let report = trained.training_report.expect("a report");
    assert_eq!(Some(&report.data_sha256), model.report().map(|report| &report.data_sha256));

    let mut broken = rows;
    broken[[3, 1]] = f32::NAN;
    let error = client.train(broken.view(), &asked, |_| ()).await.expect_err("refused");
    assert!(matches!(&error, ClientError::Status(status) if status.code() == Code::InvalidArgument), "{error}");
    let jobs = client.jobs().await.expect("connects").list_jobs(pb::ListJobsRequest::default()).await;
    let open = jobs.expect("lists").into_inner().jobs.into_iter().filter(|job| job.state() == pb::JobState::Uploading);
    assert_eq!(open.count(), 0, "the refused upload is canceled");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn training_can_be_a_task() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let (client, rows) = (connected(&server).await, rows_of(300, 7));
    let mut asked = TrainSpec::new("m".parse().expect("a name"), vec![FEATURES, 3]);
    asked.epochs = Some(1);
    let task = tokio::spawn(async move { client.train(rows.view(), &asked, |_| ()).await });
    assert_eq!(task.await.expect("no panic").expect("trains").version, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_continues_with_its_key() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    // Two chunks; the second has a value that the server refuses.
    let rows = rows_of(34_000, 7);
    let mut broken = rows.clone();
    broken[[33_000, 1]] = f32::NAN;
    let mut asked = TrainSpec::new("m".parse().expect("a name"), vec![FEATURES, 3]);
    asked.epochs = Some(1);
    let train = async |rows: &Array2<f32>, asked: &TrainSpec, key: &str| {
        connected(&server).await.train_with_key(rows.view(), asked, key, |_| ()).await
    };
    let code = |error: &ClientError| match error {
        ClientError::Status(status) => Some(status.code()),
        _ => None,
    };
    let error = train(&broken, &asked, "key").await.expect_err("refused");
    assert_eq!(code(&error), Some(Code::InvalidArgument), "{error}");
    let jobs = async || {
        let mut jobs = connected(&server).await.jobs().await.expect("connects");
        jobs.list_jobs(pb::ListJobsRequest::default()).await.expect("lists").into_inner().jobs
    };
    let uploading = jobs().await;
    assert_eq!(uploading.len(), 1);
    assert_eq!((uploading[0].state(), uploading[0].idempotency_key.as_str()), (pb::JobState::Uploading, "key"));

    assert_eq!(train(&rows, &asked, "key").await.expect("trains").version, 1);
    let ended = jobs().await;
    assert_eq!((ended.len(), &ended[0].id), (1, &uploading[0].id));
    assert_eq!(train(&rows, &asked, "key").await.expect("has ended").version, 1);

    asked.seed = 1;
    let error = train(&rows, &asked, "key").await.expect_err("another specification");
    assert_eq!(code(&error), Some(Code::AlreadyExists), "{error}");
    let error = train(&rows, &asked, "").await.expect_err("no key");
    assert!(matches!(error, ClientError::Invalid(_)), "{error}");
    server.stop().await;
}
