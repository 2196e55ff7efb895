//! **halfhitch** trains and serves *tied-weight autoencoders*: over gRPC, or in your process with [`Model`].
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | | | [`Model`], [`numeric`], [`model`], [`training`] and [`files`]: a library without async code |
//! | `arrow` | yes | Parquet and Arrow IPC in [`files`] |
//! | `client` | | the messages and clients of the gRPC API (module `pb`) |
//! | `server` | yes | the program: all other modules; includes `client` |
//!
//! # Modules
//!
//! The modules, lowest first. A module may import only from those above it in this list; ARCHITECTURE.md and the test
//! `layering` give the exact rules:
//!
//! - [`numeric`]: matrix products, activations, decompositions, random numbers
//! - [`model`]: names, specifications, the autoencoder, its gradient, its file
//! - [`training`]: from rows to a trained model; pure, no clock and no disk
//! - `telemetry`: logs, metrics, traces
//! - `security`: credentials, roles, limits per caller
//! - `executor`: the CPU thread pools; `store`: models on disk; [`files`]: rows on disk
//! - `library`: [`Model`]
//! - `registry`: models in memory
//! - `batching`: batches of the rows of many callers; `jobs`: durable training jobs
//! - `service`: the use cases, independent of the transport
//! - `pb`: the generated code of the API; `rpc`: the gRPC adapters
//! - `server`, `config`, `cli`: the server, its settings and the command line

#[cfg(feature = "server")]
pub mod batching;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod executor;
pub mod files;
#[cfg(feature = "server")]
pub mod jobs;
mod library;
pub mod model;
pub mod numeric;
#[cfg(feature = "client")]
pub mod pb;
#[cfg(feature = "server")]
pub mod registry;
#[cfg(feature = "server")]
pub mod rpc;
#[cfg(feature = "server")]
pub mod security;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod service;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod telemetry;
pub mod training;

pub use library::{Model, ModelError, Reconstruction, Scores};
/// The arrays of [`Model`]: a view of another version of ndarray has another type.
pub use ndarray;
