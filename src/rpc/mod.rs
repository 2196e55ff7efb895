//! gRPC in and out: conversions, status codes, handlers. Thin.

pub mod pb;
