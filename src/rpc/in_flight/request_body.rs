//! The body of a request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;

use super::{Counted, InFlight, SMALL_BYTES_MAX};
use crate::rpc::refusals::log_refusal;
use crate::security::gate::Peer;
use crate::security::{Caller, QuotaGuard, Refusal};
use crate::service::ServiceError;
use crate::telemetry::call::current;
use crate::telemetry::measures::Cause;

/// Length of gRPC's message prefix: one byte for compression, four for the length, big-endian.
pub(in crate::rpc) const PREFIX_BYTES: usize = 5;

/// Position within the messages of a body.
#[derive(Debug, Default)]
pub(super) struct Progress {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// Messages whose prefix was received.
    pub(super) number: u64,
    /// Length of the newest message in bytes.
    length: usize,
    pub(super) left: usize,
}

impl Progress {
    /// Advances over `bytes`. An empty message is complete at once.
    pub(super) fn see(&mut self, mut bytes: &[u8]) {
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

    /// Whether a message has begun and is incomplete.
    pub(super) fn is_within(&self) -> bool {
        self.left > 0 || self.prefix_bytes > 0
    }
}

/// Remaining wait for the rest of a message. Counts only the time in which the server reads and no bytes arrive.
#[derive(Debug)]
struct MessageWait {
    left: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl MessageWait {
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let left = self.left;
        let (_, end) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
        end.as_mut().poll(context).is_ready()
    }

    fn came(&mut self) {
        if let Some((since, _)) = self.waiting.take() {
            // If nothing polled the timer in time, do not charge the caller for the wait.
            self.left = self.left.checked_sub(since.elapsed()).unwrap_or(self.left);
        }
    }
}

/// A request body with limits.
pub(in crate::rpc) struct RequestBody {
    inner: Body,
    in_flight: Arc<InFlight>,
    peer: Arc<Peer>,
    caller: Caller,
    counted: Option<Arc<Counted>>,
    is_stream: bool,
    progress: Progress,
    /// Bytes reserved for the message with this number: on a stream until it is complete, else to the end of the
    /// call.
    held: Option<(u64, QuotaGuard)>,
    wait: MessageWait,
    /// The refusal to return after the message with this number, which is discarded.
    refused: Option<(u64, Refusal)>,
}

impl RequestBody {
    pub(in crate::rpc) fn new(
        inner: Body,
        in_flight: Arc<InFlight>,
        peer: Arc<Peer>,
        caller: Caller,
        counted: Option<Arc<Counted>>,
        is_stream: bool,
    ) -> Self {
        let wait = MessageWait { left: in_flight.message_wait_max, waiting: None };
        Self {
            inner,
            in_flight,
            peer,
            caller,
            counted,
            is_stream,
            progress: Progress::default(),
            held: None,
            wait,
            refused: None,
        }
    }

    /// Counts received bytes and reserves the memory of their message.
    fn see(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let before = self.progress.number;
        self.progress.see(bytes);
        let Progress { number, length, left, .. } = self.progress;
        if number != before && self.is_stream {
            self.wait.left = self.in_flight.message_wait_max;
        }
        if self.is_stream && !self.caller.is_in_force() {
            return Err(Refusal::Unknown);
        }
        if let Some(counted) = &self.counted {
            counted.add(bytes.len())?;
        }
        let is_whole = left == 0 && (self.is_stream || self.inner.is_end_stream());
        // The decoder refuses a message above the limit by its prefix. For any other message it allocates the whole
        // length at once, so all of it is reserved here.
        if is_whole || length <= SMALL_BYTES_MAX || length > self.in_flight.message_bytes_max {
            self.held = None;
        } else if self.held.as_ref().is_none_or(|(of, _)| *of != number) {
            // Release the previous message before reserving for this one.
            self.held = None;
            self.held = Some((number, self.in_flight.hold(&self.peer, length)?));
        }
        Ok(())
    }

    /// Whether more bytes must arrive: the rest of a message, or of a unary call.
    fn is_awaited(&self) -> bool {
        self.progress.is_within() || !self.is_stream
    }

    /// Whether the body ended too early. A client that cancels a call ends its body without an error.
    fn is_missing(&self) -> bool {
        self.progress.is_within() || (!self.is_stream && self.progress.number == 0)
    }

    fn too_slow(&self) -> Refusal {
        let Progress { number, length, left, .. } = self.progress;
        Refusal::TooSlow {
            got_bytes: if number > 0 { length - left } else { 0 },
            message_bytes: if number > 0 { Some(length) } else { None },
            message_wait_max: self.in_flight.message_wait_max,
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        log_refusal(&refusal, &self.peer, true);
        self.held = None;
        Poll::Ready(Some(Err(ServiceError::from(refusal).into())))
    }
}

/// The status of an incomplete request. The client has usually left and does not read it. Not `CANCELLED`:
/// tonic treats that as a normal end of a stream.
fn broken_off(how: &str) -> Status {
    if let Some(ids) = current() {
        ids.refused(Cause::Left);
    }
    Status::aborted(format!("the call ended early: {how}"))
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) else {
                if this.is_awaited() && this.wait.is_over(context) {
                    let refusal = this.refused.take().map_or_else(|| this.too_slow(), |(_, refusal)| refusal);
                    return this.refuse(refusal);
                }
                return Poll::Pending;
            };
            this.wait.came();
            // An error here comes from the transport, so the client has left.
            let frame = frame.map(|frame| frame.map_err(|status| broken_off(status.message())));
            let data = match &frame {
                Some(Ok(frame)) => frame.data_ref(),
                _ => None,
            };
            let is_end = data.is_none();
            match (&this.refused, data) {
                (None, Some(bytes)) => match this.see(bytes) {
                    Ok(()) => return Poll::Ready(frame),
                    // Without a valid credential, do not read the rest of the message.
                    Err(Refusal::Unknown) => return this.refuse(Refusal::Unknown),
                    Err(refusal) => this.refused = Some((this.progress.number, refusal)),
                },
                (None, None) => {
                    this.held = None;
                    // Trailers end the body too.
                    if this.is_missing() && !matches!(frame, Some(Err(_))) {
                        let how = "its message is incomplete";
                        return Poll::Ready(Some(Err(broken_off(how))));
                    }
                    return Poll::Ready(frame);
                }
                (Some(_), Some(bytes)) => this.progress.see(bytes),
                (Some(_), None) => {}
            }
            let Progress { number, .. } = this.progress;
            let is_through = |(of, _): &mut (u64, Refusal)| is_end || number != *of || !this.progress.is_within();
            if let Some((_, refusal)) = this.refused.take_if(is_through) {
                return this.refuse(refusal);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.refused.is_none() && self.inner.is_end_stream()
    }
}
