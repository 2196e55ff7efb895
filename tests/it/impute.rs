//! Missing values: training, imputation, encoding and scores; and errors where they are not allowed.

use std::path::Path;

use halfhitch::files::{ReadOptions, open};
use halfhitch::numeric::rng::{GOLDEN, mix};
use halfhitch::rpc::pb;
use tonic::Code;

use crate::cli;
use crate::support::process::ServerProcess;
use crate::support::{
    AutoencoderClient, TestServer, float_matrix, matrix, newest, numbers, sample, served, spec, temporary_store, train,
};

const PIXELS: usize = 64;

/// The digits in shuffled order, without labels.
fn digits() -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/digits.csv.gz");
    let options = ReadOptions { drop_columns: vec!["65".to_owned()], ..ReadOptions::default() };
    let mut reader = open(&path, &options).expect("the digits");
    let mut values = Vec::new();
    while reader.next_rows(&mut values, 1000).expect("reads") > 0 {}
    let values = halfhitch::files::narrow(&values);
    let mut rows: Vec<(u64, &[f32])> = values.chunks_exact(PIXELS).enumerate().map(|(i, row)| (hash(i), row)).collect();
    rows.sort_by_key(|(key, _)| *key);
    rows.into_iter().flat_map(|(_, row)| row.to_vec()).collect()
}

fn hash(i: usize) -> u64 {
    mix((i as u64 + 1).wrapping_mul(GOLDEN))
}

/// Hides a random `share` of the values.
fn hidden(values: &[f32], share: f64, seed: usize) -> Vec<f32> {
    let missing = |i: usize| (hash(i + (seed << 32)) >> 11) as f64 / (1u64 << 53) as f64 <= share;
    values.iter().enumerate().map(|(i, value)| if missing(i) { f32::NAN } else { *value }).collect()
}

async fn impute(client: &mut AutoencoderClient, name: &str, columns: usize, rows: &[f32]) -> Vec<f32> {
    let question = pb::ImputeRequest { model: newest(name), rows: Some(matrix(columns, rows)), ..Default::default() };
    numbers(client.impute(question).await.expect("imputes").into_inner().rows)
}

/// Root mean squared errors of the hidden values: for the model, and for the means of the training rows.
fn errors(whole: &[f32], gaps: &[f32], filled: &[f32], means: &[f64]) -> (f64, f64) {
    let (mut by_model, mut by_mean, mut count) = (0.0, 0.0, 0.0);
    for (i, gap) in gaps.iter().enumerate() {
        if gap.is_nan() {
            by_model += (f64::from(filled[i]) - f64::from(whole[i])).powi(2);
            by_mean += (means[i % PIXELS] - f64::from(whole[i])).powi(2);
            count += 1.0;
        } else {
            assert_eq!(gap.to_bits(), filled[i].to_bits(), "what is there is answered as it came");
        }
    }
    ((by_model / count).sqrt(), (by_mean / count).sqrt())
}

/// Imputes held-out digits with models trained on complete rows and on rows with gaps.
#[tokio::test(flavor = "multi_thread")]
async fn hidden_pixels_are_imputed_much_better_than_by_means() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let digits = digits();
    let (test, training) = digits.split_at(400 * PIXELS);
    for missing_in_training in [0.0, 0.2] {
        let rows = hidden(training, missing_in_training, 1);
        let mut spec = spec("digits", &[64, 256, 128, 30]);
        (spec.epochs, spec.missing_values) = (60, true);
        train(&mut client, spec, &rows).await.expect("trains");
        let means: Vec<f64> = (0..PIXELS)
            .map(|j| {
                let there: Vec<f64> =
                    rows.iter().skip(j).step_by(PIXELS).filter(|x| !x.is_nan()).map(|x| f64::from(*x)).collect();
                there.iter().sum::<f64>() / there.len() as f64
            })
            .collect();
        for share in [0.1, 0.3, 0.5] {
            let gaps = hidden(test, share, 2);
            let filled = impute(&mut client, "digits", PIXELS, &gaps).await;
            let (by_model, by_mean) = errors(test, &gaps, &filled, &means);
            println!(
                "missing in training {missing_in_training}, hidden {share}: RMSE {by_model:.3}, by means {by_mean:.3}, ratio {:.3}",
                by_model / by_mean
            );
            assert!(by_model < 0.7 * by_mean, "hidden {share}: {by_model} beside {by_mean}");
        }
    }
    server.stop().await;
}

/// Trains a model of 8 features with missing values allowed, on rows with some.
async fn with_gaps(server: &TestServer, name: &str) {
    let spec = pb::TrainSpec { missing_values: true, epochs: 20, ..spec(name, &[8, 6, 3]) };
    let result =
        train(&mut server.autoencoder().await, spec, &hidden(&sample(600, 8, 7), 0.2, 3)).await.expect("trains");
    let notes = result.training_report.expect("a report").notes;
    assert!(notes.iter().any(|note| note.contains("missing values:")), "{notes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_gaps_give_the_same_results_in_any_batch() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    with_gaps(&server, "m").await;
    let mut client = server.autoencoder().await;
    let mut rows = hidden(&sample(70, 8, 3), 0.3, 4);
    rows[..8].fill(f32::NAN);
    let filled = impute(&mut client, "m", 8, &rows).await;
    assert!(filled.iter().all(|value| value.is_finite()));
    let ask = |rows: &[f32]| (Some(matrix(8, rows)), newest("m"));
    let (together, model) = ask(&rows);
    let codes = client
        .encode(pb::EncodeRequest { model, rows: together.clone(), code_length: 0, ..Default::default() })
        .await
        .expect("encodes");
    let codes = numbers(codes.into_inner().codes);
    let question =
        pb::ReconstructRequest { model: newest("m"), rows: together.clone(), decoder: 0, ..Default::default() };
    let rebuilt = client.reconstruct(question).await.expect("reconstructs").into_inner();
    assert_eq!(rebuilt.squared_errors[0], 0.0, "nothing of this row is there to be wrong about");
    let score = |rows| pb::ScoreRequest { model: newest("m"), rows, reasons: 8, false_alarm_rate: None };
    let scores = client.score(score(together)).await.expect("scores").into_inner();
    for (i, row) in rows.chunks_exact(8).enumerate() {
        let alone = impute(&mut client, "m", 8, row).await;
        assert!(alone.iter().zip(&filled[8 * i..]).all(|(a, b)| a.to_bits() == b.to_bits()), "row {i}");
        let question = pb::EncodeRequest {
            model: newest("m"),
            rows: Some(float_matrix(8, row)),
            code_length: 0,
            ..Default::default()
        };
        let code = numbers(client.encode(question).await.expect("encodes").into_inner().codes);
        assert!(code.iter().zip(&codes[3 * i..]).all(|(a, b)| a.to_bits() == b.to_bits()), "row {i}");
        let alone = client.score(score(Some(matrix(8, row)))).await.expect("scores").into_inner();
        assert_eq!(alone.scores[0].to_bits(), scores.scores[i].to_bits());
        assert_eq!(alone.reasons[0], scores.reasons[i]);
        for reason in scores.reasons[i].features.iter().filter(|reason| row[reason.feature as usize].is_nan()) {
            assert_eq!(reason.contribution, 0.0, "what is missing is no reason");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsupported_missing_values_are_rejected() {
    let store = temporary_store();
    let server = served(store.path(), "plain", &[8, 3]).await;
    with_gaps(&server, "gaps").await;
    let mut client = server.autoencoder().await;
    let rows = sample(2, 8, 3);
    let wrong = |value: f32| {
        let mut wrong = rows.clone();
        wrong[9] = value;
        Some(matrix(8, &wrong))
    };
    let question = |name: &str, rows| pb::ImputeRequest { model: newest(name), rows, ..Default::default() };

    let refused = client.impute(question("plain", wrong(f32::NAN))).await.expect_err("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("`halfhitch train --missing-values`"), "{refused:?}");
    let refused = client.impute(question("gaps", wrong(f32::INFINITY))).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("row 2, column 2 is inf"), "{refused:?}");
    let refused = client.impute(question("gaps", Some(matrix(7, &rows[..14])))).await.expect_err("refused");
    assert!(refused.message().contains('8'), "{refused:?}");
    let encode =
        pb::EncodeRequest { model: newest("plain"), rows: wrong(f32::NAN), code_length: 0, ..Default::default() };
    let refused = client.encode(encode).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("only for models trained with `missing_values`"), "{refused:?}");
    // Codes cannot have missing values.
    let model = crate::support::version("gaps", 1);
    let codes = Some(matrix(3, &[0.0, f32::NAN, 0.0]));
    let refused =
        client.decode(pb::DecodeRequest { model, codes, decoder: 0, ..Default::default() }).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);

    let upload = train(&mut client, spec("other", &[8, 3]), &hidden(&sample(100, 8, 7), 0.2, 3)).await;
    let refused = upload.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("only for models trained with `missing_values`"), "{refused:?}");
    let spec = pb::TrainSpec { missing_values: true, ..spec("other", &[8, 3]) };
    let mut never = sample(100, 8, 7);
    never.iter_mut().skip(3).step_by(8).for_each(|value| *value = f32::NAN);
    let failed = train(&mut client, spec, &never).await.expect_err("fails");
    assert!(failed.message().contains("column 4 is missing in every training row"), "{failed:?}");
    server.stop().await;
}

/// Imputes a file with gaps; also trains on it as a server file.
#[test]
fn the_command_fills_in_a_file() {
    let store = temporary_store();
    let folder = temporary_store();
    let files = folder.path().to_str().expect("a path");
    let server = ServerProcess::start_with(store.path(), &["--train-folder", files]);
    let gaps = hidden(&sample(300, 8, 7), 0.2, 3);
    let text: String = gaps
        .chunks_exact(8)
        .map(|row| {
            row.iter().map(|x| if x.is_nan() { String::new() } else { x.to_string() }).collect::<Vec<_>>().join(",")
                + "\n"
        })
        .collect();
    std::fs::write(folder.path().join("gaps.csv"), &text).expect("writes");
    let run = |args: &[&str]| cli::run(&server, folder.path(), args);
    let without = run(&["train", "m", "gaps.csv", "--code", "3"]);
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(!without.status.success() && said.contains("unless values may be missing"), "{said}");
    for source in [&["gaps.csv", "--code", "3"][..], &["--server-files", "gaps.csv", "--widths", "8,3"]] {
        let trained = run(&[&["train", "m", "--missing-values", "--epochs", "5"], source].concat());
        assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    }
    let filled = run(&["impute", "m", "gaps.csv", "-o", "whole.csv"]);
    assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
    let whole = std::fs::read_to_string(folder.path().join("whole.csv")).expect("written");
    let whole: Vec<f32> =
        whole.lines().flat_map(|line| line.split(',')).map(|x| x.parse().expect("a number")).collect();
    assert_eq!(whole.len(), gaps.len());
    assert!(whole.iter().zip(&gaps).all(|(whole, gap)| whole.is_finite() && (gap.is_nan() || whole == gap)));
}

/// A table with names, a text column that is skipped, ids that binary32 cannot represent, and three columns with gaps.
fn table(separator: char, decimal: char, end: &str, quote: &str) -> String {
    let cell = |text: String| format!("{quote}{text}{quote}");
    let line = |cells: Vec<String>| cells.join(&separator.to_string()) + end;
    let mut text = line(["name", "order_id", "a", "b", "c"].map(|name| cell(name.to_owned())).to_vec());
    for (i, row) in sample(240, 3, 7).chunks_exact(3).enumerate() {
        let mut cells = vec![cell(format!("row {i}")), cell((2_024_000_001 + i).to_string())];
        for (j, value) in row.iter().enumerate() {
            let gap = ["", "NA"][i % 2].to_owned();
            let value = format!("{value:.4}").replace('.', &decimal.to_string());
            cells.push(cell(if (5 * i + j).is_multiple_of(9) { gap } else { value }));
        }
        text.push_str(&line(cells));
    }
    text
}

#[test]
fn impute_changes_only_the_gaps_of_a_text_file() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    for (separator, decimal, end, quote) in [(',', '.', "\n", ""), (';', ',', "\r\n", ""), ('\t', '.', "\n", "\"")] {
        let text = table(separator, decimal, end, quote);
        std::fs::write(folder.path().join("gaps.csv"), &text).expect("writes");
        let choose = ["--drop-columns", "name"];
        let train = ["train", "m", "gaps.csv", "--code", "2", "--epochs", "2", "--missing-values"];
        cli::succeeds(&server, folder.path(), &[&train[..], &choose].concat());
        cli::succeeds(&server, folder.path(), &[&["impute", "m", "gaps.csv", "-o", "whole.csv"][..], &choose].concat());
        let whole = std::fs::read_to_string(folder.path().join("whole.csv")).expect("written");
        assert_eq!(whole.split(end).count(), text.split(end).count());
        let mut gaps = 0;
        for (before, after) in text.split(end).zip(whole.split(end)) {
            let (before, after): (Vec<&str>, Vec<&str>) =
                (before.split(separator).collect(), after.split(separator).collect());
            assert_eq!(before.len(), after.len());
            let fields = before.len();
            for (before, after) in before.into_iter().zip(after) {
                // The text after the last line end is empty but is not a gap.
                let is_gap = ["", "NA", "\"\"", "\"NA\""].contains(&before) && fields > 1;
                if is_gap {
                    let value = after.strip_prefix(quote).and_then(|text| text.strip_suffix(quote)).expect("in quotes");
                    let value = value.replace(decimal, ".").parse::<f64>();
                    assert!(value.is_ok_and(f64::is_finite), "{after:?} for a gap");
                    gaps += 1;
                } else {
                    assert_eq!(before, after, "what is there stays");
                }
            }
        }
        assert!(gaps > 20, "{gaps}");
        // In place and from standard input.
        let file = std::fs::File::open(folder.path().join("gaps.csv")).expect("opens");
        let mut command = crate::support::process::halfhitch();
        command.args(["--server", &server.url(), "impute", "m", "-"]).args(choose).stdin(file);
        assert_eq!(String::from_utf8(command.output().expect("runs").stdout).expect("text"), whole);
        cli::succeeds(&server, folder.path(), &[&["impute", "m", "gaps.csv", "-o", "gaps.csv"][..], &choose].concat());
        assert_eq!(std::fs::read_to_string(folder.path().join("gaps.csv")).expect("there"), whole);
    }
}

#[test]
fn impute_keeps_the_bits_of_present_array_values() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    let single = hidden(&sample(300, 4, 7), 0.2, 3);
    let double: Vec<f64> = single.iter().map(|value| 1.7e9 + f64::from(*value) / 3.0).collect();
    for (name, descr, values) in [
        ("single.npy", "<f4", halfhitch::files::Values::F32(&single)),
        ("double.npy", "<f8", halfhitch::files::Values::F64(&double)),
    ] {
        let path = folder.path().join(name);
        let mut writer = halfhitch::files::create(path.to_str().expect("text"), None).expect("creates");
        writer.write(values, 4).expect("writes");
        writer.finish().expect("finishes");
        let read = || {
            let options = ReadOptions { missing_values: true, ..ReadOptions::default() };
            let mut reader = open(&path, &options).expect("opens");
            let mut values = Vec::new();
            while reader.next_rows(&mut values, 1000).expect("reads") > 0 {}
            values
        };
        let before = read();
        cli::succeeds(
            &server,
            folder.path(),
            &["train", "m", name, "--code", "2", "--epochs", "2", "--missing-values"],
        );
        cli::succeeds(&server, folder.path(), &["impute", "m", name, "-o", name]);
        let after = read();
        assert_eq!(before.len(), after.len());
        assert!(before.iter().zip(&after).all(|(a, b)| b.is_finite() && (a.is_nan() || a.to_bits() == b.to_bits())));
        let head = std::fs::read(&path).expect("there");
        assert!(String::from_utf8_lossy(&head[..128]).contains(descr), "{name}");
    }
}
