//! Output files of commands: complete, or unchanged, whatever fails.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use halfhitch::files::output::Output;
use halfhitch::files::{self, ReadOptions};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::cli::{fails, run, succeeds};
use crate::support::files::csv;
use crate::support::process::{ServerProcess, halfhitch};
use crate::support::{Random, sample, temporary_store};

/// Environment variable with the folder for a child of [`killed_writers_leave_whole_files`].
const FOLDER: &str = "OUTPUTS_TEST_FOLDER";
const COLUMNS: usize = 5;
/// Maximum rounds of a child; it is killed long before that.
const ROUNDS_MAX: u32 = 100_000;
const KILLS: usize = 400;
const ERRORS: usize = 9_600;

/// A table determined by its generation.
fn table(generation: u32) -> Vec<f32> {
    let rows = 40 + generation as usize % 97;
    vec![generation as f32; rows * COLUMNS]
}

/// Writes the table in pieces, and calls `stop` after each.
fn write(path: &Path, generation: u32, mut stop: impl FnMut(usize)) -> Result<(), files::FileError> {
    let mut writer = files::create(path.to_str().expect("text"), None)?;
    for (piece, values) in table(generation).chunks(7 * COLUMNS).enumerate() {
        stop(piece);
        writer.write(values.into(), COLUMNS)?;
    }
    stop(usize::MAX);
    writer.finish()
}

/// Reads the generation of a complete file; panics on anything else.
#[track_caller]
fn generation(path: &Path) -> u32 {
    // The first row is not a header, although the reader may decide otherwise.
    let options = ReadOptions { header: Some(false), ..ReadOptions::default() };
    let mut reader = files::open(path, &options).expect("a whole file");
    let mut values = Vec::new();
    while reader.next_rows(&mut values, 1000).expect("whole rows") > 0 {}
    let generation = values[0] as u32;
    assert_eq!(files::narrow(&values), table(generation), "{}: not one of the tables", path.display());
    generation
}

/// Checks that the folder has these files and no others.
#[track_caller]
fn check_only(folder: &TempDir, names: &[&str]) {
    let mut found: Vec<String> = fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, names);
}

#[test]
fn errors_while_writing_leave_the_old_file() {
    let folder = temporary_store();
    let names = ["rows.csv", "rows.npy"];
    let mut now = [1, 1];
    for name in names {
        write(&folder.path().join(name), 1, |_| {}).expect("writes");
    }
    let mut random = Random::new(1);
    let mut next = 2;
    for round in 0..ERRORS {
        let which = random.below(2) as usize;
        let path = folder.path().join(names[which]);
        let pieces = (table(next).len() / COLUMNS).div_ceil(7);
        let at = random.below(pieces as u64 + 1) as usize;
        let at = if at == pieces { usize::MAX } else { at };
        let what = random.below(20);
        let ended = match what {
            // In some rounds nothing fails.
            0 => write(&path, next, |_| {}).map(|()| now[which] = next),
            1..8 => {
                let panicked = catch_unwind(AssertUnwindSafe(|| {
                    // Unwind without printing a panic message.
                    write(&path, next, |piece| {
                        if piece == at {
                            std::panic::resume_unwind(Box::new(()));
                        }
                    })
                }));
                assert!(panicked.is_err());
                Ok(())
            }
            8..14 => {
                // Rows of another width or precision; the format may reject or accept them.
                let mut writer = files::create(path.to_str().expect("text"), None).expect("creates");
                writer.write(table(next).as_slice().into(), COLUMNS).expect("writes");
                if random.below(2) == 0 { writer.write([1.0f64].as_slice().into(), 1) } else { Ok(()) }
            }
            14..19 => {
                let mut output = Output::create(path.to_str().expect("text")).expect("creates");
                output.write_all(&vec![b'x'; random.below(100_000) as usize]).expect("writes");
                drop(output);
                Ok(())
            }
            _ => {
                // A folder takes the target's name before the writer finishes.
                let kept = folder.path().join("kept");
                fs::rename(&path, &kept).expect("renames");
                let refused = write(&path, next, |piece| {
                    if piece == usize::MAX {
                        fs::create_dir(&path).expect("creates");
                    }
                });
                fs::remove_dir(&path).expect("it is still there");
                fs::rename(&kept, &path).expect("renames");
                assert!(refused.is_err());
                refused
            }
        };
        drop(ended);
        next = next % 10_000 + 1;
        assert_eq!(generation(&path), now[which], "round {round}: {what} at {at}");
    }
    check_only(&folder, &names);
}

/// A child of the next test: writes until it is killed.
#[test]
#[ignore = "begun by killed_writers_leave_whole_files"]
fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let paths = ["rows.csv", "rows.npy"].map(|name| folder.join(name));
    let first = generation(&paths[0]).max(generation(&paths[1]));
    println!("writing");
    for round in 1..ROUNDS_MAX {
        for path in &paths {
            write(path, (first + round) % 60_000 + 1, |_| {}).expect("writes");
        }
    }
}

#[test]
fn killed_writers_leave_whole_files() {
    let folder = temporary_store();
    let names = ["rows.csv", "rows.npy"];
    for name in names {
        write(&folder.path().join(name), 1, |_| {}).expect("writes");
    }
    let mut random = Random::new(2);
    let mut written = 0;
    for _ in 0..KILLS {
        let before = names.map(|name| generation(&folder.path().join(name)));
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["outputs::writes_until_it_is_killed", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert!(lines.any(|line| line.expect("text").contains("writing")), "it begins");
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        child.kill().expect("it runs");
        child.wait().expect("it has ended");
        let after = names.map(|name| generation(&folder.path().join(name)));
        written += usize::from(before != after);
    }
    assert!(written > KILLS / 4, "most of them were killed while they wrote: {written}");
    // A kill between naming and renaming leaves a complete hidden file; that is rare.
    let left: Vec<_> = fs::read_dir(folder.path()).expect("a folder").collect();
    assert!(left.len() <= 2 + KILLS / 4, "{left:?}");
}

/// A server with a model of 6 features, and rows for it.
struct Place {
    _store: TempDir,
    folder: TempDir,
    server: ServerProcess,
}

const FEATURES: usize = 6;

impl Place {
    fn new() -> Self {
        let (store, folder) = (temporary_store(), temporary_store());
        let server = ServerProcess::start(store.path());
        csv(&folder.path().join("train.csv"), FEATURES, &sample(300, FEATURES, 1));
        succeeds(&server, folder.path(), &["train", "m", "train.csv", "--code", "2", "--epochs", "2"]);
        Self { _store: store, folder, server }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    #[track_caller]
    fn succeeds(&self, args: &[&str]) -> String {
        succeeds(&self.server, self.folder.path(), args)
    }
}

/// Rows for more than one request.
fn many() -> Vec<f32> {
    sample(100_000, FEATURES, 3)
}

#[test]
fn an_output_may_be_the_input() {
    let place = Place::new();
    let mut writer = files::create(place.at("rows.npy").to_str().expect("text"), None).expect("creates");
    writer.write(many().as_slice().into(), FEATURES).expect("writes");
    writer.finish().expect("finishes");
    csv(&place.at("rows.csv"), FEATURES, &many());
    for name in ["rows.npy", "rows.csv"] {
        for command in ["reconstruct", "encode"] {
            let apart = format!("apart-{name}");
            place.succeeds(&[command, "m", name, "-o", &apart]);
            fs::copy(place.at(name), place.at("kept")).expect("copies");
            place.succeeds(&[command, "m", name, "-o", name]);
            assert!(fs::read(place.at(name)).expect("there") == fs::read(place.at(&apart)).expect("there"), "{name}");
            fs::rename(place.at("kept"), place.at(name)).expect("renames");
        }
        let scored = format!("scored-{name}.csv");
        place.succeeds(&["score", "m", name, "-o", &scored]);
        place.succeeds(&["score", "m", name, "-o", name]);
        assert!(fs::read(place.at(name)).expect("there") == fs::read(place.at(&scored)).expect("there"));
    }
}

#[test]
fn reports_and_errors_never_replace_the_input_rows() {
    let place = Place::new();
    csv(&place.at("rows.csv"), FEATURES, &many());
    let before = fs::read(place.at("rows.csv")).expect("there");
    for args in [
        &["report", "m", "rows.csv", "-o", "rows.csv"][..],
        &["report", "m", "rows.csv", "-o", "./rows.csv"],
        &["reconstruct", "m", "rows.csv", "-o", "back.csv", "--errors", "rows.csv"],
    ] {
        fails(&place.server, place.folder.path(), args, 2, &["the file with the rows, expected another file"]);
        assert!(fs::read(place.at("rows.csv")).expect("there") == before, "{args:?}");
    }
    let tabs = ["encode", "m", "rows.csv", "-o", "codes.tsv"];
    fails(&place.server, place.folder.path(), &tabs, 2, &["rows are not written as .tsv"]);
}

#[test]
fn failed_commands_leave_the_old_file_or_none() {
    let place = Place::new();
    let mut rows = many();
    rows[FEATURES * 90_000] = f32::NAN;
    csv(&place.at("broken.csv"), FEATURES, &rows);
    let commands = [&["encode"][..], &["reconstruct"], &["reconstruct", "--errors", "errors.csv"], &["score"]];
    for command in commands {
        for output in ["new.csv", "new.npy", "old.csv"] {
            fs::write(place.at("old.csv"), "old").expect("writes");
            let args = [&command[..1], &["m", "broken.csv", "-o", output], &command[1..]].concat();
            fails(&place.server, place.folder.path(), &args, 1, &["line 90001"]);
            assert_eq!(fs::read_to_string(place.at("old.csv")).expect("is there"), "old");
            fs::remove_file(place.at("old.csv")).expect("removes");
            check_only(&place.folder, &["broken.csv", "train.csv"]);
        }
    }
}

/// Neither the server nor the input exists, and neither is used.
#[test]
fn an_output_that_cannot_be_written_is_refused_before_any_work() {
    let folder = temporary_store();
    fs::create_dir(folder.path().join("inner")).expect("creates");
    let refused = |args: &[&str], texts: &[&str]| {
        let output = halfhitch()
            .current_dir(folder.path())
            .args(["--server", "http://127.0.0.1:1"])
            .args(args)
            .output()
            .expect("runs");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
        assert!(texts.iter().all(|text| errors.contains(text)), "{args:?}: {errors}");
    };
    for command in ["encode", "decode", "reconstruct", "impute", "score"] {
        let command = |output| [command, "m@1", "nowhere.csv", "-o", output];
        refused(&command("away/rows.csv"), &["--output away/rows.csv", "away does not exist", "a folder to write to"]);
        refused(&command("inner"), &["--output inner", "it is a folder"]);
    }
    refused(&["models", "export", "m", "-o", "away/m"], &["away does not exist"]);
    refused(&["report", "m", "-o", "away/m.html"], &["away does not exist"]);
    for ending in ["npz", "h5", "jsonl", "csv.gz"] {
        let name = format!("codes.{ending}");
        refused(&["encode", "m", "nowhere.csv", "-o", &name], &[&name, ".npy, .parquet or .csv"]);
    }
    let errors = ["reconstruct", "m", "nowhere.csv", "--errors"];
    refused(&[&errors[..], &["away/e.csv"]].concat(), &["--errors away/e.csv"]);
    refused(&[&errors[..], &["x.csv", "-o", "inner/../x.csv"]].concat(), &["--errors and --output are both x.csv"]);
    refused(&[&errors[..], &["-"]].concat(), &["--errors and --output are both standard output"]);
    check_only(&folder, &["inner"]);
}

#[test]
fn killed_commands_leave_the_old_or_the_complete_file() {
    let place = Place::new();
    csv(&place.at("rows.csv"), FEATURES, &many());
    place.succeeds(&["encode", "m", "rows.csv", "-o", "codes.csv"]);
    let whole = fs::read(place.at("codes.csv")).expect("is there");
    let mut random = Random::new(3);
    for round in 0..24 {
        fs::write(place.at("codes.csv"), "old").expect("writes");
        let mut child = halfhitch()
            .current_dir(place.folder.path())
            .args(["--server", &place.server.url(), "encode", "m", "rows.csv", "-o", "codes.csv"])
            .stderr(Stdio::null())
            .spawn()
            .expect("runs");
        std::thread::sleep(Duration::from_millis(random.below(300)));
        let signal = if round % 2 == 0 { Signal::KILL } else { Signal::INT };
        let id = Pid::from_raw(child.id().cast_signed()).expect("an id");
        let _ = kill_process(id, signal);
        child.wait().expect("it has ended");
        let now = fs::read(place.at("codes.csv")).expect("is there");
        assert!(now == b"old" || now == whole, "{} bytes", now.len());
    }
    check_only(&place.folder, &["codes.csv", "rows.csv", "train.csv"]);
}

#[test]
fn pipes_and_devices_are_written_directly() {
    let place = Place::new();
    place.succeeds(&["encode", "m", "train.csv", "-o", "codes.csv"]);
    place.succeeds(&["encode", "m", "train.csv", "-o", "codes.npy"]);
    let whole = |format: &str| fs::read(place.at(&format!("codes.{format}"))).expect("is there");
    for format in ["csv", "npy"] {
        let args = ["encode", "m", "train.csv", "--output-format", format, "-o"];
        for output in ["-", "/dev/stdout"] {
            let got = run(&place.server, place.folder.path(), &[&args[..], &[output]].concat());
            assert!(got.stdout == whole(format), "{format} to {output}");
        }
        let pipe = place.at(&format!("pipe.{format}"));
        let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
        assert!(made.success());
        let reading = {
            let pipe = pipe.clone();
            std::thread::spawn(move || fs::read(pipe).expect("reads"))
        };
        place.succeeds(&[&args[..], &[pipe.to_str().expect("text")]].concat());
        assert!(reading.join().expect("read") == whole(format), "{format} to a pipe");
    }
    place.succeeds(&["encode", "m", "train.csv", "-o", "/dev/null"]);
    fails(&place.server, place.folder.path(), &["encode", "m", "train.csv", "-o", "/dev/full"], 1, &["/dev/full"]);
}

#[test]
fn a_closed_pipe_ends_every_command_quietly() {
    let place = Place::new();
    csv(&place.at("rows.csv"), FEATURES, &many());
    let jobs = place.succeeds(&["--json", "jobs", "list"]);
    let job = serde_json::from_str::<serde_json::Value>(&jobs).expect("JSON")["id"].as_str().expect("an id").to_owned();
    let url = place.server.url();
    for json in [false, true] {
        for args in [
            &["jobs", "list"][..],
            &["jobs", "show", &job],
            &["jobs", "watch", &job],
            &["models", "list"],
            &["models", "list", "m"],
            &["models", "show", "m"],
            &["models", "export", "m", "-o", "-"],
            &["inspect", "m"],
            &["health"],
            &["token", "n", "--roles", "infer"],
            &["encode", "m", "rows.csv"],
            &["encode", "m", "rows.csv", "--output-format", "npy"],
            &["reconstruct", "m", "rows.csv"],
            &["score", "m", "rows.csv"],
            &["report", "m", "-o", "-"],
            &["train", "again", "train.csv", "--code", "2", "--epochs", "1"],
            &["serve", "--print-config"],
        ] {
            let mut command = halfhitch();
            command.current_dir(place.folder.path());
            if !matches!(args[0], "serve" | "token") {
                command.args(["--server", &url]);
            }
            command.args(json.then_some("--json")).args(args);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
            // The reader of standard output is closed.
            drop(child.stdout.take());
            let mut errors = String::new();
            child.stderr.take().expect("piped").read_to_string(&mut errors).expect("text");
            let status = child.wait().expect("ended");
            assert!(!errors.contains("panicked") && !errors.contains("Broken pipe"), "{args:?}: {errors}");
            assert!(status.success(), "{args:?}: {status}: {errors}");
        }
    }
    // The same for standard error, with a shorter output.
    let mut child = halfhitch()
        .current_dir(place.folder.path())
        .args(["--server", &url, "encode", "m", "rows.csv", "-o", "codes.csv"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    drop(child.stderr.take());
    assert!(child.wait().expect("ended").success());
    assert_eq!(fs::read_to_string(place.at("codes.csv")).expect("is there").lines().count(), 100_000);
}

#[test]
fn a_full_disk_is_an_error_of_standard_output() {
    let place = Place::new();
    let full = fs::File::options().write(true).open("/dev/full").expect("opens");
    let mut command = halfhitch();
    command.args(["--server", &place.server.url(), "models", "list"]).stdout(full).stderr(Stdio::piped());
    let output = command.spawn().expect("runs").wait_with_output().expect("ended");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("standard output") && !errors.contains("panicked"), "{errors}");
}
