//! Rejects a large request on its first bytes if the queue has no room. They contain the model and the message
//! length. The rest of the body is read and discarded.
//!
//! Under overload most requests are rejected, and assembling a large request costs almost as much as serving it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;

use super::auth::{CallerOf, caller};
use super::in_flight::PREFIX_BYTES;
use super::observe::RequestContext;
use super::{Api, convert, pb};
use crate::methods::{Kind, Method};
use crate::service::{AllowedModel, Operation, Service, ServiceError};

/// Protobuf tag of the model: field 1 of every such request, a message.
const MODEL_TAG: u8 = 0x0a;
/// Maximum bytes of a request besides its model and its matrix: tags and lengths.
const FRAMING_BYTES_MAX: usize = 64;

impl Api {
    /// Checks the first bytes of requests to the queue while the queues are nearly full. The second argument is the
    /// method of the request; `None` for an unknown one.
    pub fn early(&self) -> impl Fn(Request<Body>, Option<Method>) -> Request<Body> + use<> {
        // In an `Arc`, because every checked body has a clone.
        let service = Arc::new(self.service.clone());
        move |request, method| match method.and_then(checked_operation) {
            Some(operation) if service.is_busy() => {
                let (service, state) = (Arc::clone(&service), Stage::Beginning(operation));
                let (caller, context) = (caller(request.extensions()), RequestContext::of(request.extensions()));
                request.map(|inner| Body::new(Watched { inner, service, caller, context, state }))
            }
            _ => request,
        }
    }
}

/// The operation of a method whose requests are checked: one message, which begins with its model.
const fn checked_operation(method: Method) -> Option<Operation> {
    match method.kind() {
        Kind::Rows(operation) => Some(operation),
        // A request of `AnyRows` names its operation after other fields. Streams wait for room instead.
        Kind::AnyRows
        | Kind::RowsStream
        | Kind::Train
        | Kind::Jobs
        | Kind::ReadModels
        | Kind::CreateVersion
        | Kind::ManageModels
        | Kind::Describe
        | Kind::Health => None,
    }
}

/// A request body whose first bytes are checked.
struct Watched {
    inner: Body,
    service: Arc<Service>,
    caller: CallerOf,
    context: RequestContext,
    state: Stage,
}

enum Stage {
    /// No bytes seen yet.
    Beginning(Operation),
    /// Accepted: frames pass unchanged.
    Passing,
    /// Rejected: the rest is discarded, then this status is returned.
    Refused(Status),
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let frame = ready!(http_body::Body::poll_frame(Pin::new(&mut self.inner), context));
            match (&self.state, frame) {
                (Stage::Passing, frame) => return Poll::Ready(frame),
                (_, Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                (Stage::Refused(_), Some(Ok(_))) => {}
                (Stage::Refused(status), None) => {
                    let status = status.clone();
                    self.state = Stage::Passing;
                    return Poll::Ready(Some(Err(status)));
                }
                (Stage::Beginning(operation), frame) => {
                    let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                    let refusal = data.and_then(|data| self.refusal(*operation, data));
                    if let Some(refusal) = refusal {
                        self.state = Stage::Refused(refusal.into());
                    } else {
                        self.state = Stage::Passing;
                        return Poll::Ready(frame);
                    }
                }
            }
        }
    }
}

impl Watched {
    /// The error for the request that starts with `data`, if it must be rejected.
    fn refusal(&self, operation: Operation, data: &[u8]) -> Option<ServiceError> {
        let (model, rest_bytes) = beginning(data)?;
        let (name, selector) = convert::model_ref(Some(model)).ok()?;
        // A model that the caller may not use is left to the handler, so that its load stays hidden.
        let model = AllowedModel::check(&self.caller, name).ok()?;
        let matrix_bytes = rest_bytes.saturating_sub(FRAMING_BYTES_MAX);
        let refusal = self.service.refuse_early(&model, &selector, operation, matrix_bytes)?;
        self.context.asks(model.name(), 0);
        Some(refusal)
    }
}

/// The model, and the number of message bytes after it.
fn beginning(data: &[u8]) -> Option<(pb::ModelRef, usize)> {
    // Only uncompressed messages can be parsed here.
    let ([0, length @ ..], message) = data.split_first_chunk::<PREFIX_BYTES>()? else { return None };
    let message_bytes = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (&MODEL_TAG, mut model) = message.split_first()? else { return None };
    let model_bytes = usize::try_from(prost::encoding::decode_varint(&mut model).ok()?).ok()?;
    let model_ref = pb::ModelRef::decode(model.get(..model_bytes)?).ok()?;
    Some((model_ref, message_bytes.checked_sub(model_bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_the_wire(request: &pb::EncodeRequest) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((request.encoded_len() as u32).to_be_bytes());
        request.encode(&mut bytes).expect("room");
        bytes
    }

    fn request(columns: u32) -> pb::EncodeRequest {
        let values = pb::matrix::Values::Float32Le(vec![1; 4 * columns as usize].into());
        pb::EncodeRequest {
            model: Some(pb::ModelRef { name: "m".into(), selector: Some(pb::model_ref::Selector::Version(3)) }),
            rows: Some(pb::Matrix { rows: 1, columns, values: Some(values), ..pb::Matrix::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn the_first_bytes_give_the_model_and_the_remaining_size() {
        for columns in [1, 100, 10_000] {
            let bytes = on_the_wire(&request(columns));
            for seen in [40, bytes.len()] {
                let (model, rest_bytes) = beginning(&bytes[..seen.min(bytes.len())]).expect("it is all there");
                assert_eq!(Some(model), request(columns).model);
                let matrix_bytes = 4 * columns as usize;
                assert!((matrix_bytes..=matrix_bytes + FRAMING_BYTES_MAX).contains(&rest_bytes), "{rest_bytes}");
            }
        }
    }

    #[test]
    fn incomplete_or_unusual_beginnings_give_no_estimate() {
        let bytes = on_the_wire(&request(100));
        for seen in 0..14 {
            assert!(beginning(&bytes[..seen]).is_none() || seen > 10, "{seen} bytes");
        }
        assert_eq!(beginning(&on_the_wire(&pb::EncodeRequest { model: None, ..request(5) })), None);
        for (place, byte) in [(6, 0xff), (0, 1)] {
            let mut other = bytes.clone();
            other[place] = byte;
            assert_eq!(beginning(&other), None);
        }
    }
}
