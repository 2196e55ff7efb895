//! Abuse detection on HTTP/2 frame headers, for floods that the HTTP/2 library accepts or rejects silently.

use std::time::Instant;

/// Length, type, flags, stream (RFC 9113, 4.1).
const HEAD_BYTES: usize = 9;
/// Payload of a reset: the error code (6.4).
const REASON_BYTES: usize = 4;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
/// Error codes of our resets that are the client's fault (7): protocol, flow control, closed streams, frame sizes.
const CLIENTS_FAULTS: [u32; 4] = [1, 3, 5, 6];

/// Capacity of a [`TokenBucket`]: the excess that a client may use before its connection is closed.
const SPARE_MAX: f64 = 4096.0;
/// Tokens that are refilled per second.
const SPARE_PER_SECOND: f64 = 1000.0;
/// Sent bytes per window update that the client may send. It may send two per response, and no response has fewer than
/// 14 bytes.
const BYTES_PER_UPDATE: f64 = 7.0;
/// Sent bytes per idle frame that the client may send. Some clients send a PING for each response. The PING's own
/// acknowledgment of 17 bytes must not pay for the next PING.
const BYTES_PER_IDLE: f64 = 24.0;
/// A padded frame of at most this many bytes may contain only padding.
const PADDING_BYTES_MAX: usize = 256;

/// Kind of abuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abuse {
    /// The headers of one call are larger than `header_bytes_max`.
    Headers,
    /// The client started thousands of calls and canceled more than half of them.
    Resets,
    /// Too many frames without content, such as empty DATA, PING, SETTINGS or WINDOW_UPDATE frames.
    IdleFrames,
}

/// Token bucket: spending takes tokens, and sent responses and time refill it. The rate limits of `telemetry` know only
/// time.
#[derive(Debug)]
struct TokenBucket {
    left: f64,
    at: Instant,
}

impl TokenBucket {
    fn new(now: Instant) -> Self {
        Self { left: SPARE_MAX, at: now }
    }

    fn earn(&mut self, count: f64) {
        self.left = (self.left + count).min(SPARE_MAX);
    }

    /// Takes `count` tokens; returns whether there were enough.
    fn spend(&mut self, count: f64, now: impl FnOnce() -> Instant) -> bool {
        self.left -= count;
        if self.left >= 0.0 {
            return true;
        }
        // Read the clock only when the bucket is empty.
        let now = now();
        let passed = now.saturating_duration_since(self.at).as_secs_f64() * SPARE_PER_SECOND;
        self.at = now;
        self.left = (self.left + passed).min(SPARE_MAX);
        self.left >= 0.0
    }
}

/// Header of a frame; for a reset, also its error code.
#[derive(Clone, Copy, Debug)]
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
    bytes: usize,
    reason: u32,
}

/// Parses frame headers from a byte stream.
#[derive(Debug, Default)]
struct Heads {
    head: [u8; HEAD_BYTES + REASON_BYTES],
    head_bytes: usize,
    /// Payload bytes of the current frame that are still to come.
    payload_left: usize,
}

impl Heads {
    fn see(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) {
        loop {
            let passing = self.payload_left.min(bytes.len());
            self.payload_left -= passing;
            bytes = &bytes[passing..];
            if bytes.is_empty() {
                return;
            }
            let wanted = if self.head_bytes < HEAD_BYTES { HEAD_BYTES } else { HEAD_BYTES + REASON_BYTES };
            let count = (wanted - self.head_bytes).min(bytes.len());
            self.head[self.head_bytes..self.head_bytes + count].copy_from_slice(&bytes[..count]);
            self.head_bytes += count;
            bytes = &bytes[count..];
            if self.head_bytes < wanted {
                return;
            }
            let [a, b, c, kind, flags, s0, s1, s2, s3, reason @ ..] = self.head;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let is_reset = kind == RST_STREAM && length == REASON_BYTES;
            if is_reset && self.head_bytes == HEAD_BYTES {
                continue;
            }
            (self.head_bytes, self.payload_left) = (0, if is_reset { 0 } else { length });
            let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
            let reason = if is_reset { u32::from_be_bytes(reason) } else { 0 };
            each(Head { kind, flags, stream, bytes: length, reason });
        }
    }
}

/// Frame inspection of one connection, in both directions.
#[derive(Debug)]
pub(super) struct Frames {
    received: Heads,
    sent: Heads,
    tally: Tally,
}

/// Counters of one connection.
#[derive(Debug)]
struct Tally {
    header_bytes_max: u64,
    /// Header bytes of the call that is starting.
    header_bytes: u64,
    /// Stream id of the newest call.
    newest: u32,
    resets: TokenBucket,
    updates: TokenBucket,
    idle: TokenBucket,
}

impl Frames {
    /// For a connection that starts at `now`.
    pub(super) fn new(header_bytes_max: u64, now: Instant) -> Self {
        Self { received: Heads::default(), sent: Heads::default(), tally: Tally::new(header_bytes_max, now) }
    }

    /// Inspects the next received bytes; returns the first abuse in them.
    pub(super) fn see(&mut self, bytes: &[u8]) -> Option<Abuse> {
        let (tally, mut first) = (&mut self.tally, None);
        self.received.see(bytes, |head| {
            let abuse = tally.received(head, Instant::now);
            first = first.or(abuse);
        });
        first
    }

    /// Inspects the next sent bytes; returns the first abuse.
    pub(super) fn sent(&mut self, bytes: &[u8]) -> Option<Abuse> {
        self.tally.earn(bytes.len());
        let (tally, mut first) = (&mut self.tally, None);
        self.sent.see(bytes, |head| {
            let abuse = tally.sent(head, Instant::now);
            first = first.or(abuse);
        });
        first
    }
}

impl Tally {
    fn new(header_bytes_max: u64, now: Instant) -> Self {
        Self {
            header_bytes_max,
            header_bytes: 0,
            newest: 0,
            resets: TokenBucket::new(now),
            updates: TokenBucket::new(now),
            idle: TokenBucket::new(now),
        }
    }

    /// Adds tokens for `bytes` sent bytes, since the client may react to them.
    fn earn(&mut self, bytes: usize) {
        self.updates.earn(bytes as f64 / BYTES_PER_UPDATE);
        self.idle.earn(bytes as f64 / BYTES_PER_IDLE);
    }

    /// Counts a stream that we reset through the client's fault like one that the client reset.
    fn sent(&mut self, head: Head, now: impl FnOnce() -> Instant) -> Option<Abuse> {
        let is_clients = head.kind == RST_STREAM && CLIENTS_FAULTS.contains(&head.reason);
        (is_clients && !self.resets.spend(2.0, now)).then_some(Abuse::Resets)
    }

    fn received(&mut self, head: Head, now: impl FnOnce() -> Instant) -> Option<Abuse> {
        let Head { kind, flags, stream, bytes, .. } = head;
        match kind {
            HEADERS | CONTINUATION => {
                if kind == HEADERS {
                    self.header_bytes = 0;
                    // Only a new stream is a new call; trailers reuse the stream of their call.
                    if stream > self.newest {
                        self.newest = stream;
                        self.resets.earn(1.0);
                    }
                }
                let before = self.header_bytes;
                self.header_bytes += bytes as u64;
                let is_over = self.header_bytes > self.header_bytes_max && before <= self.header_bytes_max;
                if is_over {
                    return Some(Abuse::Headers);
                }
                // A normal call sends its headers in few frames, none of them empty.
                let is_idle = kind == CONTINUATION && bytes == 0 && flags & END_HEADERS == 0;
                (is_idle && !self.idle.spend(1.0, now)).then_some(Abuse::IdleFrames)
            }
            RST_STREAM => (!self.resets.spend(2.0, now)).then_some(Abuse::Resets),
            WINDOW_UPDATE => (!self.updates.spend(1.0, now)).then_some(Abuse::IdleFrames),
            DATA if flags & END_STREAM != 0 => None,
            DATA if bytes > if flags & PADDED == 0 { 0 } else { PADDING_BYTES_MAX } => None,
            _ => (!self.idle.spend(1.0, now)).then_some(Abuse::IdleFrames),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, bytes: usize) -> Vec<u8> {
        let mut frame = (bytes as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.resize(HEAD_BYTES + bytes, 7);
        frame
    }

    #[test]
    fn large_headers_are_reported_once_also_in_parts() {
        let mut frames = Frames::new(100, Instant::now());
        assert_eq!(frames.see(&frame(HEADERS, END_HEADERS, 100)), None);
        assert_eq!(frames.see(&frame(HEADERS, END_HEADERS, 101)), Some(Abuse::Headers));
        assert_eq!(frames.see(&frame(HEADERS, 0, 60)), None);
        assert_eq!(frames.see(&frame(CONTINUATION, 0, 60)), Some(Abuse::Headers));
        assert_eq!(frames.see(&frame(CONTINUATION, 0, 60)), None, "reported once");
        assert_eq!(frames.see(&frame(DATA, 0, 1000)), None);
    }

    fn head(kind: u8, flags: u8, bytes: usize) -> Head {
        Head { kind, flags, stream: 0, bytes, reason: 0 }
    }

    /// Receives the headers of a new call.
    fn begin(tally: &mut Tally, at: Instant) {
        let stream = tally.newest + 2;
        tally.received(Head { stream, ..head(HEADERS, END_HEADERS, 10) }, || at);
    }

    #[test]
    fn only_mass_resets_by_the_client_are_abuse() {
        let at = Instant::now();
        let mut frames = Tally::new(100, at);
        let pair = |frames: &mut Tally, at: Instant| {
            begin(frames, at);
            frames.received(head(RST_STREAM, 0, 4), || at)
        };
        let until = (0..100_000).take_while(|_| pair(&mut frames, at).is_none()).count();
        assert_eq!(until, 4095, "each reset costs two tokens, and its call earns one, except the first");
        assert_eq!(pair(&mut frames, at + Duration::from_secs(1)), None, "time refills the bucket");
        for i in 0..100_000 {
            begin(&mut frames, at);
            assert_eq!(pair(&mut frames, at), None, "every second of {i}");
        }
    }

    #[test]
    fn trailers_do_not_count_as_new_calls() {
        let at = Instant::now();
        let mut tally = Tally::new(100, at);
        let until = (0..100_000).take_while(|_| {
            begin(&mut tally, at);
            let stream = tally.newest;
            tally.received(Head { stream, ..head(HEADERS, END_HEADERS | END_STREAM, 10) }, || at);
            tally.received(Head { stream, ..head(RST_STREAM, 0, 4) }, || at).is_none()
        });
        assert_eq!(until.count(), 4095);
    }

    #[test]
    fn only_resets_caused_by_client_errors_count() {
        let reset = |reason: u32| {
            let mut bytes = frame(RST_STREAM, 0, 4);
            bytes.truncate(HEAD_BYTES);
            bytes.extend(reason.to_be_bytes());
            bytes
        };
        let floods = |reason: u32| {
            let mut frames = Frames::new(100, Instant::now());
            (0..100_000).any(|_| frames.sent(&reset(reason)) == Some(Abuse::Resets))
        };
        assert_eq!([0, 1, 3, 5, 7, 8].map(floods), [false, true, true, true, false, false]);
    }

    #[test]
    fn floods_of_frames_without_data_are_detected() {
        let at = Instant::now();
        for (kind, flags, bytes) in [(2, 0, 5), (4, 0, 0), (6, 0, 8), (99, 0, 0), (DATA, 0, 0), (DATA, PADDED, 256)]
            .into_iter()
            .chain([(WINDOW_UPDATE, 0, 4)])
        {
            let mut frames = Tally::new(100, at);
            let until = (0..100_000).take_while(|_| frames.received(head(kind, flags, bytes), || at).is_none()).count();
            assert_eq!(until, 4096, "of {kind}");
        }
        let mut frames = Tally::new(100, at);
        for _ in 0..100_000 {
            assert_eq!(frames.received(head(DATA, 0, 1), || at), None);
            assert_eq!(frames.received(head(DATA, PADDED, 257), || at), None);
            // An empty response in a frame of its own, and two window updates for it.
            frames.earn(HEAD_BYTES + 5);
            assert_eq!(frames.received(head(WINDOW_UPDATE, 0, 4), || at), None);
            assert_eq!(frames.received(head(WINDOW_UPDATE, 0, 4), || at), None);
        }
    }

    #[test]
    fn only_pings_without_responses_are_a_flood() {
        const PING: u8 = 6;
        let at = Instant::now();
        let mut frames = Tally::new(100, at);
        for _ in 0..100_000 {
            // A response with a code of two numbers, and the acknowledgment of the previous PING.
            frames.earn(HEAD_BYTES + 5 + 12);
            frames.earn(HEAD_BYTES + 8);
            assert_eq!(frames.received(head(PING, 0, 8), || at), None);
        }
        let answered = |frames: &mut Tally| {
            frames.earn(HEAD_BYTES + 8);
            frames.received(head(PING, 0, 8), || at)
        };
        let until = (0..100_000).take_while(|_| answered(&mut frames).is_none()).count();
        assert!(until < 15_000, "{until} went through");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(sizes in prop::collection::vec((0_u8..11, any::<u8>(), 0_usize..300), 0..40), cut in 1_usize..50) {
            let bytes: Vec<u8> = sizes.iter().flat_map(|(kind, flags, size)| frame(*kind, *flags, *size)).collect();
            let now = Instant::now();
            let (mut whole, mut pieces) = (Frames::new(200, now), Frames::new(200, now));
            let first = whole.see(&bytes);
            let seen: Vec<_> = bytes.chunks(cut).filter_map(|piece| pieces.see(piece)).collect();
            prop_assert_eq!(seen.first().copied(), first);
            prop_assert_eq!((pieces.received.head_bytes, pieces.received.payload_left), (0, 0));
        }
    }
}
