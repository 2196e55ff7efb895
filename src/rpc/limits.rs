//! Translates the statuses that tonic creates into those of this API.

use http::Response;
use tonic::Status;

use super::status::{bounded, translate};

/// Status messages above this length in bytes are shortened: tonic quotes invalid input in them.
const LONG_BYTES_MIN: usize = 2048;

/// Replaces a status that tonic returned before any handler ran.
pub fn translate_response<B: Default>(response: Response<B>) -> Response<B> {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    match translate(&status) {
        Some(status) => status.into_http(),
        // Never shortens a status of this API: those are shorter.
        None if response.headers().get("grpc-message").is_some_and(|message| message.len() > LONG_BYTES_MIN) => {
            bounded(status).into_http()
        }
        None => response,
    }
}

/// Translates a status that a handler received while reading a stream.
pub fn translate_status(status: Status) -> Status {
    translate(&status).unwrap_or_else(|| bounded(status))
}
