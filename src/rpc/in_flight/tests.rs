//! Tests of request and response bodies.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::noop_waker_ref;
use http_body::{Body as _, Frame};
use proptest::prelude::*;
use tonic::body::Body;
use tonic::{Code, Status};

use super::request_body::{PREFIX_BYTES, Progress};
use super::*;
use crate::security::Caller;
use crate::security::gate::Gate;

/// A body in pieces; `None` is a pending poll. The flag: whether it ends after the last piece.
struct Pieces(VecDeque<Option<Vec<u8>>>, bool);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match (self.0.pop_front(), self.1) {
            (Some(Some(piece)), _) => Poll::Ready(Some(Ok(Frame::data(piece.into())))),
            (None, true) => Poll::Ready(None),
            (Some(None), _) | (None, false) => Poll::Pending,
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

/// 10,000 bytes in total, messages of at most 9,000 bytes, and a timeout of 1 ms.
fn in_flight() -> Arc<InFlight> {
    Arc::new(InFlight::new(2, 10_000, 9_000, Duration::from_millis(1)))
}

fn request_body(in_flight: &Arc<InFlight>, pieces: &[&[u8]], ends: bool, is_stream: bool) -> RequestBody {
    let body = Body::new(Pieces(pieces.iter().map(|piece| Some(piece.to_vec())).collect(), ends));
    RequestBody::new(body, Arc::clone(in_flight), peer(), Caller::unrestricted(), None, is_stream)
}

/// Reads to the end or to an error; returns the number of bytes.
async fn read(body: &mut (impl http_body::Body<Data = Bytes, Error = Status> + Unpin)) -> Result<usize, Status> {
    let mut bytes = 0;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
        bytes += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(bytes)
}

fn held(in_flight: &InFlight) -> bool {
    in_flight.bytes.take(Ipv4Addr::LOCALHOST.into(), in_flight.bytes.max()).is_none()
}

#[tokio::test]
async fn complete_messages_pass_and_hold_no_bytes() {
    let in_flight = in_flight();
    let (whole, two) = (message(8000), [message(5000), message(0), message(4100)].concat());
    for pieces in [vec![&whole[..]], vec![&whole[..3], &whole[3..100], &whole[100..]], vec![&two[..200], &two[200..]]] {
        let mut body = request_body(&in_flight, &pieces, true, true);
        let sent: usize = pieces.iter().map(|piece| piece.len()).sum();
        assert_eq!(read(&mut body).await.expect("passes"), sent);
        assert!(!held(&in_flight));
    }
}

#[tokio::test]
async fn partial_messages_hold_their_length_until_complete() {
    let in_flight = in_flight();
    let whole = message(8000);
    let mut first = request_body(&in_flight, &[&whole[..10], &whole[10..]], true, false);
    let frame = poll_fn(|context| Pin::new(&mut first).poll_frame(context)).await;
    assert!(frame.expect("a frame").is_ok() && held(&in_flight));
    let mut second = request_body(&in_flight, &[&whole[..10], &whole[10..]], true, false);
    let refused = read(&mut second).await.expect_err("no room");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("in_flight_bytes_max"), "{refused:?}");
    read(&mut first).await.expect("the rest comes");
    assert!(!held(&in_flight));
}

#[tokio::test]
async fn missing_request_bytes_time_out() {
    let in_flight = in_flight();
    let whole = message(8000);
    for pieces in [&[][..], &[&whole[..3]], &[&whole[..100]], &[&whole[..]]] {
        let mut body = request_body(&in_flight, pieces, false, false);
        let refused = read(&mut body).await.expect_err("slow");
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    }
    let mut stream = request_body(&in_flight, &[&whole[..100]], false, true);
    let refused = read(&mut stream).await.expect_err("slow");
    assert!(refused.message().starts_with("received 95 bytes of a message, expected 8000"), "{refused:?}");
    drop(stream);
    assert!(!held(&in_flight));
    // A stream may be idle between messages.
    let mut stream = request_body(&in_flight, &[&whole[..]], false, true);
    tokio::time::timeout(Duration::from_millis(50), read(&mut stream)).await.expect_err("it waits");
}

#[tokio::test]
async fn time_without_reads_does_not_count_toward_the_timeout() {
    let whole = message(8000);
    let pieces = [Some(&whole[..100]), None, Some(&whole[100..200])].map(|piece| piece.map(<[u8]>::to_vec));
    let body = Body::new(Pieces(pieces.into(), false));
    let mut stream = RequestBody::new(body, in_flight(), peer(), Caller::unrestricted(), None, true);
    let mut poll = || Pin::new(&mut stream).poll_frame(&mut Context::from_waker(noop_waker_ref())).map(Option::unwrap);
    assert!(poll().is_ready() && poll().is_pending());
    // Longer than the timeout.
    std::thread::sleep(Duration::from_millis(20));
    assert!(matches!(poll(), Poll::Ready(Ok(_))));
    assert!(poll().is_pending(), "it is waited for anew");
}

#[tokio::test]
async fn broken_requests_are_aborted() {
    let whole = message(8000);
    for (pieces, is_stream) in [(&[][..], false), (&[&whole[..3]], true), (&[&whole[..100]], false)] {
        let mut body = request_body(&in_flight(), pieces, true, is_stream);
        assert_eq!(read(&mut body).await.expect_err("broken off").code(), Code::Aborted);
    }
    assert_eq!(read(&mut request_body(&in_flight(), &[], true, true)).await.expect("a stream of nothing"), 0);
}

#[tokio::test]
async fn responses_count_until_they_are_sent() {
    let in_flight = Arc::new(InFlight::new(9, 10_000, 10_000, Duration::from_secs(1)));
    let answer = |bytes: usize| {
        let place = in_flight.begin(&peer(), false).expect("a place");
        let body = Body::new(Pieces([Some(vec![1; bytes])].into(), true));
        let (in_flight, caller) = (Arc::clone(&in_flight), Caller::unrestricted());
        ResponseBody::new(
            body,
            OfCall { in_flight, peer: peer(), caller, _place: (place, None), _held: None, _counted: None },
        )
    };
    let (first, mut second, mut small) = (answer(6_000), answer(6_000), answer(100));
    assert_eq!(read(&mut small).await.expect("passes"), 100);
    let frame = poll_fn(|context| Pin::new(&mut second).poll_frame(context)).await.expect("a frame");
    let trailers = frame.expect("well").into_trailers().expect("instead of the answer");
    assert_eq!(Status::from_header_map(&trailers).expect("a status").code(), Code::ResourceExhausted);
    assert_eq!(read(&mut second).await.expect("nothing more"), 0);
    // The transport has taken the frame but not sent it.
    let mut first = first;
    let frame = poll_fn(|context| Pin::new(&mut first).poll_frame(context)).await.expect("a frame").expect("well");
    assert_eq!(read(&mut first).await.expect("nothing more"), 0);
    drop((first, second, small));
    let is_under_way = || in_flight.calls.take(Ipv4Addr::LOCALHOST.into(), 9).is_none();
    assert!(held(&in_flight) && is_under_way());
    drop(frame);
    assert!(!held(&in_flight) && !is_under_way());
}

#[test]
fn calls_are_limited_and_probes_have_their_own_places() {
    let in_flight = in_flight();
    let _both = [(); 2].map(|()| in_flight.begin(&peer(), false).expect("a place"));
    let refused = in_flight.begin(&peer(), false).expect_err("none left");
    assert!(refused.to_string().contains("calls_max, 2"), "{refused}");
    in_flight.begin(&peer(), true).expect("a probe has its own");
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
