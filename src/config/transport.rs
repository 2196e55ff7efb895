//! Settings of HTTP/2 and of connections.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::ConfigError;
use super::layers::Layers;
use crate::server::{TransportConfig, transport};

/// Flags of the transport, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TransportArgs {
    /// Maximum size of a received message, 1KiB to 2GiB [default: 16MiB]
    #[arg(long, value_name = "BYTES")]
    pub message_bytes_max: Option<String>,
    /// HTTP/2 flow-control window of one call: bytes that a client may send before they are read; larger is faster over
    /// long distances [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    pub stream_window_bytes: Option<String>,
    /// HTTP/2 flow-control window of one connection, for all its calls; at least stream_window_bytes [default: 4MiB]
    #[arg(long, value_name = "BYTES")]
    pub connection_window_bytes: Option<String>,
    /// Maximum size of a received HTTP/2 frame, 16KiB to 16777215; larger frames cost less for bulk, but delay other
    /// calls [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    pub frame_bytes_max: Option<String>,
    /// Maximum calls in flight on one connection, 1 to 1000000; clients hold back further calls [default: 256]
    #[arg(long, value_name = "COUNT")]
    pub streams_per_connection_max: Option<String>,
    /// Ping a connection that is silent for this long, up to 86400; 0 never pings [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub keepalive_interval_seconds: Option<String>,
    /// Close a connection that does not answer a ping within this time, 1 to 86400 [default: 20]
    #[arg(long, value_name = "SECONDS")]
    pub keepalive_timeout_seconds: Option<String>,
    /// Ask clients to reconnect after this long, give or take 10 %, so that load spreads to new servers; 0 never asks.
    /// Calls in flight finish; a call that crosses the notice must be sent again [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub connection_age_seconds_max: Option<String>,
    /// Maximum calls in flight on all connections; further calls are rejected. One address gets at most four fifths, as
    /// of connections_max and in_flight_bytes_max [default: 65536]
    #[arg(long, value_name = "COUNT")]
    pub calls_max: Option<String>,
    /// Maximum bytes of partial requests and of unsent responses; further calls are rejected. At least
    /// message_bytes_max [default: 1GiB]
    #[arg(long, value_name = "BYTES")]
    pub in_flight_bytes_max: Option<String>,
    /// End a call when the rest of a partial message does not arrive within this time, 1 to 86400 [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub message_timeout_seconds: Option<String>,
    /// Maximum open connections, 1 to 1000000; further ones are closed at once. One address gets at most four fifths
    /// [default: 16384]
    #[arg(long, value_name = "COUNT")]
    pub connections_max: Option<String>,
    /// Close a connection that has not started TLS or HTTP/2 within this time, 1 to 3600 [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub handshake_timeout_seconds: Option<String>,
    /// Close a connection that makes no call within this time, up to 86400; 0 never closes [default: 300]
    #[arg(long, value_name = "SECONDS")]
    pub first_call_timeout_seconds: Option<String>,
    /// Maximum size of the headers of one call, 1KiB to 1MiB [default: 16KiB]
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

    /// Limits on all clients together, and timeouts.
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
