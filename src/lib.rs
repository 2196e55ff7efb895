//! **halfhitch** trains and serves *tied-weight autoencoders*: over gRPC, or in your process.
//!
//! # In your process
//!
//! [`Model`] trains and computes without a server. Rows are [`ndarray`] arrays, `(n, d)`: one row per sample, one column
//! per feature. Codes are `(n, k)`. Views with any strides give the result of their copies.
//!
//! Train a model on rows:
//!
//! ```
//! use halfhitch::Model;
//! use halfhitch::ndarray::Array2;
//! use halfhitch::training::TrainSpec;
//!
//! let rows = Array2::from_shape_fn((200, 4), |(i, j)| (0.1 * (i * (j + 1)) as f32).sin());
//! let mut spec = TrainSpec::new("waves".parse()?, vec![4, 8, 2]);
//! spec.epochs = Some(5);
//! let model = Model::train(rows.view(), &spec)?;
//! assert_eq!(model.spec().code_length(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Encode rows, and decode their codes:
//!
//! ```
//! # use halfhitch::Model;
//! # use halfhitch::ndarray::Array2;
//! # use halfhitch::training::TrainSpec;
//! # let rows = Array2::from_shape_fn((200, 4), |(i, j)| (0.1 * (i * (j + 1)) as f32).sin());
//! # let mut spec = TrainSpec::new("waves".parse()?, vec![4, 8, 2]);
//! # spec.epochs = Some(5);
//! # let model = Model::train(rows.view(), &spec)?;
//! let codes = model.encode(rows.view())?;
//! assert_eq!(codes.dim(), (200, 2));
//! assert_eq!(model.decode(codes.view())?.dim(), (200, 4));
//!
//! // A transposed array, without a copy in another order.
//! let transposed = rows.t().as_standard_layout().into_owned();
//! assert_eq!(model.encode(transposed.t())?, codes);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Reconstruct rows, with the error of each row:
//!
//! ```
//! # use halfhitch::Model;
//! # use halfhitch::ndarray::Array2;
//! # use halfhitch::training::TrainSpec;
//! # let rows = Array2::from_shape_fn((200, 4), |(i, j)| (0.1 * (i * (j + 1)) as f32).sin());
//! # let mut spec = TrainSpec::new("waves".parse()?, vec![4, 8, 2]);
//! # spec.epochs = Some(5);
//! # let model = Model::train(rows.view(), &spec)?;
//! let reconstruction = model.reconstruct(rows.view())?;
//! assert_eq!(reconstruction.rows.dim(), (200, 4));
//! assert!(reconstruction.squared_errors.iter().all(|error| *error >= 0.0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Score how unusual rows are:
//!
//! ```
//! # use halfhitch::Model;
//! # use halfhitch::ndarray::Array2;
//! # use halfhitch::training::TrainSpec;
//! # let rows = Array2::from_shape_fn((200, 4), |(i, j)| (0.1 * (i * (j + 1)) as f32).sin());
//! # let mut spec = TrainSpec::new("waves".parse()?, vec![4, 8, 2]);
//! # spec.epochs = Some(5);
//! # let model = Model::train(rows.view(), &spec)?;
//! let mut broken = rows.clone();
//! broken[[7, 3]] += 100.0;
//! let scores = model.score(broken.view())?;
//! let usual = model.score(rows.view())?;
//! assert!(scores.scores[7] > usual.scores[7]);
//! assert!(scores.p_values[7] <= usual.p_values[7]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! See how much each feature contributes to a score:
//!
//! ```
//! # use halfhitch::Model;
//! # use halfhitch::ndarray::Array2;
//! # use halfhitch::training::TrainSpec;
//! # let rows = Array2::from_shape_fn((200, 4), |(i, j)| (0.1 * (i * (j + 1)) as f32).sin());
//! # let mut spec = TrainSpec::new("waves".parse()?, vec![4, 8, 2]);
//! # spec.epochs = Some(5);
//! # let model = Model::train(rows.view(), &spec)?;
//! # let mut broken = rows.clone();
//! # broken[[7, 3]] += 100.0;
//! let explanation = model.explain(broken.view())?;
//! assert_eq!(explanation.scores, model.score(broken.view())?);
//! // A smaller value would make the row more usual.
//! assert!(explanation.contributions[[7, 3]] > 0.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Continue with other rows, from the weights of a model:
//!
//! ```
//! # use halfhitch::Model;
//! # use halfhitch::ndarray::Array2;
//! # use halfhitch::training::TrainSpec;
//! # let rows = Array2::from_shape_fn((200, 4), |(i, j)| (0.1 * (i * (j + 1)) as f32).sin());
//! # let mut spec = TrainSpec::new("waves".parse()?, vec![4, 8, 2]);
//! # spec.epochs = Some(5);
//! # let model = Model::train(rows.view(), &spec)?;
//! let newer = Array2::from_shape_fn((200, 4), |(i, j)| (0.1 * (i * (j + 1)) as f32 + 1.0).sin());
//! let continued = Model::train_from(&model, newer.view(), &spec)?;
//! assert_eq!(continued.spec(), model.spec());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Fill in missing values, which are NaN:
//!
//! ```
//! # use halfhitch::Model;
//! # use halfhitch::ndarray::Array2;
//! # use halfhitch::training::TrainSpec;
//! # let mut rows = Array2::from_shape_fn((200, 4), |(i, j)| (0.1 * (i * (j + 1)) as f32).sin());
//! # let mut spec = TrainSpec::new("waves".parse()?, vec![4, 8, 2]);
//! # spec.epochs = Some(5);
//! spec.missing_values = true;
//! rows[[3, 1]] = f32::NAN;
//! let model = Model::train(rows.view(), &spec)?;
//! let whole = model.impute(rows.view())?;
//! assert!(whole[[3, 1]].is_finite());
//! assert_eq!(whole[[3, 0]], rows[[3, 0]]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Save a model, and load it. The file is that of a server's store:
//!
//! ```
//! # use halfhitch::Model;
//! # use halfhitch::ndarray::Array2;
//! # use halfhitch::training::TrainSpec;
//! # let rows = Array2::from_shape_fn((200, 4), |(i, j)| (0.1 * (i * (j + 1)) as f32).sin());
//! # let mut spec = TrainSpec::new("waves".parse()?, vec![4, 8, 2]);
//! # spec.epochs = Some(5);
//! # let model = Model::train(rows.view(), &spec)?;
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("waves.safetensors");
//! model.save(&path)?;
//! assert_eq!(Model::load(&path)?.encode(rows.view())?, model.encode(rows.view())?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(feature = "server", doc = include_str!("client/example.md"))]
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | | | [`Model`], [`numeric`], [`text`], [`model`], [`training`] and [`files`]: a library without async code |
//! | `arrow` | yes | Parquet and Arrow IPC in [`files`] |
//! | `client` | | `client`: calls to a server with the same arrays; `pb`: the messages of the API |
//! | `server` | yes | the program: all other modules; includes `client` |
//!
//! # Modules
//!
//! The modules, lowest first. A module may import only from those above it in this list; ARCHITECTURE.md and the test
//! `layering` give the exact rules:
//!
//! - [`numeric`]: matrix products, activations, decompositions, random numbers
//! - [`text`]: quoting and cutting of texts in messages
//! - [`model`]: names, specifications, the autoencoder, its gradient, its file
//! - [`training`]: from rows to a trained model; pure, no clock and no disk
//! - `methods`: the table of gRPC methods, and the operations on rows; `fair_share`: the share of a common limit
//! - `telemetry`: logs, metrics, traces
//! - `security`: credentials, roles, limits per caller
//! - `executor`: the CPU thread pools; `store`: models on disk; [`files`]: rows on disk
//! - `library`: [`Model`]
//! - `registry`: models in memory
//! - `batching`: batches of the rows of many callers; `jobs`: durable training jobs
//! - `service`: the use cases, independent of the transport
//! - `pb`: the generated code of the API; `rpc`: the gRPC adapters; `client`: the client
//! - `server`, `config`, `cli`: the server, its settings and the command line

#[cfg(feature = "server")]
pub mod batching;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
mod config;
#[cfg(feature = "server")]
pub mod executor;
#[cfg(feature = "server")]
pub mod fair_share;
pub mod files;
#[cfg(feature = "server")]
pub mod jobs;
mod library;
#[cfg(feature = "server")]
pub mod methods;
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
pub mod text;
pub mod training;

pub use library::{Explanation, Model, ModelError, Reconstruction, Scores};
/// The arrays of [`Model`]: a view of another version of ndarray has another type.
pub use ndarray;
