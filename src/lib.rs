//! **halfhitch** trains and serves *tied-weight autoencoders* over gRPC.
//!
//! The modules, lowest first. A module may import only from those above it in this list; ARCHITECTURE.md and the test
//! `layering` give the exact rules:
//!
//! - [`numeric`]: matrix products, activations, decompositions, random numbers
//! - [`model`]: names, specifications, the autoencoder, its gradient, its file
//! - [`training`]: from rows to a trained model; pure, no clock and no disk
//! - [`telemetry`]: logs, metrics, traces
//! - [`security`]: credentials, roles, limits per caller
//! - [`executor`]: the CPU thread pools; [`store`]: models on disk; [`files`]: rows on disk
//! - [`registry`]: models in memory
//! - [`batching`]: batches of the rows of many callers; [`jobs`]: durable training jobs
//! - [`service`]: the use cases, independent of the transport
//! - [`pb`]: the generated code of the API; [`rpc`]: the gRPC adapters
//! - [`server`], [`config`], [`cli`]: the server, its settings and the command line

pub mod batching;
pub mod cli;
pub mod config;
pub mod executor;
pub mod files;
pub mod jobs;
pub mod model;
pub mod numeric;
pub mod pb;
pub mod registry;
pub mod rpc;
pub mod security;
pub mod server;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod training;
