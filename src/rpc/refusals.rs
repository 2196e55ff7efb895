//! Logs of refused calls.

use crate::security::Refusal;
use crate::security::gate::Peer;
use crate::security::log_throttle::LogThrottle;

/// Logs a refusal at most once a minute per kind. `has_begun`: the call was refused while it was in flight.
pub(super) fn log_refusal(refusal: &Refusal, peer: &Peer, has_begun: bool) {
    static UNKNOWN: LogThrottle = LogThrottle::never();
    static ENDED: LogThrottle = LogThrottle::never();
    static FORBIDDEN: LogThrottle = LogThrottle::never();
    static TOO_MUCH: LogThrottle = LogThrottle::never();
    static NO_ROOM: LogThrottle = LogThrottle::never();
    static TOO_SLOW: LogThrottle = LogThrottle::never();
    let (throttle, what) = match refusal {
        Refusal::Unknown if has_begun => (&ENDED, "stream ended: its credential is no longer valid"),
        Refusal::Unknown => (&UNKNOWN, "call refused: missing or invalid credential"),
        Refusal::Method { .. } | Refusal::Model { .. } => (&FORBIDDEN, "call refused: its caller lacks permission"),
        Refusal::TooMuch { .. } | Refusal::TooOften { .. } => (&TOO_MUCH, "a caller has reached a limit"),
        Refusal::NoRoom { .. } => (&NO_ROOM, "call refused: too much in flight, in total or from this address"),
        Refusal::TooSlow { .. } => (&TOO_SLOW, "call ended: its message did not arrive in time"),
    };
    throttle.once(|unsaid| {
        let address = peer.address.map(|address| address.to_string()).unwrap_or_default();
        tracing::warn!(%refusal, address, unsaid, "{what}");
    });
}
