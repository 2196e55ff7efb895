//! What a call was, as spans: one for the call, one for each part of it, one for the batch that it was in.
//!
//! They are made after the call, from what was noted of it: what is not sampled makes none.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanLinks};

use super::ids;

/// A call that is sampled, after its end. Times are from its beginning.
#[derive(Clone, Debug)]
pub struct CallTrace {
    /// The trace that it is part of.
    pub trace_id: TraceId,
    /// Its own span.
    pub span_id: SpanId,
    /// Its caller's span; [`SpanId::INVALID`] if the trace begins here.
    pub parent: SpanId,
    /// Package and service.
    pub service: String,
    /// Method.
    pub method: String,
    /// Number of the gRPC status.
    pub code: i32,
    /// Why it is a fault of ours, if it is.
    pub fault: Option<&'static str>,
    /// When its headers were there.
    pub began: SystemTime,
    /// Until its last byte was handed on.
    pub took: Duration,
    /// What is known of it: model, rows and the like.
    pub attributes: Vec<(&'static str, Value)>,
    /// What was done, in order.
    pub parts: Vec<Part>,
    /// The last batch that it was in.
    pub batch: Option<BatchTrace>,
}

/// A part of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What was done.
    pub name: &'static str,
    /// From.
    pub from: Duration,
    /// Until.
    pub until: Duration,
    /// Whether a batch did it.
    pub in_batch: bool,
}

/// The batch of a call. Whoever was in it says the same, but for the times, which count from the beginning of the call.
#[derive(Clone, Debug)]
pub struct BatchTrace {
    /// Its number in this process.
    pub number: u64,
    /// Rows of all requests.
    pub rows: usize,
    /// Requests.
    pub requests: usize,
    /// Model and version.
    pub model: String,
    /// What was computed.
    pub operation: String,
    /// When it was begun.
    pub from: Duration,
    /// When it was computed.
    pub until: Duration,
}

/// A count as an attribute.
pub fn count(number: u64) -> Value {
    Value::I64(i64::try_from(number).unwrap_or(i64::MAX))
}

impl CallTrace {
    /// Its spans, without that of its batch.
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

    /// The span of its batch: a trace of its own, since it is part of many.
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

/// A span, as far as ours differ.
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

/// Whoever is exported is sampled.
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
