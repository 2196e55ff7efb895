//! Settings of HTTP/2, and the one place where they are applied.

use std::ops::RangeInclusive;
use std::time::Duration;

use tonic::transport::Server;

/// How connections are spoken over. The windows bound what a client may send before it is read: they cost memory only
/// while they are used. `TCP_NODELAY` is always on: answers are small, and somebody waits for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportConfig {
    /// Largest message that is taken in, in bytes.
    pub message_bytes_max: usize,
    /// Flow-control window of one stream.
    pub stream_window_bytes: u32,
    /// Flow-control window of one connection, of all its streams together.
    pub connection_window_bytes: u32,
    /// Largest HTTP/2 frame that is taken in: fewer, larger frames cost less for bulk.
    pub frame_bytes_max: u32,
    /// Requests in flight on one connection; further ones wait in the client, where they cost nothing if they are given up.
    pub streams_per_connection_max: u32,
    /// A connection on which nothing comes for this long is asked whether it is alive; `None`: never.
    pub keepalive_interval: Option<Duration>,
    /// A connection that does not answer that for this long is closed.
    pub keepalive_timeout: Duration,
    /// A connection of this age, give or take 10 %, takes no new calls and closes after the last; `None`: any age. A
    /// call that crosses with the notice is not served; clients that do not send it again by themselves see it fail.
    pub connection_age_max: Option<Duration>,
    /// Calls at a time, of all connections; further ones are refused. One address may have four times what is free, as of
    /// connections and of `in_flight_bytes_max`.
    pub calls_max: usize,
    /// Bytes of messages that have come in part and of answers that are not out.
    pub in_flight_bytes_max: u64,
    /// How long the rest of a message is waited for.
    pub message_wait_max: Duration,
    /// Connections at a time; further ones are closed at once. One address may have four times what is free.
    pub connections_max: usize,
    /// From the connection until TLS is settled and HTTP/2 has begun.
    pub greeting_max: Duration,
    /// A connection that has made no call by then is closed; `None`: never.
    pub first_call_max: Option<Duration>,
    /// Headers of one call, in bytes.
    pub header_bytes_max: u32,
}

/// A message of fewer bytes could hold no row of most models; of more, protobuf forbids it.
pub const MESSAGE_BYTES_MAX: RangeInclusive<usize> = 1 << 10..=2 << 30;
/// From the least that HTTP/2 begins with (RFC 9113, 6.9.2) to the most that it allows.
pub const WINDOW_BYTES: RangeInclusive<u32> = 65_535..=(1 << 31) - 1;
/// What HTTP/2 allows (RFC 9113, 6.5.2).
pub const FRAME_BYTES_MAX: RangeInclusive<u32> = 1 << 14..=(1 << 24) - 1;
/// At least the one that asks.
pub const STREAMS_PER_CONNECTION_MAX: RangeInclusive<u32> = 1..=1_000_000;
/// A day of silence is as good as for ever.
pub const KEEPALIVE_SECONDS: RangeInclusive<u64> = 1..=86_400;
/// A year.
pub const CONNECTION_AGE_SECONDS: RangeInclusive<u64> = 1..=365 * 86_400;

/// At least one.
pub const CALLS_MAX: RangeInclusive<usize> = 1..=100_000_000;
/// At least one message.
pub const IN_FLIGHT_BYTES_MAX: RangeInclusive<u64> = 1 << 20..=1 << 40;
/// At least one.
pub const CONNECTIONS_MAX: RangeInclusive<usize> = 1..=1_000_000;
/// A client that is far away needs a second.
pub const GREETING_SECONDS: RangeInclusive<u64> = 1..=3600;
/// From what any client sends to what no server should hold.
pub const HEADER_BYTES_MAX: RangeInclusive<u32> = 1 << 10..=1 << 20;

/// A setting that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {got}, expected {expected}")]
pub struct BadTransport {
    /// Its name.
    pub setting: &'static str,
    /// What came.
    pub got: String,
    /// What is possible.
    pub expected: String,
}

/// Calls that may depart before anything looks at them: whoever leaves makes place for the next, who may leave as well.
/// More than what the watch of frames lets pass, which says whose they were.
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
    /// Refuses what cannot be meant.
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
        // Some messages could otherwise never come.
        if self.in_flight_bytes_max < self.message_bytes_max as u64 {
            return Err(BadTransport {
                setting: "in_flight_bytes_max",
                got: self.in_flight_bytes_max.to_string(),
                expected: format!("at least message_bytes_max, {}", self.message_bytes_max),
            });
        }
        // A stream could otherwise never fill its window.
        if self.connection_window_bytes < self.stream_window_bytes {
            return Err(BadTransport {
                setting: "connection_window_bytes",
                got: self.connection_window_bytes.to_string(),
                expected: format!("at least stream_window_bytes, {}", self.stream_window_bytes),
            });
        }
        Ok(())
    }

    /// A server whose connections reach `age`.
    pub fn builder(&self, age: Option<Duration>) -> Server {
        let server = Server::builder()
            .initial_stream_window_size(self.stream_window_bytes)
            .initial_connection_window_size(self.connection_window_bytes)
            .max_frame_size(self.frame_bytes_max)
            .http2_max_header_list_size(self.header_bytes_max)
            .max_concurrent_streams(self.streams_per_connection_max)
            // All of them may depart before this thread looks at one: no reason to close the connection of the others.
            .http2_max_pending_accept_reset_streams(Some(RESETS_MIN.max(self.streams_per_connection_max as usize)))
            .http2_keepalive_interval(self.keepalive_interval)
            .http2_keepalive_timeout(Some(self.keepalive_timeout));
        match age {
            // Without tonic's grace, with which it closes at the end of it and never asks before.
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
    fn the_defaults_are_possible() {
        TransportConfig::default().check().expect("possible");
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
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
