//! Integration tests of the whole program: one file per topic.

#![allow(
    clippy::unwrap_used,
    clippy::unnecessary_wraps,
    reason = "a test fails by panicking; helpers fit the messages"
)]

mod auto;
mod bits;
mod bounded_texts;
mod bulk;
mod canonical;
mod changes;
mod choices;
mod cli;
mod client;
mod columns;
mod compression;
mod connect;
mod containers;
mod r#continue;
mod crash;
mod damage;
mod departures;
mod disk;
mod errors;
mod golden;
mod hostile;
mod impute;
mod incremental;
mod inference;
mod inverse;
mod jobs;
mod layering;
mod library;
mod lifecycle;
mod memory;
mod metrics;
mod models;
mod only_grpc;
mod operating;
mod orthonormalize;
mod outputs;
mod precision;
mod reading;
mod reflection;
mod report_page;
mod same_bits;
mod sample;
mod score;
mod security;
mod server_files;
mod serving;
mod support;
mod tables;
mod theory;
mod torture;
mod traces;
mod training;
mod training_memory;
mod transport;
mod two_servers;
mod untied;
