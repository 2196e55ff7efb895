//! Which versions of a model are served, and which are kept.

use std::time::{Duration, SystemTime};

use super::{ModelEntry, StoreError, VersionPolicy};
use crate::model::{ModelKey, Selector, Version};

impl VersionPolicy {
    /// Whether the policy serves a version of a model.
    pub fn serves(&self, model: &ModelEntry, version: Version) -> bool {
        match self {
            Self::All => true,
            _ if model.aliases.values().any(|aliased| *aliased == version) => true,
            Self::Latest(count) => model.newest_first().take(*count).any(|newest| newest == version),
            Self::Pinned(versions) => versions.contains(&version),
        }
    }

    /// The newest served version; it may be one that has lost its file.
    fn newest(&self, model: &ModelEntry) -> Option<Version> {
        model.newest_first().find(|version| self.serves(model, *version))
    }
}

impl ModelEntry {
    /// [`ModelEntry::resolve`] among the served versions.
    ///
    /// # Errors
    /// Those of [`ModelEntry::resolve`], and [`NotServed`](StoreError::NotServed).
    pub fn resolve_served(&self, selector: &Selector, policy: &VersionPolicy) -> Result<Version, StoreError> {
        let not_served = |version| StoreError::NotServed {
            key: ModelKey { name: self.name.clone(), version },
            policy: policy.clone(),
        };
        if *selector == Selector::Latest
            && let Some(newest) = self.newest_first().next()
        {
            let served = policy.newest(self).ok_or_else(|| not_served(newest))?;
            return self.resolve(&Selector::Version(served));
        }
        let version = self.resolve(selector)?;
        if policy.serves(self, version) { Ok(version) } else { Err(not_served(version)) }
    }

    /// Complete and lost versions, newest first.
    fn newest_first(&self) -> impl Iterator<Item = Version> {
        let (mut there, mut lost) = (self.versions.keys().rev().peekable(), self.lost.keys().rev().peekable());
        std::iter::from_fn(move || if there.peek() >= lost.peek() { there.next() } else { lost.next() }.copied())
    }
}

/// Which versions are kept. Without a retention, all are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Number of newest versions that are kept of each model; at least 1.
    pub newest: usize,
    /// Versions that were used or published within this time are kept, too.
    pub unused_max: Duration,
}

impl Retention {
    /// The versions of a model that may be removed: not among the newest, without alias, not pinned, and unused for too
    /// long. `used` returns the last use of a version, if known.
    pub fn superfluous(
        &self,
        model: &ModelEntry,
        policy: &VersionPolicy,
        now: SystemTime,
        used: impl Fn(Version) -> Option<SystemTime>,
    ) -> Vec<Version> {
        // With a damaged index, the aliases are unknown, so no version is certainly superfluous.
        if model.index_damage.is_some() {
            return Vec::new();
        }
        let is_pinned = |version| matches!(policy, VersionPolicy::Pinned(pinned) if pinned.contains(&version));
        let is_aliased = |version| model.aliases.values().any(|aliased| *aliased == version);
        let older = model.versions.iter().rev().skip(self.newest.max(1));
        let unused = older.filter(|(version, entry)| {
            let last = used(**version).map_or(entry.published, |used| used.max(entry.published));
            // A time in the future counts as now: a clock was set back.
            now.duration_since(last).is_ok_and(|since| since > self.unused_max)
        });
        unused.map(|(version, _)| *version).filter(|version| !is_pinned(*version) && !is_aliased(*version)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::{IndexDamage, VersionEntry};

    fn version(number: u64) -> Version {
        Version::new(number).expect("not zero")
    }

    /// Versions 1 to 5, published on day 1 to 5; alias `prod` at 2.
    fn model() -> ModelEntry {
        let mut model = ModelEntry::new("m".parse().expect("a name"));
        for number in 1..=5 {
            let published = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * number);
            model.versions.insert(version(number), VersionEntry { file_bytes: 1, published });
        }
        model.aliases.insert("prod".parse().expect("an alias"), version(2));
        model
    }

    #[track_caller]
    fn check_served(policy: &str, expected: &[u64], newest: u64) {
        let (model, policy) = (model(), policy.parse::<VersionPolicy>().expect("a policy"));
        let served: Vec<u64> =
            model.versions.keys().filter(|one| policy.serves(&model, **one)).map(|one| one.number()).collect();
        assert_eq!(served, expected);
        assert_eq!(model.resolve_served(&Selector::Latest, &policy).expect("served"), version(newest));
        for number in 1..=5 {
            let outcome = model.resolve_served(&Selector::Version(version(number)), &policy);
            assert_eq!(outcome.is_ok(), expected.contains(&number), "{number}: {outcome:?}");
        }
        assert!(model.resolve_served(&Selector::Alias("prod".parse().expect("an alias")), &policy).is_ok());
    }

    #[test]
    fn a_policy_serves_its_versions_and_aliased_versions() {
        check_served("all", &[1, 2, 3, 4, 5], 5);
        check_served("latest:1", &[2, 5], 5);
        check_served("latest:2", &[2, 4, 5], 5);
        check_served("latest:9", &[1, 2, 3, 4, 5], 5);
        check_served("pinned:1+3", &[1, 2, 3], 3);
        check_served("pinned:7", &[2], 2);
    }

    #[test]
    fn a_missing_pinned_version_is_an_error() {
        let policy: VersionPolicy = "pinned:7".parse().expect("a policy");
        let model = ModelEntry { aliases: BTreeMap::new(), ..model() };
        let error = model.resolve_served(&Selector::Latest, &policy).expect_err("none").to_string();
        assert!(error.contains("pinned:7"), "{error}");
    }

    #[test]
    fn a_lost_version_is_not_replaced_by_an_older_one() {
        let mut model = model();
        model.versions.remove(&version(5));
        model.lost.insert(version(5), "is missing");
        let latest = |policy: &str| model.resolve_served(&Selector::Latest, &policy.parse().expect("a policy"));
        for policy in ["all", "latest:1", "latest:2"] {
            let error = latest(policy).expect_err("the newest is lost");
            assert!(matches!(&error, StoreError::VersionLost { key, .. } if key.version == version(5)), "{error}");
        }
        assert_eq!(latest("pinned:4").expect("it is there"), version(4));
        let all = VersionPolicy::All;
        assert_eq!(model.resolve_served(&Selector::Version(version(4)), &all).expect("it is there"), version(4));
        assert!(model.resolve_served(&Selector::Version(version(5)), &all).is_err());
    }

    #[track_caller]
    fn check_kept(newest: usize, days: u64, today: u64, policy: &str, used: &[(u64, u64)], expected_gone: &[u64]) {
        let day = |number: u64| SystemTime::UNIX_EPOCH + Duration::from_hours(24 * number);
        let retention = Retention { newest, unused_max: Duration::from_hours(24 * days) };
        let gone = retention.superfluous(&model(), &policy.parse().expect("a policy"), day(today), |version| {
            used.iter().find(|(number, _)| *number == version.number()).map(|(_, at)| day(*at))
        });
        let mut gone: Vec<u64> = gone.iter().map(|version| version.number()).collect();
        gone.sort_unstable();
        assert_eq!(gone, expected_gone);
    }

    #[test]
    fn newest_aliased_pinned_and_used_versions_are_kept() {
        check_kept(2, 10, 100, "all", &[], &[1, 3]);
        check_kept(2, 10, 100, "pinned:3", &[], &[1]);
        check_kept(2, 10, 100, "all", &[(1, 95)], &[3]);
        check_kept(2, 10, 100, "all", &[(1, 80)], &[1, 3]);
        check_kept(5, 10, 100, "all", &[], &[]);
        check_kept(0, 10, 100, "all", &[], &[1, 3, 4]);
    }

    #[test]
    fn new_versions_are_kept_even_if_the_clock_goes_back() {
        check_kept(1, 10, 12, "all", &[], &[1]);
        check_kept(1, 10, 0, "all", &[], &[]);
    }

    #[test]
    fn models_with_a_damaged_index_keep_all_versions() {
        let index_damage = Some(IndexDamage { reason: "r".to_owned() });
        let model = ModelEntry { index_damage, ..model() };
        let retention = Retention { newest: 1, unused_max: Duration::ZERO };
        assert!(retention.superfluous(&model, &VersionPolicy::All, SystemTime::now(), |_| None).is_empty());
    }
}
