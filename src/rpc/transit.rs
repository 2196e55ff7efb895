//! What is under way: calls that have begun, messages that have come in part, answers that are not out. All of them take
//! memory before anybody can judge them, so there is a bound on each, of which one address does not get all.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::noop_waker_ref;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;

use super::auth::{Counted, tell_of_compression};
use crate::security::gate::Peer;
use crate::security::told::Told;
use crate::security::{Caller, Held, Refusal, Share, Shares};
use crate::service::ServiceError;
use crate::telemetry::call::current;
use crate::telemetry::measures::Cause;

/// Probes have places of their own: they are not to fail because of others.
const PROBES_MAX: u64 = 8192;
/// gRPC's prefix of a message: one byte for compression, four for the length, big-endian.
const PREFIX_BYTES: usize = 5;
/// An answer that is no larger is part of what a call costs anyway.
const SMALL_ANSWER_BYTES_MAX: usize = 4 << 10;

/// The bounds, and what is under way.
#[derive(Debug)]
pub struct Transit {
    calls: Shares,
    probes: Shares,
    bytes: Shares,
    message_bytes_max: usize,
    message_wait_max: Duration,
}

impl Transit {
    /// So many calls and bytes under way, and so long a wait for the rest of a message of at most so many bytes.
    pub fn new(calls_max: usize, bytes_max: u64, message_bytes_max: usize, message_wait_max: Duration) -> Self {
        Self {
            calls: Shares::new(calls_max as u64),
            probes: Shares::new(PROBES_MAX),
            bytes: Shares::new(bytes_max),
            message_bytes_max,
            message_wait_max,
        }
    }

    /// A place for a call, for as long as it is under way.
    pub(super) fn begin(&self, peer: &Peer, is_probe: bool) -> Result<Share, Refusal> {
        let places = if is_probe { &self.probes } else { &self.calls };
        places.take(address(peer), 1).ok_or(Refusal::NoRoom { limit: "calls_max", max: places.max() })
    }

    fn hold(&self, address: IpAddr, bytes: usize) -> Result<Share, Refusal> {
        let share = self.bytes.take(address, bytes as u64);
        share.ok_or(Refusal::NoRoom { limit: "transit_bytes_max", max: self.bytes.max() })
    }
}

/// Nobody comes without an address but in tests.
fn address(peer: &Peer) -> IpAddr {
    peer.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into())
}

/// Says once a minute what would otherwise be said of every call.
fn tell(refusal: &Refusal, address: IpAddr) {
    static NO_ROOM: Told = Told::never();
    static TOO_SLOW: Told = Told::never();
    static REVOKED: Told = Told::never();
    let (told, what) = match refusal {
        Refusal::TooSlow { .. } => (&TOO_SLOW, "a call was ended whose message did not come in time"),
        Refusal::Unknown => (&REVOKED, "a stream was ended whose credential is no longer in force"),
        _ => (&NO_ROOM, "a call was refused: too much is under way, or of this address"),
    };
    told.once(|unsaid| tracing::warn!(%refusal, %address, unsaid, "{what}"));
}

/// Where the messages of a body are.
#[derive(Debug, Default)]
struct Progress {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// Messages whose prefix has come.
    number: u64,
    /// Of the newest.
    length: usize,
    left: usize,
}

impl Progress {
    /// Passes `bytes` on. Messages of no bytes are whole at once.
    fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passing = self.left.min(bytes.len());
                self.left -= passing;
                bytes = &bytes[passing..];
                continue;
            }
            let count = (PREFIX_BYTES - self.prefix_bytes).min(bytes.len());
            self.prefix[self.prefix_bytes..self.prefix_bytes + count].copy_from_slice(&bytes[..count]);
            self.prefix_bytes += count;
            bytes = &bytes[count..];
            if self.prefix_bytes == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                self.length = u32::from_be_bytes(length) as usize;
                (self.left, self.prefix_bytes) = (self.length, 0);
                self.number += 1;
            }
        }
    }

    /// Whether a message has begun and is not whole.
    fn is_within(&self) -> bool {
        self.left > 0 || self.prefix_bytes > 0
    }
}

/// How long the rest of one message is still waited for. Only waiting counts: not the time in which nobody reads.
#[derive(Debug)]
struct Patience {
    left: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Patience {
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let left = self.left;
        let (_, end) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
        end.as_mut().poll(context).is_ready()
    }

    fn came(&mut self) {
        if let Some((since, _)) = self.waiting.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
    }
}

/// Of a call that its caller has left, most likely, and nobody reads this. Not `CANCELLED`, which tonic takes for a good
/// end of a stream.
fn broken_off(how: &str) -> Status {
    if let Some(ids) = current() {
        ids.refused(Cause::Left);
    }
    Status::aborted(format!("the call broke off: {how}"))
}

/// The body of a call.
pub(super) struct Arriving {
    inner: Body,
    transit: Arc<Transit>,
    address: IpAddr,
    caller: Caller,
    counted: Option<Arc<Counted>>,
    is_stream: bool,
    progress: Progress,
    /// Of the message of this number, as long as it is not whole.
    held: Option<(u64, Share)>,
    patience: Patience,
    /// Comes when the message is through, which is thrown away.
    refused: Option<Refusal>,
}

impl Arriving {
    pub(super) fn new(
        inner: Body,
        transit: Arc<Transit>,
        peer: &Peer,
        caller: Caller,
        counted: Option<Arc<Counted>>,
        is_stream: bool,
    ) -> Self {
        let patience = Patience { left: transit.message_wait_max, waiting: None };
        let address = address(peer);
        Self {
            inner,
            transit,
            address,
            caller,
            counted,
            is_stream,
            progress: Progress::default(),
            held: None,
            patience,
            refused: None,
        }
    }

    /// Takes note of bytes that came.
    fn see(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let before = self.progress.number;
        self.progress.see(bytes);
        if self.progress.number != before {
            self.patience.left = self.transit.message_wait_max;
            if self.progress.prefix[0] != 0 {
                tell_of_compression();
            }
        }
        if self.is_stream && !self.caller.is_in_force() {
            return Err(Refusal::Unknown);
        }
        if let Some(counted) = &self.counted {
            counted.add(bytes.len())?;
        }
        // A larger message is refused by whoever reads its prefix.
        if self.progress.left == 0 || self.progress.length > self.transit.message_bytes_max {
            self.held = None;
        } else if self.held.as_ref().is_none_or(|(number, _)| *number != self.progress.number) {
            // What the one before it had can be had again.
            self.held = None;
            self.held = Some((self.progress.number, self.transit.hold(self.address, self.progress.length)?));
        }
        Ok(())
    }

    /// Whether something has to come: the rest of a message, and of a call that is no stream everything.
    fn is_awaited(&self) -> bool {
        self.progress.is_within() || !self.is_stream
    }

    /// Whether what should have come before the end did not: whoever gives a call up ends it, to those who read, in
    /// silence.
    fn is_missing(&self) -> bool {
        self.progress.is_within() || (!self.is_stream && self.progress.number == 0)
    }

    fn too_slow(&self) -> Refusal {
        let Progress { number, length, left, .. } = self.progress;
        Refusal::TooSlow {
            got_bytes: if number > 0 { length - left } else { 0 },
            message_bytes: if number > 0 { Some(length) } else { None },
            message_wait_max: self.transit.message_wait_max,
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        tell(&refusal, self.address);
        self.held = None;
        Poll::Ready(Some(Err(ServiceError::from(refusal).into())))
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) else {
                if this.is_awaited() && this.patience.is_over(context) {
                    let refusal = this.refused.take().unwrap_or_else(|| this.too_slow());
                    return this.refuse(refusal);
                }
                return Poll::Pending;
            };
            this.patience.came();
            // Whatever breaks off here is the transport, and behind it the caller.
            let frame = frame.map(|frame| frame.map_err(|status| broken_off(status.message())));
            let bytes = match &frame {
                Some(Ok(frame)) => frame.data_ref(),
                _ => None,
            };
            match (&this.refused, bytes) {
                (None, Some(bytes)) => match this.see(bytes) {
                    Ok(()) => return Poll::Ready(frame),
                    // Nobody has to be read to the end of what one may not say any more.
                    Err(Refusal::Unknown) => return this.refuse(Refusal::Unknown),
                    Err(refusal) => this.refused = Some(refusal),
                },
                (None, None) if frame.is_none() && this.is_missing() => {
                    return Poll::Ready(Some(Err(broken_off("it ended before all of its message had come"))));
                }
                (None, None) => return Poll::Ready(frame),
                (Some(_), Some(bytes)) => this.progress.see(bytes),
                (Some(_), None) => {}
            }
            let is_through = !this.progress.is_within() || !matches!(frame, Some(Ok(_)));
            if let Some(refusal) = this.refused.take_if(|_| is_through) {
                return this.refuse(refusal);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.refused.is_none() && self.inner.is_end_stream()
    }
}

/// The body of an answer, and what its call holds until it is out.
pub(super) struct Leaving {
    inner: Body,
    of: OfCall,
    /// Is made before anybody can take it, which could be never: so that it counts.
    first: Poll<Option<Result<Frame<Bytes>, Status>>>,
    /// Of what is on its way out.
    share: Option<Share>,
    is_first: bool,
    has_ended: bool,
}

/// What a call has until its answer is out.
#[derive(Debug)]
pub(super) struct OfCall {
    pub(super) transit: Arc<Transit>,
    pub(super) peer: Arc<Peer>,
    pub(super) caller: Caller,
    /// Its place, and what its caller has under way.
    pub(super) _kept: (Share, Option<Held>, Option<Arc<Counted>>),
}

impl Leaving {
    pub(super) fn new(mut inner: Body, of: OfCall) -> Self {
        let first = if inner.is_end_stream() {
            Poll::Pending
        } else {
            // Whoever sends it asks again.
            Pin::new(&mut inner).poll_frame(&mut Context::from_waker(noop_waker_ref()))
        };
        let mut leaving = Self { inner, of, first: Poll::Pending, share: None, is_first: true, has_ended: false };
        if let Poll::Ready(first) = first {
            leaving.first = Poll::Ready(leaving.judge(first));
        }
        leaving
    }

    /// Takes note of what is to go out next, or puts a refusal in its place.
    fn judge(&mut self, frame: Option<Result<Frame<Bytes>, Status>>) -> Option<Result<Frame<Bytes>, Status>> {
        let Some(bytes) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref().map(Bytes::len)) else {
            return frame;
        };
        let is_first = std::mem::take(&mut self.is_first);
        // What was asked while one might is answered.
        let refusal = if !is_first && !self.of.caller.is_in_force() {
            Refusal::Unknown
        } else if bytes <= SMALL_ANSWER_BYTES_MAX {
            return frame;
        } else {
            match self.of.transit.hold(address(&self.of.peer), bytes) {
                Ok(share) => {
                    self.share = Some(share);
                    return frame;
                }
                Err(refusal) => refusal,
            }
        };
        tell(&refusal, address(&self.of.peer));
        self.has_ended = true;
        self.inner = Body::empty();
        let mut trailers = HeaderMap::new();
        Some(Status::from(ServiceError::from(refusal)).add_header(&mut trailers).map(|()| Frame::trailers(trailers)))
    }
}

impl http_body::Body for Leaving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let first = std::mem::replace(&mut this.first, Poll::Pending);
        if first.is_ready() {
            return first;
        }
        // The transport asks when there is room for more: what came before is out.
        this.share = None;
        if this.has_ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        Poll::Ready(this.judge(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_pending() && (self.has_ended || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.first.is_pending() { self.inner.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tonic::Code;

    use super::*;
    use crate::security::gate::Gate;

    /// Pieces, and then an end or nothing more.
    struct Pieces(VecDeque<Vec<u8>>, bool);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match (self.0.pop_front(), self.1) {
                (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece.into())))),
                (None, true) => Poll::Ready(None),
                (None, false) => Poll::Pending,
            }
        }
    }

    fn message(bytes: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend((bytes as u32).to_be_bytes());
        message.resize(PREFIX_BYTES + bytes, 7);
        message
    }

    fn peer() -> Arc<Peer> {
        let (gate, _) = Gate::open(None, crate::security::CallerLimits::default()).expect("no file");
        gate.peer(None, None)
    }

    /// 1,000 bytes in all, messages of at most 900, and no patience.
    fn transit() -> Arc<Transit> {
        Arc::new(Transit::new(2, 1000, 900, Duration::from_millis(1)))
    }

    fn arriving(transit: &Arc<Transit>, pieces: &[&[u8]], ends: bool, is_stream: bool) -> Arriving {
        let body = Body::new(Pieces(pieces.iter().map(|piece| piece.to_vec()).collect(), ends));
        Arriving::new(body, Arc::clone(transit), &peer(), Caller::anybody(), None, is_stream)
    }

    /// All bytes until the end, or until something is wrong.
    async fn read(body: &mut (impl http_body::Body<Data = Bytes, Error = Status> + Unpin)) -> Result<usize, Status> {
        let mut bytes = 0;
        while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(bytes)
    }

    fn held(transit: &Transit) -> bool {
        transit.bytes.take(Ipv4Addr::LOCALHOST.into(), transit.bytes.max()).is_none()
    }

    #[tokio::test]
    async fn what_is_whole_passes_and_holds_nothing() {
        let transit = transit();
        let (whole, two) = (message(800), [message(300), message(0), message(400)].concat());
        for pieces in
            [vec![&whole[..]], vec![&whole[..3], &whole[3..100], &whole[100..]], vec![&two[..200], &two[200..]]]
        {
            let mut body = arriving(&transit, &pieces, true, true);
            let sent: usize = pieces.iter().map(|piece| piece.len()).sum();
            assert_eq!(read(&mut body).await.expect("passes"), sent);
            assert!(!held(&transit));
        }
    }

    #[tokio::test]
    async fn a_message_holds_its_length_until_it_is_whole_and_others_are_refused() {
        let transit = transit();
        let whole = message(800);
        let mut first = arriving(&transit, &[&whole[..10], &whole[10..]], true, false);
        let frame = poll_fn(|context| Pin::new(&mut first).poll_frame(context)).await;
        assert!(frame.expect("a frame").is_ok() && held(&transit));
        let mut second = arriving(&transit, &[&whole[..10], &whole[10..]], true, false);
        let refused = read(&mut second).await.expect_err("no room");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("transit_bytes_max"), "{refused:?}");
        read(&mut first).await.expect("the rest comes");
        assert!(!held(&transit));
    }

    #[tokio::test]
    async fn what_does_not_come_is_not_awaited_for_ever() {
        let transit = transit();
        let whole = message(800);
        for pieces in [&[][..], &[&whole[..3]], &[&whole[..100]], &[&whole[..]]] {
            let mut body = arriving(&transit, pieces, false, false);
            let refused = read(&mut body).await.expect_err("slow");
            assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
        }
        let mut stream = arriving(&transit, &[&whole[..100]], false, true);
        let refused = read(&mut stream).await.expect_err("slow");
        assert!(refused.message().starts_with("95 bytes of a message came, expected 800"), "{refused:?}");
        drop(stream);
        assert!(!held(&transit));
        // Between messages a stream may rest.
        let mut stream = arriving(&transit, &[&whole[..]], false, true);
        tokio::time::timeout(Duration::from_millis(50), read(&mut stream)).await.expect_err("it waits");
    }

    #[tokio::test]
    async fn a_call_that_breaks_off_was_left() {
        let whole = message(800);
        for (pieces, is_stream) in [(&[][..], false), (&[&whole[..3]], true), (&[&whole[..100]], false)] {
            let mut body = arriving(&transit(), pieces, true, is_stream);
            assert_eq!(read(&mut body).await.expect_err("broken off").code(), Code::Aborted);
        }
        assert_eq!(read(&mut arriving(&transit(), &[], true, true)).await.expect("a stream of nothing"), 0);
    }

    #[tokio::test]
    async fn an_answer_counts_before_anybody_takes_it_and_until_it_is_out() {
        let transit = Arc::new(Transit::new(9, 10_000, 10_000, Duration::from_secs(1)));
        let answer = |bytes: usize| {
            let place = transit.begin(&peer(), false).expect("a place");
            let body = Body::new(Pieces([vec![1; bytes]].into(), true));
            let caller = Caller::anybody();
            Leaving::new(
                body,
                OfCall { transit: Arc::clone(&transit), peer: peer(), caller, _kept: (place, None, None) },
            )
        };
        let (mut first, mut second, mut small) = (answer(6_000), answer(6_000), answer(100));
        assert_eq!(read(&mut small).await.expect("passes"), 100);
        let frame = poll_fn(|context| Pin::new(&mut second).poll_frame(context)).await.expect("a frame");
        let trailers = frame.expect("well").into_trailers().expect("instead of the answer");
        assert_eq!(Status::from_header_map(&trailers).expect("a status").code(), Code::ResourceExhausted);
        assert_eq!(read(&mut second).await.expect("nothing more"), 0);
        assert_eq!(read(&mut first).await.expect("passes"), 6_000);
        assert!(!held(&transit));
    }

    #[test]
    fn there_are_so_many_places_for_calls_and_others_for_probes() {
        let transit = transit();
        let _both = [(); 2].map(|()| transit.begin(&peer(), false).expect("a place"));
        let refused = transit.begin(&peer(), false).expect_err("none left");
        assert!(refused.to_string().contains("calls_max, 2"), "{refused}");
        transit.begin(&peer(), true).expect("a probe has its own");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(sizes in prop::collection::vec(0_usize..40, 0..20), cut in 1_usize..30, end in 0_usize..50) {
            let mut bytes: Vec<u8> = sizes.iter().flat_map(|size| message(*size)).collect();
            bytes.truncate(bytes.len().saturating_sub(end));
            let (mut whole, mut pieces) = (Progress::default(), Progress::default());
            whole.see(&bytes);
            bytes.chunks(cut).for_each(|piece| pieces.see(piece));
            prop_assert_eq!((whole.number, whole.left, whole.is_within()), (pieces.number, pieces.left, pieces.is_within()));
            prop_assert!(end > 0 || !whole.is_within());
        }
    }
}
