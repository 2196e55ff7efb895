//! Limits that tonic enforces in its own words.

use http::Response;
use tonic::Status;

use super::status::translate;

/// Replaces a status that tonic answered before any handler ran by the one that this API promises.
pub fn translate_response<B: Default>(response: Response<B>) -> Response<B> {
    let translated = Status::from_header_map(response.headers()).as_ref().and_then(translate);
    match translated {
        Some(status) => status.into_http(),
        None => response,
    }
}

/// The same for a status that a handler met while it read a stream.
pub fn translate_status(status: Status) -> Status {
    translate(&status).unwrap_or(status)
}
