//! A quota that all addresses share; one address cannot use all of it. Unlike the fixed limits of one caller
//! (`callers.rs`), the share of an address shrinks while others use the quota.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::callers::network;
use crate::fair_share::has_room;

/// A shared quota of connections, calls or bytes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FairQuota {
    taken: Arc<Mutex<Taken>>,
    max: u64,
}

#[derive(Debug, Default)]
struct Taken {
    all: u64,
    /// A tree, because every call looks it up: with few entries it is faster than a hash map.
    by_network: BTreeMap<IpAddr, u64>,
}

/// A part of the quota; returned when dropped.
#[derive(Debug)]
pub struct QuotaGuard {
    shares: FairQuota,
    address: IpAddr,
    count: u64,
}

impl QuotaGuard {
    /// The address that holds this part.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

impl FairQuota {
    /// A quota of `max` units.
    pub fn new(max: u64) -> Self {
        Self { taken: Arc::default(), max }
    }

    /// Size of the quota.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Takes `count` units for an address; `None` if they are not free or exceed its [fair share](crate::fair_share).
    pub fn take(&self, address: IpAddr, count: u64) -> Option<QuotaGuard> {
        let network = network(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by_network.get(&network).copied().unwrap_or(0);
        if !has_room(count, own, taken.all, self.max) {
            return None;
        }
        taken.all += count;
        *taken.by_network.entry(network).or_default() += count;
        drop(taken);
        Some(QuotaGuard { shares: self.clone(), address, count })
    }
}

impl Drop for QuotaGuard {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= self.count;
        let network = network(self.address);
        if let Some(own) = taken.by_network.get_mut(&network) {
            *own -= self.count;
            if *own == 0 {
                taken.by_network.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn one_address_leaves_a_fifth_to_others() {
        let shares = FairQuota::new(100);
        let own: Vec<QuotaGuard> = std::iter::from_fn(|| shares.take(address(1), 1)).collect();
        assert_eq!(own.len(), 80);
        let others: Vec<QuotaGuard> = (2..200).filter_map(|last| shares.take(address(last), 1)).collect();
        assert_eq!(others.len(), 20);
        drop((own, others));
        let taken = shares.taken.lock().expect("sound");
        assert_eq!((taken.all, taken.by_network.len()), (0, 0));
    }

    #[test]
    fn a_single_unit_can_be_taken() {
        let shares = FairQuota::new(1);
        let share = shares.take(address(1), 1).expect("free");
        assert!(shares.take(address(2), 1).is_none());
        drop(share);
        shares.take(address(2), 1).expect("free again");
    }

    #[test]
    fn the_whole_quota_can_be_taken_at_once_and_no_more() {
        let shares = FairQuota::new(100);
        assert!(shares.take(address(1), 101).is_none());
        let all = shares.take(address(1), 100).expect("free");
        assert!(shares.take(address(2), 1).is_none());
        drop(all);
        assert!(shares.take(address(1), u64::MAX).is_none());
    }

    proptest! {
        #[test]
        fn releases_return_exactly_what_was_taken(takes in prop::collection::vec((0_u8..4, 0_u64..60, any::<bool>()), 0..100)) {
            let shares = FairQuota::new(100);
            let mut held = Vec::new();
            for (caller, count, gives_back) in takes {
                held.extend(shares.take(address(caller), count));
                let sum: u64 = held.iter().map(|share: &QuotaGuard| share.count).sum();
                prop_assert!(sum <= 100);
                prop_assert_eq!(shares.taken.lock().expect("sound").all, sum);
                if gives_back && !held.is_empty() {
                    held.swap_remove(0);
                }
            }
            drop(held);
            prop_assert_eq!(shares.taken.lock().expect("sound").by_network.len(), 0);
        }
    }
}
