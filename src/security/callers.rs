//! Quotas of one caller: requests, rows and bytes in flight, and requests per second. They are fixed numbers, which do
//! not depend on other callers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Refusal;
use crate::telemetry::rate_limit::{Rate, RateLimit};

/// Limits of one caller; 0 means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallerLimits {
    /// Requests in flight; a stream is one.
    pub requests_max: u64,
    /// Rows in flight.
    pub rows_max: u64,
    /// Bytes of requests in flight, as received.
    pub bytes_max: u64,
    /// Requests that begin per second; a burst of one second's requests is allowed.
    pub requests_per_second_max: u64,
}

/// Retry delay where the end of another request of the caller frees its quota.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// What one caller has in flight.
#[derive(Debug, Default)]
pub struct Usage {
    requests: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
    rate: RateLimit,
}

/// A part of a caller's quota; returned when dropped.
#[derive(Debug)]
pub struct CallerQuotaGuard {
    usage: Arc<Usage>,
    requests: u64,
    rows: u64,
    bytes: u64,
}

impl CallerQuotaGuard {
    /// Moves the holdings of another guard of the same caller into this one.
    pub fn absorb(&mut self, mut other: Self) {
        self.requests += std::mem::take(&mut other.requests);
        self.rows += std::mem::take(&mut other.rows);
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for CallerQuotaGuard {
    fn drop(&mut self) {
        self.usage.requests.fetch_sub(self.requests, Ordering::Relaxed);
        self.usage.rows.fetch_sub(self.rows, Ordering::Relaxed);
        self.usage.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Adds `more` if the sum stays within `max` (0: no limit); else returns the sum that would exceed it.
fn add(counter: &AtomicU64, more: u64, max: u64) -> Result<(), u64> {
    if max == 0 {
        counter.fetch_add(more, Ordering::Relaxed);
        return Ok(());
    }
    let sum = |now: u64| now.checked_add(more).filter(|sum| *sum <= max);
    let added = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
    added.map(|_| ()).map_err(|now| now.saturating_add(more))
}

impl Usage {
    pub(super) fn begin(
        self: &Arc<Self>,
        caller: &Arc<str>,
        limits: &CallerLimits,
        now_ns: u64,
    ) -> Result<Option<CallerQuotaGuard>, Refusal> {
        let held = if limits.requests_max > 0 {
            add(&self.requests, 1, limits.requests_max).map_err(|got| Refusal::TooMuch {
                caller: Arc::clone(caller),
                limit: "requests_max",
                got,
                max: limits.requests_max,
                retry_after: RETRY_AFTER,
            })?;
            Some(CallerQuotaGuard { usage: Arc::clone(self), requests: 1, rows: 0, bytes: 0 })
        } else {
            None
        };
        if limits.requests_per_second_max > 0 {
            let max = limits.requests_per_second_max;
            self.rate.admit(Rate::per_second(max), now_ns).map_err(|retry_after| Refusal::TooOften {
                caller: Arc::clone(caller),
                max,
                retry_after,
            })?;
        }
        Ok(held)
    }

    pub(super) fn hold(
        self: &Arc<Self>,
        caller: &Arc<str>,
        limits: &CallerLimits,
        rows: u64,
        bytes: u64,
    ) -> Result<Option<CallerQuotaGuard>, Refusal> {
        if limits.rows_max == 0 && limits.bytes_max == 0 {
            return Ok(None);
        }
        let too_much = |limit, max| {
            move |got| Refusal::TooMuch { caller: Arc::clone(caller), limit, got, max, retry_after: RETRY_AFTER }
        };
        let mut held = CallerQuotaGuard { usage: Arc::clone(self), requests: 0, rows: 0, bytes: 0 };
        add(&self.rows, rows, limits.rows_max).map_err(too_much("rows_max", limits.rows_max))?;
        held.rows = rows;
        add(&self.bytes, bytes, limits.bytes_max).map_err(too_much("bytes_max", limits.bytes_max))?;
        held.bytes = bytes;
        Ok(Some(held))
    }

    /// Whether the rate limit has fully recovered, so that the counters can be dropped.
    fn is_as_new(&self, now_ns: u64) -> bool {
        self.rate.is_unused(now_ns)
    }
}

/// Counters of callers without a credential, by the network of their address.
#[derive(Debug, Default)]
pub struct Addresses {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    callers: HashMap<IpAddr, Arc<Usage>>,
    /// Number of entries at which departed callers are removed.
    look_at: usize,
}

/// Below this number of entries, departed callers are not removed.
const LOOK_AT_MIN: usize = 1024;

impl Addresses {
    /// The counters of an address, to be kept by the connection. Counters of departed addresses are removed later.
    pub fn caller(&self, address: IpAddr, now_ns: u64) -> Arc<Usage> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let network = network(address);
        if known.callers.len() >= known.look_at.max(LOOK_AT_MIN) && !known.callers.contains_key(&network) {
            known.callers.retain(|_, usage| Arc::strong_count(usage) > 1 || !usage.is_as_new(now_ns));
            known.look_at = 2 * known.callers.len();
        }
        Arc::clone(known.callers.entry(network).or_default())
    }
}

/// The network that counts as one caller: an IPv4 address, or an IPv6 /64, since one subscriber has 2^64 IPv6
/// addresses.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Arc<str> {
        "c".into()
    }

    #[test]
    fn requests_are_counted_until_they_end() {
        let (usage, limits) = (Arc::new(Usage::default()), CallerLimits { requests_max: 2, ..Default::default() });
        let begin = || usage.begin(&caller(), &limits, 0);
        let (first, _second) = (begin().expect("room"), begin().expect("room"));
        assert!(matches!(begin(), Err(Refusal::TooMuch { limit: "requests_max", got: 3, max: 2, .. })));
        drop(first);
        begin().expect("room again");
    }

    #[test]
    fn rows_and_bytes_are_released_also_after_a_rejection() {
        let limits = CallerLimits { rows_max: 10, bytes_max: 100, ..Default::default() };
        let usage = Arc::new(Usage::default());
        let hold = |rows, bytes| usage.hold(&caller(), &limits, rows, bytes);
        let held = hold(6, 60).expect("room");
        assert!(matches!(hold(5, 1), Err(Refusal::TooMuch { limit: "rows_max", got: 11, .. })));
        assert!(matches!(hold(4, 41), Err(Refusal::TooMuch { limit: "bytes_max", got: 101, .. })));
        drop(hold(4, 40).expect("what was refused holds nothing"));
        drop(held);
        hold(10, 100).expect("all of it");
        assert!(hold(u64::MAX, 1).is_err());
    }

    #[test]
    fn usage_is_not_tracked_without_limits() {
        let usage = Arc::new(Usage::default());
        assert!(usage.hold(&caller(), &CallerLimits::default(), 1, 1).expect("free").is_none());
        assert!(usage.begin(&caller(), &CallerLimits::default(), 1).expect("free").is_none());
    }

    #[test]
    fn idle_addresses_are_removed() {
        let addresses = Addresses::default();
        let stays = addresses.caller("10.0.0.1".parse().expect("an address"), 0);
        stays.requests.fetch_add(7, Ordering::Relaxed);
        for i in 0..10_000_u32 {
            addresses.caller(std::net::Ipv4Addr::from_bits(0x0b00_0000 + i).into(), 0);
        }
        let count = addresses.known.lock().expect("sound").callers.len();
        assert!(count <= LOOK_AT_MIN + 1, "{count} are known");
        let again = addresses.caller("::ffff:10.0.0.1".parse().expect("an address"), 0);
        assert_eq!(again.requests.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn an_ipv6_prefix_of_64_bits_is_one_caller() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }
}
