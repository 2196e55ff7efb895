//! Why a call is refused.

use std::sync::Arc;
use std::time::Duration;

/// Why a call is refused. No variant reveals which part of a credential was wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The credential is missing, unknown, expired or revoked.
    #[error(
        "missing or invalid credential: send a bearer token (`authorization: Bearer TOKEN`) or a client certificate"
    )]
    Unknown,
    /// The caller is known, but its roles do not allow the method.
    #[error("{caller} may not call {method}, expected {expected}")]
    Method {
        /// The caller's name.
        caller: Arc<str>,
        /// Path of the method.
        method: String,
        /// The required roles.
        expected: &'static str,
    },
    /// The caller is known, but may not use this model. Models that do not exist give the same error.
    #[error("{caller} may not use the model {model:?}, expected a name with a prefix that its credential allows")]
    Model {
        /// The caller's name.
        caller: Arc<str>,
        /// The requested model, cut to 80 characters.
        model: String,
    },
    /// The caller has used up its quota in flight.
    #[error("{caller} has reached {limit}, {max}: {got} would be in flight; retry later, or send less at once")]
    TooMuch {
        /// The caller's name.
        caller: Arc<str>,
        /// The limit, for example `rows_max`.
        limit: &'static str,
        /// Usage with this request.
        got: u64,
        /// Value of the limit.
        max: u64,
        /// Retry delay.
        retry_after: Duration,
    },
    /// The caller has reached its rate limit.
    #[error("{caller} has reached requests_per_second_max, {max}: retry later")]
    TooOften {
        /// The caller's name.
        caller: Arc<str>,
        /// Value of the limit, in requests per second.
        max: u64,
        /// Delay until the next request is admitted.
        retry_after: Duration,
    },
    /// The server's quota in flight is used up, or the share of the caller's address.
    #[error(
        "this server has reached {limit}, {max}, or this address has reached its share of four fifths: retry later"
    )]
    NoRoom {
        /// The limit, for example `calls_max`.
        limit: &'static str,
        /// Value of the limit.
        max: u64,
    },
    /// The rest of a message did not arrive in time.
    #[error(
        "received {got_bytes} bytes of a message, expected {}: the rest did not arrive within {message_wait_max:?} \
         (message_timeout_seconds)",
        message_bytes.map_or_else(|| "its length prefix".to_owned(), |bytes| bytes.to_string())
    )]
    TooSlow {
        /// Bytes received so far.
        got_bytes: usize,
        /// Bytes of the whole message; `None` until its length prefix has arrived.
        message_bytes: Option<usize>,
        /// Longest wait for the rest of a message.
        message_wait_max: Duration,
    },
}
