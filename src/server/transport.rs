//! Settings of HTTP/2 and of connections, and the function that applies those of HTTP/2.

use std::ops::RangeInclusive;
use std::time::Duration;

use tonic::transport::Server;

/// Transport settings. The flow-control windows limit what a client may send before the server reads it; they cost
/// memory only while in use. `TCP_NODELAY` is always on, because responses are small and callers wait for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportConfig {
    /// Maximum size of a request message in bytes.
    pub message_bytes_max: usize,
    /// Flow-control window of one stream, in bytes.
    pub stream_window_bytes: u32,
    /// Flow-control window of one connection, for all its streams together, in bytes.
    pub connection_window_bytes: u32,
    /// Maximum size of a received HTTP/2 frame in bytes. Large frames are cheaper for bulk transfers.
    pub frame_bytes_max: u32,
    /// Maximum concurrent calls on one connection. More wait in the client, where canceling them costs the server
    /// nothing.
    pub streams_per_connection_max: u32,
    /// A connection that receives nothing for this long gets a keepalive PING; `None`: never.
    pub keepalive_interval: Option<Duration>,
    /// A connection that does not acknowledge the PING within this time is closed.
    pub keepalive_timeout: Duration,
    /// A connection of this age, within 10 %, takes no new calls and closes after the last one; `None`: no limit. A
    /// call that crosses with the GOAWAY is not served. It fails unless the client sends it again by itself.
    pub connection_age_max: Option<Duration>,
    /// Maximum concurrent calls of all connections; more are rejected. One address may hold at most four times what is
    /// free, as for connections and `in_flight_bytes_max`.
    pub calls_max: usize,
    /// Maximum bytes of partial requests and unsent responses.
    pub in_flight_bytes_max: u64,
    /// Timeout for the rest of a partly received message.
    pub message_wait_max: Duration,
    /// Maximum number of connections; more are closed at once. One address may hold at most four times what is free.
    pub connections_max: usize,
    /// Timeout for the TLS handshake and the HTTP/2 preface.
    pub greeting_max: Duration,
    /// A connection without a call after this time is closed; `None`: never.
    pub first_call_max: Option<Duration>,
    /// Maximum size of the headers of one call in bytes.
    pub header_bytes_max: u32,
}

/// Range of `message_bytes_max`. Smaller messages could not hold one row of most models; protobuf forbids larger ones.
pub const MESSAGE_BYTES_MAX: RangeInclusive<usize> = 1 << 10..=2 << 30;
/// Range of flow-control windows: from HTTP/2's initial size (RFC 9113, 6.9.2) to its maximum.
pub const WINDOW_BYTES: RangeInclusive<u32> = 65_535..=(1 << 31) - 1;
/// Range of `frame_bytes_max` that HTTP/2 allows (RFC 9113, 6.5.2).
pub const FRAME_BYTES_MAX: RangeInclusive<u32> = 1 << 14..=(1 << 24) - 1;
/// Range of `streams_per_connection_max`.
pub const STREAMS_PER_CONNECTION_MAX: RangeInclusive<u32> = 1..=1_000_000;
/// Range of keepalive, message and first-call timeouts in seconds, up to a day.
pub const KEEPALIVE_SECONDS: RangeInclusive<u64> = 1..=86_400;
/// Range of the connection age in seconds, up to a year.
pub const CONNECTION_AGE_SECONDS: RangeInclusive<u64> = 1..=365 * 86_400;

/// Range of `calls_max`.
pub const CALLS_MAX: RangeInclusive<usize> = 1..=100_000_000;
/// Range of `in_flight_bytes_max`; it must also hold one message.
pub const IN_FLIGHT_BYTES_MAX: RangeInclusive<u64> = 1 << 20..=1 << 40;
/// Range of `connections_max`.
pub const CONNECTIONS_MAX: RangeInclusive<usize> = 1..=1_000_000;
/// Range of the handshake timeout in seconds. A distant client needs a second.
pub const GREETING_SECONDS: RangeInclusive<u64> = 1..=3600;
/// Range of `header_bytes_max`.
pub const HEADER_BYTES_MAX: RangeInclusive<u32> = 1 << 10..=1 << 20;

/// A setting is out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {got}, expected {expected}")]
pub struct BadTransport {
    /// Name of the setting.
    pub setting: &'static str,
    /// Its value.
    pub got: String,
    /// The allowed range, in words.
    pub expected: String,
}

/// Minimum limit of calls that the client may reset before the server has handled them. A reset call makes room for
/// another, which can be reset as well. The limit is above that of the frame inspection, so that the latter closes such
/// connections and logs their address.
const RESETS_MIN: usize = 8192;

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            message_bytes_max: 16 << 20,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 4 << 20,
            frame_bytes_max: 1 << 20,
            streams_per_connection_max: 256,
            keepalive_interval: Some(Duration::from_secs(30)),
            keepalive_timeout: Duration::from_secs(20),
            connection_age_max: None,
            calls_max: 65_536,
            in_flight_bytes_max: 1 << 30,
            message_wait_max: Duration::from_mins(1),
            connections_max: 16_384,
            greeting_max: Duration::from_secs(10),
            first_call_max: Some(Duration::from_mins(5)),
            header_bytes_max: 16 << 10,
        }
    }
}

impl TransportConfig {
    /// Rejects settings that are out of range.
    pub fn check(&self) -> Result<(), BadTransport> {
        within("message_bytes_max", &self.message_bytes_max, &MESSAGE_BYTES_MAX)?;
        within("stream_window_bytes", &self.stream_window_bytes, &WINDOW_BYTES)?;
        within("connection_window_bytes", &self.connection_window_bytes, &WINDOW_BYTES)?;
        within("frame_bytes_max", &self.frame_bytes_max, &FRAME_BYTES_MAX)?;
        within("streams_per_connection_max", &self.streams_per_connection_max, &STREAMS_PER_CONNECTION_MAX)?;
        within("keepalive_timeout_seconds", &self.keepalive_timeout, &seconds(&KEEPALIVE_SECONDS))?;
        if let Some(interval) = self.keepalive_interval {
            within("keepalive_interval_seconds", &interval, &seconds(&KEEPALIVE_SECONDS))?;
        }
        if let Some(age) = self.connection_age_max {
            within("connection_age_seconds_max", &age, &seconds(&CONNECTION_AGE_SECONDS))?;
        }
        within("calls_max", &self.calls_max, &CALLS_MAX)?;
        within("in_flight_bytes_max", &self.in_flight_bytes_max, &IN_FLIGHT_BYTES_MAX)?;
        within("message_timeout_seconds", &self.message_wait_max, &seconds(&KEEPALIVE_SECONDS))?;
        within("connections_max", &self.connections_max, &CONNECTIONS_MAX)?;
        within("handshake_timeout_seconds", &self.greeting_max, &seconds(&GREETING_SECONDS))?;
        within("header_bytes_max", &self.header_bytes_max, &HEADER_BYTES_MAX)?;
        if let Some(first) = self.first_call_max {
            within("first_call_timeout_seconds", &first, &seconds(&KEEPALIVE_SECONDS))?;
        }
        // Otherwise the largest messages could never be received.
        if self.in_flight_bytes_max < self.message_bytes_max as u64 {
            return Err(BadTransport {
                setting: "in_flight_bytes_max",
                got: self.in_flight_bytes_max.to_string(),
                expected: format!("at least message_bytes_max, {}", self.message_bytes_max),
            });
        }
        // Otherwise a stream could never fill its window.
        if self.connection_window_bytes < self.stream_window_bytes {
            return Err(BadTransport {
                setting: "connection_window_bytes",
                got: self.connection_window_bytes.to_string(),
                expected: format!("at least stream_window_bytes, {}", self.stream_window_bytes),
            });
        }
        Ok(())
    }

    /// A tonic server with these settings, whose connections have the maximum age `age`.
    pub fn builder(&self, age: Option<Duration>) -> Server {
        let server = Server::builder()
            .initial_stream_window_size(self.stream_window_bytes)
            .initial_connection_window_size(self.connection_window_bytes)
            .max_frame_size(self.frame_bytes_max)
            .http2_max_header_list_size(self.header_bytes_max)
            .max_concurrent_streams(self.streams_per_connection_max)
            // All calls of a connection may be reset before this thread handles one. That must not close the
            // connection.
            .http2_max_pending_accept_reset_streams(Some(RESETS_MIN.max(self.streams_per_connection_max as usize)))
            .http2_keepalive_interval(self.keepalive_interval)
            .http2_keepalive_timeout(Some(self.keepalive_timeout));
        match age {
            // Set no grace period: with one, tonic closes the connection at its end without sending GOAWAY first.
            Some(age) => server.max_connection_age(age),
            None => server,
        }
    }
}

fn seconds(range: &RangeInclusive<u64>) -> RangeInclusive<Duration> {
    Duration::from_secs(*range.start())..=Duration::from_secs(*range.end())
}

fn within<T: PartialOrd + std::fmt::Debug>(
    setting: &'static str,
    got: &T,
    range: &RangeInclusive<T>,
) -> Result<(), BadTransport> {
    if range.contains(got) {
        return Ok(());
    }
    let expected = format!("from {:?} to {:?}", range.start(), range.end());
    Err(BadTransport { setting, got: format!("{got:?}"), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(setting: &str, change: impl FnOnce(&mut TransportConfig)) {
        let mut config = TransportConfig::default();
        change(&mut config);
        assert_eq!(config.check().expect_err("refused").setting, setting);
    }

    #[test]
    fn the_defaults_are_valid() {
        TransportConfig::default().check().expect("possible");
    }

    #[test]
    fn errors_name_the_invalid_setting() {
        check_refused("message_bytes_max", |config| config.message_bytes_max = 0);
        check_refused("stream_window_bytes", |config| config.stream_window_bytes = 65_534);
        check_refused("connection_window_bytes", |config| config.connection_window_bytes = 1 << 31);
        check_refused("connection_window_bytes", |config| config.connection_window_bytes = 1 << 19);
        check_refused("frame_bytes_max", |config| config.frame_bytes_max = 1 << 24);
        check_refused("streams_per_connection_max", |config| config.streams_per_connection_max = 0);
        check_refused("keepalive_interval_seconds", |config| config.keepalive_interval = Some(Duration::ZERO));
        check_refused("keepalive_timeout_seconds", |config| config.keepalive_timeout = Duration::ZERO);
        check_refused("connection_age_seconds_max", |config| config.connection_age_max = Some(Duration::MAX));
    }
}
