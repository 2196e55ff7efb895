//! What is under way: calls that have begun, messages that have come in part, answers that are not out. All of them take
//! memory before anybody can judge them, so there is a bound on each, of which one address does not get all.

mod request_body;
mod response_body;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::HeaderMap;

pub(super) use request_body::{PREFIX_BYTES, RequestBody};
pub(super) use response_body::{OfCall, ResponseBody};

use crate::security::gate::Peer;
use crate::security::{FairQuota, QuotaGuard, Refusal};

/// Probes have places of their own: they are not to fail because of others.
const PROBES_MAX: u64 = 8192;
/// A message or an answer that is no larger is part of what a call costs anyway.
const SMALL_BYTES_MAX: usize = 4 << 10;

/// What a header takes beside its name and its value: a place in the map, and two allocations.
const HEADER_BYTES: usize = 160;

/// The bounds, and what is under way.
#[derive(Debug)]
pub struct InFlight {
    calls: FairQuota,
    probes: FairQuota,
    bytes: FairQuota,
    message_bytes_max: usize,
    message_wait_max: Duration,
}

impl InFlight {
    /// So many calls and bytes under way, and so long a wait for the rest of a message of at most so many bytes.
    pub fn new(calls_max: usize, bytes_max: u64, message_bytes_max: usize, message_wait_max: Duration) -> Self {
        Self {
            calls: FairQuota::new(calls_max as u64),
            probes: FairQuota::new(PROBES_MAX),
            bytes: FairQuota::new(bytes_max),
            message_bytes_max,
            message_wait_max,
        }
    }

    /// A place for a call, for as long as it is under way.
    pub(super) fn begin(&self, peer: &Peer, is_probe: bool) -> Result<QuotaGuard, Refusal> {
        let (places, limit) =
            if is_probe { (&self.probes, "its health checks at a time") } else { (&self.calls, "calls_max") };
        places.take(address(peer), 1).ok_or(Refusal::NoRoom { limit, max: places.max() })
    }

    /// Room for the headers of a call, where they are more than a call costs anyway.
    pub(super) fn hold_headers(&self, peer: &Peer, headers: &HeaderMap) -> Result<Option<QuotaGuard>, Refusal> {
        let bytes = headers.iter().map(|(name, value)| HEADER_BYTES + name.as_str().len() + value.len()).sum();
        if bytes <= SMALL_BYTES_MAX { Ok(None) } else { self.hold(peer, bytes).map(Some) }
    }

    /// Room for bytes.
    fn hold(&self, peer: &Peer, bytes: usize) -> Result<QuotaGuard, Refusal> {
        let share = self.bytes.take(address(peer), bytes as u64);
        share.ok_or(Refusal::NoRoom { limit: "in_flight_bytes_max", max: self.bytes.max() })
    }
}

/// Nobody comes without an address but in tests.
fn address(peer: &Peer) -> IpAddr {
    peer.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into())
}
