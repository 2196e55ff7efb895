//! Columns of Unix times, milliseconds and ids: 64-bit rows keep their digits from the file to the response.

use std::fmt::Write as _;
use std::path::Path;

use half::{bf16, f16};
use halfhitch::rpc::pb;
use tonic::Code;

use crate::cli::succeeds;
use crate::support::files::{csv, npy_head};
use crate::support::process::ServerProcess;
use crate::support::{
    AutoencoderClient, TestServer, finish, matrix, newest, numbers, question, sample, served, spec, temporary_store,
    version, wide_matrix, wide_numbers,
};

const ROWS: usize = 500;
/// Unix time, milliseconds, an id, and a wave.
const COLUMNS: usize = 4;

/// Rows 2 s apart. All columns but the wave grow together, so 2 numbers describe a row.
fn times() -> Vec<f64> {
    let row = |i: usize| {
        let at = i as f64;
        [1.7e9 + 2.0 * at, 1.7e12 + 2000.0 * at, 1e12 + 1.0 + at, (at / 7.0).sin()]
    };
    (0..ROWS).flat_map(row).collect()
}

/// A linear model that stays at the principal components: exact if the code length equals the rank.
fn exact(name: &str, widths: &[u32]) -> pb::TrainSpec {
    let optimizer = Some(pb::Optimizer { learning_rate: 1e-9, ..Default::default() });
    pb::TrainSpec { initialization: pb::Initialization::Pca.into(), epochs: 1, optimizer, ..spec(name, widths) }
}

/// All messages of a `Train` stream for rows, in chunks of `chunk_rows`.
fn upload(spec: pb::TrainSpec, columns: usize, rows: &[f64], chunk_rows: usize) -> Vec<pb::TrainRequest> {
    use pb::train_request::Message;
    let chunks = rows.chunks(chunk_rows * columns);
    let count = chunks.len() as u64;
    let chunk = |(number, values)| {
        let (rows, role) = (Some(wide_matrix(columns, values)), pb::RowRole::Training.into());
        question(Message::Chunk(pb::RowChunk { number, rows, role }))
    };
    let mut questions = vec![question(Message::Spec(spec))];
    questions.extend((1..).zip(chunks).map(chunk));
    questions.push(finish(count, (rows.len() / columns) as u64));
    questions
}

async fn train(client: &mut AutoencoderClient, spec: pb::TrainSpec, columns: usize, rows: &[f64]) -> pb::TrainResult {
    let questions = upload(spec, columns, rows, 64);
    let mut answers = client.train(tokio_stream::iter(questions)).await.expect("begins").into_inner();
    while let Some(answer) = answers.message().await.expect("trains") {
        if let Some(pb::train_response::Message::Result(result)) = answer.message {
            return result;
        }
    }
    panic!("the stream ended without a result")
}

async fn reconstructed(client: &mut AutoencoderClient, name: &str, rows: pb::Matrix) -> pb::ReconstructResponse {
    let question = pb::ReconstructRequest { model: newest(name), rows: Some(rows), ..Default::default() };
    client.reconstruct(question).await.expect("reconstructs").into_inner()
}

/// Checks the times, milliseconds and ids of rows.
#[track_caller]
fn check_times(back: &[f64], rows: &[f64]) {
    assert_eq!(back.len(), rows.len());
    for (i, (back, row)) in back.chunks_exact(COLUMNS).zip(rows.chunks_exact(COLUMNS)).enumerate() {
        let off: Vec<f64> = back.iter().zip(row).map(|(a, b)| (a - b).abs()).collect();
        assert!(off[0] < 0.01 && off[1] < 10.0 && off[2] < 0.01 && off[3] < 0.001, "row {i}: {off:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_keeps_the_digits_of_times_and_ids() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let rows = times();
    let keeping = pb::TrainSpec { validation_sample_rows: 50, ..exact("times", &[COLUMNS as u32, 2]) };
    let result = train(&mut client, keeping, COLUMNS, &rows).await;
    let report = result.training_report.expect("a report");
    let validation = report.validation.expect("held out");
    assert!(validation.explained_variance > 0.999_999, "{validation:?}");
    assert!(report.notes.iter().any(|note| note.starts_with("precision: ")), "{:?}", report.notes);

    let answer = reconstructed(&mut client, "times", wide_matrix(COLUMNS, &rows)).await;
    assert!(answer.squared_errors_input_units.iter().all(|error| *error < 200.0), "of milliseconds, squared");
    check_times(&wide_numbers(answer.rows), &rows);

    // Codes are 32-bit numbers and still sufficient.
    let encode = pb::EncodeRequest {
        model: newest("times"),
        rows: Some(wide_matrix(COLUMNS, &rows)),
        answer_format: pb::AnswerFormat::Float32Le.into(),
        ..Default::default()
    };
    let codes = client.encode(encode).await.expect("encodes").into_inner().codes;
    assert!(matches!(codes.as_ref().and_then(|codes| codes.values.as_ref()), Some(pb::matrix::Values::Float32Le(_))));
    for answer_format in [pb::AnswerFormat::Float64Le, pb::AnswerFormat::AsTrained] {
        let answer_format = answer_format.into();
        let decode =
            pb::DecodeRequest { model: version("times", 1), codes: codes.clone(), answer_format, ..Default::default() };
        let back = client.decode(decode).await.expect("decodes").into_inner().rows;
        check_times(&wide_numbers(back), &rows);
    }

    // The stored sample rows are not rounded either.
    let sampled = pb::InspectModelRequest { model: newest("times"), rows: None, validation_sample: true };
    let sent = pb::InspectModelRequest {
        rows: Some(wide_matrix(COLUMNS, &rows)),
        validation_sample: false,
        ..sampled.clone()
    };
    for inspect in [sampled, sent] {
        let seen = server.models().await.inspect_model(inspect).await.expect("looks").into_inner();
        let seen = seen.comparison.expect("measured");
        assert!(seen.transpose_squared_error < 1e-6 * seen.spread, "{seen:?}");
    }

    // After a restart, the offsets come from the file.
    server.stop().await;
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let answer = reconstructed(&mut client, "times", wide_matrix(COLUMNS, &rows)).await;
    check_times(&wide_numbers(answer.rows), &rows);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn training_continues_from_a_base_with_64_bit_rows() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let rows = times();
    train(&mut client, exact("times", &[COLUMNS as u32, 2]), COLUMNS, &rows).await;
    let later: Vec<f64> =
        rows.chunks_exact(COLUMNS).flat_map(|row| [row[0] + 1000.0, row[1] + 1e6, row[2] + 500.0, row[3]]).collect();
    let base = pb::TrainSpec { base: newest("times"), epochs: 1, ..spec("times", &[]) };
    let result = train(&mut client, base, COLUMNS, &later).await;
    assert_eq!(result.version, 2);
    let of_base = result.training_report.and_then(|report| report.base_validation).expect("measured");
    assert!(of_base.explained_variance > 0.999, "the base knows rows of later, too: {of_base:?}");
    // One epoch with a nonzero learning rate moves the weights slightly.
    let answer = reconstructed(&mut client, "times", wide_matrix(COLUMNS, &later)).await;
    let back = wide_numbers(answer.rows);
    let off = back.chunks_exact(COLUMNS).zip(later.chunks_exact(COLUMNS)).map(|(a, b)| (a[0] - b[0]).abs());
    assert!(off.fold(0.0, f64::max) < 100.0, "near, where 32 bits are 128 s apart");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_64_bit_row_does_not_depend_on_other_callers() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let rows = times();
    train(&mut client, exact("times", &[COLUMNS as u32, 2]), COLUMNS, &rows).await;
    let narrow: Vec<f32> = rows.iter().map(|value| *value as f32).collect();
    let together = reconstructed(&mut client, "times", wide_matrix(COLUMNS, &rows)).await;
    let together = (wide_numbers(together.rows), together.squared_errors_input_units);
    let narrow_together = numbers(reconstructed(&mut client, "times", matrix(COLUMNS, &narrow)).await.rows);
    let callers: Vec<_> = (0..64)
        .map(|i| {
            let mut client = client.clone();
            let (row, narrow) = (rows[i * COLUMNS..][..COLUMNS].to_vec(), narrow[i * COLUMNS..][..COLUMNS].to_vec());
            tokio::spawn(async move {
                let wide = reconstructed(&mut client, "times", wide_matrix(COLUMNS, &row)).await;
                let narrow = reconstructed(&mut client, "times", matrix(COLUMNS, &narrow)).await;
                (wide_numbers(wide.rows), wide.squared_errors_input_units, numbers(narrow.rows))
            })
        })
        .collect();
    for (i, caller) in callers.into_iter().enumerate() {
        let (alone, errors, narrow) = caller.await.expect("no panic");
        let part = i * COLUMNS..(i + 1) * COLUMNS;
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&alone), bits(&together.0[part.clone()]), "row {i}");
        assert_eq!(errors[0].to_bits(), together.1[i].to_bits(), "row {i}");
        assert!(narrow.iter().zip(&narrow_together[part]).all(|(a, b)| a.to_bits() == b.to_bits()), "row {i}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn narrow_formats_give_the_same_codes_as_float32() {
    let store = temporary_store();
    let server = served(store.path(), "m", &[6, 3]).await;
    let mut client = server.autoencoder().await;
    let whole: Vec<u8> = (0..20 * 6).map(|i| (i * 37 % 128) as u8).collect();
    let floats: Vec<f32> = whole.iter().copied().map(f32::from).collect();
    let halves = |half: fn(f32) -> [u8; 2]| floats.iter().flat_map(|x| half(*x)).collect::<Vec<u8>>().into();
    let of = |values| pb::Matrix { values: Some(values), ..matrix(6, &floats) };
    let float32 = pb::AnswerFormat::Float32Le.into();
    let encode =
        |rows| pb::EncodeRequest { model: newest("m"), rows: Some(rows), answer_format: float32, ..Default::default() };
    let expected = client.encode(encode(matrix(6, &floats))).await.expect("encodes").into_inner();
    let forms = [
        pb::matrix::Values::Floats(pb::FloatList { values: floats.clone() }),
        pb::matrix::Values::Float16Le(halves(|x| f16::from_f32(x).to_le_bytes())),
        pb::matrix::Values::Bfloat16Le(halves(|x| bf16::from_f32(x).to_le_bytes())),
        pb::matrix::Values::Uint8(whole.clone().into()),
        pb::matrix::Values::Int8(whole.clone().into()),
    ];
    for form in forms {
        let rows = of(form);
        assert_eq!(client.encode(encode(rows.clone())).await.expect("encodes").into_inner(), expected);
        // By default, the response has the format of the request, except for integers.
        let plain = pb::EncodeRequest { answer_format: 0, ..encode(rows.clone()) };
        let codes = client.encode(plain).await.expect("encodes").into_inner().codes.expect("codes");
        let same = |a: &pb::Matrix, b: &pb::Matrix| {
            std::mem::discriminant(a.values.as_ref().expect("set"))
                == std::mem::discriminant(b.values.as_ref().expect("set"))
        };
        let is_whole = matches!(rows.values, Some(pb::matrix::Values::Uint8(_) | pb::matrix::Values::Int8(_)));
        assert!(same(&codes, if is_whole { expected.codes.as_ref().expect("codes") } else { &rows }));
    }
    // Values exact in f32, sent as f64: the same results except for rounding.
    let doubles: Vec<f64> = whole.iter().copied().map(f64::from).collect();
    let wide = numbers(client.encode(encode(wide_matrix(6, &doubles))).await.expect("encodes").into_inner().codes);
    for (a, b) in wide.iter().zip(numbers(expected.codes)) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} {b}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_lengths_and_overflowing_responses_are_rejected() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let rows = times();
    train(&mut client, exact("times", &[COLUMNS as u32, 2]), COLUMNS, &rows).await;
    let seven = || bytes::Bytes::from_static(&[0; 7]);
    let forms = [
        (pb::matrix::Values::Float32Le(seven()), 16),
        (pb::matrix::Values::Float64Le(seven()), 32),
        (pb::matrix::Values::Float16Le(seven()), 8),
        (pb::matrix::Values::Bfloat16Le(seven()), 8),
        (pb::matrix::Values::Uint8(seven()), 4),
        (pb::matrix::Values::Int8(seven()), 4),
    ];
    for (values, expected) in forms {
        let rows = Some(pb::Matrix { values: Some(values), ..wide_matrix(COLUMNS, &rows[..COLUMNS]) });
        let encode = pb::EncodeRequest { model: newest("times"), rows, ..Default::default() };
        let refused = client.encode(encode).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(&format!("has 7 bytes, expected {expected}")), "{refused}");
    }
    let question = |answer_format| pb::ReconstructRequest {
        model: newest("times"),
        rows: Some(wide_matrix(COLUMNS, &rows)),
        answer_format,
        ..Default::default()
    };
    let refused = client.reconstruct(question(pb::AnswerFormat::Float16Le.into())).await.expect_err("too large");
    assert_eq!(refused.code(), Code::OutOfRange);
    assert!(refused.message().contains("row 1") && refused.message().contains("float16_le"), "{refused}");
    let refused = client.reconstruct(question(99)).await.expect_err("no such form");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("answer_format"), "{refused}");
    server.stop().await;
}

/// Writes 64-bit rows as NumPy does.
fn npy(path: &Path, columns: usize, rows: &[f64]) {
    let mut bytes = npy_head("<f8", (rows.len() / columns) as u64, columns);
    rows.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    std::fs::write(path, bytes).expect("writes");
}

fn text(columns: usize, rows: &[f64]) -> String {
    rows.chunks(columns).fold(String::new(), |mut text, row| {
        let numbers: Vec<String> = row.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "{}", numbers.join(","));
        text
    })
}

/// The numbers of a CSV file without a header.
fn read_text(path: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(path).expect("written");
    text.lines().flat_map(|line| line.split(',')).map(|number| number.parse().expect("a number")).collect()
}

#[test]
fn commands_keep_the_digits_of_times_in_files() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    let at = |name: &str| folder.path().join(name);
    let rows = times();
    npy(&at("rows.npy"), COLUMNS, &rows);
    std::fs::write(at("rows.csv"), text(COLUMNS, &rows)).expect("writes");
    for file in ["rows.npy", "rows.csv"] {
        let name = if file == "rows.npy" { "binary" } else { "text" };
        let exact = ["--init", "pca", "--epochs", "1", "--learning-rate", "1e-9"];
        let train = [&["train", name, file, "--code", "2"][..], &exact].concat();
        succeeds(&server, folder.path(), &train);
        succeeds(&server, folder.path(), &["reconstruct", name, file, "-o", "back.csv"]);
        check_times(&read_text(&at("back.csv")), &rows);
        succeeds(&server, folder.path(), &["encode", name, file, "-o", "codes.npy"]);
        let model = format!("{name}@1");
        succeeds(&server, folder.path(), &["decode", &model, "codes.npy", "-o", "decoded.csv"]);
        check_times(&read_text(&at("decoded.csv")), &rows);
        succeeds(&server, folder.path(), &["reconstruct", name, file, "-o", "back.npy"]);
        let bytes = std::fs::read(at("back.npy")).expect("written");
        assert!(String::from_utf8_lossy(&bytes[..80]).contains("'<f8'"), "rows of 64 bits are written so");
        let data = &bytes[bytes.len() - 8 * rows.len()..];
        let back: Vec<f64> = data.as_chunks::<8>().0.iter().map(|number| f64::from_le_bytes(*number)).collect();
        check_times(&back, &rows);
    }
    // Rows that f32 represents are written as before.
    csv(&at("plain.csv"), COLUMNS, &sample(200, COLUMNS, 3));
    succeeds(&server, folder.path(), &["train", "plain", "plain.csv", "--code", "2", "--epochs", "1"]);
    succeeds(&server, folder.path(), &["reconstruct", "plain", "plain.csv", "-o", "back.npy"]);
    let bytes = std::fs::read(at("back.npy")).expect("written");
    assert!(String::from_utf8_lossy(&bytes[..80]).contains("'<f4'"));
}

/// Masses of stars in kg: f32 can represent them, but not their squares.
#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_squares_exceed_f32_are_reconstructed() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let row = |i: usize| [2e30 + 1e30 * (i as f64 / 5.0).sin(), 3e30 + 1e30 * (i as f64 / 3.0).cos()];
    let rows: Vec<f64> = (0..ROWS).flat_map(row).collect();
    train(&mut client, exact("stars", &[2, 1]), 2, &rows).await;
    let answer = reconstructed(&mut client, "stars", wide_matrix(2, &rows[..40])).await;
    assert!(answer.squared_errors.iter().all(|error| error.is_finite()), "{:?}", answer.squared_errors);
    assert!(answer.squared_errors_input_units.contains(&f32::INFINITY), "{:?}", answer.squared_errors_input_units);
    let back = wide_numbers(answer.rows);
    let within = back.iter().zip(&rows).all(|(back, value)| (back - value).abs() < 2e30);
    assert!(back.len() == 40 && within, "{back:?}");
}
