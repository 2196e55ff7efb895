//! The page of `halfhitch report`, as a browser reads it.

use std::path::Path;

use crate::cli::{fails, run, succeeds};
use crate::support::files::csv;
use crate::support::process::ServerProcess;
use crate::support::{import, sample, temporary_store};

const FEATURES: usize = 64;
const SECTIONS: [&str; 9] =
    ["model", "training", "orthonormality", "matrices", "figures", "errors", "code-length", "scores", "examples"];
const PAGE_BYTES_MAX: usize = 2_000_000;

/// Rows with column names that look like HTML markup.
fn named_csv(path: &Path, rows: usize) {
    csv(path, FEATURES, &sample(rows, FEATURES, 4));
    let names: Vec<String> = (1..=FEATURES).map(|i| format!("<script>{i}&")).collect();
    let text = std::fs::read_to_string(path).expect("written");
    std::fs::write(path, names.join(",") + "\n" + &text).expect("writes");
}

/// Reads a page and checks its form.
#[track_caller]
fn page(folder: &Path, name: &str) -> String {
    let page = std::fs::read_to_string(folder.join(name)).expect("a page");
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"), "{page}");
    assert!(page.len() < PAGE_BYTES_MAX, "{} bytes", page.len());
    for id in SECTIONS {
        assert!(page.contains(&format!("<section id=\"{id}\">")), "{id}");
    }
    // No external resources and no scripts.
    for word in ["http:", "https:", "\"//", "url(", "@import", "<script", "<iframe", "<object"] {
        assert!(!page.contains(word), "{word}");
    }
    let sources = page.matches("src=\"").count() + page.matches("href=\"").count();
    assert_eq!(sources, page.matches("=\"data:").count(), "all of them are in the page");
    // Each drawing has a title, and each opened tag is closed.
    assert_eq!(page.matches("<svg ").count(), page.matches("role=\"img\"><title>").count());
    for tag in ["svg", "figure", "table", "section", "div", "ul", "dl"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    page
}

#[test]
fn a_page_shows_training_matrices_and_rows() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    named_csv(&folder.path().join("rows.csv"), 300);
    let train = ["train", "tiny", "rows.csv", "--hidden", "12", "--code", "4", "--epochs", "3"];
    succeeds(&server, folder.path(), &train);

    succeeds(&server, folder.path(), &["report", "tiny", "-o", "page.html"]);
    let plain = page(folder.path(), "page.html");
    for text in ["tiny version 1", "64-12-4", "PCA with 4 components", "matrix 2", "Singular values of matrix 2"] {
        assert!(plain.contains(text), "{text}");
    }
    assert_eq!(plain.matches("halfhitch report tiny rows.npy").count(), 5, "what rows would add is told");

    // Replaces the earlier page. Rows of 64 numbers are images of 8 x 8 pixels.
    succeeds(&server, folder.path(), &["report", "tiny@1", "rows.csv", "-o", "page.html"]);
    let with_rows = page(folder.path(), "page.html");
    for text in ["300 rows of rows.csv", "pseudo-inverse", "PCA, fitted on these rows", "95 % of the rows"] {
        assert!(with_rows.contains(text), "{text}");
    }
    // Six rows of each of three kinds, each above its reconstruction.
    assert_eq!(with_rows.matches("data:image/png;base64,").count(), 36);
    assert_eq!(
        with_rows.matches("class=\"missing\"").count(),
        1,
        "everything is told, but for what short codes would do"
    );
    assert!(with_rows.contains("halfhitch models canonicalize tiny@1"));

    let features = ["report", "tiny", "rows.csv", "--image", "none", "-o", "features.html"];
    succeeds(&server, folder.path(), &features);
    let features = page(folder.path(), "features.html");
    assert!(features.contains("&lt;script&gt;1&amp;") && !features.contains("image/png"));

    // The same model and rows give the same page, for any output.
    let output = run(&server, folder.path(), &["--json", "report", "tiny", "rows.csv", "-o", "-"]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).expect("text"), with_rows);
    let told: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert_eq!((&told["version"], &told["rows"]), (&1.into(), &300.into()));
    assert_eq!(told["page_bytes"], with_rows.len());
}

/// The number between two texts of the page.
#[track_caller]
fn figure(page: &str, before: &str, after: &str) -> f64 {
    let (_, rest) = page.split_once(before).expect(before);
    let text = rest.split(after).next().unwrap_or_default();
    text.parse().unwrap_or_else(|_| panic!("{text:?} after {before:?}"))
}

/// Compares a figure that the page shows with four digits.
#[track_caller]
fn check_near(got: f64, expected: f64) {
    assert!((got - expected).abs() <= 1e-3 * expected.abs(), "{got}, expected {expected}");
}

#[test]
fn code_length_and_score_figures_match_other_commands() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    named_csv(&folder.path().join("training.csv"), 1500);
    let mut rows = sample(120, FEATURES, 9);
    rows[7] += 50.0;
    csv(&folder.path().join("rows.csv"), FEATURES, &rows);
    let run_all = |lines: &[&str]| {
        for line in lines {
            succeeds(&server, folder.path(), &line.split(' ').collect::<Vec<_>>());
        }
    };
    run_all(&[
        "train tiny training.csv --hidden 12 --code 4 --epochs 5",
        "models canonicalize tiny",
        "report tiny rows.csv -o page.html",
        "encode tiny rows.csv --code-length 2 -o codes.npy",
        "decode tiny@2 codes.npy -o back.csv",
        "reconstruct tiny@2 rows.csv -o whole.csv",
    ]);
    let page = page(folder.path(), "page.html");
    assert!(!page.contains("class=\"missing\""), "everything is told");

    // The figure at half and at full code length, from the output of other commands.
    let error = |name: &str| {
        let text = std::fs::read_to_string(folder.path().join(name)).expect("written");
        let back = text.lines().flat_map(|line| line.split(',')).map(|value| value.parse::<f64>().expect("a number"));
        rows.iter().zip(back).map(|(x, y)| (f64::from(*x) - y).powi(2)).sum::<f64>() / 120.0
    };
    let (half, whole) = (error("back.csv"), error("whole.csv"));
    assert!(half > 1.01 * whole, "{half} {whole}: there is nothing to tell apart");
    check_near(figure(&page, "With 2 of 4 it is ", ","), half);
    check_near(figure(&page, "with all of them ", ".<"), whole);
    assert!(page.contains("<title>Squared error by code length</title>") && page.contains("in input units"));

    // 100 held-out rows resolve rates down to 1 / 101.
    assert!(page.contains("<title>Distribution of the scores</title>") && page.contains("no rate below 0.009901"));
    for rate in ["0.05", "0.01"] {
        let score = ["--json", "score", "tiny", "rows.csv", "--false-alarm-rate", rate, "-o", "scores.csv"];
        let told = run(&server, folder.path(), &score).stderr;
        let told: serde_json::Value = serde_json::from_slice(&told).expect("JSON");
        let line = format!("<tr><th scope=\"row\">{rate}</th><td>");
        check_near(figure(&page, &line, "<"), told["threshold"].as_f64().expect("a threshold"));
        let (_, rest) = page.split_once(&line).expect("a line");
        let alarms = told["alarms"].as_u64().expect("a count");
        assert!(alarms > 0, "one row is broken");
        assert_eq!(rest.split("<td>").nth(1), Some(&*format!("{alarms}</td>")), "rate {rate}");
        assert!(page.contains(&format!("false-alarm rate {rate}: above ")), "a line at each threshold");
    }
    assert!(!page.contains("<th scope=\"row\">0.001</th>"));
}

#[tokio::test]
async fn a_version_without_a_training_report_has_a_page() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    import(&server, "foreign", &[FEATURES, 16, 3]).await;
    csv(&folder.path().join("one.csv"), FEATURES, &sample(1, FEATURES, 2));
    succeeds(&server, folder.path(), &["report", "foreign", "one.csv", "--image", "4x16", "-o", "page.html"]);
    let page = page(folder.path(), "page.html");
    assert!(page.contains("has no training report") && page.contains("4 × 16"));
    assert!(page.contains("did not score these rows: foreign version 1 has no statistics"));
}

#[test]
fn errors_leave_the_earlier_page_unchanged() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    named_csv(&folder.path().join("rows.csv"), 60);
    csv(&folder.path().join("narrow.csv"), 4, &sample(10, 4, 1));
    std::fs::write(folder.path().join("page.html"), "the page before").expect("writes");
    succeeds(&server, folder.path(), &["train", "tiny", "rows.csv", "--code", "2", "--epochs", "1"]);
    let case = |more: &[&str], code, texts: &[&str]| {
        let args = [&["report", "-o", "page.html"], more].concat();
        fails(&server, folder.path(), &args, code, texts);
    };
    case(&["Bad Name"], 1, &["INVALID_ARGUMENT", "name"]);
    case(&["tiny@"], 2, &["NAME@VERSION"]);
    case(&["tiny@9"], 1, &["NOT_FOUND", "9"]);
    case(&["nobody"], 1, &["NOT_FOUND", "nobody"]);
    case(&["tiny", "away.csv"], 1, &["away.csv"]);
    case(&["tiny", "narrow.csv"], 1, &["narrow.csv", "4 numbers", "expected 64"]);
    case(&["tiny", "rows.csv", "--image", "8"], 2, &["--image", "WIDTHxHEIGHT"]);
    case(&["tiny", "rows.csv", "--image", "7x9"], 2, &["7x9", "63 pixels", "64 numbers"]);
    case(&["tiny", "--image", "8x8"], 2, &["FILE"]);
    fails(&server, folder.path(), &["report", "tiny"], 2, &["--output"]);
    fails(&server, folder.path(), &["report", "tiny", "-o", "away/page.html"], 2, &["away", "does not exist"]);
    fails(&server, folder.path(), &["report", "tiny", "-o", "."], 2, &["is a folder"]);
    let before = std::fs::read_to_string(folder.path().join("page.html")).expect("still there");
    assert_eq!(before, "the page before");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 3, "and nothing beside it");
}
