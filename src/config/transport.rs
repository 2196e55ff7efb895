//! Settings of HTTP/2.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::ConfigError;
use super::layers::Layers;
use crate::server::{TransportConfig, transport};

/// Flags of the transport, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TransportArgs {
    /// Largest message taken in [default: 16MiB]
    #[arg(long, value_name = "BYTES")]
    pub message_bytes_max: Option<String>,
    /// What a client may send of one call before it is read; more is faster over long distances [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    pub stream_window_bytes: Option<String>,
    /// The same for all calls of a connection together, at least as much as for one [default: 4MiB]
    #[arg(long, value_name = "BYTES")]
    pub connection_window_bytes: Option<String>,
    /// Largest HTTP/2 frame taken in: larger ones cost less for bulk, and hold up other calls for longer [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    pub frame_bytes_max: Option<String>,
    /// Calls in flight on one connection; clients hold back what is more [default: 256]
    #[arg(long, value_name = "COUNT")]
    pub streams_per_connection_max: Option<String>,
    /// Ask a connection that was silent for this long whether it is alive; 0: never [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub keepalive_interval_seconds: Option<String>,
    /// Close a connection that has not answered that for this long [default: 20]
    #[arg(long, value_name = "SECONDS")]
    pub keepalive_timeout_seconds: Option<String>,
    /// Ask clients to connect anew after this long, give or take 10 %, so that load spreads over servers that came later;
    /// calls under way go on to their end, one that crosses with the notice has to be sent again; 0: never [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub connection_age_seconds_max: Option<String>,
    /// Calls under way at a time, of all connections, further ones are refused; one address has at most four fifths of them,
    /// as of connections and of bytes in transit [default: 65536]
    #[arg(long, value_name = "COUNT")]
    pub calls_max: Option<String>,
    /// Bytes of messages that have come in part, and of answers that their callers have not taken; what is more is refused
    /// [default: 1GiB]
    #[arg(long, value_name = "BYTES")]
    pub in_flight_bytes_max: Option<String>,
    /// End a call when the rest of a message that has begun was waited for so long [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub message_timeout_seconds: Option<String>,
    /// Connections at a time, further ones are closed at once; one address has at most four fifths of them
    /// [default: 16384]
    #[arg(long, value_name = "COUNT")]
    pub connections_max: Option<String>,
    /// Close a connection that has not begun to speak TLS or HTTP/2 after this long [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub handshake_timeout_seconds: Option<String>,
    /// Close a connection that has made no call after this long; 0: never [default: 300]
    #[arg(long, value_name = "SECONDS")]
    pub first_call_timeout_seconds: Option<String>,
    /// Headers of one call [default: 16KiB]
    #[arg(long, value_name = "BYTES")]
    pub header_bytes_max: Option<String>,
}

impl Layers<'_> {
    pub(super) fn transport(
        &mut self,
        args: &TransportArgs,
        defaults: &TransportConfig,
    ) -> Result<TransportConfig, ConfigError> {
        let bytes = |layers: &mut Self, name, flag: &Option<String>, default: u32, range: &RangeInclusive<u32>| {
            let (min, max) = (u64::from(*range.start()), u64::from(*range.end()));
            layers.bytes(name, flag.as_ref(), default.into(), min, max).map(|bytes| bytes as u32)
        };
        let windows = &transport::WINDOW_BYTES;
        let streams = &transport::STREAMS_PER_CONNECTION_MAX;
        let config = TransportConfig {
            message_bytes_max: self.bytes(
                "message_bytes_max",
                args.message_bytes_max.as_ref(),
                defaults.message_bytes_max as u64,
                *transport::MESSAGE_BYTES_MAX.start() as u64,
                *transport::MESSAGE_BYTES_MAX.end() as u64,
            )? as usize,
            stream_window_bytes: bytes(
                self,
                "stream_window_bytes",
                &args.stream_window_bytes,
                defaults.stream_window_bytes,
                windows,
            )?,
            connection_window_bytes: bytes(
                self,
                "connection_window_bytes",
                &args.connection_window_bytes,
                defaults.connection_window_bytes,
                windows,
            )?,
            frame_bytes_max: bytes(
                self,
                "frame_bytes_max",
                &args.frame_bytes_max,
                defaults.frame_bytes_max,
                &transport::FRAME_BYTES_MAX,
            )?,
            streams_per_connection_max: self.count(
                "streams_per_connection_max",
                args.streams_per_connection_max.as_ref(),
                defaults.streams_per_connection_max.into(),
                u64::from(*streams.start()),
                u64::from(*streams.end()),
            )? as u32,
            keepalive_interval: self.seconds(
                "keepalive_interval_seconds",
                args.keepalive_interval_seconds.as_ref(),
                defaults.keepalive_interval,
                &transport::KEEPALIVE_SECONDS,
            )?,
            keepalive_timeout: Duration::from_secs(self.count(
                "keepalive_timeout_seconds",
                args.keepalive_timeout_seconds.as_ref(),
                defaults.keepalive_timeout.as_secs(),
                *transport::KEEPALIVE_SECONDS.start(),
                *transport::KEEPALIVE_SECONDS.end(),
            )?),
            connection_age_max: self.seconds(
                "connection_age_seconds_max",
                args.connection_age_seconds_max.as_ref(),
                defaults.connection_age_max,
                &transport::CONNECTION_AGE_SECONDS,
            )?,
            ..*defaults
        };
        let config = self.bounds(args, config)?;
        config.check().map_err(|bad| self.refused(bad.setting, bad.got, &bad.expected))?;
        Ok(config)
    }

    /// What all clients have together, and how long they are waited for.
    fn bounds(&mut self, args: &TransportArgs, defaults: TransportConfig) -> Result<TransportConfig, ConfigError> {
        Ok(TransportConfig {
            calls_max: self.count(
                "calls_max",
                args.calls_max.as_ref(),
                defaults.calls_max as u64,
                *transport::CALLS_MAX.start() as u64,
                *transport::CALLS_MAX.end() as u64,
            )? as usize,
            in_flight_bytes_max: self.bytes(
                "in_flight_bytes_max",
                args.in_flight_bytes_max.as_ref(),
                defaults.in_flight_bytes_max,
                *transport::IN_FLIGHT_BYTES_MAX.start(),
                *transport::IN_FLIGHT_BYTES_MAX.end(),
            )?,
            message_wait_max: Duration::from_secs(self.count(
                "message_timeout_seconds",
                args.message_timeout_seconds.as_ref(),
                defaults.message_wait_max.as_secs(),
                *transport::KEEPALIVE_SECONDS.start(),
                *transport::KEEPALIVE_SECONDS.end(),
            )?),
            connections_max: self.count(
                "connections_max",
                args.connections_max.as_ref(),
                defaults.connections_max as u64,
                *transport::CONNECTIONS_MAX.start() as u64,
                *transport::CONNECTIONS_MAX.end() as u64,
            )? as usize,
            greeting_max: Duration::from_secs(self.count(
                "handshake_timeout_seconds",
                args.handshake_timeout_seconds.as_ref(),
                defaults.greeting_max.as_secs(),
                *transport::GREETING_SECONDS.start(),
                *transport::GREETING_SECONDS.end(),
            )?),
            first_call_max: self.seconds(
                "first_call_timeout_seconds",
                args.first_call_timeout_seconds.as_ref(),
                defaults.first_call_max,
                &transport::KEEPALIVE_SECONDS,
            )?,
            header_bytes_max: self.bytes(
                "header_bytes_max",
                args.header_bytes_max.as_ref(),
                defaults.header_bytes_max.into(),
                u64::from(*transport::HEADER_BYTES_MAX.start()),
                u64::from(*transport::HEADER_BYTES_MAX.end()),
            )? as u32,
            ..defaults
        })
    }
}
