//! Limits that tonic enforces in its own words.

use http::Response;
use tonic::Status;

use super::status::{bounded, translate};

/// Longer messages of tonic's own are looked at: it quotes what it cannot read.
const LONG_BYTES_MIN: usize = 2048;

/// Replaces a status that tonic answered before any handler ran by the one that this API promises.
pub fn translate_response<B: Default>(response: Response<B>) -> Response<B> {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    match translate(&status) {
        Some(status) => status.into_http(),
        // Of ours nothing is lost: they are as short as that.
        None if response.headers().get("grpc-message").is_some_and(|message| message.len() > LONG_BYTES_MIN) => {
            bounded(status).into_http()
        }
        None => response,
    }
}

/// The same for a status that a handler met while it read a stream.
pub fn translate_status(status: Status) -> Status {
    translate(&status).unwrap_or_else(|| bounded(status))
}
