//! Tests of [`LocalStore`]: the suite of every store, and what only a folder can do.

use std::fs;

use super::conformance::Fixture;
use super::{FILE_BYTES_MAX, LocalStore, ModelStore, StoreError};
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
fn a_second_server_reads_notices_and_takes_over() {
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

    // What the other writer is building is not swept by a reader, and is by the next writer.
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
fn a_version_removed_by_another_writer_is_unknown_even_before_a_refresh() {
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
    let store = fixture.store();
    assert_eq!(store.read(&key(1)).expect("served by number"), b"one");
    assert_eq!(store.resolve(&name("a"), &Selector::Latest).expect("served as the latest"), key(1));
    assert!(matches!(store.resolve(&name("a"), &Selector::Alias(prod())), Err(StoreError::BadIndex { .. })));
    assert!(matches!(store.publish_bytes(&name("a"), b"two"), Err(StoreError::BadIndex { .. })));
    assert!(matches!(store.delete(&key(1)), Err(StoreError::BadIndex { .. })));
    assert_eq!(store.publish_bytes(&name("b"), b"two").expect("the others go on").number(), 2);
    // The way out that the error names.
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
fn the_last_number_is_not_passed() {
    let mut fixture = Folder::new();
    fixture.store().publish_bytes(&name("a"), b"one").expect("published");
    fs::create_dir(fixture.folder.path().join("models/a").join(i64::MAX.to_string())).expect("a folder by hand");
    fixture.reopen();
    assert!(matches!(fixture.store().publish_bytes(&name("a"), b"two"), Err(StoreError::NoVersionLeft { .. })));
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_and_one_that_cannot_be_locked_is_read_only() {
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
fn names_that_were_only_asked_about_leave_nothing_behind() {
    let fixture = Folder::new();
    assert!(fixture.store().delete(&key(1)).is_err());
    assert!(fixture.store().set_alias(&key(1), &prod(), None).is_err());
    assert!(!fixture.store().refresh().expect("readable"));
    assert_eq!(fs::read_dir(fixture.folder.path().join("models")).expect("a folder").count(), 0);
}
