//! Limits on what is in flight: started calls, bytes of partial requests, and unsent responses. All of them take
//! memory before any other limit applies. Each limit is a fair quota of `security`, of which one address gets only a
//! part; `counted.rs` also charges the bytes of a request to the fixed quota of its caller.

mod counted;
mod request_body;
mod response_body;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::HeaderMap;

pub(super) use counted::Counted;
pub(super) use request_body::{PREFIX_BYTES, RequestBody};
pub(super) use response_body::{OfCall, ResponseBody};

use crate::security::gate::Peer;
use crate::security::{FairQuota, QuotaGuard, Refusal};

/// Maximum concurrent health checks. They have a limit of their own, so that other calls cannot make them fail.
const PROBES_MAX: u64 = 8192;
/// Messages, responses and headers up to this size are not counted: the limit on calls covers them.
const SMALL_BYTES_MAX: usize = 4 << 10;

/// Memory of a header besides its name and its value: an entry in the map, and two allocations.
const HEADER_BYTES: usize = 160;

/// The limits, and their current use.
#[derive(Debug)]
pub struct InFlight {
    calls: FairQuota,
    probes: FairQuota,
    bytes: FairQuota,
    message_bytes_max: usize,
    message_wait_max: Duration,
}

impl InFlight {
    /// Creates the limits: calls and bytes in flight, message size, and the wait for the rest of a message.
    pub fn new(calls_max: usize, bytes_max: u64, message_bytes_max: usize, message_wait_max: Duration) -> Self {
        Self {
            calls: FairQuota::new(calls_max as u64),
            probes: FairQuota::new(PROBES_MAX),
            bytes: FairQuota::new(bytes_max),
            message_bytes_max,
            message_wait_max,
        }
    }

    /// Reserves a slot for a call until the guard is dropped.
    pub(super) fn begin(&self, peer: &Peer, is_probe: bool) -> Result<QuotaGuard, Refusal> {
        let (places, limit) =
            if is_probe { (&self.probes, "the limit on health checks") } else { (&self.calls, "calls_max") };
        places.take(address(peer), 1).ok_or(Refusal::NoRoom { limit, max: places.max() })
    }

    /// Reserves the bytes of large headers.
    pub(super) fn hold_headers(&self, peer: &Peer, headers: &HeaderMap) -> Result<Option<QuotaGuard>, Refusal> {
        let bytes = headers.iter().map(|(name, value)| HEADER_BYTES + name.as_str().len() + value.len()).sum();
        if bytes <= SMALL_BYTES_MAX { Ok(None) } else { self.hold(peer, bytes).map(Some) }
    }

    /// Reserves bytes.
    fn hold(&self, peer: &Peer, bytes: usize) -> Result<QuotaGuard, Refusal> {
        let share = self.bytes.take(address(peer), bytes as u64);
        share.ok_or(Refusal::NoRoom { limit: "in_flight_bytes_max", max: self.bytes.max() })
    }
}

/// The address of a peer. Only tests have peers without one.
fn address(peer: &Peer) -> IpAddr {
    peer.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into())
}
