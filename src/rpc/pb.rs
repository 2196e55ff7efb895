//! The generated code of the API.

#![allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]

tonic::include_proto!("halfhitch.v1");

/// The Open Inference Protocol.
pub mod inference {
    tonic::include_proto!("inference");
}
