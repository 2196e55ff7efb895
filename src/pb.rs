//! The generated code of the API.

#![allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]

tonic::include_proto!("halfhitch.v1");

/// The Open Inference Protocol.
pub mod inference {
    tonic::include_proto!("inference");
}

/// All definitions as an encoded `google.protobuf.FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.binpb"));
