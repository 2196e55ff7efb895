//! A least-recently-used cache of models, bounded in bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::model::ModelKey;

/// A model in memory, for listings and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResidentModel {
    /// Name and version.
    pub key: ModelKey,
    /// Bytes of its tensors, statistics, scorer and pseudo-inverses.
    pub tensor_bytes: u64,
}

/// The cache. A lookup takes a read lock and two relaxed atomics, because every request makes one.
pub(super) struct Residents<T> {
    slots: RwLock<Slots<T>>,
    /// Counts lookups and insertions: a larger number was used later.
    clock: AtomicU64,
    bytes_max: u64,
}

struct Slots<T> {
    by_key: HashMap<ModelKey, Slot<T>>,
    bytes: u64,
}

struct Slot<T> {
    value: Arc<T>,
    bytes: u64,
    last_used: AtomicU64,
}

impl<T> Residents<T> {
    pub(super) fn new(bytes_max: u64) -> Self {
        let slots = Slots { by_key: HashMap::new(), bytes: 0 };
        Self { slots: RwLock::new(slots), clock: AtomicU64::new(0), bytes_max }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn get(&self, key: &ModelKey) -> Option<Arc<T>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.by_key.get(key)?;
        slot.last_used.store(self.tick(), Ordering::Relaxed);
        Some(Arc::clone(&slot.value))
    }

    /// Adds a value, and evicts the least recently used others while the total is above the limit.
    pub(super) fn insert(&self, key: &ModelKey, value: Arc<T>, bytes: u64) {
        let mut evicted = Vec::new();
        {
            let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
            let slot = Slot { value, bytes, last_used: AtomicU64::new(self.tick()) };
            evicted.extend(slots.remove(key));
            slots.bytes += bytes;
            slots.by_key.insert(key.clone(), slot);
            while slots.bytes > self.bytes_max {
                let Some(oldest) = slots.oldest_but(key) else { break };
                evicted.extend(slots.remove(&oldest));
            }
        }
        drop(evicted); // outside the lock: freeing a large model takes a while
    }

    pub(super) fn remove(&self, key: &ModelKey) {
        let removed = self.slots.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        drop(removed);
    }

    pub(super) fn list(&self) -> Vec<ResidentModel> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let one = |(key, slot): (&ModelKey, &Slot<T>)| ResidentModel { key: key.clone(), tensor_bytes: slot.bytes };
        let mut list: Vec<ResidentModel> = slots.by_key.iter().map(one).collect();
        list.sort_by(|a, b| a.key.cmp(&b.key));
        list
    }
}

impl<T> Slots<T> {
    fn oldest_but(&self, kept: &ModelKey) -> Option<ModelKey> {
        let others = self.by_key.iter().filter(|(key, _)| *key != kept);
        others.min_by_key(|(_, slot)| slot.last_used.load(Ordering::Relaxed)).map(|(key, _)| key.clone())
    }

    fn remove(&mut self, key: &ModelKey) -> Option<Slot<T>> {
        let slot = self.by_key.remove(key)?;
        self.bytes -= slot.bytes;
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Version;

    fn key(number: u64) -> ModelKey {
        ModelKey { name: "a".parse().expect("a name"), version: Version::new(number).expect("not zero") }
    }

    /// Inserts pairs of version and bytes in order, looks up `touched`, inserts `last`, and compares what stays.
    #[track_caller]
    fn check_kept(bytes_max: u64, inserted: &[(u64, u64)], touched: &[u64], last: (u64, u64), expected: &[u64]) {
        let residents = Residents::new(bytes_max);
        for (version, bytes) in inserted {
            residents.insert(&key(*version), Arc::new(*version), *bytes);
        }
        for version in touched {
            assert_eq!(residents.get(&key(*version)).as_deref(), Some(version));
        }
        residents.insert(&key(last.0), Arc::new(last.0), last.1);
        let kept: Vec<u64> = residents.list().iter().map(|resident| resident.key.version.number()).collect();
        assert_eq!(kept, expected);
    }

    #[test]
    fn values_that_fit_stay() {
        check_kept(30, &[(1, 10), (2, 10)], &[], (3, 10), &[1, 2, 3]);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        check_kept(20, &[(1, 10), (2, 10)], &[], (3, 10), &[2, 3]);
        check_kept(20, &[(1, 10), (2, 10)], &[1], (3, 10), &[1, 3]);
        check_kept(20, &[(1, 10), (2, 10)], &[1, 2], (3, 11), &[3]);
    }

    #[test]
    fn the_newest_stays_even_if_it_is_too_large() {
        check_kept(20, &[(1, 10), (2, 10)], &[], (3, 100), &[3]);
        check_kept(0, &[], &[], (1, 1), &[1]);
    }

    #[test]
    fn a_replaced_value_counts_once() {
        check_kept(20, &[(1, 10), (2, 10)], &[], (2, 10), &[1, 2]);
    }

    #[test]
    fn removed_values_are_not_counted_and_live_while_held() {
        let residents = Residents::new(10);
        residents.insert(&key(1), Arc::new("one"), 10);
        let held = residents.get(&key(1)).expect("resident");
        residents.remove(&key(1));
        residents.remove(&key(1));
        assert!(residents.get(&key(1)).is_none());
        residents.insert(&key(2), Arc::new("two"), 10);
        assert_eq!(residents.list().len(), 1);
        assert_eq!(*held, "one");
    }
}
