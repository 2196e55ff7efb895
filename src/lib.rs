//! **halfhitch** trains and serves *tied-weight autoencoders* over gRPC.
//!
//! The modules, lowest first; each may import only from those above it in this list (ARCHITECTURE.md, and the test
//! `layering`, say exactly which):
//!
//! - [`numeric`]: matrix products, activations, decompositions, random numbers
//! - [`model`]: names, specifications, the autoencoder, its gradient, its file
//! - [`training`]: from rows to a trained model; pure, no clock and no disk
//! - [`telemetry`][]: logs
//! - [`security`]: credentials, roles, limits of a caller
//! - [`executor`]: the CPU threads; [`store`]: models on disk; [`files`]: rows on disk
//! - [`registry`]: models in memory
//! - [`batching`]: many callers, large products; [`jobs`]: durable training jobs
//! - [`service`]: the use cases, free of transport
//! - [`rpc`]: gRPC in and out
//! - [`server`], [`config`], [`cli`]: the program

pub mod batching;
pub mod cli;
pub mod config;
pub mod executor;
pub mod files;
pub mod jobs;
pub mod model;
pub mod numeric;
pub mod registry;
pub mod rpc;
pub mod security;
pub mod server;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod training;
