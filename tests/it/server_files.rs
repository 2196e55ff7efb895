//! Training on server files: accepted files, rejected files, and what a crash leaves.

mod interruptions;

use std::path::{Path, PathBuf};

use halfhitch::rpc::pb;
use halfhitch::server::ServerConfig;
use pb::train_response::Message as Answer;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::support::files::{csv, idx, npy, npy_head, rows_sha256, tensors_sha256};
use crate::support::process::ServerProcess;
use crate::support::{
    AutoencoderClient, TestServer, chunk, finish, newest, question, sample, spec, temporary_store, train, wide_matrix,
    wide_numbers,
};

const COLUMNS: usize = 8;

/// A test's change of the default settings.
type Change = fn(&mut ServerConfig);

/// A store, and a folder of files next to it.
struct Place {
    above: TempDir,
}

impl Place {
    fn new() -> Self {
        let above = temporary_store();
        std::fs::create_dir(above.path().join("files")).expect("creates");
        Self { above }
    }

    fn store(&self) -> PathBuf {
        self.above.path().join("store")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.above.path().join("files").join(name)
    }

    async fn server(&self, change: impl FnOnce(&mut ServerConfig)) -> TestServer {
        let mut config = ServerConfig::new(self.store());
        config.jobs.train_folder = Some(self.file(""));
        change(&mut config);
        TestServer::start_with(config).await
    }

    fn process(&self) -> ServerProcess {
        ServerProcess::start_with(&self.store(), &["--train-folder", &self.file("").to_string_lossy()])
    }
}

fn files(paths: &[&str], test_paths: &[&str]) -> Option<pb::ServerFiles> {
    let owned = |paths: &[&str]| paths.iter().map(ToString::to_string).collect();
    Some(pb::ServerFiles { paths: owned(paths), test_paths: owned(test_paths), ..Default::default() })
}

fn from(name: &str, paths: &[&str], test_paths: &[&str]) -> pb::TrainSpec {
    pb::TrainSpec {
        files: files(paths, test_paths),
        idempotency_key: name.into(),
        ..spec(name, &[COLUMNS as u32, 5, 3])
    }
}

async fn begin(mut client: AutoencoderClient, spec: pb::TrainSpec) -> Result<Streaming<pb::TrainResponse>, Status> {
    let questions = vec![question(pb::train_request::Message::Spec(spec)), finish(0, 0)];
    Ok(client.train(tokio_stream::iter(questions)).await?.into_inner())
}

/// The result, and every job state reported before it.
async fn outcome(client: AutoencoderClient, spec: pb::TrainSpec) -> Result<(pb::TrainResult, Vec<pb::Job>), Status> {
    let mut answers = begin(client, spec).await?;
    let mut told = Vec::new();
    while let Some(answer) = answers.message().await? {
        match answer.message.expect("set") {
            Answer::Accepted(accepted) => told.push(accepted.job.expect("a job")),
            Answer::Progress(job) => told.push(job),
            Answer::Result(result) => return Ok((result, told)),
            Answer::Acknowledged(got) => panic!("nothing was sent, and {got:?} is acknowledged"),
        }
    }
    panic!("the stream ended without a result")
}

async fn refused(server: &TestServer, spec: pb::TrainSpec, code: Code, texts: &[&str]) -> Status {
    let Err(error) = outcome(server.autoencoder().await, spec).await else { panic!("it was trained") };
    assert_eq!(error.code(), code, "{error:?}");
    for text in texts {
        assert!(error.message().contains(text), "{error:?} does not say {text:?}");
    }
    error
}

async fn listed(server: &TestServer) -> Vec<pb::Job> {
    server.jobs().await.list_jobs(pb::ListJobsRequest::default()).await.expect("lists").into_inner().jobs
}

/// The names in the folder of a job.
fn left(store: &Path, id: &str) -> Vec<String> {
    let entries = std::fs::read_dir(store.join("jobs").join(id)).expect("lists");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn server_files_train_the_same_bits_as_streamed_rows() {
    let place = Place::new();
    let (rows, test) = (sample(300, COLUMNS, 1), sample(40, COLUMNS, 2));
    let parts: Vec<&[f32]> = rows.chunks(100 * COLUMNS).collect();
    npy(&place.file("one.npy"), COLUMNS, parts[0]);
    std::fs::create_dir(place.file("deep")).expect("creates");
    csv(&place.file("deep/two.csv"), COLUMNS, parts[1]);
    idx(&place.file("three-idx2-float"), COLUMNS, parts[2]);
    npy(&place.file("test.npy"), COLUMNS, &test);
    let server = place.server(|_| ()).await;
    let paths = ["one.npy", "deep/two.csv", "three-idx2-float"];
    let (result, told) =
        outcome(server.autoencoder().await, from("files", &paths, &["test.npy"])).await.expect("trains");
    assert_eq!(told[0].state(), pb::JobState::Queued, "nothing is waited for");
    let last = told.last().expect("news");
    assert_eq!((last.row_count, last.test_row_count, last.state()), (300, 40, pb::JobState::Succeeded));
    let report = result.training_report.expect("a report");
    assert_eq!(report.data_sha256, rows_sha256(&rows, &test));
    assert_eq!(report.test.expect("test figures").rows, 40);

    let questions = [
        question(pb::train_request::Message::Spec(spec("streamed", &[COLUMNS as u32, 5, 3]))),
        chunk(1, COLUMNS, &rows),
        question(pb::train_request::Message::Chunk(pb::RowChunk {
            number: 2,
            rows: Some(crate::support::matrix(COLUMNS, &test)),
            role: pb::RowRole::Test.into(),
        })),
        finish(2, 340),
    ];
    let mut answers = server.autoencoder().await.train(tokio_stream::iter(questions)).await.expect("ok").into_inner();
    while answers.message().await.expect("goes well").is_some() {}
    assert_eq!(tensors_sha256(&place.store(), "files", 1), tensors_sha256(&place.store(), "streamed", 1));
    assert_eq!(left(&place.store(), &last.id), ["job.json"], "the copied rows are removed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_can_be_dropped_by_name() {
    let place = Place::new();
    let rows = sample(60, 3, 1);
    let mut text = "x,label,y,z\n".to_owned();
    for row in rows.chunks(3) {
        text += &format!("{},7,{},{}\n", row[0], row[1], row[2]);
    }
    std::fs::write(place.file("named.csv"), text).expect("writes");
    let server = place.server(|_| ()).await;
    let mut spec = spec("named", &[3, 2]);
    spec.files = files(&["named.csv"], &[]).map(|files| pb::ServerFiles {
        drop_columns: vec!["label".into()],
        header: Some(true),
        format: pb::FileFormat::Csv.into(),
        ..files
    });
    let (result, _) = outcome(server.autoencoder().await, spec.clone()).await.expect("trains");
    assert_eq!(result.training_report.expect("a report").data_sha256, rows_sha256(&rows, &[]));
    spec.files.as_mut().expect("set").drop_columns = vec!["size".into()];
    refused(&server, spec, Code::InvalidArgument, &["named.csv", "\"size\"", "x, label, y, z"]).await;
    server.stop().await;
}

/// A version trained on files has the names of the columns and keeps the digits of the numbers.
#[tokio::test(flavor = "multi_thread")]
async fn versions_keep_column_names_and_digits_of_files() {
    let place = Place::new();
    let rows: Vec<f64> = (0..200).flat_map(|i| [1.7e9 + f64::from(i), f64::from(i % 7), f64::from(i % 5)]).collect();
    let mut text = "time,a,b\n".to_owned();
    for row in rows.chunks(3) {
        text += &format!("{},{},{}\n", row[0], row[1], row[2]);
    }
    std::fs::write(place.file("named.csv"), text).expect("writes");
    let server = place.server(|_| ()).await;
    let exact = pb::TrainSpec {
        initialization: pb::Initialization::Pca.into(),
        optimizer: Some(pb::Optimizer { learning_rate: 1e-9, ..Default::default() }),
        files: files(&["named.csv"], &["named.csv"]),
        ..spec("named", &[3, 3])
    };
    outcome(server.autoencoder().await, exact).await.expect("trains");
    let asked = pb::GetModelVersionRequest { model: newest("named") };
    let version = server.models().await.get_model_version(asked).await.expect("there").into_inner().version;
    let names = version.and_then(|version| version.spec).expect("a spec").feature_names;
    assert_eq!(names, ["time", "a", "b"]);
    // Columns in another order are matched by name.
    let turned: Vec<f64> = rows.chunks(3).flat_map(|row| [row[2], row[0], row[1]]).collect();
    let column_names = ["b", "time", "a"].map(str::to_owned).to_vec();
    let turned_rows = Some(pb::Matrix { column_names, ..wide_matrix(3, &turned) });
    let asked = pb::ReconstructRequest { model: newest("named"), rows: turned_rows, ..Default::default() };
    let back = server.autoencoder().await.reconstruct(asked).await.expect("reconstructs").into_inner();
    let back = wide_numbers(back.rows);
    let off = back.iter().zip(&turned).map(|(back, sent)| (back - sent).abs()).fold(0.0, f64::max);
    assert!(back.len() == turned.len() && off < 0.01, "{off}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_trained_on_are_refused_at_once() {
    let place = Place::new();
    npy(&place.file("good.npy"), COLUMNS, &sample(10, COLUMNS, 1));
    npy(&place.file("wide.npy"), COLUMNS + 1, &sample(10, COLUMNS + 1, 1));
    std::fs::write(place.file("empty.csv"), "").expect("writes");
    std::fs::write(place.above.path().join("secret.csv"), "1,2,3,4,5,6,7,8\n").expect("writes");
    std::os::unix::fs::symlink("../secret.csv", place.file("link.csv")).expect("links");
    let server = place.server(|config| config.jobs.job_rows_max = 1000).await;
    let wrong = [
        ("../secret.csv", Code::InvalidArgument, "`..`"),
        ("/etc/passwd", Code::InvalidArgument, "an absolute path"),
        ("link.csv", Code::InvalidArgument, "leads out of"),
        ("", Code::InvalidArgument, "empty"),
        ("gone.npy", Code::NotFound, "is not in the server's train_folder"),
        ("wide.npy", Code::InvalidArgument, "its rows have 9 numbers, expected 8"),
        ("empty.csv", Code::InvalidArgument, "it is empty"),
    ];
    for (path, code, text) in wrong {
        for (paths, test_paths) in [(&["good.npy", path][..], &[][..]), (&["good.npy"], &[path])] {
            let error = refused(&server, from("m", paths, test_paths), code, &[path, text]).await;
            assert!(!error.message().contains(&*place.above.path().to_string_lossy()), "{error:?}");
            let field = error.get_error_details().bad_request().map(|one| one.field_violations[0].field.clone());
            assert_eq!(field.as_deref(), (code == Code::InvalidArgument).then_some("spec.files"), "{error:?}");
        }
    }
    refused(&server, from("m", &[], &["good.npy"]), Code::InvalidArgument, &["expected at least 1"]).await;
    // 991 more rows than allowed: the header reveals that before copying.
    std::fs::write(place.file("long.npy"), npy_head("<f4", 991, COLUMNS)).expect("writes");
    refused(&server, from("m", &["good.npy", "long.npy"], &[]), Code::ResourceExhausted, &["1001 rows", "1000"]).await;
    assert!(listed(&server).await.is_empty(), "no job was created");
    server.stop().await;

    let server = TestServer::start(&place.store()).await;
    let error = refused(&server, from("m", &["good.npy"], &[]), Code::FailedPrecondition, &["train_folder"]).await;
    assert!(error.message().contains("good.npy"), "{error:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_other_dialects_train_on_the_same_rows() {
    let place = Place::new();
    let rows = sample(100, COLUMNS, 1);
    csv(&place.file("plain.csv"), COLUMNS, &rows);
    let text = std::fs::read_to_string(place.file("plain.csv")).expect("written");
    let european = text.replace(',', ";").replace('.', ",");
    std::fs::write(place.file("european.csv"), &european).expect("writes");
    let odd = text.replace(',', "~").replace('\n', "\r\n") + &["-999"; COLUMNS].join("~");
    std::fs::write(place.file("odd.txt"), odd).expect("writes");
    let server = place.server(|_| ()).await;
    let (result, _) =
        outcome(server.autoencoder().await, from("european", &["european.csv"], &[])).await.expect("trains");
    let report = result.training_report.expect("a report");
    assert_eq!(report.data_sha256, rows_sha256(&rows, &[]));
    let told = report.notes.iter().filter(|note| note.starts_with("file european.csv: ")).count();
    assert_eq!(told, 2, "{:?}", report.notes);

    let mut odd = pb::TrainSpec { missing_values: true, ..from("odd", &["odd.txt"], &[]) };
    let files = odd.files.as_mut().expect("set");
    (files.separator, files.missing_marks) = ("~".into(), vec!["-999".into()]);
    let (result, _) = outcome(server.autoencoder().await, odd).await.expect("trains");
    let rows = [rows, vec![f32::NAN; COLUMNS]].concat();
    assert_eq!(result.training_report.expect("a report").data_sha256, rows_sha256(&rows, &[]));

    let mut wrong = from("wrong", &["plain.csv"], &[]);
    wrong.files.as_mut().expect("set").decimal = "x".into();
    refused(&server, wrong, Code::InvalidArgument, &["decimal", "expected `.` or `,`"]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_deep_in_a_file_fail_the_job_and_delete_its_rows() {
    let place = Place::new();
    let rows = sample(200, COLUMNS, 1);
    npy(&place.file("good.npy"), COLUMNS, &rows);
    csv(&place.file("narrow.csv"), COLUMNS, &rows);
    let text = std::fs::read_to_string(place.file("narrow.csv")).expect("written");
    let lines: Vec<&str> = text.lines().collect();
    let torn = [&lines[..120], &["1,2,3"], &lines[120..]].concat().join("\n");
    std::fs::write(place.file("narrow.csv"), torn).expect("writes");
    let whole = std::fs::read(place.file("good.npy")).expect("written");
    std::fs::write(place.file("short.npy"), &whole[..whole.len() - 130 * COLUMNS * 4 - 3]).expect("writes");
    let mut bad = rows.clone();
    bad[150 * COLUMNS + 2] = f32::NAN;
    npy(&place.file("nan.npy"), COLUMNS, &bad);
    let server = place.server(|_| ()).await;
    let deep = [
        ("narrow.csv", &["narrow.csv: line 121", "3 fields", "8 as before"][..]),
        ("short.npy", &["short.npy", "ends after 69 rows", "promises 200"]),
        ("nan.npy", &["nan.npy: row 151, column 3", "NaN"]),
    ];
    for (path, texts) in deep {
        refused(&server, from(path, &["good.npy", path], &[]), Code::FailedPrecondition, texts).await;
        let job = listed(&server).await.into_iter().find(|job| job.model_name == path).expect("the job");
        assert_eq!(job.state(), pb::JobState::Failed);
        assert!(texts.iter().all(|text| job.failure.contains(text)), "{job:?}");
        assert_eq!(left(&place.store(), &job.id), ["job.json"]);
    }
    outcome(server.autoencoder().await, from("good", &["good.npy"], &[])).await.expect("others are not touched");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exceeding_row_or_byte_limits_fails_the_job() {
    let place = Place::new();
    // A CSV file has no header that states the number of rows.
    csv(&place.file("rows.csv"), COLUMNS, &sample(500, COLUMNS, 1));
    csv(&place.file("few.csv"), COLUMNS, &sample(50, COLUMNS, 1));
    let quotas: [(Change, &str); 3] = [
        (|config| config.jobs.job_rows_max = 400, "500 rows, at most 400 are allowed"),
        (|config| config.jobs.job_bytes_max = 9_000, "at most 9000 are allowed"),
        (|config| config.jobs.spool_bytes_max = 9_000, "the rows of all jobs would take"),
    ];
    for (number, (change, text)) in quotas.into_iter().enumerate() {
        let server = place.server(change).await;
        let (many, few) = (format!("many-{number}"), format!("few-{number}"));
        refused(&server, from(&many, &["rows.csv"], &[]), Code::FailedPrecondition, &[text]).await;
        let job = listed(&server).await.into_iter().find(|job| job.model_name == many).expect("the job");
        assert_eq!((job.state(), left(&place.store(), &job.id)), (pb::JobState::Failed, vec!["job.json".to_owned()]));
        // The failed job's rows are deleted and its quota is free again.
        outcome(server.autoencoder().await, from(&few, &["few.csv"], &[])).await.expect("there is room");
        server.stop().await;
    }
    let server = place.server(|config| config.jobs.disk_free_bytes_min = u64::MAX).await;
    refused(&server, from("reserve", &["few.csv"], &[]), Code::ResourceExhausted, &["must stay free"]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_its_files_even_after_deletion() {
    let place = Place::new();
    for name in ["a.csv", "b.csv"] {
        csv(&place.file(name), COLUMNS, &sample(50, COLUMNS, 1));
    }
    let server = place.server(|_| ()).await;
    let (first, told) = outcome(server.autoencoder().await, from("key", &["a.csv", "b.csv"], &[])).await.expect("ok");
    for other in [from("key", &["b.csv", "a.csv"], &[]), from("key", &["a.csv"], &["b.csv"])] {
        refused(&server, other, Code::AlreadyExists, &["another specification"]).await;
    }
    let streamed = pb::TrainSpec { files: None, ..from("key", &[], &[]) };
    let error = train(&mut server.autoencoder().await, streamed, &sample(50, COLUMNS, 1)).await.expect_err("refused");
    assert_eq!(error.code(), Code::AlreadyExists, "{error:?}");
    std::fs::remove_file(place.file("a.csv")).expect("removes");
    let (again, told_again) =
        outcome(server.autoencoder().await, from("key", &["a.csv", "b.csv"], &[])).await.expect("is known");
    assert_eq!((again.version, &told_again[0].id), (first.version, &told[0].id));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_cannot_be_sent_to_a_job_that_has_files() {
    let place = Place::new();
    let rows = sample(50, COLUMNS, 1);
    csv(&place.file("a.csv"), COLUMNS, &rows);
    let server = place.server(|_| ()).await;
    let sent = [chunk(1, COLUMNS, &rows), finish(1, 50)];
    for (number, wrong) in sent.into_iter().enumerate() {
        let name = format!("sent-{number}");
        // Long enough for the second message to arrive before the result.
        let spec = pb::TrainSpec { epochs: 100_000, ..from(&name, &["a.csv"], &[]) };
        let (questions, receiver) = mpsc::channel(4);
        questions.send(question(pb::train_request::Message::Spec(spec))).await.expect("room");
        questions.send(wrong).await.expect("room");
        let mut answers =
            server.autoencoder().await.train(ReceiverStream::new(receiver)).await.expect("ok").into_inner();
        let error = loop {
            match answers.message().await {
                Ok(answer) => assert!(answer.is_some(), "the stream ended well"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
        assert!(error.message().contains("spec.files"), "{error:?}");
        let id = listed(&server).await.into_iter().find(|job| job.model_name == name).expect("goes on").id;
        server.jobs().await.cancel_job(pb::CancelJobRequest { id }).await.expect("it has not ended");
    }
    server.stop().await;
}
