//! The command line, as users and scripts call it.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::eventually::eventually_blocking;
use crate::support::files::csv;
use crate::support::process::{ServerProcess, halfhitch};
use crate::support::{sample, temporary_store};

pub(crate) fn run(server: &ServerProcess, folder: &Path, args: &[&str]) -> Output {
    halfhitch().current_dir(folder).args(["--server", &server.url()]).args(args).output().expect("the binary runs")
}

#[track_caller]
pub(crate) fn succeeds(server: &ServerProcess, folder: &Path, args: &[&str]) -> String {
    let output = run(server, folder, args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn json(text: &str) -> Value {
    serde_json::from_str(text.lines().next().expect("a line")).expect("JSON")
}

#[track_caller]
pub(crate) fn fails(server: &ServerProcess, folder: &Path, args: &[&str], code: i32, texts: &[&str]) {
    let output = run(server, folder, args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    for text in texts {
        assert!(errors.contains(text), "{args:?}: {errors:?} does not say {text:?}");
    }
}

#[test]
fn train_uses_server_files_without_sending_them() {
    let (store, folder, here) = (temporary_store(), temporary_store(), temporary_store());
    let folder_flag = folder.path().to_string_lossy();
    let server = ServerProcess::start_with(store.path(), &["--train-folder", &folder_flag]);
    csv(&folder.path().join("rows.csv"), 6, &sample(200, 6, 1));
    csv(&folder.path().join("test.csv"), 6, &sample(30, 6, 2));
    let train = ["--json", "train", "far", "--server-files", "rows.csv,rows.csv", "--server-test", "test.csv"];
    let train = [&train[..], &["--columns", "1,2,5", "--widths", "3,2", "--epochs", "2"]].concat();
    let trained = json(&succeeds(&server, here.path(), &train));
    let report = &trained["model"]["training_report"];
    assert_eq!(report["test"]["rows"], 30);
    let rows = report["training_rows"].as_u64().zip(report["validation"]["rows"].as_u64());
    assert_eq!(rows.map(|(training, validation)| training + validation), Some(400));

    let away = ["train", "far", "--server-files", "gone.csv", "--widths", "6,2"];
    fails(&server, here.path(), &away, 1, &["gone.csv", "train_folder"]);
    fails(&server, here.path(), &["train", "far", "--server-files", "rows.csv", "--code", "2"], 2, &["--widths"]);
    let both = ["train", "far", "here.csv", "--server-files", "rows.csv", "--widths", "6,2"];
    fails(&server, here.path(), &both, 2, &["cannot be used with"]);
}

#[test]
fn commands_train_encode_decode_and_reconstruct_a_file() {
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    let folder = temporary_store();
    let at = |name: &str| folder.path().join(name);
    let rows = sample(400, 10, 1);
    csv(&at("rows.csv"), 10, &rows);
    csv(&at("test.csv"), 10, &sample(50, 10, 2));
    let train =
        ["--json", "train", "plane", "rows.csv", "--test", "test.csv", "--hidden", "8", "--code", "4", "--epochs", "5"];
    let trained = json(&succeeds(&server, folder.path(), &train));
    assert_eq!(trained["version"], 1);
    assert_eq!(trained["model"]["widths"], serde_json::json!([10, 8, 4]));
    assert_eq!(trained["model"]["training_report"]["test"]["rows"], 50);

    succeeds(&server, folder.path(), &["encode", "plane", "rows.csv", "-o", "codes.npy"]);
    succeeds(&server, folder.path(), &["decode", "plane@1", "codes.npy", "-o", "back.csv"]);
    succeeds(
        &server,
        folder.path(),
        &["reconstruct", "plane", "rows.csv", "-o", "again.csv", "--errors", "errors.csv"],
    );
    let read = |name: &str| std::fs::read_to_string(at(name)).expect("written");
    assert_eq!(read("back.csv"), read("again.csv"), "decode after encode is reconstruct");
    assert_eq!(read("back.csv").lines().count(), 400);
    assert_eq!(read("errors.csv").lines().count(), 400);
    let to_output = succeeds(&server, folder.path(), &["encode", "plane", "rows.csv"]);
    assert_eq!(to_output.lines().count(), 400);
    // The same rows with another column, in a file with names.
    let wide = read("rows.csv").lines().map(|line| ["x,", line, "\n"].concat()).collect::<String>();
    std::fs::write(
        at("wide.csv"),
        format!("label,{}\n{wide}", ('a'..='j').map(String::from).collect::<Vec<_>>().join(",")),
    )
    .expect("writes");
    for choice in [["--columns", "a,b,c,d,e,f,g,h,i,j"], ["--drop-columns", "label"]] {
        let args = [&["encode", "plane", "wide.csv"][..], &choice].concat();
        assert_eq!(succeeds(&server, folder.path(), &args), to_output);
    }

    assert!(succeeds(&server, folder.path(), &["models", "list"]).contains("plane"));
    assert!(succeeds(&server, folder.path(), &["models", "show", "plane"]).contains("10-8-4"));
    succeeds(&server, folder.path(), &["models", "export", "plane", "-o", "plane.safetensors"]);
    succeeds(&server, folder.path(), &["models", "import", "copy", "plane.safetensors"]);
    succeeds(&server, folder.path(), &["models", "alias", "set", "copy@1", "prod"]);
    assert_eq!(succeeds(&server, folder.path(), &["encode", "copy@prod", "rows.csv"]), to_output);
    fails(&server, folder.path(), &["models", "delete", "copy@1"], 1, &["FAILED_PRECONDITION", "prod"]);
    succeeds(&server, folder.path(), &["models", "alias", "delete", "copy", "prod", "--expected", "1"]);
    succeeds(&server, folder.path(), &["models", "delete", "copy@1"]);

    let jobs = json(&succeeds(&server, folder.path(), &["--json", "jobs", "list"]));
    assert_eq!(jobs["state"], "JOB_STATE_SUCCEEDED");
    let id = jobs["id"].as_str().expect("an id");
    succeeds(&server, folder.path(), &["jobs", "watch", id]);
    fails(&server, folder.path(), &["jobs", "cancel", id], 1, &["FAILED_PRECONDITION", "succeeded"]);
    assert_eq!(succeeds(&server, folder.path(), &["health"]).trim(), "SERVING");
}

#[test]
fn errors_name_the_cause_and_the_remedy() {
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    let folder = temporary_store();
    csv(&folder.path().join("rows.csv"), 4, &sample(30, 4, 1));
    std::fs::write(folder.path().join("bad.csv"), "1,2\n3,x\n").expect("writes");
    let case = |args: &[&str], code, texts: &[&str]| fails(&server, folder.path(), args, code, texts);
    case(&["encode", "nobody", "rows.csv"], 1, &["NOT_FOUND", "nobody"]);
    case(&["encode", "x", "nowhere.csv"], 1, &["nowhere.csv"]);
    case(&["encode", "x", "bad.csv"], 1, &["line 2", "column 2", "\"x\""]);
    case(&["encode", "x", "rows.csv", "--columns", "5"], 1, &["\"5\" to take", "1 to 4"]);
    #[cfg(not(feature = "arrow"))]
    {
        std::fs::write(folder.path().join("rows.parquet"), "PAR1").expect("writes");
        case(&["encode", "x", "rows.parquet"], 1, &["rows.parquet", "Parquet", "--features arrow"]);
    }
    case(&["train", "x", "rows.csv", "--widths", "5,2"], 2, &["--widths", "5", "4"]);
    case(&["train", "Bad Name", "rows.csv", "--code", "2"], 1, &["INVALID_ARGUMENT", "model name"]);
    case(&["train", "x", "rows.csv", "--code", "0"], 2, &["--code", "0"]);
    case(&["train", "x", "rows.csv", "--code", "2", "--explain", "0.9"], 2, &["--explain", "--code"]);
    let train = |more: &[&'static str]| [&["train", "x", "rows.csv", "--code", "2"], more].concat();
    case(&train(&["--time-budget", "ten minutes"]), 2, &["--time-budget", "90s"]);
    case(&train(&["--time-budget", "10m", "--epochs", "3"]), 2, &["--time-budget", "--epochs"]);
    case(&train(&["--time-budget", "100ms"]), 1, &["INVALID_ARGUMENT", "time_budget is 100ms"]);
    case(&train(&["--masking", "0.99"]), 1, &["INVALID_ARGUMENT", "regularization.masking is 0.99"]);
    case(&train(&["--optimizer", "sgd", "--beta2", "0.9"]), 1, &["optimizer.beta2", "needs AdamW"]);
    case(&["models", "delete", "x"], 2, &["NAME@VERSION"]);
    case(&["jobs", "show", "nonsense"], 1, &["NOT_FOUND"]);
    let nobody = halfhitch().args(["--server", "http://127.0.0.1:1", "models", "list"]).output().expect("runs");
    let errors = String::from_utf8_lossy(&nobody.stderr);
    assert!(!nobody.status.success() && errors.contains("halfhitch serve"), "{errors}");
    let serve = halfhitch().args(["serve", "--listen", "nowhere"]).output().expect("runs");
    let errors = String::from_utf8_lossy(&serve.stderr);
    assert!(!serve.status.success() && errors.contains("listen") && errors.contains("nowhere"), "{errors}");
    let serve = halfhitch()
        .current_dir(folder.path())
        .args(["serve", "--listen", "127.0.0.1:0", "--train-folder", "nowhere"])
        .output()
        .expect("runs");
    let errors = String::from_utf8_lossy(&serve.stderr);
    assert!(!serve.status.success() && errors.contains("train_folder") && errors.contains("nowhere"), "{errors}");
}

#[test]
fn print_config_shows_the_source_of_each_setting() {
    let printed = halfhitch()
        .env("HALFHITCH_BATCH_ROWS_MAX", "64")
        .args(["serve", "--print-config", "--open-jobs-max", "3"])
        .output()
        .expect("runs");
    let text = String::from_utf8(printed.stdout).expect("text");
    assert!(printed.status.success());
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).expect("printed");
    assert!(line("batch_rows_max = 64").ends_with("# variable HALFHITCH_BATCH_ROWS_MAX"), "{text}");
    assert!(line("open_jobs_max = 3").ends_with("# flag"), "{text}");
    assert!(line("listen").ends_with("# default"), "{text}");
}

/// The published figure: held-out digits from codes of 8 numbers, compared with PCA of 8 components.
#[test]
fn the_quickstart_beats_pca_on_held_out_digits() {
    for seed in ["1", "2", "3"] {
        let output = halfhitch().args(["--json", "quickstart", "--seed", seed]).output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let figures = json(&String::from_utf8(output.stdout).expect("text"));
        let ratio = figures["ratio_to_pca"].as_f64().expect("a number");
        assert!(ratio <= 0.90, "seed {seed}: {ratio}");
    }
}

/// One linear layer matches PCA.
#[test]
fn a_linear_model_of_the_digits_is_within_one_percent_of_pca() {
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/digits.csv.gz");
    let digits = digits.to_str().expect("a path");
    let linear = [
        "--json",
        "train",
        "linear",
        digits,
        "--drop-columns",
        "65",
        "--code",
        "8",
        "--loss",
        "squared-error",
        "--output-activation",
        "linear",
    ];
    for seed in ["1", "2", "3"] {
        let trained = json(&succeeds(&server, store.path(), &[&linear[..], &["--seed", seed]].concat()));
        let figures = &trained["model"]["training_report"]["validation"];
        let ratio = figures["squared_error"].as_f64().expect("a number")
            / figures["pca_squared_error"].as_f64().expect("a number");
        assert!((ratio - 1.0).abs() <= 0.01, "seed {seed}: {ratio}");
    }
}

/// A client that is killed during an upload resumes with its key; the rows equal those of an undisturbed upload.
#[test]
fn a_killed_client_resumes_its_upload() {
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    let folder = temporary_store();
    csv(&folder.path().join("rows.csv"), 16, &sample(60_000, 16, 3));
    let args = ["--json", "train", "killed", "rows.csv", "--code", "2", "--epochs", "1", "--idempotency-key", "again"];
    for pause_ms in [40, 120, 200] {
        let mut client = halfhitch()
            .current_dir(folder.path())
            .args(["--server", &server.url()])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("runs");
        std::thread::sleep(Duration::from_millis(pause_ms));
        client.kill().expect("killed, or ended already");
        client.wait().expect("ended");
    }
    let resumed = json(&succeeds(&server, folder.path(), &args));
    let whole = ["--json", "train", "whole", "rows.csv", "--code", "2", "--epochs", "1"];
    let whole = json(&succeeds(&server, folder.path(), &whole));
    let digest = |trained: &Value| trained["model"]["training_report"]["data_sha256"].clone();
    assert_eq!(digest(&resumed), digest(&whole));
    assert!(digest(&whole).is_string());
    let jobs = succeeds(&server, folder.path(), &["--json", "jobs", "list"]);
    assert_eq!(jobs.lines().count(), 2, "one job for the key, whatever happened to its client");
}

fn open_jobs(server: &ServerProcess, folder: &Path) -> Vec<Value> {
    let listed = succeeds(server, folder, &["--json", "jobs", "list"]);
    let jobs = listed.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    jobs.filter(|job| job["state"] == "JOB_STATE_UPLOADING").collect()
}

/// Failed trainings with invalid files do not use up quotas that others need.
#[test]
fn train_cancels_its_job_if_the_file_is_broken() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start_with(store.path(), &["--open-jobs-max", "2", "--open-uploads-max", "2"]);
    let lines: Vec<String> = (0..50).map(|i| format!("{i},{}", i * 2)).collect();
    let text = lines.join("\n") + "\n1,x\n";
    std::fs::write(folder.path().join("bad.csv"), text).expect("writes");
    csv(&folder.path().join("good.csv"), 2, &sample(60, 2, 1));
    for _ in 0..4 {
        let texts = ["bad.csv", "line 51", "is canceled"];
        fails(&server, folder.path(), &["train", "m", "bad.csv", "--code", "1"], 1, &texts);
    }
    assert_eq!(open_jobs(&server, folder.path()), Vec::<Value>::new());
    succeeds(&server, folder.path(), &["train", "m", "good.csv", "--code", "1", "--epochs", "2"]);
    let rounds = ["train", "m", "bad.csv", "--code", "1", "--follow", "--publish-rows", "1000"];
    fails(&server, folder.path(), &rounds, 1, &["bad.csv", "line 51", "is canceled"]);
    assert_eq!(open_jobs(&server, folder.path()), Vec::<Value>::new());
}

/// Ctrl-C while rows are sent cancels the job, unless a key was given to resume it.
#[cfg(unix)]
#[test]
fn an_interrupted_train_cancels_its_job_or_names_its_key() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    // More chunks than can be in flight.
    let row = "0.25,0.5,0.75,1.5,2.5,3.5,4.5,5.5\n";
    std::fs::write(folder.path().join("many.csv"), row.repeat(600_000)).expect("writes");
    for (key, expected, left) in [(None, "is canceled", 0), (Some("again"), "idempotency key again", 1)] {
        let mut command = halfhitch();
        command.current_dir(folder.path()).args([
            "--server",
            &server.url(),
            "train",
            "m",
            "many.csv",
            "--widths",
            "8,1",
        ]);
        command.args(key.map_or(vec![], |key| vec!["--idempotency-key", key]));
        let child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the binary runs");
        eventually_blocking("an upload is seen", || match open_jobs(&server, folder.path()).len() {
            0 => Err("no open job"),
            _ => Ok(()),
        });
        // The stopped server keeps the upload from ending.
        server.signal("STOP");
        let id = child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &id]).status().expect("kill exists").success());
        server.signal("CONT");
        let output = child.wait_with_output().expect("it ends");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{errors}");
        assert!(errors.contains(expected), "{errors}");
        assert_eq!(open_jobs(&server, folder.path()).len(), left, "{errors}");
    }
}
