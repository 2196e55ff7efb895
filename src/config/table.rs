//! Every setting of the server, once. To add a setting, add an entry here, and a field to the configuration of the
//! module that uses it. The field's default is the setting's default.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::group::Group;
use super::setting::{Kind, Place, Setting, TextPlace, count, decimal, number_place, put_text, size, text, text_place};
use super::traces::{ENDPOINT_EXPECTED, is_service_name};
use super::values::{NumberField, TextField};
use super::{security, traces};
use crate::executor::{THREADS_MAX, TRAINING_PERCENT_MIN_MAX};
use crate::server::transport;
use crate::store::Retention;
use crate::telemetry::traces::TRACES_PER_SECOND_MAX;

const KIB: u64 = 1 << 10;
const TIB: u64 = 1 << 40;
const PIB: u64 = 1 << 50;
/// Seconds of a day.
const DAY: u64 = 86_400;

/// All settings. Their order is that of `--help`, `--print-config` and the reference page.
pub(super) static GROUPS: &[Group] = &[
    Group {
        title: "Addresses and folders",
        reloads: false,
        check: |_, values| {
            values.server.jobs.folder = values.server.store.join("jobs");
            Ok(())
        },
        settings: &[
            Setting {
                name: "listen",
                unit: "ADDRESS:PORT",
                kind: text!("an address and a port, for example 0.0.0.0:50051", listen),
                help: "Address and port to listen on; port 0 picks a free port, which the first line of the output \
                       names",
            },
            Setting {
                name: "admin_listen",
                unit: "ADDRESS:PORT",
                kind: text!("an address and a port, for example 0.0.0.0:9464, or nothing", server.admin_listen),
                help: "Address and port of /metrics, /livez and /readyz over HTTP, for operators; port 0 picks a free \
                       port, which the log names",
            },
            Setting {
                name: "store",
                unit: "FOLDER",
                kind: text!("a folder", server.store),
                help: "Folder of the models and of the rows of jobs; created if missing",
            },
            Setting {
                name: "train_folder",
                unit: "FOLDER",
                kind: text!("a folder", server.jobs.train_folder),
                help: "Folder whose files clients may train on (train --server-files), by paths relative to it; \
                       without it, clients cannot train on server files",
            },
        ],
    },
    Group {
        title: "Messages and connections",
        reloads: false,
        check: |layers, values| {
            let checked = values.server.transport.check();
            checked.map_err(|bad| layers.refused(bad.setting, bad.got, &bad.expected))
        },
        settings: &[
            Setting {
                name: "message_bytes_max",
                unit: "BYTES",
                kind: size!(of_usize(&transport::MESSAGE_BYTES_MAX), server.transport.message_bytes_max),
                help: "Maximum size of a received message",
            },
            Setting {
                name: "stream_window_bytes",
                unit: "BYTES",
                kind: size!(of_u32(&transport::WINDOW_BYTES), server.transport.stream_window_bytes),
                help: "HTTP/2 flow-control window of one call: bytes that a client may send before they are read; \
                       larger is faster over long distances",
            },
            Setting {
                name: "connection_window_bytes",
                unit: "BYTES",
                kind: size!(of_u32(&transport::WINDOW_BYTES), server.transport.connection_window_bytes),
                help: "HTTP/2 flow-control window of one connection, for all its calls; at least stream_window_bytes",
            },
            Setting {
                name: "frame_bytes_max",
                unit: "BYTES",
                kind: size!(of_u32(&transport::FRAME_BYTES_MAX), server.transport.frame_bytes_max),
                help: "Maximum size of a received HTTP/2 frame; larger frames cost less for bulk, but delay other \
                       calls",
            },
            Setting {
                name: "streams_per_connection_max",
                unit: "COUNT",
                kind: count!(
                    of_u32(&transport::STREAMS_PER_CONNECTION_MAX),
                    server.transport.streams_per_connection_max
                ),
                help: "Maximum calls in flight on one connection; clients hold back further calls",
            },
            Setting {
                name: "keepalive_interval_seconds",
                unit: "SECONDS",
                kind: count!(or_zero(&transport::KEEPALIVE_SECONDS), server.transport.keepalive_interval),
                help: "Ping a connection that is silent for this long; 0 never pings",
            },
            Setting {
                name: "keepalive_timeout_seconds",
                unit: "SECONDS",
                kind: count!(transport::KEEPALIVE_SECONDS, server.transport.keepalive_timeout),
                help: "Close a connection that does not answer a ping within this time",
            },
            Setting {
                name: "connection_age_seconds_max",
                unit: "SECONDS",
                kind: count!(or_zero(&transport::CONNECTION_AGE_SECONDS), server.transport.connection_age_max),
                help: "Ask clients to reconnect (GOAWAY) after this long, give or take 10 %, so that load spreads to \
                       new servers; 0 never asks. Calls in flight finish; a call that crosses the GOAWAY must be \
                       sent again",
            },
            Setting {
                name: "calls_max",
                unit: "COUNT",
                kind: count!(of_usize(&transport::CALLS_MAX), server.transport.calls_max),
                help: "Maximum calls in flight on all connections; further calls are rejected. One address gets at \
                       most four fifths, as of connections_max and in_flight_bytes_max",
            },
            Setting {
                name: "in_flight_bytes_max",
                unit: "BYTES",
                kind: size!(transport::IN_FLIGHT_BYTES_MAX, server.transport.in_flight_bytes_max),
                help: "Maximum bytes of partial requests and of unsent responses; further calls are rejected. At \
                       least message_bytes_max",
            },
            Setting {
                name: "message_timeout_seconds",
                unit: "SECONDS",
                kind: count!(transport::KEEPALIVE_SECONDS, server.transport.message_wait_max),
                help: "End a call when the rest of a partial message does not arrive within this time. With 60 s, 16 \
                       MiB need 280 kB/s; slower callers need smaller messages or a longer timeout",
            },
            Setting {
                name: "connections_max",
                unit: "COUNT",
                kind: count!(of_usize(&transport::CONNECTIONS_MAX), server.transport.connections_max),
                help: "Maximum open connections; further ones are closed at once. One address gets at most four fifths",
            },
            Setting {
                name: "handshake_timeout_seconds",
                unit: "SECONDS",
                kind: count!(transport::GREETING_SECONDS, server.transport.greeting_max),
                help: "Close a connection that has not started TLS or HTTP/2 within this time",
            },
            Setting {
                name: "first_call_timeout_seconds",
                unit: "SECONDS",
                kind: count!(or_zero(&transport::KEEPALIVE_SECONDS), server.transport.first_call_max),
                help: "Close a connection that makes no call within this time; 0 never closes",
            },
            Setting {
                name: "header_bytes_max",
                unit: "BYTES",
                kind: size!(of_u32(&transport::HEADER_BYTES_MAX), server.transport.header_bytes_max),
                help: "Maximum size of the headers of one call",
            },
        ],
    },
    Group {
        title: "Traces",
        reloads: false,
        check: traces::settle,
        settings: &[
            Setting {
                name: "otlp_endpoint",
                unit: "URL",
                kind: text!(
                    ENDPOINT_EXPECTED,
                    otlp_endpoint,
                    default_is = "as the OTEL_* variables of the environment say, or empty"
                ),
                help: "URL of the OpenTelemetry collector, over gRPC or HTTP, for example http://127.0.0.1:4317 (gRPC) \
                       or http://127.0.0.1:4318/v1/traces (HTTP); empty disables traces",
            },
            Setting {
                name: "otlp_service_name",
                unit: "NAME",
                kind: text!(
                    "a name of 1 to 255 characters",
                    server.traces.service_name,
                    only_if = |name| is_service_name(name),
                    default_is = "OTEL_SERVICE_NAME of the environment, or halfhitch"
                ),
                help: "Service name in traces, 1 to 255 characters",
            },
            Setting {
                name: "trace_ratio",
                unit: "SHARE",
                kind: decimal!(0.0..=1.0, server.traces.trace_ratio),
                help: "Share of the calls without a `traceparent` header that are traced; a `traceparent` of the \
                       caller decides for its call",
            },
            Setting {
                name: "traces_per_second_max",
                unit: "COUNT",
                kind: count!(1..=TRACES_PER_SECOND_MAX as u64, server.traces.traces_per_second_max),
                help: "Maximum calls traced per second, also of those that callers want traced",
            },
        ],
    },
    Group {
        title: "Security",
        reloads: false,
        check: security::combine_tls,
        settings: &[
            Setting {
                name: "credentials",
                unit: "FILE",
                kind: text!("a file", server.security.credentials),
                help: "TOML file of known tokens and client certificates with their roles, read again when it changes; \
                       `halfhitch token` prints entries for it. Without it, every caller may call everything",
            },
            Setting {
                name: "tls_certificate",
                unit: "FILE",
                kind: text!("a file", tls.certificate),
                help: "Certificate chain of the server, in PEM: its certificate and the intermediates; read again when \
                       it changes. Without it, connections are not encrypted",
            },
            Setting {
                name: "tls_key",
                unit: "FILE",
                kind: text!("a file", tls.key),
                help: "Private key of the server's certificate, in PEM, read again when it changes; set both or \
                       neither",
            },
            Setting {
                name: "tls_client_ca",
                unit: "FILE",
                kind: text!("a file", tls.client_ca),
                help: "Certificate authorities of client certificates, in PEM; with it, clients must present a \
                       certificate",
            },
            Setting {
                name: "tls_client_crl",
                unit: "FILE",
                kind: text!("a file", tls.client_crl),
                help: "Certificate revocation lists of those authorities, in PEM",
            },
            Setting {
                name: "tls_client_optional",
                unit: "BOOL",
                kind: text!("true or false", tls.client_optional),
                help: "Allow clients without a certificate: true or false",
            },
            Setting {
                name: "caller_requests_max",
                unit: "COUNT",
                kind: count!(0..=1 << 40, server.security.caller.requests_max),
                help: "Maximum requests of one caller in flight; 0 means no limit. A caller is a name in the \
                       credentials, or else an address",
            },
            Setting {
                name: "caller_rows_max",
                unit: "ROWS",
                kind: count!(0..=1 << 40, server.security.caller.rows_max),
                help: "Maximum rows of one caller in flight; 0 means no limit",
            },
            Setting {
                name: "caller_bytes_max",
                unit: "BYTES",
                kind: size!(0..=TIB, server.security.caller.bytes_max),
                help: "Maximum bytes of requests of one caller in flight; 0 means no limit",
            },
            Setting {
                name: "caller_requests_per_second_max",
                unit: "COUNT",
                kind: count!(0..=1_000_000_000, server.security.caller.requests_per_second_max),
                help: "Maximum requests that one caller starts per second; 0 means no limit",
            },
        ],
    },
    Group {
        title: "Batches and queue",
        reloads: false,
        check: |layers, values| {
            let checked = values.server.batching.check();
            checked.map_err(|bad| layers.refused(bad.setting, bad.got.to_string(), bad.expected))
        },
        settings: &[
            Setting {
                name: "batch_rows_max",
                unit: "ROWS",
                kind: count!(16..=65_536, server.batching.batch_rows_max, noun = "a multiple of 16"),
                help: "Maximum rows in one batch, a multiple of 16",
            },
            Setting {
                name: "queue_rows_max",
                unit: "ROWS",
                kind: count!(1..=1 << 32, server.batching.queue_rows_max),
                help: "Maximum rows that wait to be computed; further requests get RESOURCE_EXHAUSTED with a retry \
                       delay",
            },
            Setting {
                name: "queue_bytes_max",
                unit: "BYTES",
                kind: size!(KIB..=TIB, server.batching.queue_bytes_max),
                help: "Maximum bytes of queued requests and their responses; further requests get RESOURCE_EXHAUSTED \
                       with a retry delay",
            },
        ],
    },
    Group {
        title: "Threads and memory",
        reloads: false,
        check: |_, values| {
            values.server.jobs.training_threads = values.server.executor.training_threads;
            Ok(())
        },
        settings: &[
            Setting {
                name: "serving_threads",
                unit: "COUNT",
                kind: count!(
                    1..=THREADS_MAX as u64,
                    server.executor.serving_threads,
                    default_is = "the number of cores"
                ),
                help: "Threads that serve requests",
            },
            Setting {
                name: "training_threads",
                unit: "COUNT",
                kind: count!(
                    1..=THREADS_MAX as u64,
                    server.executor.training_threads,
                    default_is = "the number of cores"
                ),
                help: "Threads that train, at the lowest priority",
            },
            Setting {
                name: "training_percent_min",
                unit: "PERCENT",
                kind: count!(0..=TRAINING_PERCENT_MIN_MAX as u64, server.executor.training_percent_min),
                help: "Minimum share of CPU time for training while requests are served, in percent of the time in \
                       which it could run",
            },
            Setting {
                name: "resident_bytes_max",
                unit: "BYTES",
                kind: size!(0..=PIB, server.registry.resident_bytes_max),
                help: "Maximum bytes of models in memory; the least recently used are evicted",
            },
        ],
    },
    Group {
        title: "Training jobs",
        reloads: false,
        check: |_, _| Ok(()),
        settings: &[
            Setting {
                name: "upload_idle_timeout_seconds",
                unit: "SECONDS",
                kind: count!(1..=365 * DAY, server.jobs.upload_idle_max),
                help: "Cancel an upload that receives no chunk for this long",
            },
            Setting {
                name: "open_jobs_max",
                unit: "COUNT",
                kind: count!(1..=100_000, server.jobs.open_jobs_max),
                help: "Maximum jobs that are queued, running or paused; one caller gets at most four fifths",
            },
            Setting {
                name: "open_uploads_max",
                unit: "COUNT",
                kind: count!(1..=100_000, server.jobs.open_uploads_max),
                help: "Maximum open uploads; one caller gets at most four fifths",
            },
            Setting {
                name: "ended_jobs_max",
                unit: "COUNT",
                kind: count!(1..=100_000, server.jobs.ended_jobs_max),
                help: "Number of ended jobs to remember",
            },
            Setting {
                name: "running_jobs_max",
                unit: "COUNT",
                kind: count!(1..=64, server.jobs.running_jobs_max),
                help: "Maximum jobs that train at the same time",
            },
            Setting {
                name: "paused_timeout_seconds",
                unit: "SECONDS",
                kind: count!(1..=10 * 365 * DAY, server.jobs.paused_max),
                help: "Cancel a paused job that is not resumed for this long",
            },
            Setting {
                name: "job_rows_max",
                unit: "ROWS",
                kind: count!(1..=1 << 40, server.jobs.job_rows_max),
                help: "Maximum rows of one job",
            },
            Setting {
                name: "job_bytes_max",
                unit: "BYTES",
                kind: size!(KIB..=PIB, server.jobs.job_bytes_max),
                help: "Maximum bytes on disk of one job: its rows and its checkpoint",
            },
            Setting {
                name: "disk_free_bytes_min",
                unit: "BYTES",
                kind: size!(0..=PIB, server.jobs.disk_free_bytes_min),
                help: "Bytes that jobs leave free on the disk",
            },
            Setting {
                name: "checkpoint_seconds",
                unit: "SECONDS",
                kind: decimal!(0.01..=86_400.0, server.jobs.checkpoint_every),
                help: "Interval between two checkpoints of a running job",
            },
            Setting {
                name: "spool_bytes_max",
                unit: "BYTES",
                kind: size!(KIB..=PIB, server.jobs.spool_bytes_max),
                help: "Maximum bytes on disk of all jobs: rows and checkpoints",
            },
        ],
    },
    Group {
        title: "Versions",
        reloads: true,
        check: |_, values| {
            let (newest, days) = (values.retention.versions, values.retention.days);
            let unused_max = Duration::from_hours(24 * days);
            values.server.upkeep.retention = (newest > 0).then_some(Retention { newest, unused_max });
            Ok(())
        },
        settings: &[
            Setting {
                name: "warm_models",
                unit: "MODELS",
                kind: text!(
                    "models as NAME, NAME@VERSION or NAME@ALIAS, with commas between them",
                    server.upkeep.warm_models
                ),
                help: "Models to load before the server is ready, and to keep up to date: NAME, NAME@VERSION or \
                       NAME@ALIAS, separated by commas",
            },
            Setting {
                name: "version_policy",
                unit: "POLICIES",
                kind: text!(
                    "all, latest:COUNT or pinned:VERSION+VERSION, once for all models, or with NAME= in front for one, \
                     and commas between them",
                    server.upkeep.policies
                ),
                help: "Versions to serve: all, latest:COUNT or pinned:VERSION+VERSION; NAME= in front sets it for one \
                       model, and commas separate several, for example latest:3,digits=pinned:1+4. The target of an \
                       alias is always served",
            },
            Setting {
                name: "retention_versions",
                unit: "COUNT",
                kind: count!(0..=1_000_000, retention.versions),
                help: "Number of newest versions of each model to keep; versions that have an alias, are pinned, or \
                       were used within --retention-days are kept as well; 0 keeps all",
            },
            Setting {
                name: "retention_days",
                unit: "DAYS",
                // A century.
                kind: count!(0..=36_500, retention.days),
                help: "Keep a version that was used or published within this many days",
            },
        ],
    },
    Group {
        title: "Shutdown",
        reloads: false,
        check: |_, _| Ok(()),
        settings: &[
            Setting {
                name: "drain_seconds",
                unit: "SECONDS",
                kind: decimal!(0.0..=86_400.0, server.drain),
                help: "After SIGTERM, keep serving this long while not ready, so that load balancers notice; part of \
                       the shutdown grace",
            },
            Setting {
                name: "shutdown_grace_seconds",
                unit: "SECONDS",
                kind: count!(0..=DAY, server.shutdown_grace),
                help: "Time from SIGTERM until every accepted request must be finished",
            },
        ],
    },
    Group {
        title: "Log",
        reloads: false,
        check: |_, _| Ok(()),
        settings: &[
            Setting {
                name: "log",
                unit: "FILTER",
                kind: text!("a filter", log),
                help: "What to log: error, warn, info, debug, trace, or targets with levels, for example \
                       halfhitch=debug,warn",
            },
            Setting {
                name: "log_format",
                unit: "FORMAT",
                kind: text!("human or json", log_format),
                help: "Format of the log: human or json",
            },
        ],
    },
];

/// All settings, in the order of `--print-config`.
pub(super) fn settings() -> impl Iterator<Item = &'static Setting> {
    GROUPS.iter().flat_map(|group| group.settings)
}

const fn of_u32(range: &RangeInclusive<u32>) -> RangeInclusive<u64> {
    *range.start() as u64..=*range.end() as u64
}

const fn of_usize(range: &RangeInclusive<usize>) -> RangeInclusive<u64> {
    *range.start() as u64..=*range.end() as u64
}

/// A range that also has 0, for never.
const fn or_zero(range: &RangeInclusive<u64>) -> RangeInclusive<u64> {
    0..=*range.end()
}
