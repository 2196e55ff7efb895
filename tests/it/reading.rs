//! Tables in the command line: every command reads a file the same way and reports its decisions.

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::cli::{fails, run, succeeds};
use crate::support::process::{ServerProcess, halfhitch};
use crate::support::{sample, temporary_store};

const COLUMNS: usize = 4;
const ROWS: usize = 60;

/// A table of numbers below a first line.
fn table(first: &str, separator: &str, decimal: &str, end: &str, values: &[f32]) -> String {
    let line =
        |row: &[f32]| row.iter().map(|v| v.to_string().replace('.', decimal)).collect::<Vec<_>>().join(separator);
    std::iter::once(first.to_owned()).chain(values.chunks(COLUMNS).map(line)).map(|line| line + end).collect()
}

fn run_with_input(server: &ServerProcess, folder: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = halfhitch()
        .current_dir(folder)
        .args(["--server", &server.url()])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("a pipe").write_all(input).expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn numeric_headers_are_not_read_as_rows() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    let rows = sample(ROWS, COLUMNS, 3);
    let text = table("0,1,2,3", ",", ".", "\n", &rows);
    std::fs::write(folder.path().join("rows.csv"), &text).expect("writes");
    let told = "note: rows.csv: line 1 is read as names of columns: 0, 1, 2 and so on (--header no if it is a row)";
    for (name, more) in [("plain", &[][..]), ("gaps", &["--missing-values"])] {
        let args = [&["--json", "train", name, "rows.csv", "--code", "2", "--epochs", "2"], more].concat();
        let output = run(&server, folder.path(), &args);
        assert!(output.status.success(), "{}", errors(&output));
        let trained: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        let report = &trained["model"]["training_report"];
        let all = report["training_rows"].as_u64().zip(report["validation"]["rows"].as_u64());
        assert_eq!(all.map(|(training, held_out)| training + held_out), Some(ROWS as u64), "{report}");
        let note = errors(&output).lines().find(|line| line.contains("names of columns")).map(str::to_owned);
        let note: serde_json::Value = serde_json::from_str(&note.expect("a note")).expect("JSON");
        assert_eq!(note["file"], "rows.csv");
    }
    let codes = run(&server, folder.path(), &["encode", "plain", "rows.csv"]);
    assert_eq!(String::from_utf8_lossy(&codes.stdout).lines().count(), ROWS);
    assert_eq!(errors(&codes).lines().filter(|line| *line == told).count(), 1, "{}", errors(&codes));
    for (args, lines) in [
        (&["encode", "gaps", "rows.csv", "--missing-values"][..], ROWS),
        (&["reconstruct", "plain", "rows.csv"], ROWS),
        (&["score", "plain", "rows.csv"], ROWS + 1),
        (&["encode", "plain", "rows.csv", "--header", "yes"], ROWS),
        (&["encode", "plain", "rows.csv", "--header", "no"], ROWS + 1),
    ] {
        assert_eq!(succeeds(&server, folder.path(), args).lines().count(), lines, "{args:?}");
    }
    let piped = run_with_input(&server, folder.path(), &["encode", "plain", "-"], text.as_bytes());
    assert_eq!(piped.stdout, codes.stdout, "{}", errors(&piped));
    assert!(errors(&piped).contains("note: -: line 1 is read as names"));
}

#[test]
fn a_table_of_another_dialect_is_read_by_every_command() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    let rows = sample(ROWS, COLUMNS, 4);
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("writes");
    write("plain.csv", table("a,b,c,d", ",", ".", "\n", &rows).as_bytes());
    let european = table("a;b;c;d", ";", ",", "\r\n", &rows);
    write("european.csv", european.as_bytes());
    let wide: Vec<u8> = european.encode_utf16().flat_map(u16::to_le_bytes).collect();
    write("utf16.csv", &[&b"\xff\xfe"[..], &wide].concat());
    write("blanks.txt", table("# a b c d", " ", ".", "\n", &rows).as_bytes());
    write("mac.tsv", table("a\tb\tc\td", "\t", ".", "\r", &rows).as_bytes());
    succeeds(&server, folder.path(), &["train", "m", "plain.csv", "--code", "2", "--epochs", "2"]);
    let plain = run(&server, folder.path(), &["encode", "m", "plain.csv"]);
    assert!(plain.status.success() && !errors(&plain).contains("note:"), "{}", errors(&plain));
    for (name, told) in [
        ("european.csv", "fields are separated by ';'; the decimal mark is \",\""),
        ("utf16.csv", "the text is UTF-16LE"),
        ("blanks.txt", "fields are separated by spaces or tabs"),
        ("mac.tsv", "fields are separated by tabs"),
    ] {
        for command in ["encode", "reconstruct", "score"] {
            let output = run(&server, folder.path(), &[command, "m", name]);
            let expected = run(&server, folder.path(), &[command, "m", "plain.csv"]);
            assert_eq!(output.stdout, expected.stdout, "{command} {name}: {}", errors(&output));
            assert!(errors(&output).contains(told), "{command} {name}: {}", errors(&output));
        }
    }
    // With all decisions set by options, there are no notes.
    let options = ["encode", "m", "european.csv", "--separator", ";", "--decimal", ",", "--header", "yes"];
    let output = run(&server, folder.path(), &options);
    assert_eq!(output.stdout, plain.stdout, "{}", errors(&output));
    assert!(!errors(&output).contains("note:"), "{}", errors(&output));
}

#[test]
fn invalid_table_options_are_rejected() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    std::fs::write(folder.path().join("rows.csv"), "a,b\n1,2\n3,4\n").expect("writes");
    std::fs::write(folder.path().join("either.csv"), "0,1\n1,0\n0,0\n").expect("writes");
    let case = |more: &[&str], code: i32, texts: &[&str]| {
        let args = [&["encode", "m", "rows.csv"], more].concat();
        fails(&server, folder.path(), &args, code, texts);
    };
    case(&["--separator", "ab"], 2, &["--separator", "another single ASCII mark"]);
    case(&["--decimal", "x"], 2, &["--decimal", "expected `.` or `,`"]);
    case(&["--thousands", "x"], 2, &["--thousands"]);
    case(&["--encoding", "klingon"], 2, &["--encoding", "windows-1252"]);
    case(&["--header", "maybe"], 2, &["--header", "yes or no"]);
    case(&["--separator", ",", "--decimal", ","], 1, &["rows.csv: the separator and the decimal mark are both ','"]);
    fails(
        &server,
        folder.path(),
        &["encode", "m", "either.csv"],
        1,
        &["either.csv: line 1", "--header yes", "--header no"],
    );
}

/// Pipes can be read only once: `<(zcat rows.gz)`, `/dev/stdin`.
#[cfg(unix)]
#[test]
fn a_pipe_is_read_once() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    let text = table("a,b,c,d", ",", ".", "\n", &sample(ROWS, COLUMNS, 3));
    for path in ["-", "/dev/stdin"] {
        let args = ["train", "m", path, "--code", "2", "--epochs", "2"];
        let output = run_with_input(&server, folder.path(), &args, text.as_bytes());
        assert!(output.status.success(), "{path}: {}", errors(&output));
        let output = run_with_input(&server, folder.path(), &["encode", "m", path], text.as_bytes());
        assert!(output.status.success(), "{path}: {}", errors(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), ROWS, "{path}");
    }
}

/// More rows than the queue accepts at once, in few bytes.
#[test]
fn a_long_narrow_file_is_sent_in_parts() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    let lines: Vec<String> = (0..70_000).map(|i| format!("{},{}\n", i % 97, (i % 89) * 2)).collect();
    let rows = lines.concat();
    std::fs::write(folder.path().join("rows.csv"), &rows).expect("writes");
    succeeds(&server, folder.path(), &["train", "m", "rows.csv", "--code", "1", "--epochs", "1"]);
    for command in ["encode", "reconstruct", "score"] {
        let lines = succeeds(&server, folder.path(), &[command, "m", "rows.csv"]).lines().count();
        assert_eq!(lines, 70_000 + usize::from(command == "score"), "{command}");
    }
}

/// Columns that the version does not use can contain anything.
#[test]
fn text_in_unused_columns_is_ignored() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    let rows = sample(ROWS, COLUMNS, 3);
    std::fs::write(folder.path().join("rows.csv"), table("a,b,c,d", ",", ".", "\n", &rows)).expect("writes");
    succeeds(&server, folder.path(), &["train", "m", "rows.csv", "--code", "2", "--epochs", "2"]);
    let plain = succeeds(&server, folder.path(), &["encode", "m", "rows.csv"]);
    let line = |row: &[f32]| format!("Bonn,{},{},,{},{}\n", row[3], row[0], row[1], row[2]);
    let text: String =
        std::iter::once("site,d,a,note,b,c\n".to_owned()).chain(rows.chunks(COLUMNS).map(line)).collect();
    std::fs::write(folder.path().join("full.csv"), &text).expect("writes");
    let output = run(&server, folder.path(), &["encode", "m", "full.csv"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), plain, "{}", errors(&output));
    assert!(
        errors(&output).contains("2 columns are left out") && errors(&output).contains("\"site\" and \"note\""),
        "{}",
        errors(&output)
    );
    let output = run_with_input(&server, folder.path(), &["encode", "m", "-"], text.as_bytes());
    assert_eq!(String::from_utf8_lossy(&output.stdout), plain, "{}", errors(&output));
    // Two columns have the same name: either can be the feature.
    std::fs::write(folder.path().join("twice.csv"), "a,a,b,c,d\n1,2,3,4,5\n").expect("writes");
    fails(&server, folder.path(), &["encode", "m", "twice.csv"], 1, &["feature \"a\" is column 1 and column 2"]);
    // Chosen columns are read, and text in them is an error.
    fails(&server, folder.path(), &["encode", "m", "full.csv", "--columns", "site,a,b,c,d"], 1, &["line 2", "Bonn"]);
}

/// A file that changed since the server received its first rows is not mixed with them.
#[test]
fn an_upload_does_not_resume_with_a_changed_file() {
    let (store, folder) = (temporary_store(), temporary_store());
    let server = ServerProcess::start(store.path());
    // Chunks have 2^18 rows of one number.
    let rows = |by: u32| (0..5_000_000u32).map(|i| format!("{}\n", i % 1000 + by)).collect::<Vec<_>>().concat();
    let good = folder.path().join("rows.csv");
    let args = ["train", "m", "rows.csv", "--widths", "1,1", "--epochs", "1", "--idempotency-key", "k"];
    std::fs::write(&good, rows(1)).expect("writes");
    let mut child =
        halfhitch().current_dir(folder.path()).args(["--server", &server.url()]).args(args).spawn().expect("runs");
    let mut tries = 0;
    loop {
        let listed = succeeds(&server, folder.path(), &["--json", "jobs", "list"]);
        let jobs: Vec<serde_json::Value> =
            listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        if jobs.iter().any(|job| job["chunk_count"].as_u64() > Some(0)) {
            break;
        }
        tries += 1;
        assert!(tries < 2000 && child.try_wait().expect("asks").is_none(), "no chunk came");
    }
    child.kill().expect("runs");
    child.wait().expect("ends");
    std::fs::write(&good, rows(2)).expect("writes");
    fails(&server, folder.path(), &args, 1, &["chunk 1 was received before with other rows"]);
}
