//! Looks at the heads of the frames that a client sends, for what HTTP/2 itself lets pass or refuses in silence.

use std::time::Instant;

/// Length, type, flags, stream (RFC 9113, 4.1).
const HEAD_BYTES: usize = 9;
/// The payload of a reset: why (6.4).
const REASON_BYTES: usize = 4;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
/// Reasons for which we reset a stream and its client is to blame (7): protocol, flow control, closed streams, sizes.
const CLIENTS_FAULTS: [u32; 4] = [1, 3, 5, 6];

/// What a client may do in excess before its connection is closed.
const SPARE_MAX: f64 = 4096.0;
/// And what of that comes back in a second.
const SPARE_PER_SECOND: f64 = 1000.0;
/// Bytes of ours for which a client may open its windows once: it may do so twice an answer, of which none has fewer than 14.
const BYTES_PER_UPDATE: f64 = 7.0;
/// And for which it may ask how long they took: some ask with a PING for each answer, whose own answer of 17 bytes is not to
/// pay for the next.
const BYTES_PER_IDLE: f64 = 24.0;
/// A padded frame of so many bytes need not hold more than its padding.
const PADDING_BYTES_MAX: usize = 256;

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abuse {
    /// The headers of one call are too large.
    Headers,
    /// Calls are begun only to be given up: more than half of them, for thousands.
    Resets,
    /// Frames that ask nothing and bring nothing.
    IdleFrames,
}

/// What may be done in excess: it is used up, and comes back with time.
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

    /// Whether there was any.
    fn spend(&mut self, count: f64, now: impl FnOnce() -> Instant) -> bool {
        self.left -= count;
        if self.left >= 0.0 {
            return true;
        }
        // Time is looked at only where it matters.
        let now = now();
        let passed = now.saturating_duration_since(self.at).as_secs_f64() * SPARE_PER_SECOND;
        self.at = now;
        self.left = (self.left + passed).min(SPARE_MAX);
        self.left >= 0.0
    }
}

/// The beginning of a frame; of a reset, that and the reason.
#[derive(Clone, Copy, Debug)]
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
    bytes: usize,
    reason: u32,
}

/// Takes heads out of bytes as they come.
#[derive(Debug, Default)]
struct Heads {
    head: [u8; HEAD_BYTES + REASON_BYTES],
    head_bytes: usize,
    /// Of the frame that is passing.
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

/// One connection's frames, as they pass.
#[derive(Debug)]
pub(super) struct Frames {
    received: Heads,
    sent: Heads,
    tally: Tally,
}

/// What is counted of them.
#[derive(Debug)]
struct Tally {
    header_bytes_max: u64,
    /// Of the call that is beginning.
    header_bytes: u64,
    /// The newest call's stream.
    newest: u32,
    resets: TokenBucket,
    updates: TokenBucket,
    idle: TokenBucket,
}

impl Frames {
    /// Of a connection that begins `now`.
    pub(super) fn new(header_bytes_max: u64, now: Instant) -> Self {
        Self { received: Heads::default(), sent: Heads::default(), tally: Tally::new(header_bytes_max, now) }
    }

    /// The first abuse in `bytes`, which came behind what was seen before.
    pub(super) fn see(&mut self, bytes: &[u8]) -> Option<Abuse> {
        let (tally, mut first) = (&mut self.tally, None);
        self.received.see(bytes, |head| {
            let abuse = tally.received(head, Instant::now);
            first = first.or(abuse);
        });
        first
    }

    /// The same for bytes that went.
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

    /// So many bytes were sent to the client: it may answer to that.
    fn earn(&mut self, bytes: usize) {
        self.updates.earn(bytes as f64 / BYTES_PER_UPDATE);
        self.idle.earn(bytes as f64 / BYTES_PER_IDLE);
    }

    /// A stream that we reset because of what its client did is as good as one that it reset itself.
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
                    // Not those at the end of a call.
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
                // A call's headers come in a few frames, or it is no call.
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
    fn headers_are_large_once_a_call_also_in_parts() {
        let mut frames = Frames::new(100, Instant::now());
        assert_eq!(frames.see(&frame(HEADERS, END_HEADERS, 100)), None);
        assert_eq!(frames.see(&frame(HEADERS, END_HEADERS, 101)), Some(Abuse::Headers));
        assert_eq!(frames.see(&frame(HEADERS, 0, 60)), None);
        assert_eq!(frames.see(&frame(CONTINUATION, 0, 60)), Some(Abuse::Headers));
        assert_eq!(frames.see(&frame(CONTINUATION, 0, 60)), None, "it was said");
        assert_eq!(frames.see(&frame(DATA, 0, 1000)), None);
    }

    fn head(kind: u8, flags: u8, bytes: usize) -> Head {
        Head { kind, flags, stream: 0, bytes, reason: 0 }
    }

    /// A new call.
    fn begin(tally: &mut Tally, at: Instant) {
        let stream = tally.newest + 2;
        tally.received(Head { stream, ..head(HEADERS, END_HEADERS, 10) }, || at);
    }

    #[test]
    fn calls_may_be_given_up_but_not_all_of_thousands() {
        let at = Instant::now();
        let mut frames = Tally::new(100, at);
        let pair = |frames: &mut Tally, at: Instant| {
            begin(frames, at);
            frames.received(head(RST_STREAM, 0, 4), || at)
        };
        let until = (0..100_000).take_while(|_| pair(&mut frames, at).is_none()).count();
        assert_eq!(until, 4095, "each but the first cost one that its call brought, and one more");
        assert_eq!(pair(&mut frames, at + Duration::from_secs(1)), None, "with time it is well again");
        for i in 0..100_000 {
            begin(&mut frames, at);
            assert_eq!(pair(&mut frames, at), None, "every second of {i}");
        }
    }

    #[test]
    fn the_end_of_a_call_is_none_that_begins() {
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
    fn streams_that_we_have_to_reset_count_and_those_that_we_refuse_do_not() {
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
    fn a_flood_of_frames_that_say_nothing_is_seen() {
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
            // An answer of nothing, in a frame of its own, and windows opened twice for it.
            frames.earn(HEAD_BYTES + 5);
            assert_eq!(frames.received(head(WINDOW_UPDATE, 0, 4), || at), None);
            assert_eq!(frames.received(head(WINDOW_UPDATE, 0, 4), || at), None);
        }
    }

    #[test]
    fn a_ping_for_each_answer_is_no_flood_and_pings_for_pings_are() {
        const PING: u8 = 6;
        let at = Instant::now();
        let mut frames = Tally::new(100, at);
        for _ in 0..100_000 {
            // A code of two numbers, and the answer to the PING before.
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
