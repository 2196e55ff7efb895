//! Spans of a call: one for the call, one for each part of it, and one for its last batch.
//!
//! Spans are built after the call ends, from recorded times. A call that is not sampled builds none.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanLinks};

use super::ids;

/// A sampled call that has ended. Durations count from the beginning of the call.
#[derive(Clone, Debug)]
pub struct CallTrace {
    /// Id of the trace that the call belongs to.
    pub trace_id: TraceId,
    /// Id of the call's own span.
    pub span_id: SpanId,
    /// Id of the caller's span; [`SpanId::INVALID`] if the trace begins here.
    pub parent: SpanId,
    /// Package and service, as in `halfhitch.v1.ModelService`.
    pub service: String,
    /// Method name without the service.
    pub method: String,
    /// gRPC status code.
    pub code: i32,
    /// Why the call failed by an internal error; sets the span's error status.
    pub fault: Option<&'static str>,
    /// When the call's headers had arrived.
    pub began: SystemTime,
    /// Time until its last byte was handed to the transport.
    pub took: Duration,
    /// Attributes of the call's span, for example model and rows.
    pub attributes: Vec<(&'static str, Value)>,
    /// Parts of the call, in order.
    pub parts: Vec<Part>,
    /// The last batch that held rows of the call.
    pub batch: Option<BatchTrace>,
}

/// A part of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name of the part, for example `compute`.
    pub name: &'static str,
    /// Start of the part.
    pub from: Duration,
    /// End of the part.
    pub until: Duration,
    /// Whether the part ran in a batch; its span then links to the batch.
    pub in_batch: bool,
}

/// The batch of a call. All calls of the batch carry the same values, except the times, which count from the beginning
/// of each call.
#[derive(Clone, Debug)]
pub struct BatchTrace {
    /// Number of the batch, unique in this process.
    pub number: u64,
    /// Rows of all requests in the batch.
    pub rows: usize,
    /// Requests in the batch.
    pub requests: usize,
    /// Model name and version.
    pub model: String,
    /// The operation that the batch computed.
    pub operation: String,
    /// When the batch began.
    pub from: Duration,
    /// When the batch was computed.
    pub until: Duration,
}

/// A count as an attribute value, saturated at `i64::MAX`.
pub fn count(number: u64) -> Value {
    Value::I64(i64::try_from(number).unwrap_or(i64::MAX))
}

impl CallTrace {
    /// The spans of the call and its parts, without the span of the batch.
    pub(super) fn spans(&self, scope: &InstrumentationScope) -> Vec<SpanData> {
        let mut attributes = vec![
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", self.service.clone()),
            KeyValue::new("rpc.method", self.method.clone()),
            KeyValue::new("rpc.grpc.status_code", i64::from(self.code)),
        ];
        attributes.extend(self.attributes.iter().map(|(name, value)| KeyValue::new(*name, value.clone())));
        let call = Span {
            place: (self.trace_id, self.span_id),
            parent: self.parent,
            kind: SpanKind::Server,
            name: format!("{}/{}", self.service, self.method).into(),
            time: (self.began, self.began + self.took),
            attributes,
            link: None,
            fault: self.fault,
        };
        let parts = self.parts.iter().map(|part| Span {
            place: (self.trace_id, ids::span_id()),
            parent: self.span_id,
            kind: SpanKind::Internal,
            name: part.name.into(),
            time: (self.began + part.from, self.began + part.until),
            attributes: Vec::new(),
            link: self.batch.as_ref().filter(|_| part.in_batch).map(|batch| ids::of_batch(batch.number)),
            fault: None,
        });
        std::iter::once(call).chain(parts).map(|span| span.data(scope)).collect()
    }

    /// The span of the batch. It has a trace of its own, because many calls share the batch.
    pub(super) fn batch_span(&self, scope: &InstrumentationScope) -> Option<SpanData> {
        let BatchTrace { number, rows, requests, model, operation, from, until } = self.batch.as_ref()?;
        let span = Span {
            place: ids::of_batch(*number),
            parent: SpanId::INVALID,
            kind: SpanKind::Internal,
            name: "batch".into(),
            time: (self.began + *from, self.began + *until),
            attributes: vec![
                KeyValue::new("halfhitch.batch", count(*number)),
                KeyValue::new("halfhitch.rows", count(*rows as u64)),
                KeyValue::new("halfhitch.requests", count(*requests as u64)),
                KeyValue::new("halfhitch.model", model.clone()),
                KeyValue::new("halfhitch.operation", operation.clone()),
            ],
            link: None,
            fault: None,
        };
        Some(span.data(scope))
    }
}

/// The fields of a span that differ between our spans.
struct Span {
    place: (TraceId, SpanId),
    parent: SpanId,
    kind: SpanKind,
    name: Cow<'static, str>,
    time: (SystemTime, SystemTime),
    attributes: Vec<KeyValue>,
    link: Option<(TraceId, SpanId)>,
    fault: Option<&'static str>,
}

/// The context of an exported span: always sampled.
fn context((trace_id, span_id): (TraceId, SpanId)) -> SpanContext {
    SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, false, TraceState::NONE)
}

impl Span {
    fn data(self, scope: &InstrumentationScope) -> SpanData {
        let Self { place, parent, kind, name, time: (start_time, end_time), attributes, link, fault } = self;
        let mut links = SpanLinks::default();
        links.links.extend(link.map(|place| Link::with_context(context(place))));
        SpanData {
            span_context: context(place),
            parent_span_id: parent,
            parent_span_is_remote: kind == SpanKind::Server && parent != SpanId::INVALID,
            span_kind: kind,
            name,
            start_time,
            end_time,
            attributes,
            dropped_attributes_count: 0,
            events: opentelemetry_sdk::trace::SpanEvents::default(),
            links,
            status: fault.map_or(Status::Unset, Status::error),
            instrumentation_scope: scope.clone(),
        }
    }
}
