//! Tests of a crash, or a full disk, at every step of every change.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::local::Step;
use super::{LocalStore, ModelBlobs, ModelCatalogue, ModelStore, StoreError};
use crate::model::{Alias, ModelKey, ModelName, Selector, Version};

/// The step at which a test makes a change fail. A crash is a panic: no clean-up code runs.
#[derive(Debug, Default)]
pub(super) struct Faults {
    plan: Mutex<Option<(Step, Fault)>>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Crash,
    DiskFull,
}

impl Faults {
    fn set(&self, step: Step, fault: Fault) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Some((step, fault));
    }

    pub(super) fn at(&self, step: Step) -> Result<(), StoreError> {
        let plan = *self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        match plan.filter(|(planned, _)| *planned == step) {
            None => Ok(()),
            Some((_, Fault::Crash)) => resume_unwind(Box::new("a planned crash") as Box<dyn Any + Send>),
            Some((_, Fault::DiskFull)) => {
                Err(super::disk::failed("cannot write", Path::new("planned"))(io::ErrorKind::StorageFull.into()))
            }
        }
    }
}

const PUBLISH_STEPS: [Step; 8] = [
    Step::FolderMade,
    Step::TemporaryMade,
    Step::FileWritten,
    Step::IndexWritten,
    Step::IndexRenamed,
    Step::NumberTaken,
    Step::VersionRenamed,
    Step::VersionDurable,
];
const DELETE_STEPS: [Step; 4] = [Step::IndexWritten, Step::IndexRenamed, Step::VersionMovedAway, Step::DeletionDurable];
const ALIAS_STEPS: [Step; 2] = [Step::IndexWritten, Step::IndexRenamed];

fn name() -> ModelName {
    "digits".parse().expect("a name")
}

fn key(number: u64) -> ModelKey {
    ModelKey { name: name(), version: Version::new(number).expect("not zero") }
}

fn prod() -> Alias {
    "prod".parse().expect("an alias")
}

/// A store with versions 1 and 3 of "digits" (2 is deleted), alias "prod" at 1, and version 1 of "other".
fn prepared(folder: &Path) -> LocalStore {
    let store = LocalStore::open(folder).expect("a store");
    for content in ["one", "two", "three"] {
        store.publish_bytes(&name(), content.as_bytes()).expect("published");
    }
    store.delete(&key(2)).expect("deleted");
    store.set_alias(&key(1), &prod(), None).expect("an alias");
    store.publish_bytes(&"other".parse().expect("a name"), b"other").expect("published");
    store
}

/// Checks everything that the change must not affect.
#[track_caller]
fn check_intact(store: &LocalStore, folder: &Path, context: &str) {
    let other = ModelKey { name: "other".parse().expect("a name"), version: Version::FIRST };
    assert_eq!(store.read(&other).expect("intact"), b"other", "{context}");
    assert_eq!(store.read(&key(1)).expect("intact"), b"one", "{context}");
    let model = store.entry(&name()).expect("a model");
    for version in model.versions.keys() {
        let expected: &[u8] = match version.number() {
            1 => b"one",
            3 => b"three",
            _ => b"four",
        };
        assert_eq!(store.read(&key(version.number())).expect("complete"), expected, "{context}");
    }
    assert!(model.versions.keys().all(|version| version.number() != 2), "{context}: a deleted version came back");
    assert_eq!(leftovers(folder), BTreeSet::new(), "{context}");
}

/// Names of all temporaries below a folder.
fn leftovers(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let text = entry.file_name().to_string_lossy().into_owned();
        if text.starts_with(".tmp-") {
            found.insert(text);
        } else if entry.path().is_dir() {
            found.append(&mut leftovers(&entry.path()));
        }
    }
    found
}

/// Runs `change` with a crash at `step`, then opens the folder again.
fn crashed(folder: &Path, step: Step, change: impl FnOnce(&LocalStore)) -> LocalStore {
    let store = prepared(folder);
    store.faults.set(step, Fault::Crash);
    catch_unwind(AssertUnwindSafe(|| change(&store))).expect_err("the step must be passed");
    drop(store);
    LocalStore::open(folder).expect("a store after a crash")
}

#[test]
fn a_crash_at_any_step_of_publishing_leaves_all_or_nothing() {
    for step in PUBLISH_STEPS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let context = format!("crash at {step:?}");
        let store = crashed(folder.path(), step, |store| {
            let _ = store.publish_bytes(&name(), b"four");
        });
        check_intact(&store, folder.path(), &context);
        let published = matches!(step, Step::VersionRenamed | Step::VersionDurable);
        assert_eq!(store.read(&key(4)).is_ok(), published, "{context}");
        let next = store.publish_bytes(&name(), b"four").expect("published").number();
        let taken = matches!(step, Step::IndexRenamed | Step::NumberTaken) || published;
        assert_eq!(next, if taken { 5 } else { 4 }, "{context}");
        assert_eq!(store.entry(&name()).expect("a model").aliases.get(&prod()), Some(&Version::FIRST), "{context}");
    }
}

#[test]
fn a_crash_at_any_step_of_a_first_publish_leaves_a_clean_store() {
    for step in PUBLISH_STEPS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let new: ModelName = "new".parse().expect("a name");
        let store = crashed(folder.path(), step, |store| {
            let _ = store.publish_bytes(&new, b"new");
        });
        check_intact(&store, folder.path(), &format!("crash at {step:?}"));
        let published = matches!(step, Step::VersionRenamed | Step::VersionDurable);
        assert_eq!(store.entry(&new).is_some(), published, "crash at {step:?}");
    }
}

#[test]
fn a_crash_at_any_step_of_deleting_leaves_all_or_nothing() {
    for step in DELETE_STEPS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let context = format!("crash at {step:?}");
        let store = crashed(folder.path(), step, |store| {
            let _ = store.delete(&key(3));
        });
        check_intact(&store, folder.path(), &context);
        let deleted = matches!(step, Step::VersionMovedAway | Step::DeletionDurable);
        assert_eq!(store.read(&key(3)).is_err(), deleted, "{context}");
        assert_eq!(store.publish_bytes(&name(), b"four").expect("published").number(), 4, "{context}");
    }
}

#[test]
fn a_crash_while_an_alias_moves_leaves_the_old_or_the_new() {
    for step in ALIAS_STEPS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let context = format!("crash at {step:?}");
        let store = crashed(folder.path(), step, |store| {
            let _ = store.set_alias(&key(3), &prod(), None);
        });
        check_intact(&store, folder.path(), &context);
        let expected = if step == Step::IndexRenamed { 3 } else { 1 };
        assert_eq!(store.resolve(&name(), &Selector::Alias(prod())).expect("an alias"), key(expected), "{context}");
    }
}

#[test]
fn a_full_disk_at_any_step_is_reported_and_harms_nothing() {
    let last = PUBLISH_STEPS.len() - 1; // after the last step, nothing can fail
    for step in &PUBLISH_STEPS[..last] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let context = format!("disk full at {step:?}");
        let store = prepared(folder.path());
        let before = store.entries();
        store.faults.set(*step, Fault::DiskFull);
        let error = store.publish_bytes(&name(), b"four").expect_err("the disk is full");
        assert!(matches!(error, StoreError::DiskFull { .. }), "{context}: {error}");
        check_intact(&store, folder.path(), &context);
        assert_eq!(store.entries()[0].versions, before[0].versions, "{context}");
        assert_eq!(store.entries()[1], before[1], "{context}");
        store.faults.set(Step::VersionMovedAway, Fault::DiskFull);
        assert!(store.publish_bytes(&name(), b"four").is_ok(), "{context}: space came back");
        let error = store.delete(&key(3)).expect_err("the disk is full again");
        assert!(matches!(error, StoreError::DiskFull { .. }), "{context}: {error}");
        check_intact(&store, folder.path(), &context);
        assert_eq!(store.read(&key(3)).expect("a deletion that failed deletes nothing"), b"three", "{context}");
    }
}
