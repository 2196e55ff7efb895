//! Automatic choices and notes of the server: code length, broken values, columns that the code loses, and the invalid
//! row of a file.

use halfhitch::rpc::pb;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::process::{ServerProcess, halfhitch};
use crate::support::{
    AutoencoderClient, TestServer, float_matrix, matrix, newest, numbers, sample, spec, temporary_store, train,
};

const FEATURES: usize = 8;

async fn trained_version(server: &TestServer, spec: pb::TrainSpec, rows: &[f32]) -> pb::ModelVersion {
    let name = spec.model_name.clone();
    train(&mut server.autoencoder().await, spec, rows).await.expect("trains");
    let request = pb::GetModelVersionRequest { model: newest(&name) };
    server.models().await.get_model_version(request).await.expect("there").into_inner().version.expect("a version")
}

fn widths(version: &pb::ModelVersion) -> &[u32] {
    &version.spec.as_ref().expect("a specification").widths
}

fn notes(version: &pb::ModelVersion) -> &[String] {
    &version.training_report.as_ref().expect("a report").notes
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unset_code_length_is_chosen_from_the_spectrum() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    // Rows near a plane of 4 dimensions, with little noise.
    let rows = sample(300, FEATURES, 7);
    let version = trained_version(&server, spec("m", &[FEATURES as u32, 0]), &rows).await;
    let length = *widths(&version).last().expect("widths");
    assert!((1..=4).contains(&length), "{:?}", widths(&version));
    let note = notes(&version).iter().find(|note| note.starts_with("code length: ")).expect("told");
    assert!(note.starts_with(&format!("code length: {length}: ")) && note.contains("95 % requested"), "{note}");

    let mut whole = spec("whole", &[FEATURES as u32, 6, 0]);
    whole.explained_share = Some(1.0);
    let version = trained_version(&server, whole, &rows).await;
    assert_eq!(widths(&version), [8, 6, 6], "no longer than the hidden layer is wide");

    let mut client = server.autoencoder().await;
    let base = pb::TrainSpec { base: newest("m"), epochs: 1, model_name: "m".to_owned(), ..Default::default() };
    let goes_on = pb::TrainSpec { widths: vec![FEATURES as u32, 0], ..base };
    train(&mut client, goes_on, &rows).await.expect("the length of the base");
    let refused = [
        (
            pb::TrainSpec { explained_share: Some(1.5), ..spec("m", &[8, 0]) },
            "explained_share is 1.5, expected above 0 to 1",
        ),
        (pb::TrainSpec { explained_share: Some(0.9), ..spec("m", &[8, 3]) }, "widths that end with 0"),
        (spec("m", &[0, 3]), "widths[0] is 0"),
        (spec("m", &[8, 0, 3]), "widths[1] is 0"),
    ];
    for (spec, expected) in refused {
        let mut sent = spec;
        sent.idempotency_key = String::new();
        let questions = vec![crate::support::question(pb::train_request::Message::Spec(sent))];
        let mut answers = client.train(tokio_stream::iter(questions)).await;
        let status = match &mut answers {
            Err(status) => status.clone(),
            Ok(answers) => answers.get_mut().message().await.expect_err(expected),
        };
        assert!(status.code() == Code::InvalidArgument && status.message().contains(expected), "{status}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_broken_value_does_not_ruin_columns_or_figures() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let clean = sample(500, FEATURES, 7);
    let mut broken = clean.clone();
    broken[200 * FEATURES + 2] = 1e30;
    let of = |name: &str, normalization: pb::Normalization| pb::TrainSpec {
        epochs: 20,
        feature_names: (0..FEATURES).map(|j| format!("s{j}")).collect(),
        normalization: normalization.into(),
        ..spec(name, &[FEATURES as u32, 4])
    };
    let version = trained_version(&server, of("auto", pb::Normalization::Unspecified), &broken).await;
    assert_eq!(version.spec.as_ref().expect("a specification").normalization(), pb::Normalization::Robust);
    let note = notes(&version).iter().find(|note| note.starts_with("broken values: ")).expect("told");
    assert!(note.starts_with("broken values: 1 in 1 column (row 201: s2 is 1e30)"), "{note}");
    let report = version.training_report.as_ref().expect("a report");
    let (shares, validation) = (&report.feature_explained_variance, report.validation.as_ref().expect("held out"));
    assert_eq!(shares.len(), FEATURES);
    assert!(shares.iter().all(|share| *share > 0.8 && *share <= 1.0), "{shares:?}");
    assert!(validation.squared_error < 10.0 && validation.explained_variance > 0.8, "{validation:?}");

    // Clean rows are reconstructed well. A broken row is an alarm and does not affect others.
    let mut client = server.autoencoder().await;
    let request =
        pb::ReconstructRequest { model: newest("auto"), rows: Some(matrix(FEATURES, &clean)), ..Default::default() };
    let answer = client.reconstruct(request).await.expect("finite").into_inner();
    let worst = numbers(answer.rows).iter().zip(&clean).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1.0, "{worst}");

    let version = trained_version(&server, of("asked", pb::Normalization::Standardize), &broken).await;
    assert_eq!(version.spec.as_ref().expect("a specification").normalization(), pb::Normalization::Standardize);
    assert!(notes(&version).iter().any(|note| note.contains("choose robust")), "{:?}", notes(&version));
    let version = trained_version(&server, of("usual", pb::Normalization::Robust), &clean).await;
    assert!(!notes(&version).iter().any(|note| note.contains("broken")), "{:?}", notes(&version));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extreme_row_is_an_alarm_and_does_not_affect_others() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut named = spec("m", &[FEATURES as u32, 3]);
    named.feature_names = (0..FEATURES).map(|j| format!("s{j}")).collect();
    train(&mut server.autoencoder().await, named, &sample(600, FEATURES, 7)).await.expect("trains");
    let mut client = server.autoencoder().await;
    let usual = sample(60, FEATURES, 9);
    let score = async |client: &mut AutoencoderClient, rows: &[f32]| {
        let rows = Some(matrix(FEATURES, rows));
        let request = pb::ScoreRequest { model: newest("m"), rows, reasons: 2, false_alarm_rate: Some(0.01) };
        client.score(request).await.expect("scores").into_inner()
    };
    let without = score(&mut client, &usual).await;
    for extreme in [1e20, -1e30, f32::MAX] {
        let mut rows = usual.clone();
        rows[41 * FEATURES + 5] = extreme;
        let with = score(&mut client, &rows).await;
        assert_eq!((with.scores[41], with.alarms[41]), (f32::MAX, true), "{extreme}");
        assert!((with.p_values[41] - 1.0 / (f64::from(with.calibration_rows) + 1.0)).abs() < 1e-12);
        let first = &with.reasons[41].features[0];
        assert_eq!((first.name.as_str(), first.contribution > 0.0), ("s5", extreme > 0.0), "{extreme}");
        for row in (0..60).filter(|row| *row != 41) {
            assert_eq!(with.scores[row].to_bits(), without.scores[row].to_bits(), "row {row}");
            assert_eq!(with.reasons[row], without.reasons[row], "row {row}");
        }
        // A row that cannot be reconstructed fails its request; the error names the row, from 1.
        let request = pb::ReconstructRequest {
            model: newest("m"),
            rows: Some(float_matrix(FEATURES, &rows)),
            ..Default::default()
        };
        let status = client.reconstruct(request).await.expect_err("not finite");
        assert_eq!(status.code(), Code::OutOfRange);
        assert!(status.message().contains("the result of row 42 is not finite"), "{status}");
        let info = status.get_details_error_info().expect("details");
        assert_eq!((info.reason.as_str(), info.metadata.get("row").map(String::as_str)), ("ROW", Some("42")));
    }
    server.stop().await;
}

#[test]
fn commands_choose_code_lengths_and_report_file_row_numbers() {
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, rows: &[f32]| {
        let lines =
            rows.chunks_exact(FEATURES).map(|row| row.iter().map(f32::to_string).collect::<Vec<_>>().join(",") + "\n");
        let path = folder.path().join(name);
        std::fs::write(&path, lines.collect::<String>()).expect("writes");
        path.to_str().expect("text").to_owned()
    };
    // Column 4 looks like a label: it is 1 in one row of ten, otherwise 0.
    let mut rows = sample(600, FEATURES, 7);
    rows.chunks_exact_mut(FEATURES).enumerate().for_each(|(i, row)| row[3] = f32::from(u8::from(i % 10 == 3)));
    let training = write("training.csv", &rows);
    let run = |arguments: &[&str], input: Option<&str>| {
        let mut command = halfhitch();
        command.args(["--server", &server.url()]).args(arguments);
        if let Some(path) = input {
            command.stdin(std::fs::File::open(path).expect("opens"));
        }
        let output = command.output().expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let (trained, said, error) = run(&["train", "m", &training, "--epochs", "5"], None);
    assert!(trained, "{error}");
    assert!(said.contains("note: code length: ") && said.contains("R² by feature, lowest first: "), "{said}");
    assert!(said.contains("columns that look like labels (only 0 and 1): column 4"), "{said}");
    let (trained, said, error) = run(&["train", "m", "-", "--epochs", "2", "--explain", "0.5"], Some(&training));
    assert!(trained && said.contains("50 % requested"), "{said} {error}");
    let (shown, said, error) = run(&["models", "show", "m"], None);
    assert!(shown && said.contains("R² by feature, lowest first: "), "{said} {error}");

    // The command sends blocks of 32,768 rows: the row is in the second.
    let mut many: Vec<f32> = sample(40_000, FEATURES, 9);
    many[35_000 * FEATURES + 1] = 1e30;
    let many = write("many.csv", &many);
    let codes = folder.path().join("rows.npy");
    let output = codes.to_str().expect("text");
    let (done, _, error) = run(&["reconstruct", "m", &many, "-o", output], None);
    assert!(!done && error.contains("that is row 35001 of") && error.contains("many.csv"), "{error}");
    let (scored, lines, error) = run(&["score", "m", &many, "--false-alarm-rate", "0.01", "--only-alarms"], None);
    assert!(scored, "{error}");
    let line: Vec<&str> = lines.lines().find(|line| line.starts_with("35001,")).expect("an alarm").split(',').collect();
    assert_eq!((line[5], line[6]), ("1", "2"), "an alarm, for column 2: {line:?}");
}
