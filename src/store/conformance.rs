//! Conformance suite of every [`ModelStore`]. It is called with an expression that makes an empty, writable store.
//!
//! `conformance!(MyFixture::new())` makes one test of each behavior.

use super::{FILE_BYTES_MAX, ModelStore, StoreError};
use crate::model::{Alias, ModelKey, ModelName, Selector, Version};

/// An empty store, and its resources.
pub(crate) trait Fixture {
    /// The store.
    fn store(&self) -> &dyn ModelStore;
    /// The same store after a restart.
    fn reopen(&mut self);
}

/// One `#[test]` for each behavior of the suite.
macro_rules! conformance {
    ($fixture:expr, $($behavior:ident),+ $(,)?) => {
        $(#[test]
        fn $behavior() {
            $crate::store::conformance::$behavior(&mut $fixture);
        })+
    };
    ($fixture:expr) => {
        conformance!(
            $fixture,
            an_empty_store_knows_nothing,
            published_bytes_come_back_also_after_a_restart,
            a_sample_is_kept_beside_its_version_and_goes_with_it,
            use_is_noted_also_over_a_restart_and_not_of_what_is_gone,
            versions_count_up_and_latest_is_the_newest,
            a_deleted_number_never_comes_back,
            a_model_without_versions_is_not_listed,
            models_are_listed_by_name,
            an_alias_is_set_only_if_it_points_where_the_caller_believes,
            an_alias_is_deleted_only_where_the_caller_expects_it,
            a_version_with_an_alias_cannot_be_deleted,
            what_does_not_exist_is_named_with_what_does,
            aliases_are_bounded,
            a_file_above_the_limit_is_refused,
            concurrent_publishes_get_a_number_each,
            a_refresh_without_changes_changes_nothing,
        );
    };
}

fn name(text: &str) -> ModelName {
    text.parse().expect("a name")
}

fn alias(text: &str) -> Alias {
    text.parse().expect("an alias")
}

fn version(number: u64) -> Version {
    Version::new(number).expect("not zero")
}

fn key(model: &str, number: u64) -> ModelKey {
    ModelKey { name: name(model), version: version(number) }
}

#[track_caller]
fn publish(store: &dyn ModelStore, model: &str, content: &str) -> u64 {
    store.publish_bytes(&name(model), content.as_bytes()).expect("published").number()
}

#[track_caller]
fn latest(store: &dyn ModelStore, model: &str) -> u64 {
    store.resolve(&name(model), &Selector::Latest).expect("a version").version.number()
}

pub(crate) fn use_is_noted_also_over_a_restart_and_not_of_what_is_gone(fixture: &mut dyn Fixture) {
    publish(fixture.store(), "a", "one");
    publish(fixture.store(), "a", "two");
    assert_eq!(fixture.store().last_use(&key("a", 1)), None);
    fixture.store().note_use(&key("a", 1)).expect("noted");
    let noted = fixture.store().last_use(&key("a", 1)).expect("noted");
    fixture.reopen();
    let store = fixture.store();
    assert_eq!(store.last_use(&key("a", 1)), Some(noted));
    assert_eq!(store.last_use(&key("a", 2)), None);
    store.delete(&key("a", 1)).expect("deleted");
    assert!(store.note_use(&key("a", 1)).is_err());
    assert_eq!(store.last_use(&key("a", 1)), None);
    assert_eq!(store.entries()[0].versions.len(), 1);
}

pub(crate) fn an_empty_store_knows_nothing(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    assert!(store.is_writable());
    assert!(store.entries().is_empty());
    assert_eq!(store.entry(&name("a")), None);
    assert!(
        matches!(store.resolve(&name("a"), &Selector::Latest), Err(StoreError::UnknownModel(model)) if model == "a")
    );
    assert!(matches!(store.read(&key("a", 1)), Err(StoreError::UnknownModel(_))));
    assert!(matches!(store.delete(&key("a", 1)), Err(StoreError::UnknownModel(_))));
    assert!(matches!(store.set_alias(&key("a", 1), &alias("x"), None), Err(StoreError::UnknownModel(_))));
    assert!(matches!(store.delete_alias(&name("a"), &alias("x"), None), Err(StoreError::UnknownModel(_))));
    assert!(store.entries().is_empty());
}

pub(crate) fn a_sample_is_kept_beside_its_version_and_goes_with_it(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    store.publish_files(&name("a"), b"one", Some(b"rows")).expect("published");
    store.publish_files(&name("a"), b"two", None).expect("published");
    fixture.reopen();
    let store = fixture.store();
    assert_eq!(store.read(&key("a", 1)).expect("there"), b"one");
    assert_eq!(store.read_sample(&key("a", 1)).expect("there"), Some(b"rows".to_vec()));
    assert_eq!(store.read_sample(&key("a", 2)).expect("there"), None);
    store.delete(&key("a", 1)).expect("deleted");
    assert!(matches!(store.read_sample(&key("a", 1)), Err(StoreError::UnknownVersion { .. })));
}

pub(crate) fn published_bytes_come_back_also_after_a_restart(fixture: &mut dyn Fixture) {
    publish(fixture.store(), "a", "first");
    publish(fixture.store(), "a", "");
    fixture.store().set_alias(&key("a", 1), &alias("prod"), None).expect("set");
    let before = fixture.store().entries();
    for _ in 0..2 {
        let store = fixture.store();
        assert_eq!(store.read(&key("a", 1)).expect("stored"), b"first");
        assert_eq!(store.read(&key("a", 2)).expect("stored"), b"");
        assert_eq!(store.entries(), before);
        assert_eq!(before[0].versions[&version(1)].file_bytes, 5);
        fixture.reopen();
    }
}

pub(crate) fn versions_count_up_and_latest_is_the_newest(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    for number in 1..=12 {
        assert_eq!(publish(store, "a", "content"), number);
        assert_eq!(latest(store, "a"), number);
    }
    assert_eq!(publish(store, "b", "content"), 1, "each model counts for itself");
    store.delete(&key("a", 12)).expect("deleted");
    assert_eq!(latest(store, "a"), 11);
}

pub(crate) fn a_deleted_number_never_comes_back(fixture: &mut dyn Fixture) {
    for number in 1..=2 {
        publish(fixture.store(), "a", "content");
        fixture.store().delete(&key("a", number)).expect("deleted");
        assert!(fixture.store().read(&key("a", number)).is_err());
        fixture.reopen();
        assert!(fixture.store().read(&key("a", number)).is_err());
    }
    assert_eq!(publish(fixture.store(), "a", "content"), 3);
    assert_eq!(fixture.store().entry(&name("a")).expect("a model").version_highest, Some(version(3)));
}

pub(crate) fn a_model_without_versions_is_not_listed(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    publish(store, "a", "content");
    store.delete(&key("a", 1)).expect("deleted");
    assert!(store.entries().is_empty());
    assert_eq!(store.entry(&name("a")), None);
    for selector in [Selector::Latest, Selector::Version(version(1)), Selector::Alias(alias("x"))] {
        assert!(matches!(store.resolve(&name("a"), &selector), Err(StoreError::UnknownModel(_))));
    }
}

pub(crate) fn models_are_listed_by_name(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    for model in ["b", "a-1", "a", "0"] {
        publish(store, model, "content");
    }
    let names: Vec<String> = store.entries().into_iter().map(|model| model.name.into()).collect();
    assert_eq!(names, ["0", "a", "a-1", "b"]);
}

pub(crate) fn an_alias_is_set_only_if_it_points_where_the_caller_believes(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    publish(store, "a", "one");
    publish(store, "a", "two");
    let set = |number, expected| store.set_alias(&key("a", number), &alias("prod"), expected);
    assert!(matches!(set(1, Some(Some(version(1)))), Err(StoreError::AliasMoved { got: None, .. })));
    assert_eq!(set(1, Some(None)).expect("new"), None);
    assert!(matches!(set(2, Some(None)), Err(StoreError::AliasMoved { got: Some(_), expected: None, .. })));
    assert!(matches!(set(2, Some(Some(version(2)))), Err(StoreError::AliasMoved { .. })));
    assert_eq!(set(2, Some(Some(version(1)))).expect("as believed"), Some(version(1)));
    assert_eq!(set(1, None).expect("unchecked"), Some(version(2)));
    assert_eq!(store.resolve(&name("a"), &Selector::Alias(alias("prod"))).expect("an alias"), key("a", 1));
    assert!(matches!(set(3, None), Err(StoreError::UnknownVersion { .. })));
}

pub(crate) fn an_alias_is_deleted_only_where_the_caller_expects_it(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    publish(store, "a", "one");
    store.set_alias(&key("a", 1), &alias("prod"), None).expect("set");
    let delete = |expected| store.delete_alias(&name("a"), &alias("prod"), expected);
    assert!(matches!(delete(Some(version(2))), Err(StoreError::AliasMoved { .. })));
    delete(Some(version(1))).expect("as believed");
    assert!(matches!(delete(None), Err(StoreError::UnknownAlias { .. })));
    assert!(matches!(delete(Some(version(1))), Err(StoreError::UnknownAlias { .. })));
}

pub(crate) fn a_version_with_an_alias_cannot_be_deleted(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    publish(store, "a", "one");
    store.set_alias(&key("a", 1), &alias("prod"), None).expect("set");
    assert!(
        matches!(store.delete(&key("a", 1)), Err(StoreError::Aliased { alias: found, .. }) if found == alias("prod"))
    );
    assert_eq!(store.read(&key("a", 1)).expect("still there"), b"one");
    store.delete_alias(&name("a"), &alias("prod"), None).expect("deleted");
    store.delete(&key("a", 1)).expect("deleted");
}

pub(crate) fn what_does_not_exist_is_named_with_what_does(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    publish(store, "a", "one");
    store.set_alias(&key("a", 1), &alias("prod"), None).expect("set");
    let text = |selector| store.resolve(&name("a"), &selector).expect_err("unknown").to_string();
    assert_eq!(text(Selector::Version(version(7))), "a version 7 does not exist; the newest version is 1");
    assert_eq!(text(Selector::Alias(alias("canary"))), "model a has no alias canary; it has prod");
}

pub(crate) fn aliases_are_bounded(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    publish(store, "a", "one");
    let set = |text: &str| store.set_alias(&key("a", 1), &alias(text), None);
    for i in 0..super::ALIASES_MAX {
        set(&format!("alias-{i}")).expect("below the limit");
    }
    assert!(matches!(set("one-more"), Err(StoreError::TooManyAliases { .. })));
    // An existing alias can still be moved.
    assert_eq!(set("alias-0").expect("not a new one"), Some(version(1)));
}

pub(crate) fn a_file_above_the_limit_is_refused(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    // The system's zero pages: nothing is written, because the length is checked first.
    let huge = vec![0; usize::try_from(FILE_BYTES_MAX).expect("64 bits") + 1];
    let error = store.publish_bytes(&name("a"), &huge).expect_err("too large");
    assert!(matches!(error, StoreError::TooLarge { bytes, .. } if bytes == FILE_BYTES_MAX + 1), "{error}");
    assert!(store.entries().is_empty());
}

pub(crate) fn concurrent_publishes_get_a_number_each(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut numbers: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|i| scope.spawn(move || (publish(store, "a", &i.to_string()), i))).collect();
        threads
            .into_iter()
            .map(|thread| {
                let (number, i) = thread.join().expect("no panic");
                assert_eq!(store.read(&key("a", number)).expect("stored"), i.to_string().as_bytes());
                number
            })
            .collect()
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=8).collect::<Vec<u64>>());
}

pub(crate) fn a_refresh_without_changes_changes_nothing(fixture: &mut dyn Fixture) {
    publish(fixture.store(), "a", "one");
    fixture.store().set_alias(&key("a", 1), &alias("prod"), None).expect("set");
    let before = fixture.store().entries();
    assert!(!fixture.store().refresh().expect("readable"));
    assert_eq!(fixture.store().entries(), before);
}
