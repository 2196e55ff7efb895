//! Tests of complete, unfinished and refused outputs.

use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn text(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}

fn count(folder: &TempDir) -> usize {
    fs::read_dir(folder.path()).expect("a folder").count()
}

#[track_caller]
fn check_refused(path: &Path, expected: &str) {
    let error = Output::create(&text(path)).expect_err("refused").to_string();
    assert!(error.contains(expected) && error.contains(&text(path)), "{error}");
}

fn write(path: &Path, content: &str) {
    let mut output = Output::create(&text(path)).expect("creates");
    output.write_all(content.as_bytes()).expect("writes");
    output.finish().expect("finishes");
}

#[test]
fn a_result_appears_only_when_complete() {
    let folder = folder();
    let path = folder.path().join("rows.csv");
    for content in ["a longer result", "a result"] {
        let before = fs::read_to_string(&path).ok();
        let mut output = Output::create(&text(&path)).expect("creates");
        output.write_all(content.as_bytes()).expect("writes");
        output.flush().expect("flushes");
        assert_eq!(fs::read_to_string(&path).ok(), before, "until it is whole");
        output.finish().expect("finishes");
        assert_eq!(fs::read_to_string(&path).expect("is there"), content);
    }
    assert_eq!(count(&folder), 1, "nothing beside it");
}

#[test]
fn a_dropped_result_leaves_the_old_one() {
    let folder = folder();
    let path = folder.path().join("rows.csv");
    let drop_half = || {
        let mut output = Output::create(&text(&path)).expect("creates");
        output.write_all(b"half").expect("writes");
    };
    drop_half();
    assert_eq!(count(&folder), 0);
    fs::write(&path, "old").expect("writes");
    drop_half();
    assert_eq!((fs::read_to_string(&path).expect("is there").as_str(), count(&folder)), ("old", 1));
}

#[test]
fn hidden_temporary_files_are_removed() {
    let folder = folder();
    let path = folder.path().join("rows.csv");
    let create = || Pending::create("rows.csv", path.clone(), None, true).expect("creates");
    let mut pending = create();
    pending.file.write_all(b"new").expect("writes");
    assert_eq!(count(&folder), 1, "a hidden file");
    drop(pending);
    assert_eq!(count(&folder), 0);
    let mut pending = create();
    pending.file.write_all(b"new").expect("writes");
    pending.finish().expect("finishes");
    assert_eq!((fs::read_to_string(&path).expect("is there").as_str(), count(&folder)), ("new", 1));
}

#[test]
fn permissions_stay_and_new_files_have_the_usual_ones() {
    let folder = folder();
    let (old, new, plain) = (folder.path().join("old"), folder.path().join("new"), folder.path().join("plain"));
    fs::write(&old, "old").expect("writes");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).expect("sets");
    write(&old, "new");
    write(&new, "new");
    fs::write(&plain, "").expect("writes");
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!((mode(&old), mode(&new)), (0o640, mode(&plain)));
}

#[test]
fn links_stay_and_the_file_behind_them_is_replaced() {
    let folder = folder();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).expect("creates");
    let (link, dangling) = (folder.path().join("link"), folder.path().join("dangling"));
    symlink("inner/rows.csv", &link).expect("links");
    fs::write(inner.join("rows.csv"), "old").expect("writes");
    symlink("inner/later.csv", &dangling).expect("links");
    for (link, file) in [(&link, "rows.csv"), (&dangling, "later.csv")] {
        write(link, "new");
        assert!(fs::symlink_metadata(link).expect("is there").is_symlink());
        assert_eq!(fs::read_to_string(inner.join(file)).expect("is there"), "new");
    }
    let circle = folder.path().join("circle");
    symlink("circle", &circle).expect("links");
    assert!(Output::create(&text(&circle)).is_err());
}

#[test]
fn places_that_cannot_be_written_are_refused_with_the_reason() {
    let folder = folder();
    fs::write(folder.path().join("file"), "").expect("writes");
    check_refused(folder.path(), "it is a folder, expected a file");
    check_refused(&folder.path().join("away/rows.csv"), "away does not exist, expected a folder");
    check_refused(&folder.path().join("file/rows.csv"), "file is not a folder, expected a folder");
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).expect("binds");
    check_refused(&folder.path().join("socket"), "it is a socket");
    assert!(Output::create("").is_err());
    assert_eq!(count(&folder), 2, "nothing is left of them");
}

#[test]
fn devices_are_written_and_not_replaced() {
    let mut output = Output::create("/dev/null").expect("opens");
    output.write_all(b"gone").expect("writes");
    output.finish().expect("finishes");
    assert!(fs::metadata("/dev/null").expect("is there").file_type().is_char_device());
    assert_eq!(Output::create("/dev/stdout").expect("opens").path(), "-");
    let full = Output::create("/dev/full").expect("opens").write_all(b"x").expect_err("full");
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn one_file_under_two_names_is_recognized() {
    let folder = folder();
    let at = |name: &str| text(&folder.path().join(name));
    symlink("rows.csv", folder.path().join("link")).expect("links");
    fs::create_dir(folder.path().join("deep")).expect("creates");
    for (one, other, expected) in [
        (at("rows.csv"), at("rows.csv"), true),
        (at("rows.csv"), at("deep/../rows.csv"), true),
        (at("rows.csv"), at("link"), true),
        (at("rows.csv"), at("other.csv"), false),
        ("-".to_owned(), "/dev/stdout".to_owned(), true),
        ("-".to_owned(), at("rows.csv"), false),
    ] {
        assert_eq!(is_same(&one, &other).expect("looks"), expected, "{one} and {other}");
    }
}
