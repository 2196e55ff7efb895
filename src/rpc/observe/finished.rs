//! A call from its headers to its last byte; when it ends, it is counted, logged and traced.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Uri};
use opentelemetry::trace::{SpanId, TraceId};
use tonic::Code;
use tracing::Level;

use super::traceparent::TraceParent;
use super::{Measured, RequestContext};
use crate::methods::{Kind, Method};
use crate::security::gate::Peer;
use crate::service::{Batch, Timing, first_chars};
use crate::telemetry::call::{CallIds, Entered, RequestId};
use crate::telemetry::ids;
use crate::telemetry::measures::Cause;
use crate::telemetry::traces::{BatchTrace, CallTrace, Part, Traces, count};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const QUEUE_US: HeaderName = HeaderName::from_static("halfhitch-queue-us");
const COMPUTE_US: HeaderName = HeaderName::from_static("halfhitch-compute-us");
const BATCH_ROWS: HeaderName = HeaderName::from_static("halfhitch-batch-rows");

/// One of this many responses of a connection has its trailers stored in the connection's header table.
const ANSWERS_REMEMBERED_OF: u32 = 256;

/// One call. If it is dropped before its end, its caller has left.
#[derive(Debug)]
pub(super) struct Call {
    context: RequestContext,
    traces: Traces,
    measured: Arc<Measured>,
    uri: Uri,
    peer: Option<Arc<Peer>>,
    in_batches: bool,
    began: Instant,
    sampled: Option<Sampled>,
    has_ended: bool,
}

/// Ids and start of the call's span.
#[derive(Clone, Copy, Debug)]
struct Sampled {
    trace_id: TraceId,
    span_id: SpanId,
    parent: SpanId,
    began: SystemTime,
}

impl Call {
    pub(super) fn begin<B>(traces: Traces, measured: Arc<Measured>, request: &Request<B>) -> Self {
        let (headers, began) = (request.headers(), Instant::now());
        let parent = TraceParent::of(headers);
        let sampled = traces.samples(parent.map(|parent| parent.is_sampled)).then(|| Sampled {
            trace_id: parent.map_or_else(ids::trace_id, |parent| parent.trace_id),
            span_id: ids::span_id(),
            parent: parent.map_or(SpanId::INVALID, |parent| parent.span_id),
            began: SystemTime::now(),
        });
        let given = headers.get(REQUEST_ID).and_then(|id| RequestId::parse(id.as_bytes()));
        let request_id = given.unwrap_or_else(RequestId::unique);
        let method = Method::of(request.uri().path());
        let trace_id = sampled.map(|sampled| sampled.trace_id).or(parent.map(|parent| parent.trace_id));
        Self {
            context: RequestContext::new(method, CallIds::new(request_id, trace_id)),
            traces,
            measured,
            uri: request.uri().clone(),
            peer: request.extensions().get::<Arc<Peer>>().cloned(),
            in_batches: method.is_some_and(is_in_batches),
            began,
            sampled,
            has_ended: false,
        }
    }

    pub(super) fn context(&self) -> &RequestContext {
        &self.context
    }

    fn address(&self) -> Option<IpAddr> {
        self.peer.as_ref()?.address
    }

    /// Durations of a unary call that succeeded.
    fn timing(&self) -> Option<Timing> {
        self.context.outcome().filter(|_| self.in_batches).map(|outcome| outcome.timing)
    }

    /// Writes the request id and the durations into the trailers.
    pub(super) fn write_trailers(&self, trailers: &mut HeaderMap) {
        // Values that never repeat fill the connection's header table (HPACK), and each new value is compared with
        // all entries. So they are usually marked as sensitive, which keeps them out of the table. Now and then they
        // are stored, so that their names are in the table.
        let answers = self.peer.as_ref().map_or(0, |peer| peer.answer());
        let is_seldom = !answers.is_multiple_of(ANSWERS_REMEMBERED_OF);
        trailers.reserve(4);
        let mut insert = |name: HeaderName, mut value: HeaderValue| {
            value.set_sensitive(is_seldom);
            trailers.insert(name, value);
        };
        let id = HeaderValue::from_maybe_shared(self.context.ids().request_id.bytes());
        if let Ok(id) = id {
            insert(REQUEST_ID, id);
        }
        if self.in_batches {
            let Timing { queued, compute, batch_rows, .. } = self.timing().unwrap_or_default();
            insert(QUEUE_US, number(microseconds(queued)));
            insert(COMPUTE_US, number(microseconds(compute)));
            insert(BATCH_ROWS, number(batch_rows as u64));
        }
    }

    /// Ends the call: counts it and, if enabled, logs and traces it. `None`: the response had no gRPC status.
    pub(super) fn end(&mut self, code: Option<Code>) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        self.count(code);
        let is_ours = matches!(code, Some(Code::Internal | Code::Unknown | Code::DataLoss));
        let is_logged = if is_ours { tracing::enabled!(Level::WARN) } else { tracing::enabled!(Level::DEBUG) };
        if is_logged {
            self.log(code, is_ours);
        }
        if let Some(sampled) = self.sampled {
            self.traces.record(self.trace(sampled, code, is_ours));
        }
    }

    /// Counts the call, and the cause if it was refused.
    fn count(&self, code: Option<Code>) {
        // Without a gRPC status it counts as UNKNOWN, as clients report it.
        let code = code.unwrap_or(Code::Unknown) as usize;
        let method = self.context.method();
        let model = self.context.asked().and_then(|asked| self.measured.service.measures(&asked.model));
        match model {
            Some(model) => model.calls.count(method, code),
            None => self.measured.server.calls.count(method, code),
        }
        let cause = Cause::of_code(code).map(|cause| self.context.ids().cause().unwrap_or(cause));
        if let Some(cause) = cause {
            self.measured.server.refused(cause);
        }
    }

    fn log(&self, code: Option<Code>, is_ours: bool) {
        let mut ids = Some(Arc::clone(self.context.ids()));
        let _entered = Entered::new(&mut ids);
        let code = code.map(|code| format!("{code:?}")).unwrap_or_default();
        let method = self.method().unwrap_or(("", self.uri.path()));
        let (service, method) = (shown(method.0), shown(method.1));
        let model = self.model().unwrap_or_default();
        let Timing { queued, compute, batch, .. } = self.timing().unwrap_or_default();
        let batch = batch.map_or(0, |batch| batch.number);
        let [queue_us, compute_us, total_us] = [queued, compute, self.began.elapsed()].map(microseconds);
        let (rows, peer) = (self.context.rows(), self.address().map(|address| address.to_string()).unwrap_or_default());
        macro_rules! line {
            ($log:ident, $said:literal) => {
                tracing::$log!(service, method, model, code, rows, queue_us, compute_us, total_us, batch, peer, $said)
            };
        }
        if is_ours {
            line!(warn, "call failed: server fault");
        } else {
            line!(debug, "call");
        }
    }

    /// Service with package, and method, as the caller wrote them.
    fn method(&self) -> Option<(&str, &str)> {
        self.uri.path().strip_prefix('/')?.split_once('/')
    }

    /// The model's name, with the version once it is known.
    fn model(&self) -> Option<String> {
        let asked = self.context.asked()?;
        let version = self.context.outcome().map(|outcome| outcome.version);
        Some(version.map_or_else(|| asked.model.to_string(), |version| format!("{}@{version}", asked.model)))
    }

    fn trace(&self, sampled: Sampled, code: Option<Code>, is_ours: bool) -> CallTrace {
        let Sampled { trace_id, span_id, parent, began } = sampled;
        let took = self.began.elapsed();
        // An unknown method can have any name, so it is not recorded.
        let (service, method) = match (self.method(), code) {
            (Some((service, method)), Some(code)) if code != Code::Unimplemented => (shown(service), shown(method)),
            _ => ("_OTHER".to_owned(), "_OTHER".to_owned()),
        };
        let ids = self.context.ids();
        let mut attributes = vec![("halfhitch.request_id", ids.request_id.as_str().to_owned().into())];
        if let Some(asked) = self.context.asked() {
            attributes.push(("halfhitch.model", asked.model.to_string().into()));
            attributes.push(("halfhitch.rows", count(self.context.rows())));
        }
        if let Some(outcome) = self.context.outcome() {
            attributes.push(("halfhitch.version", count(outcome.version.number())));
        }
        if let Some(address) = self.address() {
            attributes.push(("client.address", address.to_string().into()));
        }
        let batch = self.timing().and_then(|timing| timing.batch);
        CallTrace {
            trace_id,
            span_id,
            parent,
            service,
            method,
            code: code.map_or(Code::Unknown, |code| code) as i32,
            fault: is_ours.then_some("server fault: see the server log under the request id"),
            began,
            took,
            attributes,
            parts: self.parts(took),
            batch: batch.map(|batch| self.batch(&batch, took)),
        }
    }

    /// Time from the start of the call to `at`, at most `took`.
    fn since(&self, at: Option<Instant>, took: Duration) -> Duration {
        at.map_or(Duration::ZERO, |at| at.saturating_duration_since(self.began)).min(took)
    }

    /// The stages of the call: in order, and within the call.
    fn parts(&self, took: Duration) -> Vec<Part> {
        let Some(asked) = self.context.asked().filter(|_| self.in_batches) else { return Vec::new() };
        let received = self.since(Some(asked.received_at), took);
        let part = |name, from, until| Part { name, from, until, in_batch: name == "compute" };
        let mut parts = vec![part("receive", Duration::ZERO, received)];
        if let Some((timing, batch)) = self.timing().and_then(|timing| Some((timing, timing.batch?))) {
            // Computed backwards from the end of the batch, which is the only time recorded. If several batches
            // computed the request, some at the same time, each stage is limited to the time that there was.
            let computed = self.since(Some(batch.computed_at), took).max(received);
            let back = |from: Duration, by: Duration| from.saturating_sub(by).max(received);
            let assembled = back(computed, timing.compute);
            let queued = back(assembled, timing.assembly);
            let accepted = back(queued, timing.queued);
            parts.push(part("queue", accepted, queued));
            parts.push(part("assemble", queued, assembled));
            parts.push(part("compute", assembled, computed));
            parts.push(part("reply", computed, took));
        }
        parts
    }

    fn batch(&self, batch: &Batch, took: Duration) -> BatchTrace {
        let Batch { number, operation, rows, requests, assembly, compute, computed_at } = *batch;
        BatchTrace {
            number,
            rows,
            requests,
            model: self.model().unwrap_or_default(),
            operation: format!("{operation:?}"),
            from: self.since(computed_at.checked_sub(assembly + compute), took),
            until: self.since(Some(computed_at), took),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Some(Code::Cancelled));
    }
}

/// Whether the requests of a method are computed in batches, one request per call.
const fn is_in_batches(method: Method) -> bool {
    match method.kind() {
        Kind::Rows(_) | Kind::AnyRows => true,
        Kind::RowsStream
        | Kind::Train
        | Kind::Jobs
        | Kind::ReadModels
        | Kind::CreateVersion
        | Kind::ManageModels
        | Kind::Describe
        | Kind::Health => false,
    }
}

/// A number as a header value; single digits need no allocation.
fn number(number: u64) -> HeaderValue {
    const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    DIGITS.get(number as usize).map_or_else(|| number.into(), |digit| HeaderValue::from_static(digit))
}

/// A name sent by the caller, limited to 100 characters.
fn shown(name: &str) -> String {
    first_chars(name, 100).to_owned()
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
