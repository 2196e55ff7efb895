//! Tests of [`LocalStore`]: the conformance suite of every store, and cases of a folder.

use std::fs;

use super::conformance::Fixture;
use super::{FILE_BYTES_MAX, LocalStore, ModelBlobs, ModelCatalogue, ModelStore, StoreError};
use crate::model::{Alias, ModelKey, ModelName, Selector, Version};

struct Folder {
    folder: tempfile::TempDir,
    store: Option<LocalStore>,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = LocalStore::open(folder.path()).expect("a store");
        Self { folder, store: Some(store) }
    }
}

impl Fixture for Folder {
    fn store(&self) -> &dyn ModelStore {
        self.store.as_ref().expect("open")
    }
    fn reopen(&mut self) {
        self.store = None; // frees the lock
        self.store = Some(LocalStore::open(self.folder.path()).expect("a store"));
    }
}

conformance!(Folder::new());

fn name(text: &str) -> ModelName {
    text.parse().expect("a name")
}

fn key(number: u64) -> ModelKey {
    ModelKey { name: name("a"), version: Version::new(number).expect("not zero") }
}

fn prod() -> Alias {
    "prod".parse().expect("an alias")
}

#[test]
fn a_second_server_reads_and_takes_over_from_the_writer() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let writer = LocalStore::open(folder.path()).expect("a store");
    writer.publish_bytes(&name("a"), b"one").expect("published");
    let reader = LocalStore::open(folder.path()).expect("a store");
    assert!(writer.is_writable() && !reader.is_writable());
    assert_eq!(reader.read(&key(1)).expect("stored"), b"one");
    let error = reader.publish_bytes(&name("a"), b"two").expect_err("read-only");
    assert!(error.to_string().contains("another server writes to it"), "{error}");
    assert!(matches!(reader.delete(&key(1)), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(reader.set_alias(&key(1), &prod(), None), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(reader.delete_alias(&name("a"), &prod(), None), Err(StoreError::ReadOnly { .. })));

    writer.publish_bytes(&name("a"), b"two").expect("published");
    writer.set_alias(&key(2), &prod(), None).expect("set");
    assert!(reader.refresh().expect("readable"));
    assert!(!reader.refresh().expect("readable"), "nothing new");
    assert_eq!(reader.resolve(&name("a"), &Selector::Alias(prod())).expect("an alias"), key(2));

    // A reader keeps the temporaries of the writer; the next writer removes them.
    let alive = folder.path().join("models/a/.tmp-alive");
    fs::create_dir(&alive).expect("a temporary");
    reader.refresh().expect("readable");
    assert!(alive.exists());
    drop(writer);
    assert!(reader.refresh().expect("readable"));
    assert!(reader.is_writable());
    assert!(!alive.exists());
    assert_eq!(reader.publish_bytes(&name("a"), b"three").expect("published").number(), 3);
}

#[test]
fn a_reader_sees_all_of_a_version_or_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let writer = LocalStore::open(folder.path()).expect("a store");
    let reader = LocalStore::open(folder.path()).expect("a store");
    let content = |number: u64| vec![u8::try_from(number).expect("small"); 100_000];
    let last = 20;
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for number in 1..=last {
                assert_eq!(writer.publish_bytes(&name("a"), &content(number)).expect("published"), key(number).version);
                writer.set_alias(&key(number), &prod(), None).expect("set");
                if number > 1 {
                    writer.delete(&key(number - 1)).expect("deleted");
                }
            }
        });
        let mut seen = 0;
        while seen < last {
            let ended = writing.is_finished();
            reader.refresh().expect("readable");
            if let Ok(found) = reader.resolve(&name("a"), &Selector::Latest) {
                assert!(found.version.number() >= seen, "never back");
                seen = found.version.number();
                match reader.read(&found) {
                    Ok(bytes) => assert!(bytes == content(seen), "{found} is whole"),
                    Err(error) => assert!(matches!(error, StoreError::UnknownVersion { .. }), "{error}"),
                }
            } else {
                assert_eq!(seen, 0, "there is always a version once there was one");
            }
            assert!(!ended || seen == last, "the last version is seen, if the writer got there");
        }
    });
}

#[test]
fn removed_versions_are_unknown_before_a_refresh() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let writer = LocalStore::open(folder.path()).expect("a store");
    for content in ["one", "two"] {
        writer.publish_bytes(&name("a"), content.as_bytes()).expect("published");
    }
    let reader = LocalStore::open(folder.path()).expect("a store");
    writer.delete(&key(2)).expect("deleted");
    assert!(matches!(reader.read_header(&key(2)), Err(StoreError::UnknownVersion { .. })));
    let error = reader.read(&key(2)).expect_err("removed");
    assert_eq!(error.to_string(), "a version 2 does not exist; the newest version is 1");
}

#[test]
fn a_damaged_index_stops_changes_of_that_model_alone() {
    let mut fixture = Folder::new();
    for model in ["a", "b"] {
        fixture.store().publish_bytes(&name(model), b"one").expect("published");
    }
    let index = fixture.folder.path().join("models/a/index.json");
    fs::write(&index, "{").expect("damage");
    fixture.reopen();
    let error = fixture.store().set_alias(&key(1), &prod(), None).expect_err("the index is damaged").to_string();
    assert!(error.contains("the index of model a is damaged") && error.contains("put models/a/index.json"), "{error}");
    assert!(!error.contains(&fixture.folder.path().display().to_string()), "{error}");
    let store = fixture.store();
    assert_eq!(store.read(&key(1)).expect("served by number"), b"one");
    assert_eq!(store.resolve(&name("a"), &Selector::Latest).expect("served as the latest"), key(1));
    assert!(matches!(store.resolve(&name("a"), &Selector::Alias(prod())), Err(StoreError::BadIndex { .. })));
    assert!(matches!(store.publish_bytes(&name("a"), b"two"), Err(StoreError::BadIndex { .. })));
    assert!(matches!(store.delete(&key(1)), Err(StoreError::BadIndex { .. })));
    assert_eq!(store.publish_bytes(&name("b"), b"two").expect("the others go on").number(), 2);
    // The remedy that the error names.
    fs::remove_file(&index).expect("removed");
    assert_eq!(store.publish_bytes(&name("a"), b"two").expect("rebuilt").number(), 2);
}

#[test]
fn a_huge_file_is_refused_before_it_is_read() {
    let mut fixture = Folder::new();
    fixture.store().publish_bytes(&name("a"), b"one").expect("published");
    let path = fixture.folder.path().join("models/a/1/model.safetensors");
    let file = fs::OpenOptions::new().write(true).open(path).expect("a file");
    file.set_len(FILE_BYTES_MAX + 1).expect("a sparse file");
    fixture.reopen();
    let error = fixture.store().read(&key(1)).expect_err("too large");
    assert_eq!(error.to_string(), "a version 1 has 1073741825 bytes, expected at most 1073741824");
}

#[test]
fn version_numbers_stop_at_the_maximum() {
    let mut fixture = Folder::new();
    fixture.store().publish_bytes(&name("a"), b"one").expect("published");
    fs::create_dir(fixture.folder.path().join("models/a").join(i64::MAX.to_string())).expect("a folder by hand");
    fixture.reopen();
    assert!(matches!(fixture.store().publish_bytes(&name("a"), b"two"), Err(StoreError::NoVersionLeft { .. })));
}

#[test]
fn open_fails_without_a_folder_and_is_read_only_without_a_lock() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("a file");
    let error = LocalStore::open(&file).expect_err("a file is no folder");
    assert!(error.to_string().contains("cannot create the store's folder"), "{error}");

    LocalStore::open(folder.path()).expect("a store").publish_bytes(&name("a"), b"one").expect("published");
    fs::remove_file(folder.path().join(".lock")).expect("removed");
    fs::create_dir(folder.path().join(".lock")).expect("in its place");
    let store = LocalStore::open(folder.path()).expect("a store");
    assert!(!store.is_writable());
    assert_eq!(store.read(&key(1)).expect("stored"), b"one");
}

#[cfg(unix)]
#[test]
fn nothing_is_written_through_a_link() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().expect("a temporary folder");
    let fixture = Folder::new();
    symlink(outside.path(), fixture.folder.path().join("models/a")).expect("a link");
    let error = fixture.store().publish_bytes(&name("a"), b"one").expect_err("a link");
    assert!(matches!(error, StoreError::NotAFolder { .. }), "{error}");
    assert_eq!(fs::read_dir(outside.path()).expect("a folder").count(), 0);

    fs::create_dir(outside.path().join("1")).expect("a folder");
    fs::write(outside.path().join("1/model.safetensors"), "outside").expect("a file");
    assert!(fixture.store().delete(&key(1)).is_err());
    assert!(fixture.store().set_alias(&key(1), &prod(), None).is_err());
    fixture.store().refresh().expect("readable");
    assert!(fixture.store().read(&key(1)).is_err());
    assert_eq!(fs::read_dir(outside.path()).expect("a folder").count(), 1);
    assert!(outside.path().join("1/model.safetensors").exists());
}

#[test]
fn failed_operations_on_unknown_models_leave_no_folder() {
    let fixture = Folder::new();
    assert!(fixture.store().delete(&key(1)).is_err());
    assert!(fixture.store().set_alias(&key(1), &prod(), None).is_err());
    assert!(!fixture.store().refresh().expect("readable"));
    assert_eq!(fs::read_dir(fixture.folder.path().join("models")).expect("a folder").count(), 0);
}

/// Every flipped bit of an index is detected: no alias is lost, renamed or moved, and no number is used again.
#[test]
fn every_flipped_bit_of_an_index_is_detected() {
    let fixture = Folder::new();
    let store = fixture.store();
    for number in 1..=6 {
        store.publish_bytes(&name("a"), number.to_string().as_bytes()).expect("published");
    }
    for number in [2, 5, 6] {
        store.delete(&key(number)).expect("deleted");
    }
    for (alias, number) in [("prod", 1), ("canary", 3), ("last-good", 4)] {
        store.set_alias(&key(number), &alias.parse().expect("an alias"), None).expect("set");
    }
    let index = fixture.folder.path().join("models/a/index.json");
    let whole = fs::read(&index).expect("reads");
    let before = store.entry(&name("a")).expect("a model");
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            fs::write(&index, &flipped).expect("damage");
            store.refresh().expect("readable");
            let context = format!("bit {bit} of byte {at}");
            for alias in before.aliases.keys() {
                let answer = store.resolve(&name("a"), &Selector::Alias(alias.clone()));
                assert!(matches!(answer, Err(StoreError::BadIndex { .. })), "{context}: {answer:?}");
            }
            let unknown = store.resolve(&name("a"), &Selector::Alias("qrod".parse().expect("an alias")));
            assert!(matches!(unknown, Err(StoreError::BadIndex { .. })), "{context}: {unknown:?}");
            assert!(matches!(store.publish_bytes(&name("a"), b"7"), Err(StoreError::BadIndex { .. })), "{context}");
            assert_eq!(store.read(&key(4)).expect("served by number"), b"4", "{context}");
        }
    }
    fs::write(&index, &whole).expect("put back from a copy");
    store.refresh().expect("readable");
    assert_eq!(store.entry(&name("a")).expect("a model"), before);
    assert_eq!(store.publish_bytes(&name("a"), b"7").expect("published").number(), 7);
}

/// A version whose file is gone is damage, unless it was deleted. The bare model name then does not select an older
/// version.
#[test]
fn lost_versions_are_errors_and_deleted_ones_are_not() {
    let mut fixture = Folder::new();
    for content in ["one", "two", "three"] {
        fixture.store().publish_bytes(&name("a"), content.as_bytes()).expect("published");
    }
    fixture.store().set_alias(&key(2), &prod(), None).expect("set");
    fixture.store().delete(&key(3)).expect("deleted");
    assert_eq!(fixture.store().resolve(&name("a"), &Selector::Latest).expect("3 was deleted"), key(2));
    let file = fixture.folder.path().join("models/a/2/model.safetensors");
    let content = fs::read(&file).expect("reads");
    fs::remove_file(&file).expect("lost");
    for reopens in [false, true] {
        if reopens {
            fixture.reopen();
        }
        let store = fixture.store();
        let error = store.read(&key(2)).expect_err("lost");
        assert!(matches!(error, StoreError::VersionLost { .. }), "{error}");
        for selector in [Selector::Latest, Selector::Version(key(2).version), Selector::Alias(prod())] {
            let error = store.resolve(&name("a"), &selector).expect_err("an older one would be wrong").to_string();
            let expected = "the file of a version 2 is missing, and the index lists the version";
            assert!(error.starts_with(expected), "{selector:?}: {error}");
        }
        assert_eq!(store.read(&key(1)).expect("by number"), b"one");
        let entry = store.entry(&name("a")).expect("a model");
        assert_eq!(entry.aliases.get(&prod()), Some(&key(2).version), "the alias is not dropped");
    }
    let store = fixture.store();
    assert_eq!(store.publish_bytes(&name("a"), b"four").expect("published"), key(4).version);
    assert_eq!(store.resolve(&name("a"), &Selector::Latest).expect("newer than what is lost"), key(4));
    fs::write(&file, &content).expect("put back from a copy");
    store.refresh().expect("readable");
    assert_eq!(store.resolve(&name("a"), &Selector::Alias(prod())).expect("it is back"), key(2));
    // The other remedy.
    fs::remove_dir_all(fixture.folder.path().join("models/a/2")).expect("lost, with its folder");
    store.refresh().expect("readable");
    assert!(matches!(store.delete(&key(2)), Err(StoreError::Aliased { .. })));
    store.delete_alias(&name("a"), &prod(), None).expect("given up");
    store.delete(&key(2)).expect("given up");
    let unknown = store.resolve(&name("a"), &Selector::Version(key(2).version));
    assert!(matches!(unknown, Err(StoreError::UnknownVersion { .. })), "{unknown:?}");
}

#[cfg(unix)]
#[test]
fn non_regular_files_are_rejected_without_waiting() {
    use std::os::unix::fs::symlink;
    type Make = fn(&std::path::Path);
    let kinds: [(&str, Make); 4] = [
        ("a named pipe", |path| {
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
        }),
        ("a folder", |path| fs::create_dir(path).expect("a folder")),
        ("a symbolic link", |path| symlink("/dev/zero", path).expect("a link")),
        ("a socket", |path| drop(std::os::unix::net::UnixListener::bind(path).expect("a socket"))),
    ];
    for (kind, put) in kinds {
        let mut fixture = Folder::new();
        for content in ["one", "two"] {
            fixture.store().publish_files(&name("a"), content.as_bytes(), Some(b"rows")).expect("published");
        }
        fixture.store().publish_bytes(&name("b"), b"one").expect("published");
        let root = fixture.folder.path().to_owned();
        for file in ["models/a/2/model.safetensors", "models/a/1/validation_sample.safetensors", "models/b/index.json"]
        {
            fs::remove_file(root.join(file)).expect("removed");
            put(&root.join(file));
        }
        put(&root.join("models/a/1/last_use"));
        for reopens in [false, true] {
            if reopens {
                fixture.reopen();
            } else {
                fixture.store().refresh().expect("readable");
            }
            let store = fixture.store();
            let check = |error: StoreError, role: &str| {
                let text = error.to_string();
                assert!(text.contains(role) && text.contains(kind), "{text} should name {role} and {kind}");
                assert!(!text.contains(&root.display().to_string()), "{text}");
            };
            check(store.resolve(&name("a"), &Selector::Latest).expect_err("lost"), "the file of a version 2");
            check(store.read(&key(2)).expect_err("lost"), "the file of a version 2");
            check(store.read_header(&key(2)).expect_err("lost"), "the file of a version 2");
            check(store.read_sample(&key(1)).expect_err("no file"), "the validation sample of a version 1");
            check(store.note_use(&key(1)).expect_err("no file"), "the last-use record of a version 1");
            let b = ModelKey { name: name("b"), version: Version::FIRST };
            check(store.set_alias(&b, &prod(), None).expect_err("no index"), "the index of model b");
            assert_eq!(store.read(&key(1)).expect("intact"), b"one");
        }
    }
}

#[cfg(unix)]
#[test]
fn permission_errors_name_the_model_and_not_the_path() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Folder::new();
    fixture.store().publish_bytes(&name("a"), b"one").expect("published");
    let models = fixture.folder.path().join("models/a");
    let set = |mode| fs::set_permissions(&models, fs::Permissions::from_mode(mode)).expect("set");
    set(0o555);
    if fs::write(models.join("probe"), "").is_ok() {
        // Root has all permissions.
        fs::remove_file(models.join("probe")).expect("removed");
        set(0o755);
        return;
    }
    let error = fixture.store().publish_bytes(&name("a"), b"two").expect_err("denied");
    set(0o755);
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("ermission denied") && text.contains("of model a"), "{text}");
    assert!(!text.contains(&fixture.folder.path().display().to_string()), "{text}");
}
