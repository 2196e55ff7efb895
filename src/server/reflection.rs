//! `grpc.reflection`: describes the services of this server, for tools without .proto files.

use tonic_reflection::server::{Builder, v1, v1alpha};

use crate::rpc::pb;

fn builder() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// The reflection service in its current version, and in the older one that many tools still use.
///
/// # Panics
/// Never in practice: the descriptors are part of the program, and a test starts with them.
pub(super) fn services() -> (
    v1::ServerReflectionServer<impl v1::ServerReflection>,
    v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>,
) {
    let newer = builder().build_v1().expect("descriptors of ours");
    let older = builder().build_v1alpha().expect("descriptors of ours");
    (newer, older)
}
