//! Column names: rows are matched to a model's features by name, in the API and in every command.

use std::path::Path;

use halfhitch::rpc::pb;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::cli::{fails, run, succeeds};
use crate::support::process::ServerProcess;
use crate::support::{
    AutoencoderClient, TestServer, collected, finish, float_matrix, matrix, newest, numbers, question, sample, spec,
    temporary_store, train,
};

const NAMES: [&str; 6] = ["temp", "pressure", "flow", "volt", "amp", "rpm"];
/// The position of each feature in the reordered rows of these tests.
const ORDER: [usize; 6] = [5, 4, 3, 2, 1, 0];

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// The rows in the order of `ORDER`, after an extra column that no model has.
fn with_extra(values: &[f32]) -> Vec<f32> {
    values.chunks(6).enumerate().flat_map(|(i, row)| [vec![i as f32], reordered(row)].concat()).collect()
}

fn reordered(values: &[f32]) -> Vec<f32> {
    values.chunks(6).flat_map(|row| ORDER.map(|column| row[column])).collect()
}

fn reordered_names() -> Vec<String> {
    ORDER.iter().map(|column| NAMES[*column].to_owned()).collect()
}

fn named(columns: usize, values: &[f32], column_names: Vec<String>) -> Option<pb::Matrix> {
    Some(pb::Matrix { column_names, ..matrix(columns, values) })
}

/// A server with the model `named`, whose features have names, and `plain`, whose features have none.
async fn prepared(store: &Path) -> (TestServer, AutoencoderClient) {
    let server = TestServer::start(store).await;
    let mut client = server.autoencoder().await;
    let rows = sample(300, 6, 7);
    let with_names = pb::TrainSpec { feature_names: names(&NAMES), missing_values: true, ..spec("named", &[6, 3]) };
    train(&mut client, with_names, &rows).await.expect("trains");
    train(&mut client, spec("plain", &[6, 3]), &rows).await.expect("trains");
    (server, client)
}

async fn encode(
    client: &mut AutoencoderClient,
    model: &str,
    rows: Option<pb::Matrix>,
) -> Result<pb::EncodeResponse, Status> {
    let request = pb::EncodeRequest { model: newest(model), rows, ..Default::default() };
    client.encode(request).await.map(tonic::Response::into_inner)
}

fn bits(matrix: Option<pb::Matrix>) -> Vec<u32> {
    numbers(matrix).into_iter().map(f32::to_bits).collect()
}

#[tokio::test]
async fn another_order_of_columns_gives_the_same_bits() {
    let store = temporary_store();
    let (server, mut client) = prepared(store.path()).await;
    let rows = sample(50, 6, 3);
    let plain = encode(&mut client, "named", Some(matrix(6, &rows))).await.expect("encodes");
    let same = encode(&mut client, "named", named(6, &rows, names(&NAMES))).await.expect("encodes");
    assert_eq!((&same.codes, same.notes.len()), (&plain.codes, 0));
    let values = reordered(&rows);
    let answer = encode(&mut client, "named", named(6, &values, reordered_names())).await.expect("encodes");
    assert_eq!(bits(answer.codes), bits(plain.codes.clone()));
    assert!(answer.notes.is_empty(), "an order is put in order without a word");
    let floats = pb::Matrix { column_names: reordered_names(), ..float_matrix(6, &values) };
    let answer = encode(&mut client, "named", Some(floats)).await.expect("encodes");
    assert_eq!(bits(answer.codes), bits(plain.codes.clone()));
    // If the model or the rows have no names, columns are matched by position.
    let plain_model = encode(&mut client, "plain", Some(matrix(6, &rows))).await.expect("encodes");
    let answer = encode(&mut client, "plain", named(6, &rows, reordered_names())).await.expect("encodes");
    assert_eq!(bits(answer.codes), bits(plain_model.codes));
    let counted = (0..6).map(|i| i.to_string()).collect();
    let answer = encode(&mut client, "named", named(6, &rows, counted)).await.expect("encodes");
    assert_eq!(bits(answer.codes), bits(plain.codes));
    assert!(answer.notes[0].contains("by position"), "{:?}", answer.notes);
    server.stop().await;
}

#[tokio::test]
async fn results_come_in_the_order_of_the_request() {
    let store = temporary_store();
    let (server, mut client) = prepared(store.path()).await;
    let rows = sample(5000, 6, 3);
    let mut extra = vec!["id".to_owned()];
    extra.extend(reordered_names());
    for (columns, values, column_names) in [(6, reordered(&rows), reordered_names()), (7, with_extra(&rows), extra)] {
        let ask = |rows| pb::ReconstructRequest { model: newest("named"), rows, ..Default::default() };
        let plain = client.reconstruct(ask(Some(matrix(6, &rows)))).await.expect("reconstructs").into_inner();
        let answer =
            client.reconstruct(ask(named(columns, &values, column_names.clone()))).await.expect("reconstructs");
        let answer = answer.into_inner();
        assert_eq!(answer.squared_errors, plain.squared_errors);
        let kept = answer.rows.as_ref().expect("rows").column_names.clone();
        assert_eq!(numbers(answer.rows), reordered(&numbers(plain.rows)));
        if columns == 7 {
            assert_eq!(kept, reordered_names());
            assert!(answer.notes[0].contains("\"id\""), "{:?}", answer.notes);
        } else {
            assert!(kept.is_empty() && answer.notes.is_empty());
        }
        // Present values are returned unchanged, in their own positions.
        let mut gaps = values.clone();
        gaps[columns - 1] = f32::NAN;
        let request = pb::ImputeRequest {
            model: newest("named"),
            rows: named(columns, &gaps, column_names),
            ..Default::default()
        };
        let whole = numbers(client.impute(request).await.expect("imputes").into_inner().rows);
        let before = reordered(&rows);
        assert!(whole[5].is_finite());
        assert_eq!((&whole[..5], &whole[6..]), (&before[..5], &before[6..]));
    }
    server.stop().await;
}

#[track_caller]
fn check_refused<T: std::fmt::Debug>(result: Result<T, Status>, texts: &[&str]) {
    let status = result.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let field = &details.bad_request().expect("details").field_violations[0].field;
    assert!(field.ends_with("rows.column_names"), "{field}");
    for text in texts {
        assert!(status.message().contains(text), "{:?} does not say {text:?}", status.message());
    }
}

#[tokio::test]
async fn errors_name_features_without_a_column() {
    let store = temporary_store();
    let (server, mut client) = prepared(store.path()).await;
    let rows = sample(5, 6, 3);
    let others = names(&["q", "w", "e", "r", "t", "rpm"]);
    check_refused(
        encode(&mut client, "named", named(6, &rows, others.clone())).await,
        &["\"temp\", \"pressure\", \"flow\", \"volt\" and \"amp\"", "\"q\", \"w\""],
    );
    let upper = NAMES.map(str::to_uppercase).to_vec();
    check_refused(encode(&mut client, "named", named(6, &rows, upper)).await, &["upper and lower case"]);
    let twice = names(&["temp", "temp", "flow", "volt", "amp", "rpm"]);
    check_refused(encode(&mut client, "named", named(6, &rows, twice)).await, &["columns 1 and 2", "\"temp\""]);
    let few = names(&["temp"]);
    check_refused(encode(&mut client, "named", named(6, &rows, few.clone())).await, &["1 column names", "6"]);
    check_refused(encode(&mut client, "plain", named(6, &rows, few)).await, &["1 column names", "6"]);
    let score =
        pb::ScoreRequest { model: newest("named"), rows: named(6, &rows, others.clone()), ..Default::default() };
    check_refused(client.score(score).await, &["\"temp\""]);
    let inspect =
        pb::InspectModelRequest { model: newest("named"), rows: named(6, &rows, others), ..Default::default() };
    check_refused(server.models().await.inspect_model(inspect).await, &["\"temp\""]);
    // The error for a value names the caller's column.
    let mut infinite = reordered(&rows);
    infinite[1] = f32::INFINITY;
    let status = encode(&mut client, "named", named(6, &infinite, reordered_names())).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    let plain = encode(&mut client, "plain", Some(matrix(6, &infinite))).await.expect_err("refused");
    assert_eq!(status.message(), plain.message());
    server.stop().await;
}

#[tokio::test]
async fn a_stream_uses_the_column_names_of_its_first_message() {
    let store = temporary_store();
    let (server, mut client) = prepared(store.path()).await;
    let rows = sample(30, 6, 3);
    let plain = encode(&mut client, "named", Some(matrix(6, &rows))).await.expect("encodes");
    let extra = [vec!["id".to_owned()], reordered_names()].concat();
    let of = |rows: &[f32], column_names: Vec<String>| pb::EncodeStreamRequest {
        model: newest("named"),
        rows: named(7, &with_extra(rows), column_names),
        ..Default::default()
    };
    let messages = vec![of(&rows[..60], extra.clone()), of(&rows[60..120], vec![]), of(&rows[120..], extra)];
    let answers = client.encode_stream(tokio_stream::iter(messages)).await.expect("opens").into_inner();
    let (answers, end) = collected(answers).await;
    end.expect("ends well");
    let notes: Vec<usize> = answers.iter().map(|answer| answer.notes.len()).collect();
    assert_eq!(notes, [1, 0, 0], "told once");
    let codes: Vec<u32> = answers.into_iter().flat_map(|answer| bits(answer.codes)).collect();
    assert_eq!(codes, bits(plain.codes));
    let narrow = pb::EncodeStreamRequest { rows: Some(matrix(6, &rows)), ..Default::default() };
    let wide = of(&rows, [vec!["id".to_owned()], reordered_names()].concat());
    let answers = client.encode_stream(tokio_stream::iter(vec![wide, narrow])).await.expect("opens").into_inner();
    let (answers, end) = collected(answers).await;
    let status = end.expect_err("refused");
    assert_eq!((answers.len(), status.code()), (1, Code::InvalidArgument));
    assert!(status.message().contains("message 2") && status.message().contains("expected 7"), "{status:?}");
    server.stop().await;
}

/// The digest of all training rows.
async fn digest(client: &mut AutoencoderClient, spec: pb::TrainSpec, chunks: Vec<pb::Matrix>) -> (String, Vec<String>) {
    use pb::train_request::Message as Question;
    use pb::train_response::Message as Answer;
    let mut questions = vec![question(Question::Spec(spec))];
    let rows: u32 = chunks.iter().map(|rows| rows.rows).sum();
    let count = chunks.len() as u64;
    questions.extend(
        chunks.into_iter().enumerate().map(|(i, rows)| {
            question(Question::Chunk(pb::RowChunk { number: i as u64 + 1, rows: Some(rows), role: 0 }))
        }),
    );
    questions.push(finish(count, rows.into()));
    let answers = client.train(tokio_stream::iter(questions)).await.expect("opens").into_inner();
    let (answers, end) = collected(answers).await;
    end.expect("trains");
    let notes = answers.iter().filter_map(|answer| match &answer.message {
        Some(Answer::Acknowledged(one)) => Some(one.notes.clone()),
        _ => None,
    });
    let report = answers.iter().find_map(|answer| match &answer.message {
        Some(Answer::Result(result)) => result.training_report.clone(),
        _ => None,
    });
    (report.expect("a report").data_sha256, notes.clone().flatten().collect())
}

#[tokio::test]
async fn chunk_columns_match_names_from_the_spec_or_the_base() {
    let store = temporary_store();
    let (server, mut client) = prepared(store.path()).await;
    let rows = sample(200, 6, 4);
    let extra = [vec!["id".to_owned()], reordered_names()].concat();
    let plain = vec![matrix(6, &rows[..600]), matrix(6, &rows[600..])];
    let moved = |values: &[f32]| pb::Matrix { column_names: extra.clone(), ..matrix(7, &with_extra(values)) };
    let moved = vec![moved(&rows[..600]), moved(&rows[600..])];
    let fresh = |name: &str| pb::TrainSpec { feature_names: names(&NAMES), ..spec(name, &[6, 2]) };
    let continued = |name: &str| pb::TrainSpec {
        model_name: name.into(),
        base: newest("named"),
        missing_values: true,
        epochs: 1,
        ..Default::default()
    };
    let (expected, notes) = digest(&mut client, fresh("a"), plain.clone()).await;
    assert!(notes.is_empty());
    for spec in [fresh("b"), continued("c")] {
        let (digest, notes) = digest(&mut client, spec, moved.clone()).await;
        assert_eq!(digest, expected, "the same rows");
        assert!(notes.len() == 1 && notes[0].contains("\"id\""), "{notes:?}");
    }
    let others = pb::Matrix { column_names: names(&["a", "b", "c", "d", "e", "f"]), ..matrix(6, &rows) };
    let chunk = pb::RowChunk { number: 1, rows: Some(others), role: 0 };
    let questions = [pb::train_request::Message::Spec(continued("d")), pb::train_request::Message::Chunk(chunk)];
    let answers = client.train(tokio_stream::iter(questions.map(question))).await.expect("opens").into_inner();
    let (_, end) = collected(answers).await;
    check_refused(end, &["\"temp\""]);
    server.stop().await;
}

/// Writes a table with a header.
fn table(path: &Path, names: &[String], values: &[f32]) {
    let lines = values.chunks(names.len()).map(|row| row.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    let text = std::iter::once(names.join(",")).chain(lines).collect::<Vec<_>>().join("\n") + "\n";
    std::fs::write(path, text).expect("writes");
}

#[test]
fn every_command_matches_the_columns_of_its_file_by_name() {
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    let folder = temporary_store();
    let at = |name: &str| folder.path().join(name);
    let (training, rows) = (sample(400, 6, 1), sample(40, 6, 2));
    let extra = [vec!["id".to_owned()], reordered_names()].concat();
    table(&at("train.csv"), &names(&NAMES), &training);
    table(&at("train_moved.csv"), &reordered_names(), &reordered(&training));
    table(&at("same.csv"), &names(&NAMES), &rows);
    table(&at("moved.csv"), &reordered_names(), &reordered(&rows));
    table(&at("extra.csv"), &extra, &with_extra(&rows));
    table(&at("other.csv"), &names(&["q", "w", "e", "r", "t", "y"]), &rows);
    let go = |args: &[&str]| succeeds(&server, folder.path(), args);
    go(&["train", "co", "train.csv", "--code", "3", "--epochs", "10", "--missing-values"]);

    for command in [&["score", "--false-alarm-rate", "0.05"][..], &["encode"]] {
        let of = |file: &str, more: &[&str]| go(&[&[command[0], "co", file], &command[1..], more].concat());
        let same = of("same.csv", &[]);
        assert_eq!(of("moved.csv", &[]), same, "{command:?}");
        assert_eq!(of("extra.csv", &[]), same, "{command:?}");
        assert_eq!(of("moved.csv", &["--columns", &NAMES.join(",")]), same, "{command:?}");
        assert_eq!(of("extra.csv", &["--drop-columns", "id"]), same, "{command:?}");
        assert_eq!(of("other.csv", &["--by-position"]), same, "{command:?}");
        let told = run(&server, folder.path(), &[&[command[0], "co", "extra.csv"], &command[1..]].concat());
        let told = String::from_utf8(told.stderr).expect("text");
        assert!(told.contains("note: 1 column is left out") && told.contains("\"id\""), "{told}");
    }
    for command in ["score", "encode", "reconstruct", "impute", "inspect"] {
        let texts = ["INVALID_ARGUMENT", "\"temp\", \"pressure\", \"flow\", \"volt\", \"amp\" and 1 more", "\"q\""];
        fails(&server, folder.path(), &[command, "co", "other.csv"], 1, &texts);
    }
    fails(&server, folder.path(), &["encode", "co", "moved.csv", "--columns", "temp,flow"], 1, &["\"pressure\""]);

    // Several files of one training, with different column orders; then the next version.
    let whole = go(&["--json", "train", "two", "train.csv", "train.csv", "--code", "2", "--epochs", "1"]);
    let moved = go(&["--json", "train", "two", "train.csv", "train_moved.csv", "--code", "2", "--epochs", "1"]);
    let digest = |text: &str| {
        let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
        value["model"]["training_report"]["data_sha256"].clone()
    };
    assert!(digest(&whole).is_string());
    assert_eq!(digest(&moved), digest(&whole));
    let next = ["--json", "train", "next", "--from", "two", "--epochs", "1"];
    let plain = go(&[&next[..], &["train.csv"]].concat());
    assert_eq!(digest(&go(&[&next[..], &["train_moved.csv"]].concat())), digest(&plain));
    let texts = ["no column \"temp\"", "\"q\""];
    fails(&server, folder.path(), &["train", "next", "other.csv", "--from", "two"], 1, &texts);
    fails(&server, folder.path(), &["train", "x", "train.csv", "other.csv", "--code", "2"], 1, &texts);
    let report = ["report", "co", "moved.csv", "-o", "moved.html"];
    go(&report);
    fails(&server, folder.path(), &["report", "co", "other.csv", "-o", "x.html"], 1, &texts);
}

#[test]
fn server_file_columns_are_matched_by_name() {
    let (store, folder, here) = (temporary_store(), temporary_store(), temporary_store());
    let server = ServerProcess::start_with(store.path(), &["--train-folder", &folder.path().to_string_lossy()]);
    let training = sample(200, 6, 1);
    table(&folder.path().join("a.csv"), &names(&NAMES), &training);
    table(&folder.path().join("b.csv"), &reordered_names(), &reordered(&training));
    table(&folder.path().join("c.csv"), &names(&["q", "w", "e", "r", "t", "y"]), &training);
    let go = |files: &str| {
        let args = ["--json", "train", "far", "--server-files", files, "--widths", "6,2", "--epochs", "1"];
        let text = succeeds(&server, here.path(), &args);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        value["model"]["training_report"]["data_sha256"].clone()
    };
    let whole = go("a.csv,a.csv");
    assert!(whole.is_string());
    assert_eq!(go("a.csv,b.csv"), whole);
    let args = ["train", "far", "--server-files", "a.csv,c.csv", "--widths", "6,2"];
    fails(&server, here.path(), &args, 1, &["INVALID_ARGUMENT", "c.csv", "no column \"temp\""]);
}
